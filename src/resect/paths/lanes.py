"""Banks of lanes, with a power of two for each lane, so that no path is too long for float32.

A lane stands for `value * 2**exponent`. Gradients of paths through 50 branches are some 10^-40 of those through none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

EMPTY = -(2**40)  # the exponent of a lane that holds nothing
_TOLERATED = 20  # exponents within this many powers of two of 0 are left alone
_GROUP_BYTES = 4 * 2**20  # of one value of a group of lanes: it stays in the caches, and is not mapped anew each time
_GROUP_BYTES_GPU = 256 * 2**20


def empty_lanes(count: int, like: Tensor) -> Tensor:
    """`count` lanes of zeros, (count, *like.shape), each in the memory format of `like`."""
    stride = like.stride() if _is_dense(like) else torch.empty(like.shape, device="meta").stride()
    lanes = torch.empty_strided((count, *like.shape), (like.numel(), *stride), dtype=like.dtype, device=like.device)
    return lanes.zero_()


def _is_dense(value: Tensor) -> bool:
    order = sorted(range(value.ndim), key=value.stride)
    expected = 1
    for dim in order:
        if value.shape[dim] != 1 and value.stride(dim) != expected:
            return False
        expected *= value.shape[dim]
    return True


def group_size(values: Iterable[Tensor]) -> int:
    """How many lanes of these values (B, ...) to take at once."""
    values = list(values)
    largest = max(value.numel() * value.element_size() for value in values)
    room = _GROUP_BYTES if values[0].device.type == "cpu" else _GROUP_BYTES_GPU
    return max(1, room // largest)


def scaled(lanes: Tensor, exponents: np.ndarray, owned: bool = False) -> Tensor:
    """Multiply each lane by 2**exponent; exponents (L,) integers, at most 0. Owned lanes are overwritten."""
    if not exponents.any():
        return lanes
    lowest = -int(widest(lanes.dtype))
    return scale(lanes if owned else lanes.clone(), np.clip(exponents, lowest, 0))


def excess(parts: Sequence[Tensor]) -> np.ndarray:
    """(L,) by how many powers of two every lane has strayed from 1, over several tensors; 0 where it is not far."""
    largest = torch.stack([_size(part) for part in parts]).amax(0).cpu().double().numpy()
    strayed = (largest > 0) & np.isfinite(largest)
    found = np.floor(np.log2(np.where(strayed, largest, 1.0))).astype(np.int64)
    most = int(widest(parts[0].dtype))
    return np.clip(np.where(np.abs(found) > _TOLERATED, found, 0), -most, most)


def renormalise(lanes: Mapping[int, Tensor], exponents: np.ndarray, start: int, stop: int) -> None:
    """Bring every lane of [start, stop) near 1 where it has strayed far; lanes and exponents change in place."""
    parts = [value[start:stop] for value in lanes.values()]
    shift = excess(parts)
    if shift.any():
        for part in parts:
            scale(part, -shift)
        exponents[start:stop] += shift


def scale(lanes: Tensor, exponents: np.ndarray) -> Tensor:
    """Multiply each lane by 2**exponent in place; exponents within the range of the dtype."""
    powers = torch.from_numpy(np.ldexp(1.0, exponents.astype(np.int32)))
    factor: Tensor = powers.to(lanes.dtype).to(lanes.device).view(-1, *(1,) * (lanes.ndim - 1))
    return lanes.mul_(factor)


def apart(value: Tensor, banks: Iterable[Tensor]) -> Tensor:
    """The same lanes, copied if they share the memory of lanes that are about to be overwritten."""
    memory = value.untyped_storage().data_ptr()
    return value.clone() if any(bank.untyped_storage().data_ptr() == memory for bank in banks) else value


def buffer(count: int, like: Tensor, reusable: list[Tensor]) -> Tensor:
    """`count` lanes like `like` (B, ...): the memory of a bank that has served, where one fits, else zeros."""
    for i, bank in enumerate(reusable):
        if bank.shape[1:] == like.shape and bank[0].stride() == like.stride() and bank.dtype == like.dtype:
            return reusable.pop(i)
    return empty_lanes(count, like)


def _size(lanes: Tensor) -> Tensor:
    """(L,) the norm of every lane, or its largest entry where the squares are out of range."""
    dims = tuple(range(1, lanes.ndim))
    norms: Tensor = torch.linalg.vector_norm(lanes, dim=dims)
    if bool(((norms == 0) | ~torch.isfinite(norms)).any()):
        norms = lanes.abs().amax(dims)
    return norms


def widest(dtype: torch.dtype) -> float:
    """The largest exponent of a power of two that neither overflows nor vanishes in `dtype`."""
    return float(-math.log2(torch.finfo(dtype).tiny))


def widened(value: Tensor) -> Tensor:
    """The same values in the widest dtype that the device has: float64, but float32 on mps."""
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)
