"""Which global generators a forward pass draws from; their states are given back afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def kept_generators() -> Iterator[None]:
    """Give the global generators of Python, NumPy and PyTorch the states back that they had."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def generator_states() -> dict[str, Any]:
    """The states of the global generators by the name a user knows them by."""
    numpy = np.random.get_state(legacy=False)
    devices = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]
    return {
        "torch": [state.numpy().tobytes() for state in devices],
        "random": random.getstate(),
        "numpy.random": (numpy["state"]["key"].tobytes(), numpy["state"]["pos"]),
    }


def drawn_since(before: dict[str, Any]) -> list[str]:
    """The generators whose states have changed."""
    return [name for name, state in generator_states().items() if state != before[name]]
