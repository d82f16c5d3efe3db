"""Lanes with a power of two each, so that no path is too long for float32.

A lane stands for `value * 2**exponent`. Gradients of paths through 50 branches are some 10^-40 of those through none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from resect.paths.backward import Lanes

_TOLERATED = 20  # exponents within this many powers of two of 0 are left alone


def scaled(lanes: Tensor, exponents: Tensor) -> Tensor:
    """Multiply each lane by 2**exponent; exponents (L,) int32, at most 0."""
    if not bool(exponents.any()):
        return lanes
    return lanes * _powers(exponents.clamp_min(-_widest({0: lanes})), lanes)


def renormalise(lanes: Lanes, exponents: Tensor) -> Tensor:
    """Bring every lane near 1 in place where it has strayed far; returns the new exponents (L,)."""
    largest = peak(lanes.values())
    strayed = (largest > 0) & torch.isfinite(largest)
    shift = torch.where(strayed, torch.floor(torch.log2(torch.where(strayed, largest, 1.0))), 0.0).to(exponents.dtype)
    shift = torch.where(shift.abs() > _TOLERATED, shift, 0).clamp(-_widest(lanes), _widest(lanes))
    if bool(shift.any()):
        for key, value in lanes.items():
            lanes[key] = value * _powers(-shift, value)
    return exponents + shift


def _powers(exponents: Tensor, like: Tensor) -> Tensor:
    """2**exponents, exact, of the dtype of `like` and broadcast along its lanes."""
    powers = torch.ldexp(torch.ones_like(exponents, dtype=like.dtype), exponents)
    return powers.view(-1, *(1,) * (like.ndim - 1))


def _widest(lanes: Lanes) -> int:
    """The largest exponent of a power of two that neither overflows nor vanishes in the lanes' dtype."""
    dtype = next(iter(lanes.values())).dtype
    return int(-math.log2(torch.finfo(dtype).tiny))


def peak(values: Iterable[Tensor]) -> Tensor:
    """Largest absolute value of every lane over several tensors, (L,), widened."""
    return torch.stack([widened(value.flatten(1).abs().amax(1)) for value in values]).amax(0)


def widened(value: Tensor) -> Tensor:
    """The same values in the widest dtype that the device has: float64, but float32 on mps."""
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)
