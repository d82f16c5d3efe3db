"""Batches of samples: what `data` gives, and how it is cut, moved and laid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.digest import tensors_digest
from resect.errors import DataError
from resect.graph.outputs import IGNORED

Batches = Iterable[tuple[Any, Tensor] | Mapping[str, Any]]  # what users give as `data`
_WANTED = "`data` must give (inputs, targets) batches"


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
        DataError: one of them is neither an (inputs, targets) batch nor a dict with `labels`, or is empty; there is
            none at all; or, at the end, all targets are ignored.
    """
    number, counted = -1, False
    for number, item in enumerate(data):
        inputs, targets = _labelled(item) if isinstance(item, Mapping) else _pair(item)
        if not len(targets):
            raise DataError("every batch of `data` must hold at least one sample, got an empty one.")
        counted = counted or bool((targets != IGNORED).any())
        yield Batch(number, dict(inputs) if isinstance(inputs, Mapping) else inputs, targets)
    if number < 0:
        raise DataError("`data` must hold at least one (inputs, targets) batch, got none.")
    if not counted:
        raise DataError(f"`data` must have a target that counts, but all are {IGNORED}, which is ignored.")


def _pair(item: Any) -> tuple[Any, Tensor]:
    """Inputs and targets of one batch."""
    if not isinstance(item, (tuple, list)):
        raise DataError(f"{_WANTED}, got {_words(item)}. A single batch goes into a list: [(inputs, targets)].")
    if len(item) != 2:
        raise DataError(
            f"{_WANTED}, got {type(item).__name__} of {len(item)}. Several inputs go into one tuple: "
            "((a, b), targets); what is neither has to be left out."
        )
    inputs, targets = item
    if isinstance(targets, (int, float)) or getattr(targets, "ndim", 1) == 0:
        raise DataError(
            f"{_WANTED}, got a single sample with the target {targets}. Read a Dataset by batches: "
            "torch.utils.data.DataLoader(dataset, batch_size=100)."
        )
    if not isinstance(targets, Tensor):
        raise DataError(
            f"{_WANTED}, whose targets are a torch.Tensor, got {_words(targets)} as targets. "
            "torch.as_tensor makes one of arrays and lists."
        )
    return inputs, targets


def _labelled(item: Mapping[str, Any]) -> tuple[Any, Tensor]:
    """Inputs and targets of a batch as collators of transformers make it: named inputs, and `labels`."""
    if "labels" not in item:
        raise DataError(
            f"a batch that is a dict must have its targets under 'labels', got {', '.join(map(repr, item))}. Or give "
            "(inputs, targets), where inputs is the dict."
        )
    inputs, targets = _pair(({name: value for name, value in item.items() if name != "labels"}, item["labels"]))
    if targets.ndim > 1:
        raise DataError(
            f"a batch that is a dict must have one label a sample, got labels {tuple(targets.shape)}. Give (inputs, "
            "targets), where targets[b, i] is what position i should predict: of a causal language model the labels "
            f"moved by one, with {IGNORED} at the end."
        )
    return inputs, targets


def _words(value: Any) -> str:
    """The type of a value, and its shape if it has one."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"


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
