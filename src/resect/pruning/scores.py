"""Importance scores: what each block is worth by several measures, side by side.

A score is a function with the decorator `score`. Nothing else knows it by name: it appears in the table, the summary
and the picture by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL, Local, Memory
from resect.engines.work import Engine
from resect.errors import InputError
from resect.figures.shown import Shown
from resect.measuring.batches import AnyTask, Batches, Read, again
from resect.measuring.results import require_alike
from resect.measuring.statistics import bootstrap_interval
from resect.measuring.tasks import Task
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled
from resect.paths import first_order as slopes
from resect.paths import participation as carriers
from resect.pruning.states import moved
from resect.sweep import plans
from resect.sweep import shapley as shapley_values
from resect.sweep.lesion import lesion
from resect.sweep.settings import LesionSettings
from resect.words import decimal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Score = Callable[[Unraveled, Batches, Engine], pd.DataFrame]
"""A row a block, in order: `value`, higher for what matters more, and its 95 % interval `low` and `high`."""

SCORES: dict[str, Score] = {}
_NEEDED = {"damage": "error", "shapley": "error", "kl": "kl"}  # metrics that a task may lack


def score(function: Score) -> Score:
    """Make a function a score, under its own name; its docstring says what it means."""
    SCORES[function.__name__] = function
    return function


@score
def damage(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """Error without the block minus the intact error (paper, section 4.1)."""
    return _interval(lesion(net, data, plans.single(net), engine=engine).table, "damage")


@score
def loss_change(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """Loss without the block minus the intact loss, nats (paper, section 4.1)."""
    return _interval(lesion(net, data, plans.single(net), engine=engine).table, "loss_change")


@score
def shapley(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """Shapley value of the block for the error, over random deletion orders."""
    return _interval(shapley_values.shapley(net, data, engine=engine).table, "error")


@score
def share(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """Share of the gradient that passes through the block's branch (paper, section 5)."""
    return _interval(carriers.participation(net, data, engine=engine).table, "share")


