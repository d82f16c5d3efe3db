"""Who carries the gradient: the exact share of all paths through each block, and through each pair of blocks.

With a factor z_i on every branch, the gradient g(z) is linear in each z_i, so that its derivative with respect to z_i
is the sum of the gradients of all paths through block i, and the second derivative that of all paths through two.
share_i = <dg/dz_i, g> / <g, g> = <c_i, J_i t> / <g, g>: c_i is the cotangent of the branch's output, from the
ordinary backward pass, and t the tangent that starts as g at the target and comes forward to the block.
The shares of all blocks sum to the effective depth, the mean path length by share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import Tensor

from resect.calculus.linear import Lanes
from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.figures.shown import Shown
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.measuring.results import require_alike
from resect.measuring.statistics import bootstrap_interval
from resect.network.unraveled import Unraveled
from resect.paths.lanes import apart, buffer, group_size, per_lane
from resect.paths.measures import binary_entropy, effective_samples, interaction_of, most_tied, own_shares
from resect.paths.passes import Passes, row_squares, summed
from resect.paths.settings import PathSettings, PathWork, Traces, concatenated, require_accurate
from resect.paths.trace import SliceGradient, Trace, require_finite
from resect.words import decimal, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Participation(Shown):
    """The share of the gradient that passes through blocks. n blocks, N rows (samples).

    Attributes:
        names: of the blocks.
        products: (N, n) float64; <sum of the gradients of all paths through a block, g> of every row.
        squares: (N,) float64; <g, g>.
        pairs: (n, n) float64, symmetric: the mean share of all paths through both of two blocks; on the diagonal
            that through the block itself. None if pairs were not asked for.
        at: where the gradient is measured, see `PathSpectrum`.
    """

    names: tuple[str, ...]
    products: np.ndarray
    squares: np.ndarray
    pairs: np.ndarray | None
    at: str

    @classmethod
    def joined(cls, parts: Sequence[Participation]) -> Participation:
        """The rows of several results, as one; InputError if they do not fit."""
        require_alike(parts, "names", "at", "has_pairs")
        squares = np.concatenate([part.squares for part in parts])
        pairs = [part.pairs * (part.squares > 0).sum() for part in parts if part.pairs is not None]
        both = sum(pairs[1:], pairs[0]) / (squares > 0).sum() if pairs else None
        return cls(parts[0].names, np.concatenate([part.products for part in parts]), squares, both, parts[0].at)

    @property
    def has_pairs(self) -> bool:
        """Whether pairs were asked for."""
        return self.pairs is not None

    @property
    def share(self) -> np.ndarray:
        """(n,) the mean over rows of the share of all paths through each block; can be negative or above 1.

        Their sum is the depth, as a path counts once for every block in it.
        """
        return np.asarray(own_shares(self.products, self.squares)[0].mean(0))

    @property
    def pooled_share(self) -> np.ndarray:
        """(n,) the shares in all gradients together, in which a row weighs as much as its <g, g>."""
        return np.asarray(self.products.sum(0) / self.squares.sum())

    @property
    def effective_samples(self) -> float:
        """How many samples `pooled_share` rests on."""
        return effective_samples(self.squares)

    @property
    def effective_depth(self) -> float:
        """Mean path length by share, in blocks."""
        return float(self.share.sum())

    @property
    def log2_effective_paths(self) -> float:
        """The largest entropy, in bits, over paths with these participations; blocks that do nothing add none to it."""
        return float(binary_entropy(self.share).sum())

    def share_interval(
        self, level: float = 0.95, resamples: int = 1000, seed: int = 0, *, pooled: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (n,) each: studentised bootstrap intervals of `share` over rows; NaN for one row.

        Args:
            pooled: of `pooled_share`.
        """
        shares, weights = own_shares(self.products, self.squares)
        if len(shares) < 2:
            return np.full(len(self.names), np.nan), np.full(len(self.names), np.nan)
        return bootstrap_interval(shares.T, weights if pooled else None, level, resamples, seed)

    @property
    def interaction(self) -> np.ndarray:
        """(n, n) share through both less the product of the shares: 0 where the gradient chooses independently."""
        assert self.pairs is not None, "ask for pairs"
        return interaction_of(self.pairs, self.share)

    @property
    def table(self) -> pd.DataFrame:
        """One row a block: `block`, `name`, `share` with its interval, `share_pooled`."""
        low, high = self.share_interval()
        columns = {"block": range(len(self.names)), "name": self.names, "share": self.share}
        return pd.DataFrame({**columns, "share_low": low, "share_high": high, "share_pooled": self.pooled_share})

    def summary(self) -> str:
        """Through which blocks most and least of the gradient goes, and which pair is tied the most."""
        share, only = self.share, len(self.names) == 1
        most, least = (
            f"{percent(float(share[i]))} goes through {self.names[i]}" for i in (share.argmax(), share.argmin())
        )
        extremes = f"{most}, the only block" if only else f"{most}, the most, and {least}, the least"
        said = f"Of the gradient at {self.at} {extremes}; effective depth {decimal(self.effective_depth)} blocks."
        if self.pairs is None or only:
            return said
        return f"{said} {most_tied(self.names, self.interaction)}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share through every block with its interval; returns the axes."""
        from resect.figures import carriers

        return carriers.blocks(self.table, ax)


