"""Banks of lanes, with a power of two for each lane, so that no path is too long for float32.

A lane stands for `value * 2**exponent`. Gradients of paths through 50 branches are some 10^-40 of those through none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from resect.measuring.batches import widest_float

EMPTY = -(2**40)  # the exponent of a lane that holds nothing
_TOLERATED = 20  # exponents within this many powers of two of 0 are left alone
_GROUP_BYTES = 4 * 2**20  # of one value of a group of lanes: it stays in the caches, and is not mapped anew each time
_GROUP_BYTES_GPU = 256 * 2**20


def first_lanes(start: Mapping[int, Tensor], count: int) -> dict[int, Tensor]:
    """Per value `count` lanes, of which the first is the one given, (1, B, ...), and the others are zeros."""
    lanes = {key: empty_lanes(count, value[0]) for key, value in start.items()}
    for key, value in start.items():
        lanes[key][0] = value[0]
    return lanes


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


def per_lane(value: Tensor) -> Tensor:
    """(L, D) of lanes (L, ...), whose values may be single numbers."""
    return value.reshape(len(value), -1)


def per_row(value: Tensor) -> Tensor:
    """(L, rows, D) of lanes (L, rows, ...), whose values may be single numbers."""
    return value.reshape(*value.shape[:2], -1)


class Watch:
    """Brings lanes near 1 where they have strayed far; asks the device once for all of them, not group by group."""

    def __init__(self) -> None:
        self._lanes: list[np.ndarray] = []
        self._norms: list[Tensor] = []

    def note(self, lanes: Sequence[int] | np.ndarray, values: Iterable[Tensor]) -> None:
        """Remember how large some lanes have become; `values` (L, ...) are all of them."""
        norms = [torch.linalg.vector_norm(per_lane(value), dim=1) for value in values]
        if norms:
            self._lanes.append(np.asarray(lanes))
            self._norms.append(torch.stack(norms).amax(0))

    def settle(self, banks: Mapping[int, Tensor], exponents: np.ndarray) -> None:
        """Scale the lanes that have strayed, in place, and raise their exponents by as much."""
        if not self._norms:
            return
        lanes, sizes = np.concatenate(self._lanes), torch.cat(self._norms).cpu().double().numpy()
        beyond = (sizes == 0) | ~np.isfinite(sizes)  # the squares may be out of range where the values are not
        if beyond.any():
            which = torch.from_numpy(lanes[beyond])
            parts = [bank[which.to(bank.device)] for bank in banks.values()]
            largest = [per_lane(part).abs().amax(1).cpu().double() for part in parts]
            sizes[beyond] = torch.stack(largest).amax(0).numpy()
        strayed = (sizes > 0) & np.isfinite(sizes)
        shift = np.floor(np.log2(np.where(strayed, sizes, 1.0))).astype(np.int64)
        most = int(min(widest(bank.dtype) for bank in banks.values()))
        shift = np.clip(np.where(np.abs(shift) > _TOLERATED, shift, 0), -most, most)
        if not shift.any():
            return
        moved, by = lanes[shift != 0], shift[shift != 0]
        exponents[moved] += by
        for bank in banks.values():
            which = torch.from_numpy(moved).to(bank.device)
            bank[which] = scale(bank[which], -by)


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


def widest(dtype: torch.dtype) -> float:
    """The largest exponent of a power of two that neither overflows nor vanishes in `dtype`."""
    return float(-math.log2(torch.finfo(dtype).tiny))


def widened(value: Tensor) -> Tensor:
    """The same values in the widest dtype that the device has: float64, but float32 on mps."""
    return value.to(widest_float(value.device))
