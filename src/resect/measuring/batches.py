"""Batches of samples: what `data` gives, and how it is cut, moved and laid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.errors import DataError

Batches = Iterable[tuple[Any, Tensor]]


def checked(data: Batches) -> Iterator[tuple[Any, Tensor]]:
    """The (inputs, targets) batches of `data`.

    Raises:
        DataError: one of them is none, or empty; or there is none at all.
    """
    number = -1
    for number, item in enumerate(data):  # noqa: B007  # whether there was one is asked at the end
        yield as_batch(item)
    if number < 0:
        raise DataError("`data` must hold at least one (inputs, targets) batch, got none.")


def as_batch(item: Any) -> tuple[Any, Tensor]:
    """One (inputs, targets) batch as `data` gives it; DataError if it is none, or empty."""
    if not (isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[1], Tensor)):
        got = f"{type(item).__name__} {tuple(item.shape)}" if isinstance(item, Tensor) else type(item).__name__
        raise DataError(f"`data` must give (inputs, targets) batches whose targets are a tensor, got {got}.")
    if not item[1].ndim or not len(item[1]):
        raise DataError("every batch of `data` must hold at least one sample, got an empty one.")
    return item[0], item[1]


def to_device(inputs: Any, device: torch.device) -> Any:
    """The same nested inputs on a device."""
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)


def channels_last(inputs: Any) -> Any:
    """The same nested inputs with images (B, C, H, W) in the memory format in which convolutions are fastest."""

    def convert(leaf: Any) -> Any:
        images = isinstance(leaf, Tensor) and leaf.ndim == 4 and leaf.is_floating_point()
        return leaf.contiguous(memory_format=torch.channels_last) if images else leaf

    return pytree.tree_map(convert, inputs)


def widest_float(device: torch.device) -> torch.dtype:
    """The widest floating-point dtype that a device has: float64, but float32 on mps."""
    return torch.float32 if device.type == "mps" else torch.float64
