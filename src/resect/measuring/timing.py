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
    synchronise(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    synchronise(device)
    return (time.perf_counter() - start) / times


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
