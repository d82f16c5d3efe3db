"""The exact gradient of all paths of every length.

The backward operator of a residual chain is the product of (I + J_i^T). With a formal variable z on every branch, the
product of (I + z J_i^T) applied to the loss gradient is a polynomial whose coefficient C_k is the sum of the gradients
of all paths of length k: 2^n paths in n(n+1)/2 branch products. The C_k sum to the true gradient g, so that
share_k = <C_k, g> / <g, g> is exact; shares sum to 1, and can be negative where paths of different lengths cancel.
Source: the unravelled view is Veit et al., section 3; they sample single paths (section 5) where this is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from resect.calculus.linear import Lanes
from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import InputError, require_whole
from resect.figures.shown import Shown
from resect.graph.routes import Counts
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.measuring.results import require_alike
from resect.network.unraveled import Unraveled
from resect.paths import measures
from resect.paths.gram import Gram, inner_products, padded
from resect.paths.lanes import per_row, widened
from resect.paths.polynomial import at_target, decompose
from resect.paths.settings import PathSettings, PathWork, Traces, concatenated, require_accurate
from resect.paths.trace import Trace, require_finite
from resect.words import contribute, decimal, percent, plural, power_of_ten, two_to

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class PathSpectrum(Shown):
    """The gradient by path length. n blocks, N rows (samples; batches, if gradients are those of a parameter).

    Index k is the length in blocks, 0 to n. Lengths beyond `max_length`, if that was given, are NaN; what they carry
    together is `rest`.

    Attributes:
        counts: exact numbers of paths and of their layers.
        products: (N, n+1) float64; <C_k, g> of every row.
        norms: (N, n+1) float64; |C_k| of every row.
        squares: (N,) float64; <g, g> by autograd.
        remainder: (N,) float64; |sum of C_k and rest - g|^2 of every row.
        rest: (N,) float64; <R, g>, where R is the sum of all C_k beyond `max_length`; 0 without.
        rest_norms: (N,) float64; |R|.
        inner: (N, K+1, K+1) float64; <C_j, C_k> of every row, up to the longest that count; see `gram`.
        at: where the gradient is measured: "input", "stem", "input of blocks.3" or a parameter; and how the gates of
            skips are taken where there are any, "input (gates frozen)".
    """

    counts: Counts
    products: np.ndarray
    norms: np.ndarray
    squares: np.ndarray
    remainder: np.ndarray
    rest: np.ndarray
    rest_norms: np.ndarray
    inner: np.ndarray
    at: str

    @classmethod
    def joined(cls, parts: Sequence[PathSpectrum]) -> PathSpectrum:
        """The rows of several spectra of one network and place, as one; InputError if they do not fit."""
        require_alike(parts, "counts", "at")
        names = ("products", "norms", "squares", "remainder", "rest", "rest_norms")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        inner = padded([part.inner for part in parts])
        return cls(parts[0].counts, at=parts[0].at, inner=inner, **arrays)

    @property
    def gram(self) -> Gram:
        """The inner products of the gradients of all lengths: what a range of lengths misses, and its angle with g."""
        return Gram(self.inner, self.products[:, : self.inner.shape[1]], self.squares)

    @property
    def share(self) -> np.ndarray:
        """(n+1,) the mean over rows of the share of every length in a row's own gradient; see `pooled_share`."""
        return np.asarray(measures.own_shares(self.products, self.squares)[0].mean(0))

    @property
    def median_share(self) -> np.ndarray:
        """(n+1,) the median over rows of their own shares."""
        return np.asarray(np.median(measures.own_shares(self.products, self.squares)[0], 0))

    @property
    def pooled_share(self) -> np.ndarray:
        """(n+1,) the shares in all gradients together, in which a row weighs as much as its <g, g>."""
        return np.asarray(self.products.sum(0) / self.squares.sum())

    @property
    def effective_samples(self) -> float:
        """How many samples pooled shares rest on: 1 if a single gradient is all there is, N if all are equally long."""
        return measures.effective_samples(self.squares)

    @property
    def shares(self) -> np.ndarray:
        """(N, n+1) the share of every length in each row's own gradient; NaN where that is zero."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.products / self.squares[:, None])

    @property
    def rest_share(self) -> float:
        """The mean over rows of the share of all lengths beyond `max_length` together; 0 without."""
        return float(measures.own_shares(self.rest[:, None], self.squares)[0].mean())

    def share_interval(
        self, level: float = 0.95, resamples: int = 1000, seed: int = 0, *, pooled: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (n+1,) each: studentised bootstrap intervals of `share` over rows; NaN for one row.

        Args:
            pooled: of `pooled_share`; where that rests on few samples (`effective_samples`) they hold it too seldom.
        """
        shares, weights = measures.own_shares(self.products, self.squares)
        weights = weights if pooled else np.ones_like(weights)
        none = np.array(self.count) == 0
        return measures.column_intervals(shares, weights, level, resamples, seed, exact=none)

    @property
    def norm(self) -> np.ndarray:
        """(n+1,) the mean over rows of the norm of the summed gradient of all paths of a length."""
        return np.asarray(self.norms.mean(0))

    @property
    def count(self) -> tuple[int, ...]:
        """(n+1) exact numbers of paths."""
        return self.counts.paths

    @property
    def longest(self) -> int:
        """The length of the longest path: all blocks, unless some are parallel and exclude each other."""
        return measures.longest_path(self.counts)

    @property
    def layers(self) -> np.ndarray:
        """(n+1,) mean length in weight layers of the paths of each length; 0 where there are none."""
        return measures.mean_layers(self.counts)

    @property
    def sum_error(self) -> float:
        """Relative distance between the sum over all lengths and autograd's gradient."""
        return float(np.sqrt(self.remainder.sum() / self.squares.sum()))

    def effective(self, mass: float = 0.95, *, pooled: bool = False) -> measures.Effective:
        """The shortest range of lengths that holds `mass` of the gradient, by exact share.

        Args:
            pooled: by `pooled_share`.

        Raises:
            InputError: the lengths up to `max_length` do not hold that much.
        """
        share = self.pooled_share if pooled else self.share
        return measures.effective_range(share, self.counts, mass, total=1.0)

    def effective_interval(
        self, mass: float = 0.95, level: float = 0.95
    ) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Intervals of the low and of the high end of `effective`, over rows; None for a single row."""
        shares, _ = measures.own_shares(self.products, self.squares)
        return measures.range_intervals(shares, mass, level)

    def multiplicity(self) -> measures.Multiplicity:
        """How many paths there are, and how many effectively contribute; of those up to `max_length`."""
        return measures.multiplicity(np.nan_to_num(self.share), self.counts)

    @property
    def table(self) -> pd.DataFrame:
        """One row a length: `length`, `layers`, `log2_paths`, `path_fraction`, `share` with its interval, `norm`.

        `share` is the mean of the rows' own shares; beside it stand `share_median` and `share_pooled`.
        """
        low, high = self.share_interval()
        return pd.DataFrame(
            {
                "length": range(len(self.count)),
                "layers": self.layers,
                "log2_paths": measures.log2_counts(self.counts),
                "path_fraction": measures.path_fractions(self.counts),
                "share": self.share,
                "share_low": low,
                "share_high": high,
                "share_median": self.median_share,
                "share_pooled": self.pooled_share,
                "norm": self.norm,
            }
        )

    def _effective(self) -> measures.Effective | None:
        """The range that holds 95 % of the gradient; None where the lengths told apart do not hold so much."""
        try:
            return self.effective(measures.MASS)
        except InputError:
            return None

    def summary(self) -> str:
        """Where the gradient is by path length, how many paths carry it, and how exact that is."""
        known, effective = np.isfinite(self.share), self._effective()
        share = float(self.share[known].sum())
        said = [measures.held(effective, "the gradient")] if effective else []
        if not known.all():
            apart = f"lengths up to {int(known.sum()) - 1} hold {percent(share)} of the gradient"
            said.append(f"{apart}, all longer ones together {percent(self.rest_share)}")
        if share > 0:
            size, of_known = self.multiplicity(), "" if known.all() else " of those lengths"
            few = contribute(size.log2_effective_paths)
            depth = f"{decimal(size.effective_depth)} blocks deep on average"
            said.append(f"of {two_to(size.log2_paths)} paths {few}, by the shares{of_known}, {depth}")
        if (rest_on := self.effective_samples) < measures.FEW_SAMPLES and len(self.squares) > 1:
            said.append(f"pooled over samples the shares rest on {decimal(rest_on)} of {len(self.squares)}")
        off = f"the sum over all lengths is off autograd's gradient by {power_of_ten(self.sum_error)} of its norm"
        return f"{plural(len(self.squares), 'gradient')} at {self.at} by path length: {'; '.join([*said, off])}."

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share of every length with its interval; returns the axes."""
        from resect.figures import paths

        effective = self._effective()
        return paths.shares(self.table, {"share": effective} if effective else {}, measures.MASS, ax)