def participation(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    task: AnyTask = None,
    pairs: bool = False,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> Participation:
    """The exact share of the gradient through each block: one backward and one forward-mode pass.

    Args:
        net, data, settings, task, progress, engine: as for `path_spectrum`.
        pairs: through each pair of blocks, too: about half as many forward-mode passes as there are blocks.

    Raises:
        InputError, DataError: as for `path_spectrum`.
        AccuracyError: <J t, scalar's gradient> at the output is off <g, g> by more than 1e-3.
    """
    traces = Traces(net, settings, task)
    work = PathWork("participation", _carry, traces.settings, {"pairs": pairs}, 2)  # back, and forward
    runs = list(engine.run(net, ((work, batch) for batch in batches_of(data, net, task)), progress))
    products, squares = (np.concatenate([arrays[name] for arrays in runs]) for name in ("products", "squares"))
    require_finite(squares, traces.target.name)
    # The tangent of g, met by the scalar's gradient at the output, is <g, g> once more.
    error = abs(sum(arrays["arrived"].sum() for arrays in runs) / squares.sum() - 1)
    require_accurate(error, "the tangent of the gradient must give back its squared norm, but is off")
    both = sum(arrays["pairs"].sum(0) for arrays in runs) / (squares > 0).sum() if pairs else None
    return Participation(tuple(block.name for block in net.blocks), products, squares, both, traces.at)


def _carry(traces: Traces, batch: Batch, progress: Progress, pairs: bool) -> Arrays:
    """Products and squares of rows, shares of pairs summed over rows, and <g, g> as the output sees it."""
    running = traces.of(batch, len(traces.net.blocks) + 2 if pairs else 2, progress)
    parts = [_Carry(trace, pairs, advance).run() for trace, advance in running]
    return concatenated(parts, "products", "squares", "pairs", "arrived")


class _Carry(Passes):
    """The passes of all branches at full strength, the tangent being the gradient itself; and those of pairs."""

    def __init__(self, trace: Trace, pairs: bool, progress: Progress) -> None:
        super().__init__(trace, progress)
        self.pairs = _Pairs(len(trace.net.blocks)) if pairs else None

    def run(self) -> tuple[np.ndarray, ...]:
        """Products (N, n), squares (N,), summed shares of pairs (1, n, n), and <g, g> as the output sees it (1,)."""
        gradient = self.back()
        squares = row_squares(self.trace, gradient)
        self.portions = np.divide(1, squares, out=np.zeros_like(squares), where=squares > 0)
        tangents = self.forward(gradient)
        top = self.trace.scalar_gradient
        arrived = sum(summed(per_lane(tangents[key] * value)) for key, value in top.items() if key in tangents)
        both = np.zeros((1, 0, 0)) if self.pairs is None else self.pairs.shares[None]
        return self.products, squares, both, np.broadcast_to(arrived, (1,))

    def met(self, part: SliceGradient, gates: Lanes) -> None:
        """Start a tangent for every block of the slice, and carry those of earlier blocks through."""
        if self.pairs is not None:
            fresh = {slot: part.push({part.branches[slot]: value}) for slot, value in gates.items()}
            weighted = {slot: self.by_row(slot, self.at_gates[slot], self.portions) for slot in gates}
            self.pairs.through(part, fresh, weighted)
            self.pairs.shares[[*gates], [*gates]] = self.portions @ self.products[:, [*gates]]


class _Pairs:
    """A tangent for every block passed so far, of the paths through it; each meets all later blocks.

    Attributes:
        shares: (n, n) symmetric; of all paths through two blocks, summed over rows.
    """

    def __init__(self, blocks: int) -> None:
        self.shares = np.zeros((blocks, blocks))
        self.lanes: Lanes = {}
        self.started: list[int] = []

    def through(self, part: SliceGradient, fresh: dict[int, Lanes], at_gates: Mapping[int, Tensor]) -> None:
        """Forward through one join.

        Args:
            fresh: the tangents behind it of the paths through its own blocks.
            at_gates: per slot the cotangent at its gate, every row's divided by its <g, g>.
        """
        ending, self.lanes = self.lanes, {}
        reusable = list(ending.values())
        size = group_size(value[0] for value in ending.values()) if ending else 1
        for start in range(0, len(self.started), size):
            some = slice(start, min(start + size, len(self.started)))
            pushed = part.push({key: value[some] for key, value in ending.items() if key in part.signal})
            earlier = self.started[some]
            for slot, gate in part.branches.items():
                if gate in pushed and slot in at_gates:
                    met = summed(per_lane(pushed[gate] * at_gates[slot]))
                    self.shares[earlier, slot] = self.shares[slot, earlier] = met
            behind = {key: apart(value, ending.values()) for key, value in pushed.items() if key in part.source}
            self._write(some, behind, reusable)
            reusable = []
        for slot, pushed in fresh.items():
            place = len(self.started)
            self.started.append(slot)
            self._write(slice(place, place + 1), {k: v for k, v in pushed.items() if k in part.source}, [])

    def _write(self, some: slice, behind: Lanes, reusable: list[Tensor]) -> None:
        for key, value in behind.items():
            if key not in self.lanes:
                self.lanes[key] = buffer(len(self.shares), value[0], reusable)
            self.lanes[key][some] = value
        for key in self.lanes.keys() - behind.keys():
            self.lanes[key][some] = 0
