"""Slices of a network in training as CUDA graphs: one launch a slice and pass in the place of one an operator.

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
from torch.autograd.function import once_differentiable

from resect.errors import InputError
from resect.graph.program import Environment, Program

_FEW = 4  # steps that are launched one by one
_WARM = 2  # passes before one is recorded, in which libraries choose their kernels
Values = tuple[Tensor, ...]


class Graphed:
    """Runs programs as `program.run` does, each from its second run on as CUDA graphs of its two passes.

    A program on values of other sizes than in the run before is launched step by step, as are those of few steps.
    Parameters and buffers must stay where and what they are, and parameters have no hooks: a graph writes updates and
    gradients itself. Dropout draws other numbers than without graphs.

    Args:
        inputs: the keys of what `base` holds at another place in memory in every run.
        updates: the keys of the buffers that are overwritten, by those of their new values.
        own: those of the new values that programs may write themselves.
    """

    def __init__(self, inputs: Collection[int], updates: Mapping[int, int], own: Collection[int]) -> None:
        self._inputs, self._updates = frozenset(inputs), updates
        self._own = {key: updates[key] for key in own}
        self._parts: dict[int, _Part] = {}
        self._anchor = torch.zeros((), requires_grad=True)  # what a backward pass comes to where no input needs it

    def run(self, base: Environment, program: Program, state: Environment) -> Environment:
        """The new state, without the updates that are written already."""
        part = self._parts.get(id(program))
        if part is None:
            part = self._parts[id(program)] = _Part(program, self._inputs, self._updates, self._own)
        values = [state[key] if key in state else base[key] for key in part.moving]
        if not part.can_be_recorded(values):
            old = {key: base[key].clone() for key in part.overwritten}  # autograd keeps them
            return program.run({**base, **old} if old else base, state)
        if part.recording is None:
            part.recording = _Recording(part, values, base)
        made: Values = _Replay.apply(part.recording, self._anchor, *values)
        handed = {key: state[source] if source in state else base[source] for key, source in part.handed_on}
        return dict(zip(part.made, made, strict=True)) | handed


class _Part:
    """A program, and once it is recorded its recording.

    Attributes:
        reads: the keys that its steps need from before.
        moving: those of them whose values are at another place in memory in every run.
        entering: for each of them whether it is an input of the network.
        overwritten: those of buffers that are updated.
        made: the keys that it computes, without those of `updated`.
        updated: of new values of buffers: (their key, that of the buffer).
        handed_on: what it only hands on: (its key, the key that holds it).
        steps: the program without what it hands on.
    """

    def __init__(
        self, program: Program, inputs: Collection[int], updates: Mapping[int, int], own: Mapping[int, int]
    ) -> None:
        self.program = program  # which keeps its id its own
        computed = {step.key for step in program.steps}
        self.reads = sorted({key for step in program.steps for key in step.reads} - computed)
        self.moving = [key for key in self.reads if key in program.live_before or key in inputs]
        self.entering = [key in inputs for key in self.moving]
        self.overwritten = sorted({*self.reads} & {*updates.values()})
        results = tuple((key, source) for key, source in program.results if source in computed)
        self.made = [key for key, _ in results if key not in own]
        self.updated = [(key, own[key]) for key, _ in results if key in own]
        self.handed_on = [(key, source) for key, source in program.results if source not in computed]
        self.steps = replace(program, results=results)
        self.recording: _Recording | None = None
        self._form: list[Any] | None = None

    def can_be_recorded(self, values: Sequence[Any]) -> bool:
        """Whether the moving values are as they were in the run before, or as in the recording."""
        if len(self.program.steps) <= _FEW or not torch.is_grad_enabled():
            return False
        if not values or not all(isinstance(value, Tensor) and value.is_cuda for value in values):
            return False
        form: list[Any] = [(value.shape, value.stride(), value.dtype, value.requires_grad) for value in values]
        form.append(_autocast())
        same = form == self._form
        if self.recording is None:
            self._form = form
        return same


class _Recording:
    """Both passes of a program as graphs, and the tensors that they read and write.

    Attributes:
        inputs, outputs: what the forward pass reads and writes.
        given, gradients: what the backward pass reads, for each output that has a gradient, and writes, for each input.
        entering: for each input whether it is one of the network, whose gradient somebody may keep.
        of_parameters: parameters with the gradients that the backward pass writes.
        runs: passes so far.
    """

    def __init__(self, part: _Part, values: Sequence[Tensor], base: Environment) -> None:
        self.entering = part.entering
        self.inputs = [value.detach().clone().requires_grad_(value.requires_grad) for value in values]
        now = {key: base[key] for key in part.reads if key not in part.moving}
        learned = {id(value): value for value in now.values() if isinstance(value, Tensor) and value.requires_grad}
        # leaves of their own: the nodes of those of the model belong to another stream while an earlier loss is alive
        leaves = {place: value.detach().requires_grad_() for place, value in learned.items()}
        now = {key: leaves.get(id(value), value) for key, value in now.items()}
        now |= dict(zip(part.moving, self.inputs, strict=True))
        fixed = [*leaves.values()]
        needed = [value for value in self.inputs if value.requires_grad]

        def forward() -> Values:
            before = {key: now[key].clone() for key in part.overwritten}  # autograd keeps them
            made = part.steps.run(now | before, {})
            with torch.no_grad():
                for key, buffer in part.updated:
                    base[buffer].copy_(made[key])
            return tuple(made[key] for key in part.made)

        def backward(outputs: Values, given: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
            own = [output for output in outputs if output.requires_grad]
            with torch.autocast("cuda", enabled=False):
                found = torch.autograd.grad(own, [*needed, *fixed], given, allow_unused=True) if own else ()
            return (*found[: len(needed)], *_own_gradients(fixed, found[len(needed) :], given))

        device, buffers = values[0].device, [base[buffer] for _, buffer in part.updated]
        said = "network with one of these slices"
        with torch.cuda.device(device), with_own_casts(), kept(buffers), fastest_kernels(), recorded(said):
            pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), torch.random.fork_rng([device]):
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
        for parameter, gradient in recording.of_parameters:  # which the replay overwrites: its memory is free by then
            if parameter.grad is gradient:
                parameter.grad = gradient.clone()
        for own, value in zip(recording.inputs, values, strict=True):
            own.detach().copy_(value)
        recording.forward.replay()
        outputs = tuple(output.detach() for output in recording.outputs)
        ctx.mark_non_differentiable(*(o for o, given in zip(outputs, recording.given, strict=True) if given is None))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *found: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of the inputs; parameters get theirs here."""
        recording: _Recording = ctx.recording
        if ctx.run != recording.runs:
            raise InputError(
                "`graphs` must be off to go forward several times before the gradients are taken, or backward several "
                "times: CUDA graphs hold one pass of each. Call backward() once after each, or schedule without graphs."
            )
        recording.runs += 1
        earlier = [parameter.grad for parameter, _ in recording.of_parameters]
        for own, gradient in zip(recording.given, found, strict=True):
            if own is not None:
                own.zero_() if gradient is None else own.copy_(gradient)
        recording.backward.replay()
        for (parameter, gradient), before in zip(recording.of_parameters, earlier, strict=True):
            parameter.grad = gradient if before is None else before + gradient
        handed = zip(recording.gradients, recording.entering, strict=True)
        return None, None, *(own if own is None else own.clone() if enters else own.detach() for own, enters in handed)


@contextmanager
def recorded(what: str) -> Iterator[None]:
    """Say in a sentence that there is no CUDA graph of something."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"`graphs` must be off for a {what}, of which PyTorch can make no CUDA graph: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Have cuDNN time its convolutions before it chooses: a graph repeats the choice in every step."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def with_own_casts() -> Iterator[None]:
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
def kept(buffers: Sequence[Tensor]) -> Iterator[None]:
    """Give buffers back the values that they had."""
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
