"""The energy of paths: their squared norms, as a probability over all paths, by block.

q_A = |p_A|^2 / sum |p_B|^2 is what the gradient would be made of if paths did not interfere. With an independent random
sign s_i on every branch, <c_i, s_i J_i t> / <g, g>, with cotangent, tangent and gradient g under the signs, is in
expectation the probability that a path goes through block i, numerator and denominator each: one backward and one
forward-mode pass a draw. By length it is `PathSquares.energy`. A path is a set of blocks here: routes that enter the
same blocks, as where a branch reads several states, are one, and `PathSquares` tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import require_whole
from resect.figures.shown import Shown
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.measuring.results import require_alike
from resect.network.unraveled import Unraveled
from resect.paths.certainty import drawn_until, relative_errors, said
from resect.paths.draws import drawn_by_batch, of_one_length
from resect.paths.measures import binary_entropy
from resect.paths.passes import Passes, row_squares
from resect.paths.settings import PathSettings, PathWork, Traces, concatenated
from resect.paths.trace import require_finite
from resect.words import decimal, percent, plural, two_to

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class PathEnergy(Shown):
    """Through which blocks the energy of all paths goes. n blocks, N rows (samples), R draws of signs a batch.

    Batches for which fewer draws were enough end in NaN.

    Attributes:
        names: of the blocks.
        products: (N, R, n) float64; <c_i, s_i J_i t> of every row under every draw.
        squares: (N, R) float64; <g, g> under every draw; their mean estimates the sum of squares over all paths.
        batch: (N,) the batch that each row was in; its rows see the same signs.
        at: where the gradient is measured.
    """

    names: tuple[str, ...]
    products: np.ndarray
    squares: np.ndarray
    batch: np.ndarray
    at: str

    @classmethod
    def joined(cls, parts: Sequence[PathEnergy]) -> PathEnergy:
        """The rows of several results, each of batches of its own, as one; InputError if they do not fit."""
        require_alike(parts, "names", "at")
        starts = np.cumsum([0, *(part.batch.max() + 1 for part in parts[:-1])])
        batch = np.concatenate([part.batch + start for part, start in zip(parts, starts, strict=True)])
        products, squares = (of_one_length([getattr(part, name) for part in parts]) for name in ("products", "squares"))
        return cls(parts[0].names, products, squares, batch, parts[0].at)

    @property
    def probability(self) -> np.ndarray:
        """(n,) the part of the energy of all paths that goes through each block, estimated; 0 to 1 but for chance."""
        return np.asarray(np.nanmean(self.products, 1).mean(0) / np.nanmean(self.squares, 1).mean())

    @property
    def effective_depth(self) -> float:
        """Mean path length by energy, in blocks."""
        return float(self.probability.sum())

    @property
    def log2_effective_paths(self) -> float:
        """The largest entropy, in bits, that the energy over paths can have: that of independent blocks."""
        return float(binary_entropy(self.probability).sum())

    @property
    def error(self) -> float:
        """One standard error of the sum of squares over all paths, as a part of it; NaN below 3 draws a batch."""
        batches = drawn_by_batch(self.squares, self.batch)
        return float(relative_errors([own.mean(0)[:, None] for own in batches], [len(own) for own in batches])[0])

    def interval(self, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (n,) each: percentile bootstrap intervals of `probability` over draws; NaN for a single draw."""
        products, squares = (
            np.concatenate(
                [own.sum(0) / len(own[0]) for own in drawn_by_batch(values, self.batch)]
            )  # (draws, n) and (draws,)
            for values in (self.products, self.squares)
        )
        if len(squares) < 2:
            return np.full(len(self.names), np.nan), np.full(len(self.names), np.nan)
        draw = np.random.default_rng(seed)
        chosen = draw.integers(0, len(squares), (resamples, len(squares)))
        ratios = products[chosen].sum(1) / squares[chosen].sum(1)[:, None]
        low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    @property
    def table(self) -> pd.DataFrame:
        """One row a block: `block`, `name`, `energy` with its interval."""
        low, high = self.interval()
        columns = {"block": range(len(self.names)), "name": self.names, "energy": self.probability}
        return pd.DataFrame({**columns, "energy_low": low, "energy_high": high})

    def summary(self) -> str:
        """Through which block most of the energy goes, and how deep and how many the paths are by it."""
        most = int(self.probability.argmax())
        draws = sum(own.shape[1] for own in drawn_by_batch(self.squares, self.batch))
        return (
            f"{plural(draws, 'draw')} of random signs: {percent(float(self.probability[most]))} of the energy of all "
            f"paths at {self.at} goes through {self.names[most]}, the most; by energy paths are "
            f"{decimal(self.effective_depth)} blocks deep on average, and at most "
            f"{two_to(self.log2_effective_paths)} count; {said(self.error)}."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the energy through every block with its interval; returns the axes."""
        from resect.figures import carriers

        label, total = "energy of the paths through the block (%)", "mean length by energy"
        return carriers.blocks(self.table, ax, column="energy", label=label, total=total)


def path_energy(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    task: AnyTask = None,
    draws: int = 32,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> PathEnergy:
    """Estimate through which blocks the energy of all paths goes.

    Args:
        net, data, task, progress, engine: as for `path_spectrum`.
        settings: also the seed; every batch has signs of its own, drawn by the seed and the batch's number; and the
            precision, for which up to 8 times as many are drawn, after the same first ones.
        draws: random signs a batch, each a backward and a forward-mode pass.

    Raises:
        InputError, DataError: as for `path_spectrum`.
    """
    require_whole("draws", draws)
    traces = Traces(net, settings, task)
    precision = traces.settings.precision
    own = {"draws": draws, "seed": traces.settings.seed, "precision": precision}
    work = PathWork("energy by block", _energy, traces.settings, own, 2 * draws)
    runs = list(engine.run(net, ((work, batch) for batch in batches_of(data, net, task)), progress))
    products, squares = (of_one_length([arrays[name] for arrays in runs]) for name in ("products", "squares"))
    require_finite(np.concatenate([arrays["squares"] for arrays in runs], None), traces.at)
    batch = np.repeat(np.arange(len(runs)), [len(arrays["squares"]) for arrays in runs])
    return PathEnergy(tuple(block.name for block in net.blocks), products, squares, batch, traces.at)


def _energy(traces: Traces, batch: Batch, progress: Progress, draws: int, seed: int, precision: float | None) -> Arrays:
    """Products (rows, draws, n) and squares (rows, draws); the signs are drawn for the whole batch."""
    generator = np.random.default_rng(seed + batch.number)

    def draw(many: int) -> Arrays:
        signs_of, parts = generator.choice([-1.0, 1.0], (many, len(traces.net.blocks))), []
        for trace, advance in traces.of(batch, 2, progress, truth=False):
            columns = []
            for signs in signs_of:
                passes = Passes(trace, advance, signs)
                gradient = passes.back()
                passes.forward(gradient)
                columns.append((passes.products * signs, row_squares(trace, gradient)))
            parts.append(tuple(np.stack(column, 1) for column in zip(*columns, strict=True)))
        return concatenated(parts, "products", "squares")

    def error(arrays: Arrays) -> float:
        return float(relative_errors([arrays["squares"].mean(0)[:, None]], [1])[0])

    return drawn_until(draw, draws, precision, error)
