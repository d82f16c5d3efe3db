"""Backward through one slice, lane by lane, with the gradient of a join taken apart into skip and branches.

A lane is one gradient among several that are carried backward together: a degree of the path polynomial, or one
sampled path. Shapes: L lanes, B batch; a cotangent of a value of shape (B, ...) is a tensor (L, B, ...).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from resect.errors import InputError
from resect.graph.outputs import logits_of
from resect.graph.program import Program, Programs
from resect.network.unraveled import Unraveled
from resect.sweep.engine import to_device
from resect.sweep.metrics import check_targets

Lanes = dict[int, Tensor]
LANES_AT_ONCE = 16


class SliceGradient:
    """One slice, run with gradients from its live values to its own.

    Attributes:
        branches: per slot decided in this slice, the key of its gate.
        skip: the key of the skip's value where it enters the join, None in the prelude and the tail.
    """

    def __init__(self, trace: Trace, index: int, program: Program) -> None:
        programs, base, state = trace.programs, trace.base, trace.states[index]
        signal = trace.signal(index)
        slots = [programs.sliced.slots[i] for i in programs.sliced.slots_of[index]]
        self.branches = {slot.index: programs.key[slot.gate] for slot in slots}
        self.skip = programs.skip_key(slots[0]) if slots else None
        self._live = {key: value.detach().requires_grad_() for key, value in state.items() if key in signal}
        self._before: dict[int, Tensor] = {}
        self._leaf: dict[int, Tensor] = {}
        edges = [*self.branches.values(), *([] if self.skip is None else [self.skip])]
        with torch.enable_grad():
            results = program.run(base, {**state, **self._live}, {key: self._cut(key) for key in edges})
        self._results = {key: value for key, value in results.items() if _differentiable(value)}

    def _cut(self, key: int) -> Any:
        def cut(value: Tensor) -> Tensor:
            self._before[key] = value
            self._leaf[key] = value.detach().requires_grad_()
            return self._leaf[key]

        return cut

    def to_edges(self, cotangents: Lanes) -> tuple[Lanes, Lanes]:
        """From the slice's results to (the edges of its join, the live values that pass the join by)."""
        passing = {key: value for key, value in cotangents.items() if self._results.get(key) is self._live.get(key, 0)}
        rest = {key: value for key, value in cotangents.items() if key in self._results and key not in passing}
        inputs = {**self._leaf, **self._live}
        found = vjp([self._results[key] for key in rest], list(inputs.values()), list(rest.values()))
        gradients = {key: value for key, value in zip(inputs, found, strict=True) if value is not None}
        edges = {key: gradients.pop(key) for key in list(gradients) if key in self._leaf}
        add_into(gradients, passing)
        return edges, gradients

    def from_edge(self, key: int, cotangents: Tensor) -> Lanes:
        """From where a branch (or the skip) enters the join back to the live values."""
        source = self._before[key]
        for live, value in self._live.items():
            if value is source:
                return {live: cotangents}
        found = vjp([source], list(self._live.values()), [cotangents])
        return {live: value for live, value in zip(self._live, found, strict=True) if value is not None}


def add_into(total: Lanes, part: Mapping[int, Tensor]) -> None:
    """Add cotangents to those already collected."""
    for key, value in part.items():
        total[key] = total[key] + value if key in total else value


