"""The Shapley value of every block: its fair part of what all blocks together do, over all orders of deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL
from resect.engines.work import Engine, Progress
from resect.errors import InputError, require_whole, settings_or_default
from resect.figures.shown import Shown
from resect.measuring.batches import AnyTask, Batches
from resect.measuring.crossed import crossed_interval
from resect.measuring.meaning import CLASSIFIED, Meaning
from resect.measuring.results import require_alike
from resect.measuring.statistics import bootstrap_interval
from resect.network.unraveled import Unraveled
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings
from resect.words import decimal, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class ShapleyResult(Shown):
    """What each of n blocks contributes, per metric.

    Attributes:
        names: of the blocks.
        marginals: (orders, n) float64; entry (o, i) is how much the metric grows when order o deletes block i. Orders
            come in pairs, one the other backwards. Every row sums to `total`.
        alone: (n,) how much it grows when only this block is deleted.
        total: the metric without any block minus that of the intact network.
        meaning: what "error" and "loss" are.
        by_sample: (n, N) float64; the mean over orders of what each sample says of a block's value, which is the mean
            over samples. Without, intervals hold the samples fixed.
        weights: (N,) positive, of the samples.
    """

    names: tuple[str, ...]
    marginals: Mapping[str, np.ndarray]
    alone: Mapping[str, np.ndarray]
    total: Mapping[str, float]
    meaning: Meaning = CLASSIFIED
    by_sample: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: Sequence[ShapleyResult]) -> ShapleyResult:
        """The orders of several results on the same network and samples, together.

        Raises:
            InputError: they differ in blocks or metrics, or in what deleting one block or all of them costs.
        """
        require_alike(parts, "names", "total", "meaning")
        first = parts[0]
        if any(
            not np.array_equal(part.alone[metric], alone) for part in parts for metric, alone in first.alone.items()
        ):
            raise InputError("`parts` must agree in `alone`: they are of other networks or samples.")
        marginals = {metric: np.concatenate([part.marginals[metric] for part in parts]) for metric in first.marginals}
        orders = [len(next(iter(part.marginals.values()))) for part in parts]
        known = first.by_sample if all(part.by_sample for part in parts) else ()
        by_sample = {m: np.average([part.by_sample[m] for part in parts], axis=0, weights=orders) for m in known}
        return cls(first.names, marginals, first.alone, first.total, first.meaning, by_sample, first.weights)

    @property
    def table(self) -> pd.DataFrame:
        """One row a block: `block`, `name`, and for each metric its Shapley value, `..._low`, `..._high`, `..._alone`.

        The 95 % intervals are for other orders and other samples, a bootstrap over both (pairs of orders); NaN from a
        single pair or sample, and of blocks that cost the same in every pair and on every sample.
        """
        table = pd.DataFrame({"block": range(len(self.names)), "name": self.names})
        for metric, marginals in self.marginals.items():
            pairs = marginals.reshape(-1, 2, len(self.names)).mean(1)  # the two of a pair are not independent
            most = 1.0 if self.meaning.is_rate(metric) else np.inf
            samples = self.by_sample.get(metric)
            ends = bootstrap_interval(pairs.T) if samples is None else crossed_interval(pairs.T, samples, self.weights)
            table[metric] = marginals.mean(0)
            table[f"{metric}_low"], table[f"{metric}_high"] = np.clip(ends, -most, most)
            table[f"{metric}_alone"] = self.alone[metric]
        return table

    def summary(self) -> str:
        """One sentence: how many orders, and the block with the largest part in the first metric."""
        metric, table = next(iter(self.marginals)), self.table
        top = table.iloc[int(table[metric].abs().argmax())]
        rate = self.meaning.is_rate(metric)  # told in points, as everywhere
        called = self.meaning.error if metric == "error" else metric
        whole, part, low, high, alone = (
            decimal(value * 100) if rate else f"{value:.4g}"
            for value in (self.total[metric], *(top[f"{metric}{end}"] for end in ("", "_low", "_high", "_alone")))
        )
        interval = f" [{low}, {high}]" if np.isfinite(top[f"{metric}_low"]) else ""  # none without spread
        unit = " points" if rate else ""
        return (
            f"Shapley values over {plural(len(self.marginals[metric]), 'order')}: without all blocks {called} changes "
            f"by {whole}{unit}, of which block {top['block']} ({top['name']}) has the largest part, {part}{interval}; "
            f"deleted alone it changes {called} by {alone}."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the values of the first metric with their intervals, beside single deletions; returns the axes."""
        from resect.figures import carriers

        metric = next(iter(self.marginals))
        return carriers.shapley(self.table, metric, ax, unit=self.meaning.unit(metric))


def shapley(
    net: Unraveled,
    data: Batches,
    orders: int = 20,
    settings: LesionSettings | None = None,
    *,
    task: AnyTask = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> ShapleyResult:
    """Estimate the Shapley value of every block from random deletion orders.

    phi_i is the mean, over all orders in which the n blocks can be deleted, of how much the metric grows when i goes.
    The values sum to `total` exactly, for any number of orders.

    Args:
        net, data, settings, task, progress, engine: as for `lesion`; a metric that compares with the intact network has
            values, too.
        orders: how many pairs of orders, each drawn at random and run forwards and backwards; 2n lesions a pair.

    Source: Shapley 1953; sampled orders by Castro, Gomez, Tejada 2009, in antithetic pairs by Mitchell et al. 2022.
    """
    require_whole("orders", orders)
    plan = plans.orders(net, orders, settings_or_default(settings, LesionSettings).seed)
    return from_orders(net, lesion(net, data, plan, settings, task=task, progress=progress, engine=engine))


def from_orders(net: Unraveled, outcomes: LesionResult) -> ShapleyResult:
    """The Shapley values from the outcomes of the plan `orders`."""
    n = len(net.blocks)
    blocks = np.array([label["block"] for label in outcomes.plan.labels]).reshape(-1, n)
    marginals, alone, total, by_sample = {}, {}, {}, {}
    for metric in outcomes.values:
        values, intact = outcomes.means(metric).reshape(-1, n), outcomes.intact_mean(metric)
        marginals[metric] = np.empty_like(values)
        np.put_along_axis(marginals[metric], blocks, np.diff(values, axis=1, prepend=intact), axis=1)
        alone[metric] = outcomes.reference_means(metric) - intact
        total[metric] = float(values[0, -1] - intact)
        by_sample[metric] = _by_sample(outcomes, metric, blocks)
    names, some = tuple(block.name for block in net.blocks), outcomes.weights > 0
    return ShapleyResult(names, marginals, alone, total, outcomes.meaning, by_sample, outcomes.weights[some])


def _by_sample(outcomes: LesionResult, metric: str, blocks: np.ndarray) -> np.ndarray:
    """(n, N) what every sample that counts says of the blocks' values, on average over orders, `blocks` (orders, n)."""
    some, (orders, n) = outcomes.weights > 0, blocks.shape
    start, mean = outcomes.intact[metric][some], np.zeros((n, some.sum()))
    for order, own in enumerate(blocks):
        values = outcomes.by_sample(metric, slice(order * n, (order + 1) * n))[:, some]
        mean[own] += np.diff(values, axis=0, prepend=start[None]) / orders
    return mean
