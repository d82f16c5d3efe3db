"""What a search for removable units found, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from resect.figures.shown import Shown
from resect.network.arrangement import Arrangement
from resect.pruning.generation import Generation
from resect.pruning.groups import Group
from resect.pruning.healed import Healing
from resect.pruning.latency import FREE
from resect.pruning.problem import Choice
from resect.pruning.settings import Budget
from resect.pruning.verdict import tolerated, verdict
from resect.sweep.result import LesionResult
from resect.words import percent, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Pruning(Shown):
    """A front of choices, by what they save; the last is the one that was asked for.

    Attributes:
        unit: what was removed as one: "block", "layer" or "group".
        groups: all units.
        choices: the units that are removed, and their harm on the calibration samples.
        outcomes: of every choice, on the evaluation samples.
        costs: a row a choice: `params`, `flops` and, if it was timed, `latency`, each the part that stays; and of a
            latency budget `predicted`.
        budget: what was asked for.
        objective: what the search kept low.
        calibration: calibration samples.
        passes: of the calibration samples through the network, that a score took; 0 where none was asked.
        measured: sets of units that were measured on all of them.
        tolerance: as in `PruneSettings`.
        generation: of language models, how what is left writes, healed if it was; None of others.
        healing: what a fine-tune gave back, of several candidates, the best of which is the last choice; None for none.
    """

    unit: str
    groups: tuple[Group, ...]
    choices: tuple[Choice, ...]
    outcomes: LesionResult
    costs: pd.DataFrame
    budget: Budget | None
    objective: str
    calibration: int
    passes: int
    measured: int
    tolerance: float = 1.0
    generation: Generation | None = None
    healing: Healing | None = None

    @property
    def arrangement(self) -> Arrangement:
        """The network without what was asked for: `net.standalone(result.arrangement)`, `str(result.arrangement)`."""
        return self.outcomes.plan.arrangements[-1]

    @property
    def removed(self) -> tuple[str, ...]:
        """The names of the units that are gone."""
        return tuple(self.groups[i].name for i in sorted(self.choices[-1].removed))

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a choice: `removed` (units), `without` (their names), `arrangement`, the parts that stay of `params`,
        `flops` and `latency`, `calibration` (the objective on the calibration samples), and what a table of lesions has
        of the evaluation samples.
        """  # fmt: skip
        rows = [
            {
                "removed": len(choice.removed),
                "without": ", ".join(self.groups[i].name for i in sorted(choice.removed)),
                "arrangement": str(arrangement),
            }
            for choice, arrangement in zip(self.choices, self.outcomes.plan.arrangements, strict=True)
        ]
        values = pd.DataFrame({"calibration": [choice.value for choice in self.choices]})
        outcomes = self.outcomes.table.drop(columns="arrangement")
        return pd.concat([pd.DataFrame(rows), self.costs, values, outcomes], axis=1)

    @property
    def what(self) -> str:
        """What is gone: "10 of 54 blocks"."""
        return f"{len(self.choices[-1].removed)} of {plural(len(self.groups), self.unit)}"

    @property
    def effort(self) -> str:
        """What the search took: "scored in 55 passes, 1 set of blocks measured"."""
        scored = f"scored in {plural(self.passes, 'pass', 'passes')}, " if self.passes else ""
        return f"{scored}{plural(self.measured, 'set')} of {self.unit}s measured"

    @property
    def intact(self) -> float:
        """The intact network's error, or loss where there is none, on the evaluation samples."""
        return self.outcomes.intact_mean(self.outcomes.meaning.main)

    def verdict(self) -> str:
        """Whether anything is lost, in a sentence: no more than x points, so much, or it cannot be said."""
        meaning, row = self.outcomes.meaning, self.table.iloc[-1]
        name = "damage" if meaning.main == "error" else "loss_change"
        change = (float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]))
        return verdict(
            meaning, change, tolerated(meaning, self.tolerance, self.intact), self.outcomes.samples, self.what
        )

    def summary(self) -> str:
        """The verdict, what the network without the units costs, and what healing gave back."""
        row = self.costs.iloc[-1]
        parts = [f"{percent(float(row[name]))} of the {called}" for name, called in _COSTS.items() if name in row]
        timed = ""
        if "latency" in row:
            low, high = (percent(float(row[f"latency_{end}"])) for end in ("low", "high"))
            timed = f" (latency [{low}, {high}])"
            if row["processor"] < FREE:
                timed += f"; other work had the processor {percent(1 - row['processor'])} of the time: time it again"
        healed = f" {self.healing.summary()}" if self.healing else ""
        return f"{self.verdict()} {', '.join(parts)} stay{timed}.{healed}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the error by how much is removed, with intervals; returns the axes."""
        from resect.figures.pruning import front

        meaning = self.outcomes.meaning
        return front(self.table, self.intact, ax, name=meaning.name, rate=meaning.rate and bool(meaning.error))


_COSTS = {"params": "parameters", "flops": "FLOPs", "latency": "latency"}
