"""The batch size and memory format in which a network runs fastest, found by trying."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.errors import InputError
from resect.graph.program import Program
from resect.network.unraveled import Unraveled
from resect.sweep.engine import Engine
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
        size = net.sliced.captured.batch_size if size is None else size
        each = bytes_per_sample(net, states)
        allowed = free_bytes() // 2 if memory is None else memory
        wanted = [min(c, samples) for c in _CANDIDATES] if size is None else [size]
        fitting = tuple(dict.fromkeys(c for c in wanted if c * each <= allowed))
        if not fitting:
            raise InputError(
                f"`memory` must hold a batch of {min(wanted)}, about {min(wanted) * each / 2**20:.0f} MiB, got "
                f"{allowed / 2**20:.0f} MiB. Give more, or a smaller batch size."
            )
        formats = (False, True) if _has_images(net) else (False,)
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
    engines = {channels_last: Engine(net, channels_last=channels_last) for channels_last in choices.formats}
    for size, channels_last in product(choices.sizes, choices.formats):
        budget -= size * (_TRIES + 1)
        if budget < 0:
            return
        yield Trial(size, channels_last, _seconds(engines[channels_last], inputs, size) / size, size * each)


def best(found: Sequence[Trial]) -> Trial:
    """The fastest trial; of those within 3 % of it, the one with the smallest batch."""
    fastest = min(trial.seconds for trial in found)
    return min((t for t in found if t.seconds <= 1.03 * fastest), key=lambda t: (t.batch_size, t.channels_last))


def _seconds(engine: Engine, inputs: Any, size: int) -> float:
    """The shortest of a few forward passes of the intact network."""
    total = engine.net.samples_of(inputs)

    def cut(leaf: Any) -> Any:
        return leaf[:size] if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == total else leaf

    batch = pytree.tree_map(cut, inputs)
    tour = Tour.of(engine.programs, [engine.net.intact])
    walk(engine, batch, tour, lambda *_: None)
    found = []
    for _ in range(_TRIES):
        _synchronise(engine.net.device)
        start = time.perf_counter()
        walk(engine, batch, tour, lambda *_: None)
        _synchronise(engine.net.device)
        found.append(time.perf_counter() - start)
    return min(found)


def _synchronise(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def _has_images(net: Unraveled) -> bool:
    return any(
        entry and len(entry.shape) == 4 and entry.dtype.is_floating_point for entry in net.sliced.captured.inputs
    )


def bytes_per_sample(net: Unraveled, states: int) -> int:
    """An upper estimate of the bytes that one sample takes in a sweep: the kept states, and one slice at work."""
    programs = net.programs
    sizes = programs.value_bytes
    batch = programs.example_batch
    folded: Sequence[Program] = programs.fold(net.intact)
    largest_state = max((sum(sizes.get(key, 0) for key in program.live_before) for program in folded), default=0)
    working = max(_working_set(program, sizes) for program in folded)
    return -(-(states * largest_state + working) // batch)


def _working_set(program: Program, sizes: dict[int, int]) -> int:
    """The largest sum of the values that are alive at one time within a program."""
    alive = {key: sizes.get(key, 0) for key in program.live_before}
    most = sum(alive.values())
    for step, dead in zip(program.steps, program.dead_after, strict=True):
        alive[step.key] = sizes.get(step.key, 0)
        most = max(most, sum(alive.values()))
        for key in dead:
            alive.pop(key, None)
    return most


def free_bytes() -> int:
    """Bytes of main memory that are free, 2 GiB where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2 << 30
