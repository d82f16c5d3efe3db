"""How far two outputs are apart."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


def largest_difference(expected: Any, got: Any) -> float:
    """The largest absolute difference of any two outputs, infinite where one of them is not a number; 0 on meta."""
    largest = 0.0
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(got), strict=True)
    for one, other in pairs:
        if isinstance(one, Tensor) and not one.is_meta and not torch.equal(one, other):
            gap = (one.double() - other.double()).abs().max().item()
            largest = max(largest, gap if gap == gap and gap > 0 else float("inf"))
    return largest


def close(want: Tensor, got: Tensor) -> bool:
    """Whether two outputs differ by rounding at the most (fused attention rounds in another way)."""
    if want.shape != got.shape or want.is_meta:
        return want.shape == got.shape
    finite = torch.isfinite(want)
    scale = float(want[finite].abs().max()) if bool(finite.any()) else 1.0
    return torch.allclose(want.double(), got.double(), rtol=1e-2, atol=1e-2 * scale + 1e-30, equal_nan=True)
