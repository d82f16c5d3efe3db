"""The exact gradient of all paths of every length.

The backward operator of a residual chain is the product of (I + J_i^T). With a formal variable z on every branch, the
product of (I + z J_i^T) applied to the loss gradient is a polynomial whose coefficient C_k is the sum of the gradients
of all paths of length k: 2^n paths in n(n+1)/2 branch products. The C_k sum to the true gradient g, so that
share_k = <C_k, g> / <g, g> is exact; shares sum to 1, and can be negative where paths of different lengths cancel.
Source: the unravelled view is Veit et al., section 3; they sample single paths (section 5) where this is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from resect.errors import DataError, InputError
from resect.graph.routes import Counts, Routes
from resect.network.unraveled import Unraveled
from resect.paths.backward import Lanes, SliceGradient, Trace, add_into, resolve_target
from resect.paths.lanes import renormalise, scaled, widened
from resect.paths.measures import Effective, Multiplicity, effective_range, multiplicity, path_fractions
from resect.sweep.engine import as_batch
from resect.sweep.plans import no_joins_message

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class PathSpectrum:
    """The gradient by path length. n blocks, N samples; index k is the length in blocks.

    Attributes:
        counts: exact numbers of paths and of their layers.
        products: (N, n+1) float64; <C_k, g> of every sample.
        norms: (N, n+1) float64; |C_k| of every sample.
        squares: (N,) float64; <g, g> by autograd.
        remainder: (N,) float64; |sum of C_k - g|^2 of every sample.
        at: "input" or "stem": where the gradient is measured.
    """

    counts: Counts
    products: np.ndarray
    norms: np.ndarray
    squares: np.ndarray
    remainder: np.ndarray
    at: str

    @property
    def share(self) -> np.ndarray:
        """(n+1,) the share of every length in the gradient, pooled over samples; sums to 1."""
        return np.asarray(self.products.sum(0) / self.squares.sum())

    @property
    def norm(self) -> np.ndarray:
        """(n+1,) the mean over samples of the norm of the summed gradient of all paths of a length."""
        return np.asarray(self.norms.mean(0))

    @property
    def count(self) -> tuple[int, ...]:
        """(n+1) exact numbers of paths."""
        return self.counts.paths

    @property
    def longest(self) -> int:
        """The length of the longest path: all blocks, unless some are parallel and exclude each other."""
        return max(k for k, count in enumerate(self.count) if count)

    @property
    def layers(self) -> np.ndarray:
        """(n+1,) mean length in weight layers of the paths of each length; 0 where there are none."""
        pairs = zip(self.counts.layers, self.counts.paths, strict=True)
        return np.array([total / count if count else 0.0 for total, count in pairs])

    @property
    def sum_error(self) -> float:
        """Relative distance between the sum over all lengths and autograd's gradient."""
        return float(np.sqrt(self.remainder.sum() / self.squares.sum()))

    def effective(self, mass: float = 0.95) -> Effective:
        """The shortest range of lengths that holds `mass` of the gradient, by exact share."""
        return effective_range(self.share, self.counts, mass)

    def multiplicity(self) -> Multiplicity:
        """How many paths there are, and how many effectively contribute."""
        return multiplicity(self.share, self.counts)

    @property
    def table(self) -> pd.DataFrame:
        """One row a length: `length`, `layers`, `log2_paths`, `path_fraction`, `share`, `norm`."""
        fractions = path_fractions(self.counts)
        return pd.DataFrame(
            {
                "length": range(len(self.count)),
                "layers": self.layers,
                "log2_paths": [_log2(count) for count in self.count],
                "path_fraction": fractions,
                "share": self.share,
                "norm": self.norm,
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share of every length; returns the axes."""
        from matplotlib.figure import Figure

        if ax is None:
            ax = Figure(layout="constrained").subplots()
        ax.bar(range(len(self.share)), self.share * 100)
        ax.set(xlabel="path length (blocks)", ylabel="share of the gradient (%)")
        return ax

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False))


def path_spectrum(
    net: Unraveled,
    data: Iterable[tuple[Any, Tensor]],
    *,
    at: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> PathSpectrum:
    """Decompose the gradient of the cross-entropy exactly by path length.

    Args:
        net: an unravelled network with at least one block.
        data: (inputs, targets) batches.
        at: where the gradient is measured: "input", "stem" (the state before the first block), or "auto": the input,
            but the stem for networks that read tokens.
        progress: called with the number of slices done since the last call.

    Raises:
        InputError: the network has no joins.
        DataError: the data are empty or do not fit the network, or the gradient is zero or not finite.
    """
    require_paths(net)
    parts = [_decompose(net, inputs, targets, at, progress) for inputs, targets in map(as_batch, data)]
    if not parts:
        raise DataError("`data` must hold at least one (inputs, targets) batch, got none.")
    products, norms, squares, remainder = (np.concatenate(column) for column in zip(*parts, strict=True))
    counts, where = Routes(net.sliced).counts, resolve_target(net, at)
    if not np.isfinite(products).all() or not squares.sum() > 0:
        raise DataError(
            f"the gradient at the {where} must be finite and not zero on these samples, got a squared norm of "
            f"{squares.sum():.3g}. In half precision, try float32."
        )
    return PathSpectrum(counts, products, norms, squares, remainder, where)


def require_paths(net: Unraveled) -> None:
    """Raise InputError unless the network has skips, and so more than one path."""
    if not isinstance(net, Unraveled):
        raise InputError(f"`net` must come from resect.unravel(model, example), got {type(net).__name__}.")
    if net.plain:
        raise InputError("a network unravelled with plain=True has one path: it has no skips. Unravel it without.")
    if not net.blocks:
        raise InputError(no_joins_message(net))


def _decompose(
    net: Unraveled, inputs: Any, targets: Tensor, at: str, progress: Callable[[float], None] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Inner products, norms, squares and remainders of one batch; see PathSpectrum."""
    trace = Trace(net, inputs, targets, at)
    cotangents, exponents = degrees(trace, progress)
    lanes = _flat(trace.to_target(cotangents))
    truth = _flat(trace.true_gradient())[0]
    coefficients = torch.ldexp(lanes, exponents.view(-1, 1, 1).to(lanes.dtype))
    products = torch.einsum("kbd,bd->bk", coefficients, truth)
    remainder = (coefficients.sum(0) - truth).square().sum(1)
    norms = coefficients.norm(dim=2).T
    pad = (0, len(net.blocks) + 1 - len(exponents))  # parallel branches exclude each other: the longest are missing
    columns = F.pad(products, pad), F.pad(norms, pad), truth.square().sum(1), remainder
    first, second, third, fourth = (column.cpu().double().numpy() for column in columns)
    return first, second, third, fourth


def degrees(trace: Trace, progress: Callable[[float], None] | None = None) -> tuple[Lanes, Tensor]:
    """Carry the path polynomial back to the prelude: lane k of every value is the part of degree k.

    Returns:
        cotangents of the live values after the prelude, (K, B, ...) each, and exponents (K,) int32: the value of lane
        k is its entries times 2**exponent.
    """
    cotangents = trace.loss_gradient()
    device = next(iter(cotangents.values())).device
    exponents = torch.zeros(1, dtype=torch.int32, device=device)
    for _, gradient in trace.slices():
        cotangents, exponents = _through_slice(gradient, cotangents, exponents)
        exponents = renormalise(cotangents, exponents)
        if progress:
            progress(1)
    return cotangents, renormalise(cotangents, exponents)


def _through_slice(gradient: SliceGradient, cotangents: Lanes, exponents: Tensor) -> tuple[Lanes, Tensor]:
    """Back through one join: the skip keeps each degree, a branch raises it by one."""
    edges, collected = gradient.to_edges(cotangents)
    # Degree k receives lane k over the skip and lane k - 1 over a branch; both are brought to the larger exponent.
    low = exponents.new_full((1,), torch.iinfo(torch.int32).min // 2)
    kept, raised = torch.cat([exponents, low]), torch.cat([low, exponents])
    joint = torch.maximum(kept, raised)
    down_kept, down_raised = (kept - joint)[:-1], (raised - joint)[1:]
    collected = {key: _padded(scaled(value, down_kept), after=True) for key, value in collected.items()}
    assert gradient.skip is not None
    if gradient.skip in edges:
        over_skip = gradient.from_edge(gradient.skip, scaled(edges[gradient.skip], down_kept))
        add_into(collected, {key: _padded(value, after=True) for key, value in over_skip.items()})
    for key in gradient.branches.values():
        if key in edges:
            over_branch = gradient.from_edge(key, scaled(edges[key], down_raised))
            add_into(collected, {k: _padded(value, after=False) for k, value in over_branch.items()})
    return collected, joint


def _padded(lanes: Tensor, *, after: bool) -> Tensor:
    empty = lanes.new_zeros(1, *lanes.shape[1:])
    return torch.cat([lanes, empty] if after else [empty, lanes])


def _flat(values: list[Tensor]) -> Tensor:
    """(L, B, D), widened, of several cotangents (L, B, ...)."""
    return torch.cat([widened(value.flatten(2)) for value in values], dim=2)


def _log2(count: int) -> float:
    from math import log2

    return log2(count) if count else float("-inf")
