"""How the gradients of different path lengths stand to each other: their Gram matrix, and what a range misses.

A share says how far a length goes along the whole gradient g; it cannot see what stands orthogonal to g. The inner
products <C_j, C_k> of the summed gradients of all lengths can: of any range of lengths they give the distance to g and
the angle with it, and by |C(z)|^2 = sum z^(j+k) <C_j, C_k> the gradient's norm for any common factor z of the branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resect.errors import InputError
from resect.paths.lanes import widened

NEGLIGIBLE = 1e-9  # of the norm of the whole gradient: no sum of longer paths reaches it from here on
_BYTES = 64 * 2**20  # of the lanes that are multiplied at one time


@dataclass(frozen=True)
class Gram:
    """Inner products of the gradients C_0 to C_K of a spectrum's lengths, N rows.

    Attributes:
        values: (N, K+1, K+1) float64; <C_j, C_k>. Longer paths are left out, as their sums are shorter than 1e-9 |g|,
            or beyond the spectrum's `max_length`.
        products: (N, K+1) float64; <C_k, g>.
        squares: (N,) float64; <g, g>.
    """

    values: np.ndarray
    products: np.ndarray
    squares: np.ndarray

    def residual(self, low: int, high: int) -> np.ndarray:
        """(N,) |g - sum of C_low to C_high| / |g|: what a range of lengths misses of each row's gradient."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.sqrt(self._missed(low, high) / self.squares))

    def pooled_residual(self, low: int, high: int) -> float:
        """What a range of lengths misses of all gradients together, those with a larger norm weighing more."""
        return float(np.sqrt(self._missed(low, high).sum() / self.squares.sum()))

    def cosine(self, low: int, high: int) -> np.ndarray:
        """(N,) the cosine of the angle between each row's gradient and the sum of a range of lengths; NaN of zeros."""
        products, squares = self._of(low, high)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(products / np.sqrt(squares * self.squares))

    def scaled_norm(self, factor: float) -> np.ndarray:
        """(N,) |C(z)| for one factor z of all branches; at 1 it is |g|, of all lengths that are told apart."""
        powers = float(factor) ** np.arange(self.values.shape[1])
        return np.asarray(np.sqrt(np.maximum(np.einsum("njk,j,k->n", self.values, powers, powers), 0)))

    def shortest(self, residual: float) -> tuple[int, int] | None:
        """The shortest range of lengths that misses at most `residual` of all gradients together, the best of several.

        Returns:
            Its ends, inclusive; None if all lengths that are told apart miss more.

        Raises:
            InputError: `residual` is not between 0 and 1.
        """
        if not 0 < residual < 1:
            raise InputError(f"`residual` must lie between 0 and 1, got {residual}.")
        lengths = self.values.shape[1]
        for width in range(1, lengths + 1):
            missed = {low: self.pooled_residual(low, low + width - 1) for low in range(lengths - width + 1)}
            low = min(missed, key=missed.__getitem__)
            if missed[low] <= residual:
                return low, low + width - 1
        return None

    def _of(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """<S, g> and <S, S> of the sum S of a range, (N,) each."""
        if not 0 <= low <= high:
            raise InputError(f"`low` and `high` must be lengths from 0, in order, got {low} and {high}.")
        some = slice(low, high + 1)
        return self.products[:, some].sum(1), self.values[:, some, some].sum((1, 2))

    def _missed(self, low: int, high: int) -> np.ndarray:
        products, squares = self._of(low, high)
        return np.asarray(np.maximum(self.squares - 2 * products + squares, 0))


def inner_products(lanes: Sequence[Tensor], squares: Tensor) -> np.ndarray:
    """(rows, K+1, K+1) float64 inner products of lanes, up to the last that is not negligible in every row.

    Args:
        lanes: (rows, D) each, by length.
        squares: (rows,) of the whole gradient.
    """
    norms = torch.stack([lane.norm(dim=1) for lane in lanes])  # (lanes, rows)
    counted = (norms > NEGLIGIBLE * squares.sqrt()).any(1).nonzero()
    kept = torch.stack(list(lanes[: int(counted.max()) + 1 if len(counted) else 1]), dim=1)  # (rows, K+1, D)
    size = max(1, _BYTES // max(1, 8 * kept[0].numel()))
    parts = [widened(part) @ widened(part).mT for part in torch.split(kept, size)]
    return np.asarray(torch.cat(parts).cpu().double().numpy())


def padded(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Several (rows, K+1, K+1) as one, with zeros where one has fewer lengths than another."""
    most = max(each.shape[1] for each in matrices)
    return np.concatenate([np.pad(m, ((0, 0), *[(0, most - m.shape[1])] * 2)) for m in matrices])
