"""What a slice executes once it is decided which branch each of its slots runs.

A deleted branch is a zero, and so is a deleted skip. Zeros are followed through the graph symbolically: a join becomes
its other operand, and whatever only the deleted one needed is not in the program.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, Final

import sympy
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from resect.graph.beside import Share
from resect.graph.capture import NodeInput
from resect.graph.decisions import Decision, Parallel, Removal, Variant, block_run
from resect.graph.keys import Keys
from resect.graph.ops import VIEWS, gate, hint_shape, hints, op_name
from resect.graph.program import Program, Ref, Step, substitute
from resect.graph.sizes import Size, operator_of
from resect.graph.slices import Sliced
from resect.graph.slots import Slot


def zeros(reference: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the device of `reference`."""
    return reference.new_zeros(sizes, dtype=dtype)


def repeated_mean(mean: Tensor, reference: Tensor, batch_dim: int, at: int) -> Tensor:
    """A mean over samples, (k, ...), as the value of every sample of the batch of `reference`, (k B, ...).

    Args:
        at: the dimension of the result in which its samples are.
    """
    batch = reference.shape[batch_dim]
    return _placed(mean.expand(batch, *mean.shape).reshape(batch * mean.shape[0], *mean.shape[1:]), at)


def of_other_samples(value: Tensor, others: Tensor, at: int) -> Tensor:
    """The values (k B, ...), or with the samples in the dimension `at`, that belong to the samples `others` (B,)."""
    value = value.movedim(at, 0)
    return _placed(value.view(len(others), -1, *value.shape[1:])[others].reshape(value.shape), at)


def _placed(value: Tensor, at: int) -> Tensor:
    return value.movedim(0, at).contiguous() if at else value  # contiguous, as views may follow


def with_contribution(total: Tensor, output: Tensor, state: Tensor) -> Tensor:
    """A sum of what units that run side by side make of one state, with another one's output."""
    return total + (output - state)


_ZERO: Final = object()

Decisions = tuple[Decision | Share, ...]


