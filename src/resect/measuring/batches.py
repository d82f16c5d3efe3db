"""Batches of samples: what `data` gives, and how it is cut, moved and laid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.digest import tensors_digest
from resect.errors import DataError
from resect.graph.outputs import IGNORED

Batches = Iterable[tuple[Any, Tensor]]  # what users give as `data`


@dataclass(frozen=True)
class Batch:
    """One batch of samples.

    Attributes:
        number: its place among the batches of the data; what is drawn at random depends on it.
        inputs: as the network takes them.
        targets: (B,) or (B, L) integers.
    """

    number: int
    inputs: Any
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def digest(self) -> str:
        """A hash of inputs and targets."""
        leaves = [leaf for leaf in pytree.tree_leaves(self.inputs) if isinstance(leaf, Tensor)]
        return tensors_digest(*leaves, self.targets)


def batches_of(data: Batches) -> Iterator[Batch]:
    """The batches of `data`, checked and numbered.

    Raises:
        DataError: one of them is no (inputs, targets) batch, or empty; or there is none at all, or no target counts.
    """
    number, counts = -1, False
    for number, item in enumerate(data):
        if not (isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[1], Tensor)):
            got = f"{type(item).__name__} {tuple(item.shape)}" if isinstance(item, Tensor) else type(item).__name__
            raise DataError(f"`data` must give (inputs, targets) batches whose targets are a tensor, got {got}.")
        if not item[1].ndim or not len(item[1]):
            raise DataError("every batch of `data` must hold at least one sample, got an empty one.")
        counts = counts or bool((item[1] != IGNORED).any())
        yield Batch(number, *item)
    if number < 0:
        raise DataError("`data` must hold at least one (inputs, targets) batch, got none.")
    if not counts:
        raise DataError(f"`data` must have a target that counts, but all are {IGNORED}, which is ignored.")


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
