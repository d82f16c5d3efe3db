"""The programs of a network's slices: what each executes once it is decided which branch each of its slots runs.

Whatever only a deleted branch needed is not in the program.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from math import prod

import sympy
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from resect.graph.beside import Role
from resect.graph.capture import NodeInput
from resect.graph.decisions import Decision, Parallel, Removal, Variant, block_run
from resect.graph.keys import Keys
from resect.graph.ops import hint_shape, hints
from resect.graph.program import Program
from resect.graph.slices import Sliced
from resect.graph.steps import Resolution

Decisions = tuple[Decision | Role, ...]


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

    def fold(
        self, arrangement: Sequence[Decision], also: Collection[int] = (), *, shared: bool = False
    ) -> list[Program]:
        """The programs of all slices under one arrangement, each computing only what the next ones need.

        Buffer updates (train mode) are results of the slice that computes them and of no other, and so are the keys
        that are `also` wanted.

        Args:
            shared: slices without a slot compute the updates of modules that do not run, too, and so have one program
                for all arrangements, of which a training runs thousands.
        """
        live, wanted = self._outputs, self.live_at_end(arrangement).union(also)
        if shared:
            wanted = wanted.union(key for key in self._owners if not self.sliced.slots_of[self.slice_of[key]])
        made_in: dict[int | None, set[int]] = {}
        for key in wanted:
            made_in.setdefault(self.slice_of.get(key), set()).add(key)
        programs = []
        for i in reversed(range(len(self.sliced.slices))):
            program = self.build(i, self.decisions(i, arrangement), live.union(made_in.get(i, ())))
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
        roles = tuple(role for span in spans for role in self.sliced.beside.roles(span).get(index, ()))
        return (*map(_intact_beside, slots, own), *roles)

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
        roles = [role for role in decided if isinstance(role, Role)]
        decisions = [decision for decision in decided if not isinstance(decision, Role)]
        told = {slot.place.gate: (slot, decision) for slot, decision in zip(slots, decisions, strict=True)}
        resolution = Resolution(self)
        for role in roles:
            if self.slice_of.get(self.keys.of(role.entry)) != index:
                resolution.start_beside(role)
        ends = {role.exit: role for role in roles}
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

    def _eliminate(self, resolution: Resolution, live_after: frozenset[int]) -> Program:
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


def _intact_beside(slot: int, decision: Decision) -> Decision:
    """What a slot runs by itself: beside others its own branch."""
    return slot if isinstance(decision, Parallel) else decision


def _samples(inputs: Sequence[NodeInput]) -> int:
    """The samples of the example, 1 where nothing counts them."""
    counts = [(hint_shape(entry.node) or ())[entry.batch] for entry in inputs if entry.batch is not None]
    return counts[0] if counts else 1