@score
def first_order(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """Mean absolute change of the loss by deleting the block, to first order, nats (Molchanov et al. 2017)."""
    return _interval(slopes.first_order(net, data, engine=engine).table, "size")


@score
def kl(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """Divergence of the output distribution without the block from the intact network's, nats."""
    settings = LesionSettings("kl")
    return _interval(lesion(net, data, plans.single(net), settings, engine=engine).table, "kl")


@score
def block_influence(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """1 - cosine of the states before and behind the block (ShortGPT, Men et al. 2024)."""
    return _over_samples(moved(net, data, engine)["influence"])


@score
def angular(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """Angle between the states before and behind the block, over pi (Gromov et al. 2024)."""
    angles = moved(net, data, engine)["angles"]
    return _over_samples(angles[np.arange(len(angles)), np.arange(len(angles))])


@score
def norm_ratio(net: Unraveled, data: Batches, engine: Engine) -> pd.DataFrame:
    """Norm of what the block adds to the state over that of the state before it."""
    return _over_samples(moved(net, data, engine)["norm_ratio"])


def angular_windows(net: Unraveled, data: Batches, engine: Engine = LOCAL) -> pd.DataFrame:
    """The angular distance over every window of consecutive blocks that keeps the shape (Gromov et al. 2024).

    Returns:
        One row a window: `start`, `length`, and `angular`, the angle between the states before and behind it over pi,
        mean over samples and positions, with its 95 % interval.
    """
    angles = moved(net, data, engine)["angles"]
    rows = [(i, j) for i, j in np.argwhere(~np.isnan(angles).any(2))]
    table = _over_samples(np.stack([angles[i, j] for i, j in rows]))
    labels = pd.DataFrame({"start": [int(i) for i, _ in rows], "length": [int(j - i + 1) for i, j in rows]})
    return pd.concat([labels, table.add_prefix("angular_").rename(columns={"angular_value": "angular"})], axis=1)


def _over_samples(values: np.ndarray) -> pd.DataFrame:
    """The mean of values (n, N) over samples, with its bootstrap interval."""
    low, high = bootstrap_interval(values)
    return pd.DataFrame({"value": values.mean(1), "low": low, "high": high})


def _interval(table: pd.DataFrame, column: str) -> pd.DataFrame:
    columns = {column: "value", f"{column}_low": "low", f"{column}_high": "high"}
    return table[[*columns]].rename(columns=columns)


@dataclass(frozen=True, repr=False)
class Scores(Shown):
    """Scores of n blocks.

    Attributes:
        names: of the blocks.
        values: of every score, what `Score` says.
    """

    names: tuple[str, ...]
    values: Mapping[str, pd.DataFrame]

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Several scores of the same blocks as one.

        Raises:
            InputError: the blocks differ.
        """
        require_alike(parts, "names")
        return cls(parts[0].names, {name: table for part in parts for name, table in part.values.items()})

    @property
    def meaning(self) -> dict[str, str]:
        """What every score is, in a sentence."""
        return {name: (getdoc(SCORES[name]) or "").partition("\n")[0] for name in self.values if name in SCORES}

    @property
    def table(self) -> pd.DataFrame:
        """One row a block: `block`, `name`, and every score with its interval `..._low` and `..._high`."""
        named = [
            table.rename(columns={"value": name, "low": f"{name}_low", "high": f"{name}_high"})
            for name, table in self.values.items()
        ]
        return pd.concat([pd.DataFrame({"block": range(len(self.names)), "name": self.names}), *named], axis=1)

    @property
    def ranks(self) -> pd.DataFrame:
        """(n, scores) the rank of each block, 1 for the one that matters least; equal blocks share a mean rank."""
        return pd.DataFrame({name: table["value"].rank() for name, table in self.values.items()})

    @property
    def correlations(self) -> pd.DataFrame:
        """(scores, scores) Spearman's rank correlation over blocks; NaN where a score is the same for all."""
        return self.ranks.corr()

    def summary(self) -> str:
        """Which block matters least by each score, and how far the scores agree."""
        least: dict[str, list[str]] = {}
        for name, table in self.values.items():
            least.setdefault(self.names[int(table["value"].argmin())], []).append(name)
        parts = [f"{block} by {', '.join(by)}" for block, by in least.items()]
        said = f"What matters least: {'; '.join(parts)}."
        pairs = {(a, b): self.correlations[a][b] for a, b in combinations(self.values, 2)}
        pairs = {pair: correlation for pair, correlation in pairs.items() if pd.notna(correlation)}
        if not pairs:
            return said
        (a, b), lowest = min(pairs.items(), key=lambda item: item[1])
        if lowest == 1:
            return f"{said} All rank the blocks alike."
        return f"{said} Least alike are the ranks by {a} and {b}, correlation {decimal(lowest)}."

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the ranks of all blocks by every score; returns the axes."""
        from resect.figures.carriers import ranks

        return ranks(self.ranks, ax)


def scores_of(task: Task) -> list[str]:
    """The names of the scores that a task has."""
    return [name for name in SCORES if _NEEDED.get(name, "loss") in task.metrics]


def scores(net: Unraveled, data: Batches, *names: str, task: AnyTask = None, engine: Engine = LOCAL) -> Scores:
    """What each block of a network is worth, by several measures.

    Args:
        net: an unravelled network with at least one block.
        data: (inputs, targets) batches, or a data spec.
        names: of `SCORES`; all of them by default (those of a task that has them). Scores that need the same lesions
            share them.
        task: what the targets mean, as for `lesion`.
        engine: runs the pieces of work; without a store, one in memory is made, as scores share lesions.

    Raises:
        InputError: a score is unknown, or the network has no blocks.
        DataError: the data are empty or do not fit the network.
    """
    require_blocks(net)
    if unknown := [name for name in names if not isinstance(name, str) or name not in SCORES]:
        raise InputError(f"`names` must be of {', '.join(SCORES)}, got {unknown[0]!r}.")
    engine, batches = engine if engine.keeps else Local(Memory()), Read(again(data), net, task)
    known = scores_of(next(iter(batches)).task)
    if unknown := [name for name in names if name not in known]:
        what = {"error": "error", "kl": "distribution over classes or candidates"}[_NEEDED[unknown[0]]]
        raise InputError(f"`names` must be of scores that need no {what}, which the task has not, got {unknown[0]!r}.")
    chosen = {name: SCORES[name](net, batches, engine) for name in names or known}
    return Scores(tuple(block.name for block in net.blocks), chosen)