def path_spectrum(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    task: AnyTask = None,
    max_length: int | None = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> PathSpectrum:
    """Decompose a gradient exactly by path length.

    Args:
        net: an unravelled network with at least one block.
        data: (inputs, targets) batches, or a data spec such as "digits".
        settings: what is differentiated, where, and in how much memory.
        task: what the targets mean, as for `lesion`, whose loss is differentiated.
        max_length: the longest paths, in blocks, that are told apart; the exact sum of all longer ones is `rest`.
        progress: called with the number of joins passed since the last call.
        engine: runs the pieces of work: one batch each.

    Raises:
        InputError: the network has no joins, or the settings do not fit it.
        DataError: the data are empty or do not fit the network, or the gradient is zero or not finite.
        AccuracyError: the sum over all lengths is off autograd's gradient by more than 1e-3 of it.

    Example:
        >>> resect.path_spectrum(net, "digits").effective(0.95)
    """
    traces = Traces(net, settings, task)
    counts, at = traces.routes.counts, traces.at
    top, rest = _highest(counts, max_length)
    work = PathWork("lengths", _spectrum, traces.settings, {"top": top, "rest": rest})
    runs = engine.run(net, ((work, batch) for batch in batches_of(data, net, task)), progress)
    spectrum = PathSpectrum.joined([PathSpectrum(counts, at=at, **arrays) for arrays in runs])
    require_finite(spectrum.squares, at)
    require_accurate(spectrum.sum_error, "the gradients of all path lengths must sum to autograd's, but are off")
    return spectrum


def _spectrum(traces: Traces, batch: Batch, progress: Progress, top: int, rest: bool) -> Arrays:
    """The arrays of `PathSpectrum`; lengths beyond `top` are NaN if they have paths (`rest`)."""
    running = traces.of(batch, top + 1 + rest, progress)
    parts = [_decompose(trace, top, rest, advance) for trace, advance in running]
    *columns, inner = zip(*parts, strict=True)
    arrays = concatenated(zip(*columns, strict=True), "products", "norms", "squares", "remainder")
    arrays["inner"] = padded(inner)
    missing = ((0, 0), (0, len(traces.net.blocks) - top))
    for name, beyond in (("products", "rest"), ("norms", "rest_norms")):
        lanes = arrays[name]
        arrays[beyond] = lanes[:, -1].copy() if rest else np.zeros(len(lanes))
        arrays[name] = np.pad(lanes[:, : top + 1], missing, constant_values=np.nan if rest else 0.0)
    return arrays


def _highest(counts: Counts, max_length: int | None) -> tuple[int, bool]:
    """The highest degree that gets a lane of its own, and whether there are higher ones."""
    longest = measures.longest_path(counts)
    if max_length is None:
        return longest, False
    require_whole("max_length", max_length, 0)
    return min(max_length, longest), max_length < longest


def _decompose(trace: Trace, top: int, rest: bool, progress: Progress) -> tuple[np.ndarray, ...]:
    """Products and norms of every lane, squares, remainders and inner products of one batch; see PathSpectrum."""
    degrees = decompose(trace, top, rest=rest, progress=progress)
    exponents = np.clip(degrees.exponents, -(2**20), 2**20).astype(np.int32)
    columns, left = [], None
    kept: list[Tensor] = []
    for some, arrived in at_target(trace, degrees.lanes, len(exponents)):
        narrow = next(iter(trace.true_gradient.values())).dtype
        lanes, whole = aligned(arrived, trace.true_gradient)
        powers = torch.from_numpy(exponents[some]).to(lanes.device).view(-1, 1, 1)
        lanes = torch.ldexp(lanes, powers.to(lanes.dtype))
        left = (whole if left is None else left) - lanes.sum(0)
        kept += lanes.to(narrow).unbind()  # in their own precision, as all lengths are there at once
        columns.append((torch.einsum("kbd,bd->bk", lanes, whole), lanes.norm(dim=2).T))
    assert left is not None
    products, norms = (torch.cat(column, 1) for column in zip(*columns, strict=True))
    squares, remainder = whole.square().sum(1), left.square().sum(1)
    numbers = tuple(column.cpu().double().numpy() for column in (products, norms, squares, remainder))
    return *numbers, inner_products(kept[: top + 1], squares)


def aligned(lanes: Lanes, truth: Lanes) -> tuple[Tensor, Tensor]:
    """(L, rows, D) and (rows, D), widened: the lanes of a target's values, and its gradient, side by side."""
    like = {**lanes, **truth}

    def flat(values: Lanes, count: int) -> Tensor:
        zeros = {key: like[key].new_zeros(count, *like[key].shape[1:]) for key in like.keys() - values.keys()}
        every = {**zeros, **values}
        return torch.cat([widened(per_row(every[key])) for key in sorted(every)], dim=2)

    return flat(lanes, len(next(iter(lanes.values())))), flat(truth, 1)[0]
