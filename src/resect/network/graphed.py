"""Slices of a network in training as CUDA graphs: one launch a slice and direction in the place of one an operator.

To launch the kernels of a narrow network takes the processor longer than to run them takes the GPU. A graph of the
whole network would have to be made anew for every set of blocks that a schedule draws; slices are few.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from resect.errors import InputError
from resect.graph.program import Environment, Program

_FEW = 4  # steps that are launched one by one
_WARM = 2  # passes before one is recorded, in which libraries choose their kernels
Values = tuple[Tensor, ...]


class Graphed:
    """Runs programs as `program.run` does, each from its second run on as CUDA graphs of its two passes.

    A program on values of other sizes than in its first run is launched step by step, as are those of few steps.
    Parameters and buffers must stay where they are in memory, as those of a model in training do, and have no hooks:
    a graph writes their updates and gradients itself.

    Args:
        moving: the keys of what `base` holds at another place in memory in every run, the inputs.
        updates: the keys of the buffers that are overwritten, by those of their new values.
        own: those of the new values that programs may write themselves.
    """

    def __init__(self, moving: Collection[int], updates: Mapping[int, int], own: Collection[int]) -> None:
        self._moving, self._updated = frozenset(moving), frozenset(updates.values())
        self._own = {key: updates[key] for key in own}
        self._parts: dict[int, _Part] = {}
        self._anchor = torch.zeros((), requires_grad=True)  # what a backward pass comes to where no input needs it

    def run(self, base: Environment, program: Program, state: Environment) -> Environment:
        """The new state, without the updates that are written already."""
        part = self._parts.get(id(program))
        if part is None:
            part = self._parts[id(program)] = _Part(program, self._own)
        if not part.can_be_recorded(base, state):
            old = {key: base[key].clone() for key in part.reads if key in self._updated}
            return program.run({**base, **old}, state)
        if part.recording is None:
            moving = [key for key in part.reads if key in state or key in self._moving]
            part.recording = _Recording(part, moving, base, state)
        values = [state[key] if key in state else base[key] for key in part.recording.moving]
        made: Values = _Replay.apply(part.recording, self._anchor, *values)
        handed = {key: state[source] if source in state else base[source] for key, source in part.handed_on}
        return dict(zip(part.made, made, strict=True)) | handed


class _Part:
    """A program, and once it is recorded its recording.

    Attributes:
        reads: the keys that its steps need from before.
        made: the keys that it computes, without those of `updated`.
        updated: of new values of buffers: (their key, that of the buffer).
        handed_on: what it only hands on: (its key, the key that holds it).
        steps: the program without what it hands on.
    """

    def __init__(self, program: Program, updates: Mapping[int, int]) -> None:
        self.program = program  # which keeps its id its own
        own = {step.key for step in program.steps}
        self.reads = sorted({key for step in program.steps for key in step.reads} - own)
        results = tuple((key, source) for key, source in program.results if source in own)
        self.made = [key for key, _ in results if key not in updates]
        self.updated = [(key, updates[key]) for key, _ in results if key in updates]
        self.handed_on = [(key, source) for key, source in program.results if source not in own]
        self.steps = replace(program, results=results)
        self.recording: _Recording | None = None
        self._form: list[Any] | None = None

    def can_be_recorded(self, base: Environment, state: Environment) -> bool:
        """Whether this is not the first run, and all is as it was in the first."""
        values = [state[key] if key in state else base[key] for key in self.reads]
        there = len(self.program.steps) > _FEW and torch.is_grad_enabled()
        if not (there and all(isinstance(value, Tensor) and value.is_cuda for value in values)):
            return False
        form: list[Any] = [(value.shape, value.stride(), value.dtype, value.requires_grad) for value in values]
        form.append(_autocast())
        first, self._form = self._form is None, self._form or form
        return not first and form == self._form


class _Recording:
    """Both passes of a program as graphs, and the tensors that they read and write.

    Attributes:
        moving: the keys of the inputs.
        inputs, outputs: what the forward pass reads and writes.
        given, gradients: what the backward pass reads, for each output that has a gradient, and writes, for each input.
        of_parameters: parameters with the gradients that the backward pass writes.
        runs: forward passes so far.
    """

    def __init__(self, part: _Part, moving: Sequence[int], base: Environment, state: Environment) -> None:
        self.moving = moving
        now = {key: state[key] if key in state else base[key] for key in part.reads}
        now |= {key: now[key].detach().clone().requires_grad_(now[key].requires_grad) for key in moving}
        self.inputs = [now[key] for key in moving]
        learned = {id(now[key]): now[key] for key in part.reads if key not in moving and now[key].requires_grad}
        # leaves of their own: the nodes of those of the model belong to another stream while an earlier loss is alive
        leaves = {place: value.detach().requires_grad_() for place, value in learned.items()}
        now |= {key: leaves[id(now[key])] for key in part.reads if id(now[key]) in leaves}
        fixed = [*leaves.values()]
        needed = [value for value in self.inputs if value.requires_grad]

        def forward() -> Values:
            made = part.steps.run({}, now)
            with torch.no_grad():
                for key, buffer in part.updated:
                    base[buffer].copy_(made[key])
            return tuple(made[key] for key in part.made)

        def backward(outputs: Values, given: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
            own = [output for output in outputs if output.requires_grad]
            found = torch.autograd.grad(own, [*needed, *fixed], given, allow_unused=True) if own else ()
            return (*found[: len(needed)], *_own_gradients(fixed, found[len(needed) :], given))

        pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with _with_own_casts(), _kept([base[buffer] for _, buffer in part.updated]):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM):
                    outputs = forward()
                    backward(outputs, [torch.empty_like(output) for output in outputs if output.requires_grad])
                del outputs
            torch.cuda.current_stream().wait_stream(stream)
            self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.forward, pool=pool, stream=stream):
                self.outputs = forward()
            self.given = [torch.empty_like(output) if output.requires_grad else None for output in self.outputs]
            with torch.cuda.graph(self.backward, pool=pool, stream=stream):
                found = backward(self.outputs, [given for given in self.given if given is not None])
        gradients = iter(found[: len(needed)])
        self.gradients = [next(gradients, None) if value.requires_grad else None for value in self.inputs]
        pairs = zip(learned.values(), found[len(needed) :], strict=True) if found else ()
        self.runs = 0
        self.of_parameters = [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]


class _Replay(torch.autograd.Function):
    """A recording as one operator."""

    @staticmethod
    def forward(ctx: Any, recording: _Recording, anchor: Tensor, *values: Tensor) -> Values:
        """The outputs, of the anchor and the inputs."""
        recording.runs += 1
        ctx.recording, ctx.run = recording, recording.runs
        ctx.set_materialize_grads(False)
        for own, value in zip(recording.inputs, values, strict=True):
            own.detach().copy_(value)
        recording.forward.replay()
        outputs = tuple(output.detach() for output in recording.outputs)
        ctx.mark_non_differentiable(*(o for o, given in zip(outputs, recording.given, strict=True) if given is None))
        return outputs

    @staticmethod
    def backward(ctx: Any, *found: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of the inputs; parameters get theirs here."""
        recording: _Recording = ctx.recording
        if ctx.run != recording.runs:
            raise InputError(
                "`graphs` must be off to go forward several times before the gradients are taken: CUDA graphs hold one "
                "forward pass. Call backward() after each, or schedule without graphs."
            )
        earlier = [own.grad.clone() if own.grad is new else own.grad for own, new in recording.of_parameters]
        for own, gradient in zip(recording.given, found, strict=True):
            if own is not None:
                own.zero_() if gradient is None else own.copy_(gradient)
        recording.backward.replay()
        for (parameter, gradient), before in zip(recording.of_parameters, earlier, strict=True):
            parameter.grad = gradient if before is None else before + gradient
        return None, None, *(None if own is None else own.detach() for own in recording.gradients)


@contextmanager
def _with_own_casts() -> Iterator[None]:
    """Under the autocast of the caller, without what it has cast before: that belongs to no graph."""
    enabled, dtype = _autocast()
    with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
        yield


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")


def _own_gradients(
    parameters: Sequence[Tensor], found: Sequence[Tensor | None], given: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients as a backward pass leaves them: in the layout of the parameters, and in memory of their own."""
    taken = {value.untyped_storage().data_ptr() for value in given}
    own: list[Tensor | None] = []
    for parameter, gradient in zip(parameters, found, strict=bool(found)):
        if gradient is not None:
            shared = gradient.untyped_storage().data_ptr() in taken
            if shared or gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            taken.add(gradient.untyped_storage().data_ptr())
        own.append(gradient)
    return own


@contextmanager
def _kept(buffers: Sequence[Tensor]) -> Iterator[None]:
    """Give buffers back the values that they had."""
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
