"""Samples of which a network takes other inputs than their data spec gives: turned when a batch is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.data.samples import Cut, Pair, SampleSet
from resect.digest import key_digest

if TYPE_CHECKING:
    from resect.data.normalization import Normalization

Turn = Callable[[Any], Any]


@dataclass(frozen=True)
class Turned:
    """Samples, of whose inputs `turn` makes others, batch by batch; what is known of them is what was known.

    Attributes:
        samples: as the data spec gives them, samples first.
        turn: from the inputs of a batch to those that the network takes.
        by: what decides how, for the digest.
    """

    samples: SampleSet
    turn: Turn
    by: str

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def name(self) -> str:
        """The spec they were loaded from."""
        return self.samples.name

    @property
    def classes(self) -> int | None:
        """How many classes there are; None if it is unknown."""
        return self.samples.classes

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of all classes; None if they have none."""
        return self.samples.labels

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the inputs of one sample, before they are turned."""
        return self.samples.shape

    @property
    def normalization(self) -> Normalization | None:
        """What made inputs of their pixels."""
        return self.samples.normalization

    @property
    def prepared(self) -> str | None:
        """How files became pixels or tokens."""
        return self.samples.prepared

    def first(self, count: int = 1) -> Pair:
        """Inputs and targets of the first samples, in one batch."""
        inputs, targets = self.samples.first(count)
        return self.turn(inputs), targets

    def batches(self, size: int) -> Cut:
        """(inputs, targets) in order, `size` at a time."""
        return _Turning(self.samples.batches(size), self.turn)

    def targets_only(self) -> Tensor:
        """The targets of all samples."""
        return self.samples.targets_only()

    def limited(self, count: int | None) -> Turned:
        """The first `count` samples; all if None."""
        return replace(self, samples=self.samples.limited(count))

    def digest(self) -> str:
        """A hash of all that decides inputs and targets."""
        return key_digest({"samples": self.samples.digest(), "turned": self.by})

    def normalized(self, chosen: Normalization) -> Turned:
        """The same samples, of whose pixels `chosen` makes inputs."""
        return replace(self, samples=self.samples.normalized(chosen))

    def to(self, dtype: torch.dtype) -> Turned:
        """The same samples, with floating-point inputs in a dtype."""
        return replace(self, samples=self.samples.to(dtype))


@dataclass(frozen=True)
class _Turning:
    cut: Cut
    turn: Turn

    def __len__(self) -> int:
        return len(self.cut)

    def __iter__(self) -> Iterator[Pair]:
        for inputs, targets in self.cut:
            yield self.turn(inputs), targets


def samples_to(batch_dim: int, inputs: Any) -> Any:
    """Inputs (B, ...) with their samples in another dimension; of several inputs, those that have as many."""
    count = len(next(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)))

    def move(leaf: Any) -> Any:
        counted = isinstance(leaf, Tensor) and leaf.ndim > batch_dim and len(leaf) == count
        return leaf.movedim(0, batch_dim) if counted else leaf

    return pytree.tree_map(move, inputs)
