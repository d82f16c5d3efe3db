"""Which generators a forward pass draws from, global ones and a model's own; their states are given back afterwards."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

States = dict[str, bytes]
Generator = random.Random | np.random.Generator | np.random.RandomState | torch.Generator


@contextmanager
def kept_generators(model: nn.Module) -> Iterator[None]:
    """Give the generators of Python, NumPy, PyTorch on the model's devices, and the model the states that they had."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    own = [(generator, _state_of(generator)) for generator in _own(model).values()]
    try:
        with torch.random.fork_rng(devices=_cuda_devices(model)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for generator, state in own:
            _set_state(generator, state)


def generator_states(model: nn.Module) -> States:
    """The states of the global generators, and of those that modules hold, by the name a user knows them by."""
    devices = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, _cuda_devices(model))]
    states = {"random": random.getstate(), "numpy.random": np.random.get_state(legacy=False)}
    states |= {name: _state_of(generator) for name, generator in _own(model).items()}
    return {
        "torch": b"".join(state.numpy().tobytes() for state in devices),
        **{name: pickle.dumps(state) for name, state in states.items()},
    }


def seed_generators(model: nn.Module, seed: int) -> None:
    """Seed PyTorch's generators of the CPU and of the model's devices; `torch.manual_seed` seeds those of all."""
    torch.default_generator.manual_seed(seed)
    for device in _cuda_devices(model):
        torch.cuda.default_generators[device.index].manual_seed(seed)
    if any(parameter.device.type == "mps" for parameter in model.parameters()):
        torch.mps.manual_seed(seed)


def drawn_since(before: States, model: nn.Module) -> list[str]:
    """The generators whose states have changed."""
    return [name for name, state in generator_states(model).items() if state != before[name]]


def _own(model: nn.Module) -> dict[str, Generator]:
    """The generators that are attributes of modules, by name."""
    return {
        f"its {f'{name}.' if name else ''}{attribute}": value
        for name, part in model.named_modules()
        for attribute, value in vars(part).items()
        if isinstance(value, Generator)
    }


def _state_of(generator: Generator) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state().clone().numpy()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state()


def _set_state(generator: Generator, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, torch.Generator):
        generator.set_state(torch.from_numpy(state))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    tensors = chain(model.parameters(), model.buffers())
    return list({tensor.device for tensor in tensors if tensor.device.type == "cuda"})
