"""One slice, linearised at a batch: cotangents go back through it and tangents forward, many lanes at once.

A lane is one gradient among several: a degree of the path polynomial, one sampled path. Shapes: L lanes, B samples; the
lanes of a value (B, ...) are a tensor (L, B, ...).
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from resect.calculus.maps import Convolution, Factor, Identity, Map
from resect.calculus.rules import differentiate, record
from resect.graph.program import Program, Ref, Step

Key = int | tuple[int, int]  # a value, or one of those that an operator returned together
Lanes = dict[int, Tensor]
Edges = dict[Key, list[tuple[Key, Map]]]


class LinearSlice:
    """The derivative of a program's results with respect to live values.

    Args:
        base: parameters, constants and inputs.
        state: the values before the slice.
        signal: the keys of those that carry the signal.
        ends: the keys at which joins take the signal apart: the skip, and the gates of the branches.
        keep: whether to keep the values at the ends.

    Attributes:
        at_ends: the values at the ends, if they are kept.
        results: the values behind the slice, with autograd's record if the caller has it switched on; may be taken
            away.
    """

    def __init__(
        self,
        program: Program,
        base: Mapping[int, Any],
        state: Mapping[int, Any],
        signal: Collection[int],
        ends: Collection[int] = (),
        *,
        keep: bool = False,
    ) -> None:
        self.signal = frozenset(signal)
        self.ends = frozenset(ends)
        self.source = dict(program.results)
        self.at_ends: dict[int, Any] = dict.fromkeys(self.ends) if keep else {}
        self._edges, self.results = _linearise(program, base, state, self.signal, self.at_ends)
        _fuse(self._edges, {*self.source.values(), *self.ends})

    @property
    def passing(self) -> frozenset[int]:
        """The live values that the slice hands on unchanged."""
        return frozenset(key for key, source in self.source.items() if source == key and key in self.signal)

    def unchanged(self, end: int) -> int | None:
        """The live value that reaches a join as it is, where `end` is nothing else."""
        key: Key = end
        while key not in self.signal:
            edges = self._edges.get(key, [])
            if len(edges) != 1 or not isinstance(edges[0][1], Identity):
                return None
            key = edges[0][0]
        return key if isinstance(key, int) else None

    def to_ends(self, cotangents: Mapping[int, Tensor]) -> tuple[Lanes, Lanes]:
        """From the slice's results to (the ends of its join, the live values that are reached beside it)."""
        seeds = {self.source[key]: value for key, value in cotangents.items() if key in self.source}
        arrived = self._pull(seeds, self.ends | self.signal)
        return (
            {key: value for key, value in arrived.items() if key in self.ends},
            {key: value for key, value in arrived.items() if key in self.signal},
        )

    def from_ends(self, cotangents: Mapping[int, Tensor]) -> Lanes:
        """From where the skip and the branches enter the join back to the live values. May be views of the given."""
        return self._pull(dict(cotangents), self.signal)

    @torch.no_grad()
    def _pull(self, seeds: Mapping[Any, Tensor], stops: frozenset[int]) -> Lanes:
        waiting: dict[Key, tuple[Tensor, bool]] = {}
        arrived: dict[Key, tuple[Tensor, bool]] = {}
        for key, value in seeds.items():
            _add(arrived if key in stops else waiting, key, value, False)
        for key in reversed(self._edges):
            if key not in waiting:
                continue
            lanes, owned = waiting.pop(key)
            edges = self._edges[key]
            for operand, each in edges:
                pulled, fresh = each.pull(lanes, owned and len(edges) == 1)  # else operands may share the lanes
                _add(arrived if operand in stops else waiting, operand, pulled, fresh)
        return {key: value for key, (value, _) in arrived.items() if isinstance(key, int)}

    @torch.no_grad()
    def push(
        self, tangents: Mapping[int, Tensor], only: int | None = None, factors: Mapping[int, float] | None = None
    ) -> Lanes:
        """Tangents of live values, or of ends, forward: those of all results, and of ends as they arrive there.

        Args:
            only: the one end that they may pass; all by default.
            factors: what they are multiplied by on the way past an end.
        """
        moving: dict[Key, Tensor] = dict(tangents.items())
        at_ends = {key: value for key, value in tangents.items() if key in self.ends}
        for key, edges in self._edges.items():
            parts = [each.push(moving[operand]) for operand, each in edges if operand in moving]
            if not parts or (only is not None and key != only and key in self.ends):
                continue
            moving[key] = sum(parts[1:], parts[0])
            if key in self.ends:
                assert isinstance(key, int)
                at_ends[key] = moving[key]
                if factors and factors.get(key, 1.0) != 1.0:
                    moving[key] = moving[key] * factors[key]
        return at_ends | {key: moving[source] for key, source in self.source.items() if source in moving}


