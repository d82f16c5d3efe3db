"""What engines run and where they keep it: works, batches, engines and stores know each other by these alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from resect.measuring.batches import Batch
from resect.network.unraveled import Unraveled

Arrays = dict[str, np.ndarray]
Progress = Callable[[float], None]


class Work(Protocol):
    """Something to compute on a batch: a value, which any engine can run anywhere.

    What it computes depends on its key, the network, and the batch with its number, and on nothing else: not on the
    number of workers, and not on how much memory is free (but for the search of `strongest_paths`, which says so).
    """

    @property
    def key(self) -> Mapping[str, Any] | None:
        """All that decides the result beside network and batch, as plain values; None if no store may keep it.

        What a batch whose digest is None gives, no store may keep either.
        """

    def cost(self, net: Unraveled, batch: Batch) -> float:
        """What running it reports as progress in all."""

    def run(self, net: Unraveled, batch: Batch, progress: Progress) -> Arrays:
        """Compute it."""


class Store(Protocol):
    """Where the results of pieces of work are kept."""

    def get(self, key: Mapping[str, Any]) -> Arrays | None:
        """What was kept under a key; None if there is nothing, or nothing that can be read."""

    def put(self, key: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep a result."""


class Engine(Protocol):
    """Runs pieces of work (a work on a batch) on a network."""

    @property
    def keeps(self) -> bool:
        """Whether results outlive the run, so that it matters how much a piece holds."""

    def run(
        self, net: Unraveled, pieces: Iterable[tuple[Work, Batch]], progress: Progress | None = None
    ) -> Iterator[Arrays]:
        """The results of all pieces, in order. A piece is asked for when those before it are done."""

    def kept(self, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """What the store holds under a key, computed and put there if it is not there yet."""

    def once(self, net: Unraveled, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """A choice that is made once and then kept, such as the batch size that was the fastest."""