def vjp(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
    """Vector-Jacobian products of all lanes: for cotangents (L, *output) of the outputs, (L, *input) of the inputs."""
    reached = [i for i, output in enumerate(outputs) if output.requires_grad]
    if not reached or not inputs:
        return [None] * len(inputs)
    outputs, cotangents = [outputs[i] for i in reached], [cotangents[i] for i in reached]
    lanes = cotangents[0].shape[0]
    parts: list[tuple[Tensor | None, ...]] = []
    for start in range(0, lanes, LANES_AT_ONCE):
        chunk = [value[start : start + LANES_AT_ONCE] for value in cotangents]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an operator without a batching rule is slower, not wrong
            parts.append(
                torch.autograd.grad(outputs, inputs, chunk, retain_graph=True, allow_unused=True, is_grads_batched=True)
            )
    columns = zip(*parts, strict=True)
    return [None if column[0] is None else torch.cat([v for v in column if v is not None]) for column in columns]


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


class Trace:
    """The states of one batch at every slice, and the gradient of its summed loss at the last one.

    Attributes:
        at: "input" or "stem": where gradients are measured.
    """

    def __init__(self, net: Unraveled, inputs: Any, targets: Tensor, at: str) -> None:
        self.net = net
        self.programs = Programs(net.sliced, edges=True)
        inputs = to_device(net, inputs)
        self.targets = targets.to(net.device)
        self.base = {
            key: value.detach() if isinstance(value, Tensor) else value for key, value in net.bind(inputs).items()
        }
        self.at = resolve_target(net, at)
        self._folded = self.programs.fold(net.intact)
        keys = [self.programs.key[entry.node] for entry in net.sliced.captured.inputs if entry]
        self.states: list[dict[int, Any]] = [{key: self.base[key] for key in keys}]
        with torch.no_grad():
            for program in self._folded[:-1]:
                self.states.append(program.run(self.base, self.states[-1]))
        self.inputs = {key: value for key, value in self.states[0].items() if _differentiable(value)}
        self.stem = [self.programs.key[node] for node in net.sliced.stem]
        self.node = {key: node for node, key in self.programs.key.items()}

    def loss_gradient(self) -> Lanes:
        """Gradient of the summed cross-entropy with respect to the state before the tail, as one lane."""
        state = self.states[-1]
        live = {key: state[key].detach().requires_grad_() for key in self.signal(len(self.states) - 1)}
        with torch.enable_grad():
            results = self._folded[-1].run(self.base, {**state, **live})
            loss = summed_loss(self.net.outputs(self.base, results), self.targets)
        found = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
        return {key: value[None] for key, value in zip(live, found, strict=True) if value is not None}

    def slices(self) -> Iterator[tuple[int, SliceGradient]]:
        """The slices that end in a join, from the last to the first, each with its gradients."""
        for index in range(len(self._folded) - 2, 0, -1):
            yield index, SliceGradient(self, index, self._folded[index])

    def signal(self, index: int) -> set[int]:
        """The live values before a slice that carry the signal; masks, position tables and sizes do not."""
        later = self.programs.slice_of
        return {
            key
            for key, value in self.states[index].items()
            if _differentiable(value) and (key in self.stem or later.get(key, 0) > 0)
        }

    def to_target(self, cotangents: Lanes) -> list[Tensor]:
        """From the live values after the prelude to the stem's values or the inputs: (L, B, ...) each."""
        if self.at == "stem":
            return [cotangents[key] for key in self.stem if key in cotangents]
        live = {key: value.detach().requires_grad_() for key, value in self.inputs.items()}
        with torch.enable_grad():
            results = self._folded[0].run(self.base, {**self.states[0], **live})
        keys = [key for key in cotangents if key in results]
        found = vjp([results[key] for key in keys], list(live.values()), [cotangents[key] for key in keys])
        return [value for value in found if value is not None]

    def true_gradient(self) -> list[Tensor]:
        """The gradient at the target by plain autograd through the whole network, as one lane each."""
        first = 0 if self.at == "input" else 1
        keys = list(self.inputs) if self.at == "input" else self.stem
        live = {key: self.states[first][key].detach().requires_grad_() for key in keys if key in self.states[first]}
        state = {**self.states[first], **live}
        with torch.enable_grad():
            for program in self._folded[first:]:
                state = program.run(self.base, state)
            loss = summed_loss(self.net.outputs(self.base, state), self.targets)
        found = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
        return [value[None] for value in found if value is not None]


def summed_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the batch, so that every sample's gradient is its own; mean over a sequence."""
    logits = logits_of(outputs)
    check_targets(logits, targets)
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long(), reduction="sum", ignore_index=-100
    )
    return loss / (targets.numel() // targets.shape[0])


def resolve_target(net: Unraveled, at: str) -> str:
    """Where gradients are measured: "input", unless the network's inputs are integers (tokens): then "stem"."""
    if at not in ("auto", "input", "stem"):
        raise InputError(f"`at` must be 'auto', 'input' or 'stem', got {at!r}.")
    floating = any(entry and entry.dtype.is_floating_point for entry in net.sliced.captured.inputs)
    if at == "input" and not floating:
        raise InputError("`at` must be 'stem' for a network whose inputs are integers, got 'input'.")
    return at if at != "auto" else "input" if floating else "stem"
