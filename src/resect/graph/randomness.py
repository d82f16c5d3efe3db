"""Which global generators a forward pass draws from; their states are given back afterwards."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import nn

States = dict[str, bytes]


@contextmanager
def kept_generators(model: nn.Module) -> Iterator[None]:
    """Give the global generators of Python, NumPy, and PyTorch on the model's devices the states back that they had."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    try:
        with torch.random.fork_rng(devices=_cuda_devices(model)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def generator_states(model: nn.Module) -> States:
    """The states of the global generators by the name a user knows them by."""
    devices = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, _cuda_devices(model))]
    states = {"random": random.getstate(), "numpy.random": np.random.get_state(legacy=False)}
    return {
        "torch": b"".join(state.numpy().tobytes() for state in devices),
        **{name: pickle.dumps(state) for name, state in states.items()},
    }


def drawn_since(before: States, model: nn.Module) -> list[str]:
    """The generators whose states have changed."""
    return [name for name, state in generator_states(model).items() if state != before[name]]


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    tensors = chain(model.parameters(), model.buffers())
    return list({tensor.device for tensor in tensors if tensor.device.type == "cuda"})
