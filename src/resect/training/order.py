"""Which samples each step of a training takes."""

from __future__ import annotations

import torch
from torch import Tensor

from resect.seeds import generator_for


class Order:
    """The batches of every epoch, in an order that depends on seed and epoch alone.

    Args:
        samples: how many there are.
        size: samples of a batch.
        least: the fewest that a batch may have.
    """

    def __init__(self, samples: int, size: int, least: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self._batches = batches(torch.arange(samples), size, least)
        self._shuffled, self._epoch = torch.arange(samples), -1

    def __len__(self) -> int:
        """The steps of an epoch."""
        return len(self._batches)

    def at(self, step: int) -> Tensor:
        """The numbers of the samples of a step, (B,)."""
        epoch, within = divmod(step, len(self))
        if epoch != self._epoch:
            generator = generator_for(self.seed, "order", epoch)
            self._shuffled, self._epoch = torch.randperm(self.samples, generator=generator, device="cpu"), epoch
        return self._shuffled[self._batches[within]]

    def between(self, start: int, stop: int) -> int:
        """How many samples the steps from `start` to before `stop` of an epoch take."""
        return sum(len(batch) for batch in self._batches[start:stop])


def batches(order: Tensor, size: int, least: int) -> list[Tensor]:
    """`order` in pieces of `size`, which is at least `least`; a last one below that joins the piece before it, as batch
    norm needs two samples in every process."""
    pieces = list(torch.split(order, size))
    if len(pieces) > 1 and len(pieces[-1]) < least:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces
