"""Sets of samples: what is asked of them all, and those in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from resect.digest import tensors_digest
from resect.errors import DataError
from resect.graph.calls import dtype_name
from resect.graph.outputs import IGNORED
from resect.measuring.memory import free_bytes, in_words

if TYPE_CHECKING:
    from resect.data.normalization import Normalization

Pair = tuple[Any, Tensor]  # inputs and targets of a batch


class Cut(Protocol):
    """Batches, which can be gone through again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Pair]: ...


class SampleSet(Protocol):
    """What every job asks of samples, which need not lie in memory."""

    @property
    def name(self) -> str:
        """The spec they were loaded from."""

    @property
    def classes(self) -> int | None:
        """How many classes there are; None if it is unknown."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of all classes, in the order of their numbers; None if they have none."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the inputs of one sample, of several inputs that of the first."""

    @property
    def normalization(self) -> Normalization | None:
        """What made inputs of their pixels; None if they came as the model takes them."""

    @property
    def prepared(self) -> str | None:
        """How files became pixels or tokens, in words; None if they came as the model takes them."""

    def __len__(self) -> int: ...

    def first(self, count: int = 1) -> Pair:
        """Inputs and targets of the first samples, in one batch."""

    def batches(self, size: int) -> Cut:
        """(inputs, targets) in order, `size` at a time; can be gone through again."""

    def targets_only(self) -> Tensor:
        """The targets of all samples."""

    def limited(self, count: int | None) -> SampleSet:
        """The first `count` samples; all if None."""

    def digest(self) -> str:
        """A hash of all that decides inputs and targets."""

    def normalized(self, chosen: Normalization) -> SampleSet:
        """The same samples, of whose pixels `chosen` makes inputs."""

    def to(self, dtype: torch.dtype) -> SampleSet:
        """The same samples, with floating-point inputs in a dtype."""


@dataclass(frozen=True)
class Batched:
    """The batches of a set of samples, made anew whenever they are gone through."""

    count: int
    size: int
    between: Callable[[int, int], Pair]

    def __post_init__(self) -> None:
        require_batch_size(self.size)

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def __iter__(self) -> Iterator[Pair]:
        for start in range(0, self.count, self.size):
            yield self.between(start, min(start + self.size, self.count))


def classes_of(targets: Tensor) -> int | None:
    """The largest class and one more, if there is one target a sample."""
    integers = not (targets.is_floating_point() or targets.is_complex())
    return int(targets.long().max()) + 1 if integers and targets.ndim == 1 and targets.numel() else None


def require_batch_size(size: int) -> None:
    """Raise DataError unless a batch has at least 1 sample."""
    if size < 1:
        raise DataError(f"`batch-size` must be at least 1, got {size}.")


def require_limit(count: int) -> None:
    """Raise DataError unless a number of samples is at least 1."""
    if count < 1:
        raise DataError(f"`limit` must be at least 1, got {count}.")


@dataclass(frozen=True)
class Samples:
    """Inputs and their targets, in memory.

    Attributes:
        name: the spec they were loaded from.
        inputs: (N, ...) what the model takes; images are (N, C, H, W) float32, normalised.
        targets: (N,) or (N, L) int64 classes, or -100 for what is ignored; or floats, of labels or values.
        classes: how many classes there are, None if unknown.
        normalization: what made inputs of their pixels; None if they came as the model takes them.
        prepared: how files became pixels or tokens, in words; None if they came as the model takes them.
        labels: the names of all classes, in the order of their numbers; None if they have none.

    Raises:
        DataError: no samples, numbers that differ, classes that are negative, no target that counts, or values that
            are not finite.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    classes: int | None
    normalization: Normalization | None = None
    prepared: str | None = None
    labels: tuple[str, ...] | None = None

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
        dtype = dtype_name(self.inputs.dtype)
        return f"<Samples {self.name}: {len(self):,} of {self.shape} {dtype}, {self.classes or 'unknown'} classes>"

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the inputs of one sample."""
        return tuple(self.inputs.shape[1:])

    def first(self, count: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the first samples, in one batch."""
        return self.inputs[:count], self.targets[:count]

    def targets_only(self) -> Tensor:
        """The targets of all samples."""
        return self.targets

    def limited(self, count: int | None) -> Samples:
        """The first `count` samples; all if None."""
        if count is None:
            return self
        require_limit(count)
        return replace(self, inputs=self.inputs[:count], targets=self.targets[:count])

    def chosen(self, rows: Tensor) -> Samples:
        """Those of (M,) int64 rows, in that order."""
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows])

    def batches(self, size: int) -> Batched:
        """(inputs, targets) in order, `size` at a time; can be gone through again."""
        return Batched(len(self), size, lambda start, stop: (self.inputs[start:stop], self.targets[start:stop]))

    def digest(self) -> str:
        """SHA-256 of the inputs' and targets' dtypes, shapes and bytes."""
        return tensors_digest(self.inputs, self.targets)

    def normalized(self, chosen: Normalization) -> Samples:
        """The same samples, of whose pixels `chosen` makes inputs."""
        return replace(self, inputs=chosen(self.inputs), normalization=chosen)

    def to(self, dtype: torch.dtype) -> Samples:
        """The same samples, with floating-point inputs in a dtype."""
        return replace(self, inputs=self.inputs.to(dtype)) if self.inputs.is_floating_point() else self


def in_memory(samples: SampleSet) -> Samples:
    """All samples in memory, as a training wants them.

    Raises:
        DataError: there is not enough, or a sample has several inputs.
    """
    if isinstance(samples, Samples):
        return samples
    one, _ = samples.first()
    if not isinstance(one, Tensor):
        raise DataError(f"{samples.name} must have one tensor as inputs for a training, got {type(one).__name__}.")
    needed = one.nbytes * len(samples)
    if needed > free_bytes() // 2:
        raise DataError(
            f"{samples.name} must fit into half of the free memory for a training, but {len(samples):,} samples take "
            f"{in_words(needed)}. Take smaller images (folder:DIR,size=64), or a loop of your own on net.schedule, "
            "which reads by batches."
        )
    inputs, targets = samples.first(len(samples))
    known = samples.classes, samples.normalization, samples.prepared, samples.labels
    return Samples(samples.name, inputs, targets, *known)
