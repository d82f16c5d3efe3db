"""A network that is run slice by slice on several batches, so that weights can change on the way."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from resect.engines.work import Progress
from resect.measuring.batches import Batch, to_device
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled


class Walk:
    """A network under an arrangement, run slice by slice on all batches at once.

    Args:
        wanted: keys of values that are looked at behind their slices.
        progress: called with samples, a part of a pass of them a slice.
        peeked: they are looked at before their slices are left behind, and not kept.
    """

    def __init__(
        self,
        net: Unraveled,
        arrangement: Arrangement,
        batches: Sequence[Batch],
        wanted: Sequence[int],
        progress: Progress | None,
        *,
        peeked: bool = False,
    ) -> None:
        self.programs = net.programs.fold(arrangement, also=wanted)
        self.bases = [net.bind(to_device(batch.inputs, net.device)) for batch in batches]
        self.states: list[dict[int, Any]] = [{} for _ in batches]
        self.wanted = () if peeked else wanted
        self.kept = dict[int, list[Tensor]]()  # of every batch
        self.done, self.progress = 0, progress
        self.share = sum(map(len, batches)) / len(self.programs)

    def through(self, last: int) -> None:
        """Run all slices up to and with one."""
        while self.done <= last:
            self.states = [self._next(i) for i in range(len(self.bases))]
            self.done += 1
            for key in self.wanted:
                if key not in self.kept and key in self.states[0]:
                    self.kept[key] = [state[key] for state in self.states]
            if self.progress:
                self.progress(self.share)

    def release(self, key: int) -> None:
        """Keep a value no longer."""
        self.wanted = [wanted for wanted in self.wanted if wanted != key]
        self.kept.pop(key, None)

    def peek(self, batch: int, keys: Sequence[int]) -> list[Tensor]:
        """Values behind the next slice, which is not left behind by that."""
        values = ChainMap(self._next(batch), self.states[batch], self.bases[batch])
        return [values[key] for key in keys]

    def put(self, key: int, value: Tensor) -> None:
        """Take another value for a parameter from now on."""
        for base in self.bases:
            base[key] = value

    def _next(self, batch: int) -> dict[int, Any]:
        return self.programs[self.done].run(self.bases[batch], self.states[batch])