class Programs:
    """Builds the programs of a sliced network, each once.

    Args:
        edges: the skip and the branches of every join enter it through steps of their own, `keys.skip` and `keys.gate`,
            at which gradients can be taken apart.
        frozen: with `edges`, what multiplies the signal on a skip (`Join.factor`) hands no gradient on.
        removal: what enters a join in the place of a deleted branch: zero, the branch's mean over the data set, which
            `base` holds under `keys.mean`, or its value for the sample that `base` names under `keys.others`.
    """

    def __init__(self, sliced: Sliced, *, edges: bool = False, frozen: bool = False, removal: Removal = "zero") -> None:
        self.sliced = sliced
        self.edges = edges
        self.frozen = frozen
        self.removal = removal
        self.keys = keys = Keys(sliced)
        inputs = [entry for entry in sliced.captured.inputs if entry]
        shaped = max(inputs, key=lambda entry: (entry.batch is not None, bool(entry.sizes)))  # the first of the best
        self.slice_of = {keys.of(node): i for i, part in enumerate(sliced.slices) for node in part}
        # Gradients flow to the inputs as to any other live value; without gradients they are just there.
        self._base = keys.given - (len(inputs) if edges else 0)
        self.reference = keys.of(shaped.node)  # a tensor that tells batch size and device
        self.batch_dim = shaped.batch or 0
        self.example_batch = _samples(inputs)
        self.symbols = {
            size: (keys.of(entry.node), dimension)
            for entry in inputs
            for dimension, size in enumerate(entry.sizes)
            if isinstance(size, sympy.Symbol)
        }
        self.fixed = {  # free by their name, but with one value that the model accepts
            size.node.expr: sympy.Integer(known)
            for entry in inputs
            for size, known in zip(entry.node.meta["val"].shape, entry.sizes, strict=True)
            if isinstance(known, int) and not isinstance(size, int)
        }
        outputs = {keys.of(output) for output in sliced.captured.outputs if isinstance(output, Node)}
        self._outputs = frozenset(outputs) - set(range(self._base))
        self._spans_of: dict[tuple[Decision, ...], tuple[Parallel, ...]] = {}
        self._memo: dict[tuple[int, Decisions, frozenset[int]], Program] = {}

    @cached_property
    def input_keys(self) -> frozenset[int]:
        """The keys of the inputs."""
        return frozenset(self.keys.of(entry.node) for entry in self.sliced.captured.inputs if entry)

    @property
    def parameter_keys(self) -> dict[int, str]:
        """Dotted names of parameters and buffers by key."""
        return {self.keys.of(node): name for node, name in self.sliced.captured.parameters.items()}

    @cached_property
    def value_bytes(self) -> dict[int, int]:
        """Bytes of every value that depends on the inputs, at the example's batch."""
        sizes = {}
        for key, node in enumerate(self.keys.nodes):
            tensors = [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]
            sizes[key] = sum(prod(hints(tensor)) * tensor.element_size() for tensor in tensors)
        return sizes | dict.fromkeys(self.parameter_keys, 0)

    def fold(self, arrangement: Sequence[Decision], also: Collection[int] = ()) -> list[Program]:
        """The programs of all slices under one arrangement, each computing only what the next ones need.

        Buffer updates (train mode) are results of the slice that computes them and of no other, and so are the keys
        that are `also` wanted.
        """
        live, wanted = self._outputs, self.live_at_end(arrangement).union(also)
        programs = []
        for i in reversed(range(len(self.sliced.slices))):
            own = {key for key in wanted if self.slice_of.get(key) == i}
            program = self.build(i, self.decisions(i, arrangement), live | own)
            programs.append(program)
            live = program.live_before
        return programs[::-1]

    def live_at_end(self, arrangement: Sequence[Decision]) -> frozenset[int]:
        """The outputs, and the buffer updates (train mode) of all modules but those of branches that do not run."""
        running = {block_run(i, decision) for i, decision in enumerate(arrangement)}
        return self._outputs.union(key for key, owners in self._owners.items() if not owners or owners & running)

    @cached_property
    def _owners(self) -> dict[int, frozenset[int]]:
        """The slots whose branches hold the module of each buffer update; none for a module outside all branches."""
        modules = [{name.rpartition(".")[0] for name in slot.block.parameters} for slot in self.sliced.slots]
        return {
            self.keys.of(value): frozenset(i for i, held in enumerate(modules) if name.rpartition(".")[0] in held)
            for value, name in self.sliced.captured.mutations
            if self.keys.of(value) >= self._base
        }

    def decisions(self, index: int, arrangement: Sequence[Decision]) -> Decisions:
        """The part of an arrangement that decides slice `index`: its slots, then what of it runs beside others."""
        slots = self.sliced.slots_of[index]
        own = tuple(arrangement[slot] for slot in slots)
        spans = self._spans(tuple(arrangement))
        if not spans:
            return own
        shares = tuple(share for span in spans for share in self.sliced.beside.shares(span).get(index, ()))
        return (*map(_intact_beside, slots, own), *shares)

    def _spans(self, arrangement: tuple[Decision, ...]) -> tuple[Parallel, ...]:
        """The spans whose units run side by side."""
        if arrangement not in self._spans_of:
            self._spans_of[arrangement] = tuple(dict.fromkeys(d for d in arrangement if isinstance(d, Parallel)))
        return self._spans_of[arrangement]

    def build(self, index: int, decisions: Decisions, live_after: frozenset[int]) -> Program:
        """The program of slice `index` that computes the values `live_after`."""
        memo = (index, decisions, live_after)
        if memo not in self._memo:
            self._memo[memo] = self._build(index, decisions, live_after)
        return self._memo[memo]

    def _build(self, index: int, decided: Decisions, live_after: frozenset[int]) -> Program:
        slots = [self.sliced.slots[i] for i in self.sliced.slots_of[index]]
        shares = [share for share in decided if isinstance(share, Share)]
        decisions = [decision for decision in decided if not isinstance(decision, Share)]
        told = {slot.place.gate: (slot, decision) for slot, decision in zip(slots, decisions, strict=True)}
        resolution = _Resolution(self)
        for share in shares:
            if self.slice_of.get(self.keys.of(share.entry)) != index:
                resolution.start_beside(share)
        ends = {share.exit: share for share in shares}
        for node in self.sliced.slices[index]:
            slot, decision = told.get(node, (None, None))
            # A plain layer is its own join, and its gate.
            if slot and not isinstance(decision, Variant) and decision != slot.index:
                resolution.decide(slot, decision)
            elif slots and node is slots[0].join.node:
                resolution.join(node, slots, decisions)
            else:
                resolution.keep(node)
            if node in ends:
                resolution.end_beside(ends[node])
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
        self.keys = programs.keys
        self.steps: list[Step] = []
        self._value: dict[int, int | object] = {}
        self._sizes: set[Size] = set()

    def keep(self, node: Node) -> None:
        """Execute `node`, unless its operands turn it into one of them or into zero."""
        key, name = self.keys.of(node), op_name(node)
        zero = any(self._resolved(n) is _ZERO for n in node.all_input_nodes)
        if zero and name in VIEWS | {"gate"}:
            self._value[key] = _ZERO
        elif zero and name in ("add", "sub", "addcmul"):
            first, *others = (n for n in node.args if isinstance(n, Node))
            if any(self._resolved(n) is _ZERO for n in others) and _is_like(first, node):
                self._value[key] = self._resolved(first)
            elif _is_plain_sum(node) and self._resolved(first) is _ZERO and _is_like(others[0], node):
                self._value[key] = self._resolved(others[0])
            else:
                self._step(key, node)
        elif node.target is gate and not self.programs.edges:
            self._value[key] = self._resolved(node.all_input_nodes[0])
        else:
            self._step(key, node)

    def join(self, node: Node, slots: Sequence[Slot], decisions: Sequence[Decision]) -> None:
        """Execute a join as its slots were told; several slots share one where a branch is a sum of branches."""
        slot, decision = slots[0], decisions[0]
        if decision is Variant.BYPASS:
            assert slot.join.entry is not None
            self._value[self.keys.of(node)] = self._resolved(slot.join.entry)
        elif Variant.BRANCH_ONLY in decisions:
            self._without_skip(node, slot.join.skip, self.keys.skip(slot))
        elif decision is Variant.TWICE:
            self._twice(slot)
        elif slot.join.kind == "gated" and decision is None and self.programs.removal == "zero":
            self._value[self.keys.of(node)] = self._resolved(slot.join.bypass)
        elif self.programs.edges:  # on its gates, and on a step of its own for the skip
            skip, entering = self.keys.of(slot.join.skip), self.keys.skip(slot)
            self._call(entering, gate, self._frozen_skip(slot) if self.programs.frozen else skip)
            self._step(self.keys.of(node), node, {skip: entering})
        else:
            self.keep(node)

    def _frozen_skip(self, slot: Slot) -> int:
        """The skip once more, with what multiplies the signal on it held fixed."""
        keys, factor = self.keys, slot.join.factor
        if factor is None:
            return keys.of(slot.join.skip)
        held = keys.frozen(slot, factor.value)
        self._call(held, torch.ops.aten.detach.default, keys.of(factor.value))
        local: dict[int, int | object] = {keys.of(factor.value): held}
        for node in factor.nodes:
            self._step(keys.frozen(slot, node), node, local)
            local[keys.of(node)] = keys.frozen(slot, node)
        return keys.frozen(slot, slot.join.skip)

    def _without_skip(self, node: Node, skip: Node, entering: int) -> None:
        """Execute a join with a zero, under the key `entering`, in the place of its skip."""
        key = self.keys.of(node)
        others = [operand for operand in node.all_input_nodes if operand is not skip]
        if _is_plain_sum(node) and _is_like(others[0], node):
            self._value[key] = self._resolved(others[0])
        else:
            self._zeros(skip, entering)
            self._step(key, node, {self.keys.of(skip): entering})

    def _twice(self, slot: Slot) -> None:
        """The join, what follows it alone (a ReLU), and all from the entry to the join once more."""
        keys, join = self.keys, slot.join
        assert join.entry is not None
        last, once = join.node, keys.first_run(slot, join.node)
        self._step(once, join.node)
        for node in slot.block.after:
            local = {keys.of(last): once}
            last, once = node, keys.first_run(slot, node)
            self._step(once, node, local)
        second: dict[int, int | object] = {keys.of(join.entry): once}
        for node in slot.block.body[:-1]:
            self._step(keys.second_run(slot, node), node, second)
            second[keys.of(node)] = keys.second_run(slot, node)
        if join.kind != "layer":
            second[keys.gate(slot)] = second[keys.of(join.branch)]
        self._step(keys.of(join.node), join.node, second)

    def start_beside(self, share: Share) -> None:
        """Let a unit that runs beside others read the state from which they all start."""
        self._value[self.keys.of(share.entry)] = self.keys.of(share.state)

    def end_beside(self, share: Share) -> None:
        """Add a unit's output, just executed, to those of the units before it; the last one's place takes the whole."""
        assert share.exit is not None
        keys, total = self.keys, self.keys.beside(share.exit)
        output, state = self.source(keys.of(share.exit)), self.source(keys.of(share.state))
        if share.number == 1:
            self._value[total] = output
        elif share.combine == "sum":
            self._call(total, with_contribution, keys.beside(share.entry), output, state)
        else:
            self._call(total, torch.add, keys.beside(share.entry), output)
        if share.last and share.combine == "mean":
            self._call(keys.mean_beside(share.exit), torch.div, total, rest=(share.number,))
            total = keys.mean_beside(share.exit)
        self._value[keys.of(share.exit)] = total if share.last else state

    def decide(self, slot: Slot, decision: Decision) -> None:
        """Give the gate of `slot` zero, or the value of another slot's branch at this slot's entry."""
        key = self.keys.gate(slot)
        if decision is None:
            self._remove(slot, key)
            return
        assert isinstance(decision, int)
        other = self.programs.sliced.slots[decision]
        assert other.join.entry is not None and slot.join.entry is not None
        local: dict[int, int | object] = {self.keys.of(other.join.entry): self._resolved(slot.join.entry)}
        for node in other.block.region:
            if node.target is gate:
                continue
            borrowed = self.keys.borrowed(slot, node)
            local[self.keys.of(node)] = borrowed
            self._step(borrowed, node, local)
        self._value[key] = local[self.keys.of(other.join.branch)]

    def _remove(self, slot: Slot, key: int) -> None:
        """Let what stands for a deleted branch enter the join."""
        if slot.join.kind == "layer":
            self._value[key] = self._resolved(slot.join.bypass)
        elif self.programs.removal == "zero":
            self._value[key] = _ZERO
        elif self.programs.removal == "mean":
            reference, rest = self.programs.reference, (self.programs.batch_dim, self._samples_at(slot))
            self._call(key, repeated_mean, self.keys.mean(slot), reference, rest=rest)
        else:
            value = self._resolved(slot.place.gate.all_input_nodes[0])
            assert isinstance(value, int)
            self._call(key, of_other_samples, value, self.keys.others, rest=(self._samples_at(slot),))

    def _samples_at(self, slot: Slot) -> int:
        return self.programs.sliced.captured.samples_at(slot.join.branch)

    def source(self, key: int) -> int:
        """The key that holds the value of `key`, which is made to exist if it is zero."""
        value = self._value.get(key, key)
        if value is _ZERO:
            return self._zeros(self.keys.nodes[key], key)
        assert isinstance(value, int)
        return value

    def _resolved(self, node: Node) -> int | object:
        key = self.keys.of(node)
        return self._value.get(key, key)

    def _zeros(self, node: Node, key: int) -> int:
        value = node.meta["val"]
        sizes = [size if isinstance(size, int) else self._size(size.node.expr) for size in value.shape]
        reads = (self.programs.reference, *(size.key for size in sizes if isinstance(size, Ref)))
        args = (Ref(self.programs.reference), sizes, value.dtype)
        self.steps.append(Step(key, zeros, args, {}, reads))
        self._value[key] = key
        return key

    def _size(self, size: Size) -> int | Ref:
        """A size as a number, or as the value of steps that compute it from those of the inputs."""
        size = size if isinstance(size, int) else size.xreplace(self.programs.fixed)
        if isinstance(size, (int, sympy.Integer)):
            return int(size)
        key = self.keys.size(size)
        if size in self._sizes:
            return Ref(key)
        self._sizes.add(size)
        if isinstance(size, sympy.Symbol):
            tensor, dimension = self.programs.symbols[size]
            self._call(key, torch.ops.aten.sym_size.int, tensor, rest=(dimension,))
            return Ref(key)
        calculate = operator_of(size)
        first, *others = [self._size(part) for part in size.args]
        for i, other in enumerate(others):
            into = key if i == len(others) - 1 else self.keys.size((size, i))
            reads = tuple(part.key for part in (first, other) if isinstance(part, Ref))
            self.steps.append(Step(into, calculate, (first, other), {}, reads))
            first = Ref(into)
        return Ref(key)

    def _call(self, key: int, target: Any, *reads: int, rest: tuple[Any, ...] = ()) -> None:
        self.steps.append(Step(key, target, (*map(Ref, reads), *rest), {}, reads))

    def _step(self, key: int, node: Node, local: Mapping[int, int | object] | None = None) -> None:
        reads: list[int] = []

        def read(operand: Node) -> Ref:
            own = self.keys.of(operand)
            source = (local or {}).get(own, self._value.get(own, own))
            if source is _ZERO:
                source = self._zeros(operand, own)
            assert isinstance(source, int)
            reads.append(source)
            return Ref(source)

        args = tuple(substitute(value, Node, read) for value in node.args)
        kwargs = {name: substitute(value, Node, read) for name, value in node.kwargs.items()}
        self.steps.append(Step(key, node.target, args, kwargs, tuple(reads)))


def _intact_beside(slot: int, decision: Decision) -> Decision:
    """What a slot runs by itself: beside others its own branch."""
    return slot if isinstance(decision, Parallel) else decision


def _samples(inputs: Sequence[NodeInput]) -> int:
    """The samples of the example, 1 where nothing counts them."""
    counts = [(hint_shape(entry.node) or ())[entry.batch] for entry in inputs if entry.batch is not None]
    return counts[0] if counts else 1


def _is_like(operand: Node, node: Node) -> bool:
    """Whether an operand has the dtype and the shape of the sum, which a sum with zero then leaves as it is."""
    value, total = operand.meta["val"], node.meta["val"]
    return bool(value.dtype == total.dtype) and hint_shape(operand) == hint_shape(node)


def _is_plain_sum(node: Node) -> bool:
    """Whether `node` adds two values, neither of them scaled."""
    unscaled = bool(node.kwargs.get("alpha", 1) == 1)
    return op_name(node) == "add" and len(node.all_input_nodes) == 2 and unscaled