def add_into(total: Lanes, part: Mapping[int, Tensor]) -> None:
    """Add lanes to those already collected, out of place."""
    for key, value in part.items():
        total[key] = total[key] + value if key in total else value


def _add(total: dict[Key, tuple[Tensor, bool]], key: Key, value: Tensor, owned: bool) -> None:
    """Add lanes to those already collected; a tensor that nobody else reads is added to in place."""
    if key not in total:
        total[key] = value, owned
        return
    present, mine = total[key]
    if mine and present.dtype == value.dtype:
        total[key] = present.add_(value), True
    elif owned and present.dtype == value.dtype:
        total[key] = value.add_(present), True
    else:
        total[key] = present + value, True


def _linearise(
    program: Program, base: Mapping[int, Any], state: Mapping[int, Any], signal: frozenset[int], kept: dict[int, Any]
) -> tuple[Edges, dict[int, Any]]:
    """Run a program in the caller's gradient mode: the maps of all that the signal passes, and the results.

    Args:
        kept: is given the values of its keys.
    """
    values = dict(state)
    edges: Edges = {}
    active: set[Key] = set(signal)
    several: set[int] = set()  # keys of values that an operator returned together, some of them with the signal

    def read(key: int) -> Any:
        return values[key] if key in values else base[key]

    for step, dead in zip(program.steps, program.dead_after, strict=True):
        outputs: Edges = {}
        if step.target is operator.getitem and step.reads[0] in several:
            key, index = step.reads[0], step.args[1]
            values[step.key] = read(key)[index]
            if (key, index) in active:
                outputs = {step.key: [((key, index), Identity())]}
        elif active.isdisjoint(step.reads):
            args, kwargs = step.arguments(read)
            values[step.key] = step.target(*args, **kwargs)
        else:
            values[step.key], outputs = _step(step, read, active)
        edges.update(outputs)
        active.update(outputs)
        if step.key in kept:
            kept[step.key] = values[step.key]
        several.update(key[0] for key in outputs if isinstance(key, tuple))
        for gone in dead:
            values.pop(gone, None)
    return edges, {key: read(source) for key, source in program.results}


def _step(step: Step, read: Callable[[int], Any], active: set[Key]) -> tuple[Any, Edges]:
    """Run one operator on the signal: its value, and the edges of its outputs."""
    args, kwargs = step.arguments(read)
    places: list[tuple[int | str, Any]] = [*enumerate(step.args), *step.kwargs.items()]
    signals = {place: ref.key for place, ref in places if type(ref) is Ref and ref.key in active}
    if len(signals) == sum(key in active for key in step.reads):  # none inside a list
        value, maps = differentiate(step.target, args, kwargs, list(signals))
        if maps is not None:
            key = step.key if isinstance(value, Tensor) else (step.key, 0)
            return value, {key: [(signals[place], each) for place, each in maps.items()]}
    operands = list(dict.fromkeys(key for key in step.reads if key in active))

    def run(leaves: list[Tensor]) -> Any:
        own = dict(zip(operands, leaves, strict=True))
        own_args, own_kwargs = step.arguments(lambda key: own[key] if key in own else read(key))
        return step.target(*own_args, **own_kwargs)

    value, recorded = record(step.target, run, [read(key) for key in operands])
    if torch.is_grad_enabled():  # the recording starts anew at its operands; the caller's goes through
        value = step.target(*args, **kwargs)
    edges: Edges = {}
    for index, each in recorded.items():
        edges[step.key if index is None else (step.key, index)] = list(zip(operands, each, strict=True))
    return value, edges


def _fuse(edges: Edges, kept: Collection[Key]) -> None:
    """Make one map of a factor behind a factor, and of a factor for each channel behind a convolution."""
    readers = Counter(operand for each in edges.values() for operand, _ in each)
    for key in list(edges):
        while len(edges[key]) == 1:
            operand, last = edges[key][0]
            if operand in kept or readers[operand] != 1 or len(edges.get(operand, [])) != 1:
                break
            source, first = edges[operand][0]
            joined = _joined(first, last)
            if joined is None:
                break
            edges[key] = [(source, joined)]
            del edges[operand]


def _joined(first: Map, last: Map) -> Map | None:
    if isinstance(last, Identity):
        return first
    if isinstance(first, Identity):
        return last
    if isinstance(last, Factor) and isinstance(first, Factor):
        return last.after(first)
    if isinstance(last, Factor) and isinstance(first, Convolution) and last.channels is not None:
        return first.scaled(last.channels)
    return None
