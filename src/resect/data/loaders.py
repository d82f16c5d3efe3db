"""Batches of a loader, or of any object that gives some, as a set of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.data.samples import Cut, Pair, require_limit
from resect.digest import key_digest
from resect.errors import DataError
from resect.measuring.batches import batches_of

if TYPE_CHECKING:
    from resect.data.normalization import Normalization


@dataclass(frozen=True)
class Again:
    """Batches that are asked for anew whenever they are gone through: `batches(size)` may be a generator."""

    batches: Callable[[int], Iterable[Any]]
    size: int

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches(self.size))


@dataclass(frozen=True)
class Loader:
    """What a DataLoader gives, cut into batches of the size that is asked for.

    Attributes:
        source: (inputs, targets) batches, which can be gone through again, and give the same then.
        own: the user's object that they come from, which may know its `classes` and its `digest()`.
    """

    name: str
    source: Iterable[Any]
    count: int | None = None
    dtype: torch.dtype | None = None
    normalization: Normalization | None = None
    prepared: str | None = None
    labels: tuple[str, ...] | None = None
    own: Any = None

    def __post_init__(self) -> None:
        if iter(self.source) is self.source:
            raise DataError(
                f"{self.name} must give batches that can be read again, but {type(self.source).__name__} is used up "
                "after once. Return a list of them, a DataLoader, or (inputs, targets)."
            )

    def __len__(self) -> int:
        return len(self.targets_only())

    def first(self, count: int = 1) -> Pair:
        """Inputs and targets of the first samples, in one batch."""
        return next(iter(self.batches(count)))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first inputs of one sample."""
        inputs, _ = self.first()
        return tuple(next(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)).shape[1:])

    @property
    def classes(self) -> int | None:
        """How many classes have names, or the largest one and one more, if there is one target a sample."""
        known = len(self.labels) if self.labels else getattr(self.own, "classes", None)
        if known is not None:
            return int(known)
        targets = self.targets_only()
        return int(targets.max()) + 1 if targets.ndim == 1 and not targets.is_floating_point() else None

    def batches(self, size: int) -> Cut:
        """(inputs, targets) in order, `size` at a time, read anew whenever they are gone through."""
        return _Recut(self, size)

    def targets_only(self) -> Tensor:
        """The targets of all samples."""
        return self._read[0]

    def limited(self, count: int | None) -> Loader:
        """The first `count` samples; all if None."""
        if count is None:
            return self
        require_limit(count)
        return replace(self, count=count)

    def digest(self) -> str:
        """SHA-256 of all batches, or of what the user's object says that it is."""
        if not callable(known := getattr(self.own, "digest", None)):
            return self._read[1]
        return key_digest({"digest": known(), "made": f"{self.count} {self.dtype} {self.normalization}"})

    def normalized(self, chosen: Normalization) -> Loader:
        """The same samples, of whose pixels `chosen` makes inputs."""
        return replace(self, normalization=chosen)

    def to(self, dtype: torch.dtype) -> Loader:
        """The same samples, with floating-point inputs in a dtype."""
        return replace(self, dtype=dtype)

    @cached_property
    def _read(self) -> tuple[Tensor, str]:
        """Targets and digest, for which everything has to be read once."""
        total, targets = hashlib.sha256(), []
        for batch in batches_of(self.batches(256)):
            total.update((batch.digest or "").encode())
            targets.append(batch.targets)
        return torch.cat(targets), total.hexdigest()

    def _made(self, inputs: Any) -> Any:
        def make(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                return leaf
            leaf = leaf if self.normalization is None else self.normalization(leaf)
            return leaf if self.dtype is None else leaf.to(self.dtype)

        return pytree.tree_map(make, inputs)


@dataclass(frozen=True)
class _Recut:
    """The batches of a loader, in another size."""

    loader: Loader
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"`batch-size` must be at least 1, got {self.size}.")

    def __len__(self) -> int:
        return -(-len(self.loader) // self.size)

    def __iter__(self) -> Iterator[Pair]:
        left, held, gathered = self.loader.count, 0, []
        for batch in batches_of(self.loader.source):
            start = 0
            while start < len(batch) and left != 0:
                taken = min(len(batch) - start, self.size - held, *([left] if left is not None else []))
                part = slice(start, start + taken)
                gathered.append((_cut(batch.inputs, part, len(batch)), batch.targets[part]))
                start, held = start + taken, held + taken
                left = None if left is None else left - taken
                if held == self.size:
                    yield self._joined(gathered)
                    held, gathered = 0, []
            if left == 0:
                break
        if gathered:
            yield self._joined(gathered)

    def _joined(self, parts: list[Pair]) -> Pair:
        inputs = parts[0][0] if len(parts) == 1 else pytree.tree_map(_together, *(inputs for inputs, _ in parts))
        return self.loader._made(inputs), torch.cat([targets for _, targets in parts])


def _together(*leaves: Any) -> Any:
    return torch.cat(leaves) if isinstance(leaves[0], Tensor) and leaves[0].ndim else leaves[0]


def _cut(inputs: Any, which: slice, total: int) -> Any:
    """The same nested inputs with only some of the `total` samples; what holds no samples stays whole."""

    def cut(leaf: Any) -> Any:
        return leaf[which] if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == total else leaf

    return pytree.tree_map(cut, inputs)
