"""Random numbers from a seed, without a trace in the global state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU and of all CUDA devices, and give them back as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def generator_for(seed: int, what: str, index: int) -> torch.Generator:
    """A generator of random numbers on the CPU that depends on nothing but `seed`, `what` they are for and `index`."""
    digest = hashlib.blake2b(f"{seed} {what} {index}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))  # the CPU's generator takes 32 bits of a seed
