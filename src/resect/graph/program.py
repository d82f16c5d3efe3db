"""Programs: what a slice executes once it is decided which branch each of its slots runs.

A deleted branch is a zero. It is followed through the graph symbolically: the join becomes its skip, and whatever only
the branch needed is not in the program. A program is a list of steps on an environment of values, keyed by integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor
from torch.fx import Node

from resect.graph.ops import VIEWS, gate, hint_shape, op_name
from resect.graph.slices import Sliced, Slot

Decision = int | None
Environment = dict[int, Any]


@dataclass(frozen=True)
class Ref:
    """A value of the environment, as it stands in the arguments of a step."""

    key: int


@dataclass(frozen=True)
class Step:
    """One operator call: environment[key] = target(*args, **kwargs)."""

    key: int
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What one slice executes.

    Attributes:
        steps: in order.
        results: where each value that lives on after the slice comes from: (its key, the key that holds it).
        live_before: keys the slice needs from before (parameters, constants and inputs not counted).
    """

    steps: tuple[Step, ...]
    results: tuple[tuple[int, int], ...]
    live_before: frozenset[int]

    def run(
        self,
        base: Mapping[int, Any],
        state: Mapping[int, Any],
        intercept: Mapping[int, Callable[[Any], Any]] | None = None,
    ) -> Environment:
        """Execute the steps on parameters, constants and inputs (`base`) and the state; return the new state.

        Args:
            intercept: functions that replace the value of a key as soon as it is computed.
        """
        values = dict(state)

        def read(value: Any) -> Any:
            if type(value) is Ref:
                key = value.key
                return values[key] if key in values else base[key]
            if type(value) in (list, tuple):
                return type(value)(read(item) for item in value)
            return value

        for step, dead in zip(self.steps, self._dead_after, strict=True):
            kwargs = {name: read(value) for name, value in step.kwargs.items()}
            value = step.target(*[read(argument) for argument in step.args], **kwargs)
            values[step.key] = intercept[step.key](value) if intercept and step.key in intercept else value
            for key in dead:
                values.pop(key, None)
        return {key: read(Ref(source)) for key, source in self.results}

    @cached_property
    def _dead_after(self) -> tuple[tuple[int, ...], ...]:
        """The keys that no step reads after each step and that are no result."""
        needed = {source for _, source in self.results}
        dead: list[tuple[int, ...]] = []
        for step in reversed(self.steps):
            dead.append(tuple(key for key in {step.key, *step.reads} if key not in needed))
            needed.update(step.reads)
        return tuple(reversed(dead))


def zeros(reference: Tensor, sizes: Sequence[int | tuple[int]], dtype: torch.dtype) -> Tensor:
    """Zeros on the device of `reference`; a size `(k,)` stands for k times the batch size of `reference`."""
    batch = reference.shape[0]
    return reference.new_zeros([size if isinstance(size, int) else size[0] * batch for size in sizes], dtype=dtype)


_ZERO: Final = object()


