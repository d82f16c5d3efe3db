"""Cut a captured network into slices, one behind every join; the network is a fold over them.

Words: a *slot* is the place of one block; its *gate* is the edge on which the branch enters the join. A *slice* holds
the nodes after the previous join up to and with its own join. The first slice, the prelude, holds everything that no
lesion can change (the stem, masks, position tables); what follows the last join is the tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch.fx import Node

from resect.graph.beside import Beside
from resect.graph.capture import Capture
from resect.graph.discovery import find_joins
from resect.graph.joins import Join, Rejected, branch_names
from resect.graph.layers import find_layers
from resect.graph.ops import gate, is_check, is_float, op_name
from resect.graph.reach import Reach, union
from resect.graph.slots import Slot, make_slots

_PART_OF_ROOT = frozenset({"slice", "select", "narrow"})


@dataclass(frozen=True)
class Sliced:
    """A captured network, its slots and its slices.

    Attributes:
        slices: the nodes of every slice: prelude, one a join, tail.
        slots_of: the slots decided in each slice.
        stem: the values of the prelude that carry the signal into the first slices (not masks, not tables).
    """

    captured: Capture
    slots: tuple[Slot, ...]
    rejected: tuple[Rejected, ...]
    slices: tuple[tuple[Node, ...], ...]
    slots_of: tuple[tuple[int, ...], ...]
    stem: tuple[Node, ...]

    @cached_property
    def beside(self) -> Beside:
        """Which units can run side by side, and how."""
        return Beside(self.captured, self.slots, self.slices)

    def cut_at_input(self, slot: Slot) -> Sliced:
        """The same, but cut where a block starts: what its slice does on the way there moves to the slice before.

        Behind the addition of an original ResNet block stands a ReLU, and the next block starts behind it.
        """
        index = slot.place.slice
        part = self.slices[index]
        moved, pending = set[Node](), list(slot.join.entries)
        while pending:
            node = pending.pop()
            if node in part and node not in moved:
                moved.add(node)
                pending.extend(node.all_input_nodes)
        before = (*self.slices[index - 1], *(node for node in part if node in moved))
        own = tuple(node for node in part if node not in moved)
        return replace(self, slices=(*self.slices[: index - 1], before, own, *self.slices[index + 1 :]))


def cut(captured: Capture, *, plain: bool = False) -> Sliced:
    """Find the blocks (or with `plain` the layers) of a capture and cut it behind each of them.

    The capture's graph receives one gate node a block; it belongs to the result from then on.
    """
    reach = Reach.of(captured)
    joins, rejected = find_layers(captured, reach) if plain else find_joins(captured, reach)
    named = sorted(
        zip(joins, branch_names(joins, reach), strict=True),
        key=lambda pair: (reach.index[pair[0].node], reach.index[pair[0].branch]),
    )
    joins = [join for join, _ in named]
    roots = [_parts(join.branch)[-1] for join in joins]
    shared = {root for root in roots if roots.count(root) > 1}
    gates = [join.node if plain else _insert_gate(join, shared) for join in joins]
    slices = _slice(captured, reach, joins, gates)
    slots = make_slots(named, gates, slices, captured, reach)
    slots_of = tuple(tuple(s.index for s in slots if s.place.slice == i) for i in range(len(slices)))
    return Sliced(captured, slots, tuple(rejected), slices, slots_of, _stem(captured, reach, slices[0]))


def _stem(captured: Capture, reach: Reach, prelude: tuple[Node, ...]) -> tuple[Node, ...]:
    """Signals (made of a floating input, or with weights) that a later slice reads."""
    inputs = [entry.node for entry in captured.inputs if entry]
    signal = sum(reach.bit(node) for node in inputs if is_float(node))
    for node in prelude:
        read = sum(reach.bit(n) for n in node.all_input_nodes if n in reach.index)
        several = isinstance(node.meta.get("val"), (tuple, list))  # batch norm returns its statistics, too
        if (is_float(node) or several) and reach.is_dependent(node) and read & (signal | reach.weighted):
            signal |= reach.bit(node)
    inside = {*inputs, *prelude}
    return tuple(
        node
        for node in (*inputs, *prelude)
        if is_float(node) and signal & reach.bit(node) and any(u not in inside and u.op != "output" for u in node.users)
    )


def _parts(branch: Node) -> list[Node]:
    """The branch operand, and the values of which it is only a part (ReXNet adds to the first channels)."""
    nodes = [branch]
    while op_name(nodes[-1]) in _PART_OF_ROOT and isinstance(nodes[-1].args[0], Node):
        nodes.append(nodes[-1].args[0])
    return nodes


def _insert_gate(join: Join, shared: set[Node]) -> Node:
    """Put a gate on a branch. Branches that are parts of one `shared` root have theirs on their own edges."""
    *_, root = wholes = _parts(join.branch)
    whole = root not in shared and any(len([u for u in w.users if not is_check(u)]) > 1 for w in wholes[1:])
    graph, source = join.node.graph, root if whole else join.branch
    with graph.inserting_after(root) if whole else graph.inserting_before(join.consumer):
        node = graph.call_function(gate, (source,))
    if whole:
        root.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    else:
        join.consumer.replace_input_with(join.branch, node)
    node.meta = dict(source.meta)
    return node


def _slice(
    captured: Capture, reach: Reach, joins: Sequence[Join], gates: Sequence[Node]
) -> tuple[tuple[Node, ...], ...]:
    """Prelude first, then the nodes in the order of execution, cut behind each join."""
    gate_set, ends = set(gates), {join.node for join in joins}
    starts = union(reach.descendants[reach.index[entry]] for join in joins for entry in join.entries)
    order = [n for n in captured.nodes[0].graph.nodes if n.op == "call_function" and not is_check(n)]
    later: set[Node] = set()
    for node in order:
        started = bool(starts & reach.bit(node)) if node in reach.index else node in gate_set
        # Batch statistics are no signal, so `starts` does not hold them; they are computed where their batch norm is.
        if started or any(operand in later for operand in node.all_input_nodes):
            later.add(node)
    number = {node: i for i, node in enumerate((n for n in order if n in ends), 1)}
    decided = {gate: number[join.node] for join, gate in zip(joins, gates, strict=True)}
    # A gate waits for the slice of its join, as a sum of branches may be computed before an earlier join; unless that
    # needs it.
    places = _places(order, later, ends, decided) or _places(order, later, ends, {})
    assert places is not None
    slices: list[list[Node]] = [[] for _ in range(len(ends) + 2)]
    for node in order:
        slices[places[node]].append(node)
    return tuple(map(tuple, slices))


def _places(order: list[Node], later: set[Node], ends: set[Node], waits: dict[Node, int]) -> dict[Node, int] | None:
    """The slice of every node, none before that of its operands or its own in `waits`; None if a join came too late."""
    places: dict[Node, int] = {}
    reached = 1
    for node in order:
        needed = max((places.get(operand, 0) for operand in node.all_input_nodes), default=0)
        places[node] = max(reached, needed, waits.get(node, 0)) if node in later else 0
        if node in ends:
            if places[node] > reached:
                return None
            reached += 1
    return places
