"""Slices of a network in training as CUDA graphs: one launch a slice and direction in the place of one an operator.

To launch the kernels of a narrow network takes the processor longer than to run them takes the GPU. A graph of the
whole network would have to be made anew for every set of blocks that a schedule draws; slices are few.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from resect.graph.program import Environment, Program

_FEW = 4  # steps that are launched one by one
Values = tuple[Tensor, ...]


class Graphed:
    """Runs programs as `program.run` does, each from its second run on by CUDA graphs of its two passes.

    A program on values of other sizes than in its first run is launched step by step, as are those of few steps.
    Parameters and buffers must stay where they are in memory, as those of a model in training do.

    Args:
        inputs: the keys of inputs, which are elsewhere in every call.
        updated: the keys of buffers that the caller overwrites after the run, when autograd may still need them.
    """

    def __init__(self, inputs: Collection[int], updated: Collection[int]) -> None:
        self._inputs, self._updated = frozenset(inputs), frozenset(updated)
        self._parts: dict[int, _Part] = {}

    def run(self, base: Environment, program: Program, state: Environment) -> Environment:
        """The new state."""
        part = self._parts.get(id(program))
        if part is None:
            part = self._parts[id(program)] = _Part(program)
        values = [state[key] if key in state else base[key] for key in part.reads]
        if not part.can_be_recorded(values):
            old = {key: base[key].clone() for key in part.reads if key in self._updated}
            return program.run({**base, **old}, state)
        if part.replayed is None:
            moving = [key in state or key in self._inputs for key in part.reads]
            part.record(values, moving)
        assert part.replayed is not None, "it has just been recorded"
        made = dict(zip(part.made, part.replayed(*values), strict=True))
        handed = {key: state[source] if source in state else base[source] for key, source in part.handed_on}
        return made | handed


class _Part:
    """A program, and once it is recorded its replay.

    Attributes:
        reads: the keys that its steps need from before.
        made: the keys that it computes.
        handed_on: what it only hands on: (its key, the key that holds it).
        replayed: computes what it computes, of what it reads.
    """

    def __init__(self, program: Program) -> None:
        self.program = program  # which keeps its id its own
        own = {step.key for step in program.steps}
        self.reads = sorted({key for step in program.steps for key in step.reads} - own)
        results = tuple((key, source) for key, source in program.results if source in own)
        self.made = [key for key, _ in results]
        self.handed_on = [(key, source) for key, source in program.results if source not in own]
        self.replayed: Callable[..., Values] | None = None
        self._steps = replace(program, results=results)
        self._form: list[Any] | None = None
        self._possible = len(program.steps) > _FEW

    def can_be_recorded(self, values: Sequence[Any]) -> bool:
        """Whether this is not the first run, and all is as it was in the first."""
        if not (
            self._possible and torch.is_grad_enabled() and all(isinstance(v, Tensor) and v.is_cuda for v in values)
        ):
            return False
        form = [(value.shape, value.stride(), value.dtype, value.requires_grad) for value in values]
        first, self._form = self._form is None, self._form or form
        return not first and form == self._form

    def record(self, values: Sequence[Tensor], moving: Sequence[bool]) -> None:
        """Record both passes; `moving`: which values are elsewhere in memory in every run."""

        def compute(*given: Tensor) -> Values:
            state = self._steps.run({}, dict(zip(self.reads, given, strict=True)))
            return tuple(state[key] for key in self.made)

        example = tuple(
            value.detach().clone().requires_grad_(value.requires_grad) if moves else value
            for value, moves in zip(values, moving, strict=True)
        )
        kind = "cuda"
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):  # a cast belongs to its graph
            replayed: Any = torch.cuda.make_graphed_callables(compute, example, allow_unused_input=True)
            self.replayed = replayed
