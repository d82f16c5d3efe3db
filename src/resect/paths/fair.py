"""The fair share of every block in the gradient: its Shapley value, exactly.

The share of a path, <p_A, g> / <g, g>, split evenly among the blocks that it enters, and summed over all paths. It is
the integral from 0 to 1 of <c_i(z), J_i t(z)> dz / <g, g>, cotangent and tangent with a factor z on all branches and
the tangent started at g: a polynomial in z of degree n-1, which Gauss-Legendre quadrature with n/2 nodes integrates
exactly. With the share of the path through the skips alone, these shares sum to 1, where participations, which count a
path once for every block in it, sum to the effective depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import AccuracyError, require_whole
from resect.figures.shown import Shown
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.measuring.results import require_alike
from resect.measuring.statistics import bootstrap_interval
from resect.network.unraveled import Unraveled
from resect.paths.lanes import per_row
from resect.paths.measures import longest_path, own_shares
from resect.paths.passes import Passes, row_squares, summed
from resect.paths.settings import TOLERANCE, PathSettings, PathWork, Traces, concatenated
from resect.paths.trace import require_finite
from resect.words import percent, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NODES = 8  # exact for paths of up to 16 blocks, beyond which next to nothing arrives


@dataclass(frozen=True, repr=False)
class FairShares(Shown):
    """What every block is due of the gradient. n blocks, N rows (samples).

    Attributes:
        names: of the blocks.
        products: (N, n) float64; of every row <g, g> times the block's fair share.
        skips: (N,) float64; <C_0, g>, of the path through the skips alone.
        squares: (N,) float64; <g, g>.
        at: where the gradient is measured.
    """

    names: tuple[str, ...]
    products: np.ndarray
    skips: np.ndarray
    squares: np.ndarray
    at: str

    @classmethod
    def joined(cls, parts: Sequence[FairShares]) -> FairShares:
        """The rows of several results as one; InputError if they do not fit."""
        require_alike(parts, "names", "at")
        arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("products", "skips", "squares")}
        return cls(parts[0].names, at=parts[0].at, **arrays)

    @property
    def share(self) -> np.ndarray:
        """(n,) the mean over rows of each row's own; with `skip_share` they sum to 1. Can be negative."""
        return np.asarray(own_shares(self.products, self.squares)[0].mean(0))

    @property
    def skip_share(self) -> float:
        """The mean share of the path through the skips alone."""
        return float(own_shares(self.skips[:, None], self.squares)[0].mean())

    @property
    def sum_error(self) -> float:
        """How far all shares together are from 1."""
        return abs(float(self.share.sum()) + self.skip_share - 1)

    def share_interval(
        self, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (n,) each: studentised bootstrap intervals of the mean shares over rows; NaN for one row."""
        shares, _ = own_shares(self.products, self.squares)
        if len(shares) < 2:
            return np.full(len(self.names), np.nan), np.full(len(self.names), np.nan)
        return bootstrap_interval(shares.T, None, level, resamples, seed)

    @property
    def table(self) -> pd.DataFrame:
        """One row a block: `block`, `name`, `share` with its interval."""
        low, high = self.share_interval()
        columns = {"block": range(len(self.names)), "name": self.names, "share": self.share}
        return pd.DataFrame({**columns, "share_low": low, "share_high": high})

    def summary(self) -> str:
        """What the skips and the largest block have of the gradient."""
        most = int(self.share.argmax())
        return (
            f"Of the gradient at {self.at} {percent(self.skip_share)} come over the skips alone and "
            f"{percent(float(self.share[most]))} are due to {self.names[most]}, the most; all blocks and the skips "
            "together have 100 %."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share of every block with its interval; returns the axes."""
        from resect.figures import carriers

        return carriers.blocks(self.table, ax, label="share of the gradient due to the block (%)", total=None)


def fair_shares(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    task: AnyTask = None,
    nodes: int | None = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> FairShares:
    """The Shapley value of every block for the gradient: each path's share, split among the blocks that it enters.

    Args:
        net, data, settings, task, progress, engine: as for `path_spectrum`.
        nodes: of the quadrature, each a backward and a forward-mode pass; half the longest path makes it exact for
            every network. By default that, but at most 8, which is exact if no longer paths than 16 blocks carry any.

    Raises:
        InputError, DataError: as for `path_spectrum`.
        AccuracyError: the shares sum to something else than 1, by more than 1e-3: give more `nodes`.
    """
    traces = Traces(net, settings, task)
    exact = max(1, -(-longest_path(traces.routes.counts) // 2))
    if nodes is not None:
        require_whole("nodes", nodes)
    chosen = min(exact, NODES) if nodes is None else min(nodes, exact)
    work = PathWork("fair shares", _shares, traces.settings, {"nodes": chosen}, 2 * chosen + 2)
    runs = list(engine.run(net, ((work, batch) for batch in batches_of(data, net, task)), progress))
    arrays = {name: np.concatenate([run[name] for run in runs]) for name in ("products", "skips", "squares")}
    require_finite(arrays["squares"], traces.at)
    result = FairShares(tuple(block.name for block in net.blocks), at=traces.at, **arrays)
    if not result.sum_error <= TOLERANCE:
        raise AccuracyError(
            f"the shares of all blocks and the skips must sum to 1, but by {plural(chosen, 'node')} are off by "
            f"{result.sum_error:.1e}, more than {TOLERANCE:g}. Give more `nodes`; {exact} are exact."
        )
    return result


def _shares(traces: Traces, batch: Batch, progress: Progress, nodes: int) -> Arrays:
    points, weights = np.polynomial.legendre.leggauss(nodes)
    points, weights = (points + 1) / 2, weights / 2  # on 0 to 1
    blocks = len(traces.net.blocks)
    parts = []
    for trace, advance in traces.of(batch, 3, progress):
        whole = Passes(trace, advance).back()
        products = np.zeros((trace.rows, blocks))
        for point, weight in zip(points, weights, strict=True):
            passes = Passes(trace, advance, [point] * blocks)
            passes.back()
            passes.forward(whole)
            products += weight * passes.products
        skips = Passes(trace, advance, [0.0] * blocks).back()
        met = [summed(per_row(skips[key] * whole[key]))[0] for key in skips.keys() & whole.keys()]
        parts.append((products, sum(met, np.zeros(trace.rows)), row_squares(trace, whole)))
    return concatenated(parts, "products", "skips", "squares")