class Programs:
    """Builds the programs of a sliced network, each once.

    With `edges`, the skip and the branches of every join enter it through steps of their own (`skip_key`, and the
    key of the slot's gate), at which gradients can be taken apart.
    """

    def __init__(self, sliced: Sliced, *, edges: bool = False) -> None:
        self.sliced = sliced
        self.edges = edges
        captured = sliced.captured
        inputs = [entry.node for entry in captured.inputs if entry]
        placeholders = [*captured.parameters, *captured.constants, *inputs]
        nodes = [node for part in sliced.slices for node in part]
        self.key = {node: i for i, node in enumerate([*placeholders, *nodes])}
        self.slice_of = {self.key[node]: i for i, part in enumerate(sliced.slices) for node in part}
        # Gradients flow to the inputs as to any other live value; without gradients they are just there.
        self._base = len(placeholders) - (len(inputs) if edges else 0)
        self._reference = self.key[next(entry.node for entry in captured.inputs if entry and entry.shape)]
        self._batch = next((hint_shape(e.node) or (1,))[0] for e in captured.inputs if e and e.shape)
        self._outputs = frozenset(self.key[n] for n in captured.outputs if isinstance(n, Node)) - set(range(self._base))
        self._memo: dict[tuple[int, tuple[Decision, ...], frozenset[int]], Program] = {}

    def skip_key(self, slot: Slot) -> int:
        """The key of the value that enters a slot's join as the skip."""
        return len(self.key) * (len(self.sliced.slots) + 2) + self.key[slot.join]

    @property
    def parameter_keys(self) -> dict[int, str]:
        """Dotted names of parameters and buffers by key."""
        return {self.key[node]: name for node, name in self.sliced.captured.parameters.items()}

    def fold(self, arrangement: Sequence[Decision]) -> list[Program]:
        """The programs of all slices under one arrangement, each computing only what the next ones need."""
        live = self.live_at_end(arrangement)
        programs = []
        for i in range(len(self.sliced.slices) - 1, -1, -1):
            program = self.build(i, self.decisions(i, arrangement), live)
            programs.append(program)
            live = program.live_before
        return programs[::-1]

    def live_at_end(self, arrangement: Sequence[Decision]) -> frozenset[int]:
        """The outputs, and the buffer updates (train mode) of all modules but those of branches that do not run."""
        runs = {name.rpartition(".")[0] for i in set(arrangement) - {None} for name in self._names(i)}
        rests = {name.rpartition(".")[0] for i in range(len(arrangement)) for name in self._names(i)} - runs
        updates = {
            self.key[value]
            for value, name in self.sliced.captured.mutations
            if name.rpartition(".")[0] not in rests and self.key[value] >= self._base
        }
        return self._outputs | updates

    def _names(self, slot: Decision) -> tuple[str, ...]:
        return () if slot is None else self.sliced.slots[slot].parameters

    def decisions(self, index: int, arrangement: Sequence[Decision]) -> tuple[Decision, ...]:
        """The part of an arrangement that decides slice `index`."""
        return tuple(arrangement[slot] for slot in self.sliced.slots_of[index])

    def build(self, index: int, decisions: tuple[Decision, ...], live_after: frozenset[int]) -> Program:
        """The program of slice `index` that computes the values `live_after`."""
        memo = (index, decisions, live_after)
        if memo not in self._memo:
            self._memo[memo] = self._build(index, decisions, live_after)
        return self._memo[memo]

    def _build(self, index: int, decisions: tuple[Decision, ...], live_after: frozenset[int]) -> Program:
        slots = [self.sliced.slots[i] for i in self.sliced.slots_of[index]]
        chosen = dict(zip(slots, decisions, strict=True))
        resolution = _Resolution(self)
        gates = {slot.gate: slot for slot in slots}
        joins = {slot.join: slot for slot in slots}
        for node in self.sliced.slices[index]:
            deleted_gated = node in joins and joins[node].kind == "gated" and chosen[joins[node]] is None
            if node in gates and chosen[gates[node]] != gates[node].index:
                resolution.decide(gates[node], chosen[gates[node]])
            elif deleted_gated:
                resolution.alias(node, joins[node].bypass)
            elif self.edges and node in joins:
                resolution.join_by_edges(node, joins[node])
            else:
                resolution.keep(node)
        return self._eliminate(resolution, live_after)

    def _eliminate(self, resolution: _Resolution, live_after: frozenset[int]) -> Program:
        results = [(key, resolution.source(key)) for key in sorted(live_after)]
        needed = {source for _, source in results}
        steps = []
        for step in reversed(resolution.steps):
            if step.key in needed:
                steps.append(step)
                needed.discard(step.key)
                needed.update(step.reads)
        live_before = frozenset(key for key in needed if key >= self._base)
        return Program(tuple(reversed(steps)), tuple(results), live_before)


