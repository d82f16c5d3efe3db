"""How much memory the values of a network take, and how much is free."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from resect.graph.program import Program
from resect.network.unraveled import Unraveled


def bytes_per_sample(net: Unraveled, states: int) -> int:
    """An upper estimate of the bytes that one sample takes in a sweep: the kept states, and one slice at work."""
    sizes = net.programs.value_bytes
    folded = net.programs.fold(net.intact)
    largest_state = max((sum(sizes.get(key, 0) for key in program.live_before) for program in folded), default=0)
    working = max(_working_set(program, sizes) for program in folded)
    return -(-(states * largest_state + working) // net.programs.example_batch)


def bytes_of_all_values(net: Unraveled) -> int:
    """The bytes that all values of one sample take together, where none is let go."""
    return sum(net.programs.value_bytes.values()) // net.programs.example_batch


def _working_set(program: Program, sizes: Mapping[int, int]) -> int:
    """The largest sum of the values that are alive at one time within a program."""
    alive = {key: sizes.get(key, 0) for key in program.live_before}
    most = sum(alive.values())
    for step, dead in zip(program.steps, program.dead_after, strict=True):
        alive[step.key] = sizes.get(step.key, 0)
        most = max(most, sum(alive.values()))
        for key in dead:
            alive.pop(key, None)
    return most


def free_bytes(device: torch.device | None = None) -> int:
    """Bytes that are free, 2 GiB where the system does not say: of a CUDA device's memory, else of main memory."""
    if device is not None and device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # that PyTorch gives again
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2 << 30


def in_words(amount: float) -> str:
    """An amount of memory: "800 B", "1.5 KiB", "4.0 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
