"""Lanes with a power of two each, so that no path is too long for float32.

A lane stands for `value * 2**exponent`. Gradients of paths through 50 branches are some 10^-40 of those through none.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from resect.paths.backward import Lanes

_TOLERATED = 20  # exponents within this many powers of two of 0 are left alone


def scaled(lanes: Tensor, exponents: Tensor) -> Tensor:
    """Multiply each lane by 2**exponent; exponents (L,) integers, at most 0 except in tests."""
    if not bool(exponents.any()):
        return lanes
    factor = torch.ldexp(torch.ones_like(exponents, dtype=lanes.dtype), exponents.clamp_min(-126))
    return lanes * factor.view(-1, *(1,) * (lanes.ndim - 1))


def renormalise(lanes: Lanes, exponents: Tensor) -> Tensor:
    """Bring every lane near 1 in place where it has strayed far; returns the new exponents (L,)."""
    largest = peak(lanes.values())
    shift = torch.where((largest > 0) & torch.isfinite(largest), torch.frexp(largest).exponent, 0).to(exponents.dtype)
    shift = torch.where(shift.abs() > _TOLERATED, shift, 0)
    if bool(shift.any()):
        for key, value in lanes.items():
            factor = torch.ldexp(torch.ones_like(shift, dtype=value.dtype), -shift)
            lanes[key] = value * factor.view(-1, *(1,) * (value.ndim - 1))
    return exponents + shift


def peak(values: Iterable[Tensor]) -> Tensor:
    """Largest absolute value of every lane over several tensors, (L,) float32."""
    peaks = [value.flatten(1).abs().amax(1).float() for value in values]
    return torch.stack(peaks).amax(0)
