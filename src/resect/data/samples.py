"""A labelled set of samples in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resect.digest import tensors_digest
from resect.errors import DataError
from resect.graph.outputs import IGNORED

if TYPE_CHECKING:
    from resect.data.normalization import Normalization


@dataclass(frozen=True)
class Samples:
    """Inputs and their targets.

    Attributes:
        name: the spec they were loaded from.
        inputs: (N, ...) what the model takes; images are (N, C, H, W) float32, normalised.
        targets: (N,) or (N, L) int64 classes, or -100 for what is ignored; or floats, of labels or values.
        classes: how many classes there are, None if unknown.
        normalization: what made inputs of their pixels; None if they came as the model takes them.

    Raises:
        DataError: no samples, numbers that differ, classes that are negative, no target that counts, or values that
            are not finite.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    classes: int | None
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        for what, tensor in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(tensor, Tensor):
                raise DataError(f"the {what} of {self.name} must be a torch.Tensor, got {type(tensor).__name__}.")
            if not tensor.ndim:
                raise DataError(f"the {what} of {self.name} must have a dimension of samples, got a single number.")
        if not len(self.inputs) or not len(self.targets):
            raise DataError(f"{self.name} must hold at least one sample, got none.")
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"{self.name} must hold as many targets as inputs, got {len(self.inputs)} inputs and "
                f"{len(self.targets)} targets."
            )
        if self.targets.is_complex():
            raise DataError(f"the targets of {self.name} must be integers or floats, got {self.targets.dtype}.")
        floating = self.targets.is_floating_point()
        if floating and not bool(torch.isfinite(self.targets).all()):
            raise DataError(f"the targets of {self.name} must be finite, but hold NaN or infinity.")
        object.__setattr__(self, "targets", self.targets.float() if floating else self.targets.long())
        if not floating and bool((negative := (self.targets < 0) & (self.targets != IGNORED)).any()):
            raise DataError(
                f"the targets of {self.name} must be classes from 0, or {IGNORED} to be ignored, got "
                f"{int(self.targets[negative].min())}."
            )
        if bool((self.targets == IGNORED).all()):
            raise DataError(f"{self.name} must have a target that counts, but all are {IGNORED}, which is ignored.")
        if self.inputs.is_floating_point() and not bool(torch.isfinite(self.inputs).all()):
            raise DataError(f"the inputs of {self.name} must be finite, but hold NaN or infinity.")

    def __repr__(self) -> str:
        shape, dtype = tuple(self.inputs.shape[1:]), str(self.inputs.dtype).removeprefix("torch.")
        return f"<Samples {self.name}: {len(self):,} of {shape} {dtype}, {self.classes or 'unknown'} classes>"

    def __len__(self) -> int:
        return len(self.inputs)

    def limited(self, count: int | None) -> Samples:
        """The first `count` samples; all if None."""
        if count is None:
            return self
        if count < 1:
            raise DataError(f"`limit` must be at least 1, got {count}.")
        return replace(self, inputs=self.inputs[:count], targets=self.targets[:count])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, targets) in order, `size` at a time."""
        if size < 1:
            raise DataError(f"`batch-size` must be at least 1, got {size}.")
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size], self.targets[start : start + size]

    def digest(self) -> str:
        """SHA-256 of the inputs' and targets' dtypes, shapes and bytes."""
        return tensors_digest(self.inputs, self.targets)
