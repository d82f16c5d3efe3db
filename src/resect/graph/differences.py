"""How far two outputs are apart."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


def largest_difference(expected: Any, got: Any) -> float:
    """The largest absolute difference of any two outputs, 0 on meta.

    It is infinite where one of two values is not a number or infinite, and where outputs differ in number or shape.
    """
    largest, ones, others = 0.0, pytree.tree_leaves(expected), pytree.tree_leaves(got)
    if len(ones) != len(others):
        return float("inf")
    for one, other in zip(ones, others, strict=True):
        if not isinstance(one, Tensor) or one.is_meta:
            continue
        if not isinstance(other, Tensor) or one.shape != other.shape:
            return float("inf")
        if not torch.equal(one, other):
            apart = (_real(one) - _real(other)).abs()[_real(one) != _real(other)]
            gap = float(apart.max()) if apart.numel() else 0.0
            largest = max(largest, gap if gap == gap else float("inf"))
    return largest


def alike(want: Tensor, got: Tensor) -> bool:
    """Whether two outputs differ by 1 % at the most, as by the rounding of fused kernels."""
    if want.shape != got.shape or want.is_meta:
        return want.shape == got.shape
    one, other = _real(want), _real(got)
    finite = torch.isfinite(one)
    scale = float(one[finite].abs().max()) if bool(finite.any()) else 1.0
    return torch.allclose(one, other, rtol=1e-2, atol=1e-2 * scale + 1e-30, equal_nan=True)


def _real(value: Tensor) -> Tensor:
    """Real and imaginary parts beside each other, in double precision."""
    return (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).double()
