"""What healing gave back of what a cut took, of every candidate, on samples that neither trained nor chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from resect.figures.shown import Shown
from resect.network.arrangement import Arrangement
from resect.network.standalone import Standalone
from resect.pruning import healing_words
from resect.pruning.problem import Choice
from resect.pruning.rerun import beside
from resect.pruning.settings import HealSettings
from resect.sweep.result import LesionResult
from resect.training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Candidate:
    """A set of units that was healed.

    Attributes:
        choice: the set, and its harm as the search measured it.
        names: of the units.
        arrangement: the network without them.
        before, after: healing, the loss on the samples that choose.
    """

    choice: Choice
    names: tuple[str, ...]
    arrangement: Arrangement
    before: float
    after: float


@dataclass(frozen=True, repr=False)
class Healing(Shown):
    """The candidates before and after.

    Attributes:
        network: the chosen stand-alone network, healed; its parameters have the names that they have in the model.
        candidates: by what the search thought of them, the best first.
        chosen: the place of the one with the least loss after healing on the samples that choose.
        cut, healed: the candidates before and after on the samples that judge.
        settings: how they were healed.
        recipe: of the training; None for none.
        samples: that it trained on, of `left_out` fewer than were given, as these choose or judge.
        strength: of the ridge of the chosen one's fit; None where nothing was fitted, or a fit does no good.
    """

    network: Standalone
    candidates: tuple[Candidate, ...]
    chosen: int
    cut: LesionResult
    healed: LesionResult
    settings: HealSettings
    recipe: Recipe | None
    samples: int
    left_out: int
    strength: float | None = None

    @property
    def choice(self) -> Choice:
        """The set of units that was chosen."""
        return self.candidates[self.chosen].choice

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a candidate, by what the search thought of them.

        `without` (names), `arrangement`, `chosen`; `rank_before` by the search's objective and `rank_after` by the loss
        after healing, `loss_before` and `loss_after`, all on the samples that choose. On those that judge, of the error
        (of a task without one, the loss): `cut` and `healed`, the change of each from the intact network, `cut_change`
        and `healed_change`, and `gain`, healed minus cut, each with the paired 95 % interval `..._low` and `..._high`.
        """
        after = np.argsort(np.argsort([one.after for one in self.candidates], kind="stable"), kind="stable")
        rows = [
            {
                "without": ", ".join(one.names),
                "arrangement": str(one.arrangement),
                "chosen": place == self.chosen,
                "rank_before": place + 1,
                "rank_after": int(after[place]) + 1,
                "loss_before": one.before,
                "loss_after": one.after,
            }
            for place, one in enumerate(self.candidates)
        ]
        metric = self.cut.meaning.main
        columns = {"cut": self.cut.means(metric), "healed": self.healed.means(metric)}
        columns |= {**_changes("cut_change", self.cut), **_changes("healed_change", self.healed), **self._gains()}
        return pd.concat([pd.DataFrame(rows), pd.DataFrame(columns)], axis=1)

    def _gains(self) -> dict[str, np.ndarray]:
        """Each healed candidate beside itself, cut."""
        parts = []
        for place in range(len(self.candidates)):
            plan = replace(self.cut.plan, arrangements=self.cut.plan.arrangements[place : place + 1],
                           labels=self.cut.plan.labels[place : place + 1])  # fmt: skip
            own = {name: values[place : place + 1] for name, values in self.healed.values.items()}
            cut = {name: values[place] for name, values in self.cut.values.items()}
            parts.append(_changes("gain", replace(self.healed, plan=plan, values=own, intact=cut)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @property
    def both(self) -> LesionResult:
        """The chosen one on the samples that judge, in two rows: cut and healed."""
        return beside(self.cut, self.chosen, {name: row[self.chosen] for name, row in self.healed.values.items()})

    @property
    def turned(self) -> bool:
        """Whether another candidate is the best after healing than before."""
        return self.chosen != 0

    @property
    def intact(self) -> float:
        """The intact network's error, or loss where there is none, on the samples that judge."""
        return self.cut.intact_mean(self.cut.meaning.main)

    def as_dict(self) -> dict[str, Any]:
        """How it was done, and of the chosen one what it gave back, as plain values."""
        own, row = self.settings, self.table.iloc[self.chosen]
        numbers = self.table.columns[self.table.columns.get_loc("loss_before") :]
        return {
            "epochs": own.epochs,
            "recipe": None if self.recipe is None else self.recipe.as_dict(every=True),
            "distill": own.distill,
            "temperature": own.temperature if own.distill else None,
            "refit": own.refit,
            "strength": self.strength,
            "recalibrate": own.recalibrate,
            "training_samples": self.samples,
            "left_out": self.left_out,
            "candidates": len(self.candidates),
            "turned": self.turned,
            "rank_before": int(row["rank_before"]),
            "intact": self.intact,
            **{name: float(row[name]) for name in numbers},
            "samples": self.cut.samples,
        }

    def summary(self) -> str:
        """How it was healed, what is left of the harm, with intervals, and whether the order turned."""
        return healing_words.sentence(self.as_dict(), self.cut.meaning)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw every candidate before and after, with intervals; returns the axes."""
        from resect.figures.healing import healing

        meaning = self.cut.meaning
        return healing(self.table, self.intact, ax, name=meaning.name, rate=meaning.rate and bool(meaning.error))


def _changes(name: str, result: LesionResult) -> Mapping[str, np.ndarray]:
    """The change of the main metric, with its interval."""
    column = "damage" if result.meaning.main == "error" else "loss_change"
    return {f"{name}{end}": result.table[f"{column}{end}"].to_numpy() for end in ("", "_low", "_high")}
