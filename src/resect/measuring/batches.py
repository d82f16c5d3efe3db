"""Batches of samples: what `data` gives, and how it is cut, moved and laid out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.digest import tensors_digest
from resect.errors import DataError, DoubtfulWarning
from resect.graph.outputs import IGNORED
from resect.measuring.doubts import doubts
from resect.measuring.items import item_of
from resect.measuring.targets import as_task, guessed, prepared, scored_shape
from resect.measuring.tasks import CLASSIFICATION, PerSample, Task
from resect.network.unraveled import Unraveled

Batches = Iterable[Any]
"""What users give as `data`: (inputs, targets) batches, or what else `items` reads."""

AnyTask = Task | str | PerSample | None
"""What users give as `task`: None to have it guessed, a name, a `Task`, or a loss (outputs, targets) -> (B,)."""


@dataclass(frozen=True)
class Batch:
    """One batch of samples.

    Attributes:
        number: its place among the batches of the data; what is drawn at random depends on it.
        inputs: as the network takes them.
        targets: (B,) or (B, L) integers, or what else the task takes.
        task: what the targets mean.
    """

    number: int
    inputs: Any
    targets: Tensor
    task: Task = CLASSIFICATION

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def digest(self) -> str | None:
        """A hash of inputs, targets and task; None with a task that no hash can tell from others."""
        if self.task.key is None:
            return None
        leaves = [leaf for leaf in pytree.tree_leaves(self.inputs) if isinstance(leaf, Tensor)]
        digest = tensors_digest(*leaves, self.targets)
        return digest if self.task == CLASSIFICATION else f"{digest} {self.task.key}"


def batches_of(
    data: Batches, net: Unraveled | None = None, task: AnyTask = None, *, seen: bool = False
) -> Iterator[Batch]:
    """The batches of `data`, checked and numbered.

    Args:
        net: what they are for; it says how many inputs there are, and what its outputs look like.
        task: what the targets mean; None to have it guessed from those of the first batch.
        seen: they gave batches before.

    Raises:
        InputError: there is no such task.
        DataError: one of them is no batch, or is empty, or the task cannot be told; there is none at all; or, at the
            end, all targets are ignored.
    """
    number, counted, known, shape = -1, False, as_task(task), None
    for number, given in enumerate(data):
        if isinstance(given, Batch):
            batch = given
        else:
            item = item_of(given, net, pairs=known is not None and known.whole)
            item = replace(item, batch_dim=net.batch_dim if net else 0)
            shape = shape or (None if net is None else scored_shape(net, known.output if known else None))
            known = known or guessed(item, shape)
            batch = Batch(number, item.inputs, prepared(item, shape, known), known)
            if number == 0 and net is not None:
                for doubt in doubts(batch.inputs, batch.targets, known, net):
                    warnings.warn(doubt, DoubtfulWarning, stacklevel=2)
        if not len(batch):
            raise DataError("every batch of `data` must hold at least one sample, got an empty one.")
        counted = counted or bool((batch.targets != IGNORED).any())
        yield batch
    if number < 0 and seen:
        raise DataError("`data` gives no batches the second time that it is read; pass a list or a DataLoader.")
    if number < 0:
        once = " It is an iterator, which gives its batches once: pass a list or a DataLoader." * _once(data)
        raise DataError(f"`data` must hold at least one (inputs, targets) batch, got none.{once}")
    if not counted:
        raise DataError(f"`data` must have a target that counts, but all are {IGNORED}, which is ignored.")


def _once(data: Batches) -> bool:
    return hasattr(data, "__iter__") and iter(data) is data


def again(data: Batches) -> Batches:
    """The same data, such that they can be read twice."""
    return list(data) if _once(data) else data


@dataclass(frozen=True)
class Read:
    """The batches of data, as `batches_of` gives them, read anew whenever they are gone through."""

    data: Batches
    net: Unraveled
    task: AnyTask = None

    def __iter__(self) -> Iterator[Batch]:
        return batches_of(self.data, self.net, self.task)


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
