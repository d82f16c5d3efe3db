"""Images that are read when they are needed: a set of samples need not fit into memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from resect.data.images import Preparation, read_image, unreadable
from resect.data.samples import Batched, require_limit
from resect.digest import tensors_digest
from resect.errors import DataError

if TYPE_CHECKING:
    from resect.data.normalization import Normalization

_THREADS = min(8, os.cpu_count() or 1)  # decoding an image leaves the interpreter to others


class Source(Protocol):
    """Where images lie."""

    def __len__(self) -> int: ...

    def place(self, number: int) -> str:
        """What an image is called where it lies."""

    def content(self, number: int) -> bytes:
        """The bytes of its file.

        Raises:
            OSError: it cannot be read.
        """


@dataclass(frozen=True, repr=False)
class Images:
    """Images of a source and their classes, of which a batch is in memory at a time.

    They come in a random order that is always the same: data sets lie sorted by class, and the first samples are to be
    like all.

    Attributes:
        source: where they lie.
        classes_of: the class of each image of the source.
        preparation: how an image becomes pixels of the shape that the model takes.
        labels: the names of all classes, in the order of their numbers; None if they have none.
    """

    name: str
    source: Source
    classes_of: Sequence[int]
    preparation: Preparation
    labels: tuple[str, ...] | None
    normalization: Normalization | None = None
    dtype: torch.dtype = torch.float32
    count: int | None = None

    def __post_init__(self) -> None:
        if not len(self.source):
            raise DataError(f"{self.name} must hold at least one image, got none.")

    def __len__(self) -> int:
        return len(self.source) if self.count is None else min(self.count, len(self.source))

    def __repr__(self) -> str:
        return f"<Images {self.name}: {len(self):,} of {self.shape}, {self.classes} classes>"

    @property
    def classes(self) -> int:
        """How many classes have names, or the largest one and one more."""
        return len(self.labels) if self.labels else max(self.classes_of) + 1

    @property
    def prepared(self) -> str:
        """How files became pixels."""
        return self.preparation.said

    @cached_property
    def order(self) -> np.ndarray:
        """Which image of the source every sample is."""
        return np.random.default_rng(0).permutation(len(self.source))[: len(self)]

    @property
    def places(self) -> list[str]:
        """The file of every sample."""
        return [self.source.place(number) for number in self.order]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of all images."""
        return tuple(self._pixels(0).shape)

    def targets_only(self) -> Tensor:
        """(N,) int64, the classes of all samples; no image is read."""
        return torch.tensor([self.classes_of[number] for number in self.order], dtype=torch.long)

    def first(self, count: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the first samples, in one batch."""
        return self._between(0, min(count, len(self)))

    def batches(self, size: int) -> Batched:
        """(inputs, targets) in order, `size` at a time, read anew whenever they are gone through."""
        return Batched(len(self), size, self._between)

    def limited(self, count: int | None) -> Images:
        """The first `count` samples; all if None."""
        if count is None:
            return self
        require_limit(count)
        return replace(self, count=min(count, len(self)))

    def normalized(self, chosen: Normalization) -> Images:
        """The same samples, of whose pixels `chosen` makes inputs."""
        return replace(self, normalization=chosen)

    def to(self, dtype: torch.dtype) -> Images:
        """The same samples, with inputs in a dtype."""
        return replace(self, dtype=dtype)

    def digest(self) -> str:
        """SHA-256 of the contents of all files, and of what is made of them.

        Contents, not times: a copied data set is the same one, and reading a file costs little beside decoding it.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        total = hashlib.sha256(f"{self.prepared} {self.normalization} {self.dtype}".encode())
        total.update(tensors_digest(self.targets_only()).encode())
        for number in map(int, self.order):
            try:
                total.update(hashlib.sha256(self.source.content(number)).digest())
            except OSError as error:
                raise unreadable(self.source.place(number), error) from error
        return total.hexdigest()

    def _between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        with ThreadPoolExecutor(_THREADS) as pool:
            pixels = torch.stack(list(pool.map(self._checked, range(start, stop))))
        inputs = pixels if self.normalization is None else self.normalization(pixels)
        targets = [self.classes_of[number] for number in self.order[start:stop]]
        return inputs.to(self.dtype), torch.tensor(targets, dtype=torch.long)

    def _pixels(self, sample: int) -> Tensor:
        number = int(self.order[sample])
        return read_image(lambda: self.source.content(number), self.source.place(number), self.preparation)

    def _checked(self, sample: int) -> Tensor:
        pixels = self._pixels(sample)
        if tuple(pixels.shape) != self.shape:
            places = [self.source.place(int(self.order[number])) for number in (0, sample)]
            raise DataError(
                f"the images of {self.name} must have one shape, as the model names none, but {places[0]} has "
                f"{self.shape} (channels, height, width) and {places[1]} {tuple(pixels.shape)}. Give their size: "
                f"{self.name},size=224."
            )
        return pixels