class _Resolution:
    """Follows decisions through the nodes of one slice; every value ends as a key or as zero."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.steps: list[Step] = []
        self._value: dict[int, int | object] = {}

    def keep(self, node: Node) -> None:
        """Execute `node`, unless its operands turn it into one of them or into zero."""
        key = self.programs.key[node]
        operands = [self._value.get(self.programs.key[n], 0) is _ZERO for n in node.all_input_nodes]
        name = op_name(node)
        if any(operands) and name in VIEWS | {"gate"}:
            self._value[key] = _ZERO
        elif any(operands) and name in ("add", "sub", "addcmul"):
            first, *others = (n for n in node.args if isinstance(n, Node))
            first_zero = self._is_zero(first)
            rest_zero = any(self._is_zero(n) for n in others)
            if rest_zero:
                self._value[key] = self._resolved(first)
            elif first_zero and name == "add" and len(others) == 1:
                self._value[key] = self._resolved(others[0])
            else:
                self._step(key, node)
        elif node.target is gate and not self.programs.edges:
            self._value[key] = self._resolved(node.all_input_nodes[0])
        else:
            self._step(key, node)

    def join_by_edges(self, node: Node, slot: Slot) -> None:
        """Execute a join on its gates and on a step of its own for the skip."""
        skip, entering = self.programs.key[slot.skip], self.programs.skip_key(slot)
        self.steps.append(Step(entering, gate, (Ref(skip),), {}, (skip,)))
        self._step(self.programs.key[node], node, {skip: entering})

    def alias(self, node: Node, other: Node) -> None:
        """Let `node` have the value of `other`."""
        self._value[self.programs.key[node]] = self._resolved(other)

    def decide(self, slot: Slot, decision: Decision) -> None:
        """Give the gate of `slot` zero, or the value of another slot's branch at this slot's entry."""
        key = self.programs.key[slot.gate]
        if decision is None:
            self._value[key] = self._resolved(slot.bypass) if slot.kind == "layer" else _ZERO
            return
        other = self.programs.sliced.slots[decision]
        assert other.entry is not None
        assert slot.entry is not None
        offset = len(self.programs.key) * (slot.index + 1)
        local: dict[int, int | object] = {self.programs.key[other.entry]: self._resolved(slot.entry)}
        for node in other.region:
            if node.target is gate:
                continue
            original = self.programs.key[node]
            local[original] = original + offset
            self._step(original + offset, node, local)
        self._value[key] = local[self.programs.key[other.branch]]

    def source(self, key: int) -> int:
        """The key that holds the value of `key`, which is made to exist if it is zero."""
        value = self._value.get(key, key)
        if value is _ZERO:
            node = next(node for node, k in self.programs.key.items() if k == key)
            return self._zeros(node, key)
        assert isinstance(value, int)
        return value

    def _is_zero(self, node: Node) -> bool:
        return self._value.get(self.programs.key[node]) is _ZERO

    def _resolved(self, node: Node) -> int | object:
        key = self.programs.key[node]
        return self._value.get(key, key)

    def _zeros(self, node: Node, key: int) -> int:
        value = node.meta["val"]
        hints = hint_shape(node)
        assert hints is not None
        sizes = tuple(
            size if isinstance(size, int) else (hint // self.programs._batch,)
            for size, hint in zip(value.shape, hints, strict=True)
        )
        reference = self.programs._reference
        self.steps.append(Step(key, zeros, (Ref(reference), sizes, value.dtype), {}, (reference,)))
        self._value[key] = key
        return key

    def _step(self, key: int, node: Node, local: Mapping[int, int | object] | None = None) -> None:
        reads: list[int] = []

        def read(value: Any) -> Any:
            if not isinstance(value, Node):
                return value
            own = self.programs.key[value]
            source = (local or {}).get(own, self._value.get(own, own))
            if source is _ZERO:
                source = self._zeros(value, own)
            assert isinstance(source, int)
            reads.append(source)
            return Ref(source)

        args = tuple(_map(value, read) for value in node.args)
        kwargs = {name: _map(value, read) for name, value in node.kwargs.items()}
        self.steps.append(Step(key, node.target, args, kwargs, tuple(reads)))


def _map(value: Any, read: Any) -> Any:
    if isinstance(value, (list, tuple)):
        items = [_map(item, read) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return read(value)
