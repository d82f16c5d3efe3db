"""How long something takes, on any device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def shortest(run: Callable[[], object], device: torch.device, tries: int = 2) -> float:
    """Seconds of the shortest of some runs, after one that warms up."""
    run()
    return min(seconds_of(run, device) for _ in range(tries))


def seconds_of(run: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds of a run, the mean of so many in a row."""
    _synchronise(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    _synchronise(device)
    return (time.perf_counter() - start) / times


def _synchronise(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
