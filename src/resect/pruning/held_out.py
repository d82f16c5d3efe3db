"""Calibration and evaluation samples: what chooses must not judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from resect.errors import DataError
from resect.measuring.batches import Batch
from resect.network.unraveled import Unraveled

_EVERY = 4  # of so many batches, one is for calibration


@dataclass(frozen=True)
class Others:
    """The batches of data but for some, read anew whenever they are gone through."""

    data: Iterable[Batch]
    left_out: frozenset[int]

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self.data if batch.number not in self.left_out)


def held_out(net: Unraveled, data: Iterable[Batch], most: int) -> tuple[list[Batch], Iterable[Batch]]:
    """Batches for calibration and, of the same data, all others for evaluation.

    Every fourth batch is for calibration, until it has about `most` samples, so that data in the order of their classes
    have all in both; a single batch is halved.

    Raises:
        DataError: there is a single sample, or a single batch that cannot be cut.
    """
    calibration: list[Batch] = []
    first, several = None, False
    for batch in data:
        first, several = first or batch, first is not None
        full = sum(map(len, calibration)) >= most
        if batch.number % _EVERY == 0 and not full:
            calibration.append(batch)
        if full and several:
            break
    assert first is not None
    if several:
        return calibration, Others(data, frozenset(batch.number for batch in calibration))
    if first.task.whole or net.batch_size is not None or len(first) < 2:
        raise DataError(
            "`data` must hold two batches or more, as what chooses the blocks must not judge the choice, got one that "
            "cannot be cut. Give more, smaller batches, or `calibration` of its own."
        )
    half = min(len(first) // 2, most)
    return [_cut(net, first, slice(half))], [_cut(net, first, slice(half, None))]


def _cut(net: Unraveled, batch: Batch, which: slice) -> Batch:
    return replace(batch, inputs=net.part_of(batch.inputs, which), targets=batch.targets[which])
