"""The batch size and memory format in which a network runs fastest, found by trying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from resect.errors import InputError
from resect.measuring.memory import bytes_per_sample, free_bytes, in_words
from resect.measuring.timing import shortest
from resect.network.unraveled import Unraveled
from resect.sweep.execution import Execution
from resect.sweep.settings import LesionSettings
from resect.sweep.walk import Tour, walk

_CANDIDATES = (64, 128, 32, 256, 16, 512, 8, 1024)  # the likeliest first
_TRIES = 2


@dataclass(frozen=True)
class Trial:
    """One way to run the intact network.

    Attributes:
        seconds: a sample and forward pass, the best of two.
        bytes: that values may take in the sweep, by estimate.
    """

    batch_size: int
    channels_last: bool
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Choices:
    """The ways to run that may be tried: batch sizes, and memory formats (True: channels last)."""

    sizes: tuple[int, ...]
    formats: tuple[bool, ...]

    @classmethod
    def of(
        cls, net: Unraveled, samples: int, states: int, memory: int | None = None, size: int | None = None,
        channels_last: bool | None = None,
    ) -> Choices:  # fmt: skip
        """What fits: batches that the network, the number of samples and the memory allow.

        Args:
            states: how many states the sweep keeps at one time (`Tour.states`).
            memory: bytes that values may take beside the weights; half of what is free by default.
            size, channels_last: where they are settled.

        Raises:
            InputError: not even the smallest batch fits into `memory`.
        """
        size = net.batch_size if size is None else size
        each = bytes_per_sample(net, states)
        allowed = free_bytes(net.device) // 2 if memory is None else memory
        wanted = [min(c, samples) for c in _CANDIDATES] if size is None else [size]
        fitting = tuple(dict.fromkeys(c for c in wanted if c * each <= allowed))
        if not fitting:
            raise InputError(
                f"`memory` must hold a batch of {min(wanted)}, about {in_words(min(wanted) * each)}, got "
                f"{in_words(allowed)}. Give more, or a smaller batch size."
            )
        images = any(len(entry.shape) == 4 and entry.dtype.is_floating_point for entry in net.inputs)
        formats = (False, True) if images else (False,)
        return cls(fitting, formats if channels_last is None else (channels_last,))

    @property
    def settled(self) -> bool:
        """Whether there is nothing to try."""
        return len(self.sizes) == len(self.formats) == 1


def trials(net: Unraveled, inputs: Any, choices: Choices, *, states: int, budget: float) -> Iterator[Trial]:
    """Run the intact network in the ways of `choices`, the likeliest first, within a budget.

    Args:
        inputs: samples to try on, as many as the largest batch if there are.
        budget: forward passes of single samples that all trials together may take.
    """
    each = bytes_per_sample(net, states)
    executions = {last: Execution(net, LesionSettings(channels_last=last)) for last in choices.formats}
    for size, channels_last in product(choices.sizes, choices.formats):
        budget -= size * (_TRIES + 1)
        if budget < 0:
            return
        batch = net.part_of(inputs, slice(size))
        seconds = forward_seconds(executions[channels_last], batch, _TRIES)
        yield Trial(size, channels_last, seconds / size, size * each)


def best(tried: Sequence[Trial]) -> Trial:
    """The fastest trial; of those within 3 % of it, the one with the smallest batch."""
    fastest = min(trial.seconds for trial in tried)
    return min((t for t in tried if t.seconds <= 1.03 * fastest), key=lambda t: (t.batch_size, t.channels_last))


def forward_seconds(execution: Execution, inputs: Any, tries: int) -> float:
    """The shortest of a few forward passes of the intact network."""
    tour = Tour.of(execution.programs, [execution.net.intact])
    return shortest(lambda: walk(execution, inputs, tour, lambda *_: None), execution.net.device, tries)
