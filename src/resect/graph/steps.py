"""The steps of a slice, once it is decided which branch each of its slots runs.

A deleted branch is a zero, and so is a deleted skip. Zeros are followed through the graph symbolically: a join becomes
its other operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import sympy
import torch
from torch import Tensor
from torch.fx import Node

from resect.graph.beside import Role
from resect.graph.decisions import Decision, Variant
from resect.graph.ops import VIEWS, gate, hint_shape, op_name
from resect.graph.program import Ref, Step, substitute
from resect.graph.sizes import Size, operator_of
from resect.graph.slots import Slot

if TYPE_CHECKING:
    from resect.graph.resolve import Programs


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


class Resolution:
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
        elif self.keys.of(node) in self._value:  # another block has run here as a whole
            return
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

    def start_beside(self, role: Role) -> None:
        """Let a unit that runs beside others read the state from which they all start."""
        self._value[self.keys.of(role.entry)] = self.keys.of(role.state)

    def end_beside(self, role: Role) -> None:
        """Add a unit's output, just executed, to those of the units before it; the last one's place takes the whole."""
        assert role.exit is not None
        keys, total = self.keys, self.keys.beside(role.exit)
        output, state = self.source(keys.of(role.exit)), self.source(keys.of(role.state))
        if role.number == 1:
            self._value[total] = output
        elif role.combine == "sum":
            self._call(total, with_contribution, keys.beside(role.entry), output, state)
        else:
            self._call(total, torch.add, keys.beside(role.entry), output)
        if role.last and role.combine == "mean":
            self._call(keys.mean_beside(role.exit), torch.div, total, rest=(role.number,))
            total = keys.mean_beside(role.exit)
        self._value[keys.of(role.exit)] = total if role.last else state

    def decide(self, slot: Slot, decision: Decision) -> None:
        """Give the gate of `slot` zero, or the value of another slot's branch at this slot's entry.

        Where either block is gated the other one runs as a whole, and its value is that of the join: what multiplies
        the signal on a skip goes with it.
        """
        key = self.keys.gate(slot)
        if decision is None:
            self._remove(slot, key)
            return
        assert isinstance(decision, int)
        other = self.programs.sliced.slots[decision]
        assert other.join.entry is not None and slot.join.entry is not None
        local: dict[int, int | object] = {self.keys.of(other.join.entry): self._resolved(slot.join.entry)}
        whole = "gated" in (slot.join.kind, other.join.kind)
        for node in other.block.body if whole else other.block.region:
            if node.target is gate:
                continue
            if whole and node is other.join.node:
                local[self.keys.gate(other)] = local[self.keys.of(other.join.branch)]
            borrowed = self.keys.borrowed(slot, node)
            self._step(borrowed, node, local)
            local[self.keys.of(node)] = borrowed
        end, value = (self.keys.of(slot.join.node), other.join.node) if whole else (key, other.join.branch)
        self._value[end] = local[self.keys.of(value)]

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


def _is_like(operand: Node, node: Node) -> bool:
    """Whether an operand has the dtype and the shape of the sum, which a sum with zero then leaves as it is."""
    value, total = operand.meta["val"], node.meta["val"]
    return bool(value.dtype == total.dtype) and hint_shape(operand) == hint_shape(node)


def _is_plain_sum(node: Node) -> bool:
    """Whether `node` adds two values, neither of them scaled."""
    unscaled = bool(node.kwargs.get("alpha", 1) == 1)
    return op_name(node) == "add" and len(node.all_input_nodes) == 2 and unscaled
