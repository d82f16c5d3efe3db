"""How long something takes, on any device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def shortest(run: Callable[[], object], device: torch.device, tries: int = 2) -> float:
    """Seconds of the shortest of some runs, after one that warms up."""
    run()
    seconds = []
    for _ in range(tries):
        _synchronise(device)
        start = time.perf_counter()
        run()
        _synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _synchronise(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
