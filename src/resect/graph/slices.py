"""Cut a captured network into slices, one behind every join; the network is a fold over them.

Words: a *slot* is the place of one block; its *gate* is the edge on which the branch enters the join. A *slice* holds
the nodes after the previous join up to and with its own join. The first slice, the prelude, holds everything that no
lesion can change (the stem, masks, position tables); what follows the last join is the tail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch.fx import Node

from resect.graph.capture import Capture
from resect.graph.joins import Join, Kind, Rejected, branch_names, find_joins
from resect.graph.layers import find_layers
from resect.graph.ops import POINTWISE, free_shape, gate, is_check, is_float, op_name
from resect.graph.reach import Reach

_PART_OF_ROOT = frozenset({"slice", "select", "narrow"})


@dataclass(frozen=True)
class Slot:
    """The place of one block in the sliced graph.

    Attributes:
        gate: the node through which the branch enters (for a plain layer, the layer's output).
        entry: the one value at which the branch starts, None if it starts at several.
        region: the branch's nodes, in order; `gate` is not among them.
        context: the values from before the entry that the branch reads and no lesion changes.
        movable: whether the branch can run in another slot; if not, `fixed_because` says why.
        span: number of the span.
        body: the nodes between the entry and the join, in order; the join is the last.
        after: what reads the join alone and computes a value of its shape without weights: the ReLU of an original
            ResNet block, which belongs to the block's output.
        once_because: why the block cannot run twice, "" if it can.
        skip_because: why its skip cannot be deleted, "" if it can.
    """

    index: int
    name: str
    kind: Kind
    slice: int
    join: Node
    gate: Node
    branch: Node
    skip: Node
    bypass: Node
    entry: Node | None
    region: tuple[Node, ...]
    entry_shape: tuple[int | str, ...]
    branch_shape: tuple[int | str, ...]
    layers: int
    parameters: tuple[str, ...]
    parent: int | None
    fixed_because: str
    span: int
    body: tuple[Node, ...]
    after: tuple[Node, ...]
    once_because: str
    skip_because: str


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
    plain: bool


def cut(captured: Capture, *, plain: bool = False) -> Sliced:
    """Find the blocks (or with `plain` the layers) of a capture and cut it behind each of them.

    The capture's graph receives one gate node a block; it belongs to the result from then on.
    """
    reach = Reach.of(captured)
    joins, rejected = find_layers(captured, reach) if plain else find_joins(captured, reach)
    names = branch_names(joins, reach)
    joins_named = sorted(
        zip(joins, names, strict=True), key=lambda pair: (reach.index[pair[0].node], reach.index[pair[0].branch])
    )
    starts = 0
    for join in joins:
        for entry in join.entries:
            starts |= reach.descendants[reach.index[entry]]
    regions = [_region(join, reach) for join, _ in joins_named]
    shared = _branch_roots([join for join, _ in joins_named])
    gates = [join.node if plain else _insert_gate(join, shared) for join, _ in joins_named]
    slices = _slice(captured, reach, starts, [join.node for join, _ in joins_named], gates)
    place = {node: i for i, nodes in enumerate(slices) for node in nodes}
    slots: list[Slot] = []
    for i, ((join, name), region, entered) in enumerate(zip(joins_named, regions, gates, strict=True)):
        slots.append(_slot(i, join, name, region, entered, captured, reach, place))
    slots = _with_parents(slots, reach)
    slots = [replace(slot, once_because=_why_once(slot, slots), skip_because=_why_skip(slot, slots)) for slot in slots]
    slots = _with_spans(slots)
    slots_of = tuple(tuple(s.index for s in slots if s.slice == i) for i in range(len(slices)))
    stem = _stem(captured, reach, slices[0])
    return Sliced(captured, tuple(slots), tuple(rejected), slices, slots_of, stem, plain)


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


def _region(join: Join, reach: Reach) -> tuple[Node, ...]:
    bits = 0
    for entry in join.entries:
        bits |= reach.between(entry, join.branch)
    return tuple(reach.nodes(bits))


def _root(branch: Node) -> Node:
    """The value of which the branch operand is only a part (ReXNet adds to the first channels), or itself."""
    node = branch
    while op_name(node) in _PART_OF_ROOT and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _branch_roots(joins: Sequence[Join]) -> set[Node]:
    """Roots that feed more than one branch: each of those keeps its own part, and its gate on its own edge."""
    roots = [_root(join.branch) for join in joins]
    return {root for root in roots if roots.count(root) > 1}


def _insert_gate(join: Join, shared: set[Node]) -> Node:
    root = _root(join.branch)
    whole = root is not join.branch and root not in shared and len([u for u in root.users if not is_check(u)]) > 1
    graph = join.node.graph
    if whole:
        with graph.inserting_after(root):
            node = graph.call_function(gate, (root,))
        root.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
        source = root
    else:
        with graph.inserting_before(join.consumer):
            node = graph.call_function(gate, (join.branch,))
        join.consumer.replace_input_with(join.branch, node)
        source = join.branch
    node.meta = dict(source.meta)
    return node


def _slice(
    captured: Capture, reach: Reach, starts: int, joins: Iterable[Node], gates: Iterable[Node]
) -> tuple[tuple[Node, ...], ...]:
    """Prelude first, then the nodes in the order of execution, cut behind each join."""
    gate_set, ends = set(gates), set(joins)
    order = [n for n in captured.nodes[0].graph.nodes if n.op == "call_function" and not is_check(n)]
    later: set[Node] = set()
    for node in order:
        started = bool(starts & reach.bit(node)) if node in reach.index else node in gate_set
        # Batch statistics are no signal, so `starts` does not hold them; they are computed where their batch norm is.
        if started or any(operand in later for operand in node.all_input_nodes):
            later.add(node)
    slices: list[tuple[Node, ...]] = [tuple(n for n in order if n not in later)]
    current: list[Node] = []
    for node in order:
        if node in later:
            current.append(node)
        if node in ends:
            slices.append(tuple(current))
            current = []
    return (*slices, tuple(current))


def _slot(
    index: int,
    join: Join,
    name: str,
    region: tuple[Node, ...],
    entered: Node,
    captured: Capture,
    reach: Reach,
    place: dict[Node, int],
) -> Slot:
    entry = join.entries[0] if len(join.entries) == 1 else None
    inside = {*region, *join.entries}
    outside = {o for n in region for o in n.all_input_nodes if o not in inside}
    fixed = ""
    if entry is None:
        fixed = "its branch starts at several values"
    elif join.kind != "layer" and entered.all_input_nodes != [join.branch]:
        fixed = "its branch feeds more than the join"
    elif any(place.get(o, 0) > 0 for o in outside if o in place):
        fixed = "its branch reads other values that lesions change"
    bits = sum(reach.bit(n) for n in region)
    first = join.entries[0]
    return Slot(
        index=index,
        name=name,
        kind=join.kind,
        slice=place[join.node],
        join=join.node,
        gate=entered,
        branch=join.branch,
        skip=join.skip,
        bypass=join.bypass,
        entry=entry,
        region=region,
        entry_shape=free_shape(first),
        branch_shape=free_shape(join.branch),
        layers=reach.depth_in_layers(bits),
        parameters=_parameters(captured, reach, region),
        parent=None,
        fixed_because=fixed,
        span=0,
        body=() if entry is None else tuple(reach.nodes(reach.between(entry, join.node))),
        after=() if join.kind == "layer" else _after(join.node, reach),
        once_because="",
        skip_because="",
    )


def _after(node: Node, reach: Reach) -> tuple[Node, ...]:
    found: list[Node] = []
    while True:
        users = [user for user in node.users if not is_check(user)]
        if len(users) != 1 or op_name(users[0]) not in POINTWISE or len(reach.dependents(users[0])) != 1:
            return tuple(found)
        node = users[0]
        if any(reach.weighted >> reach.index[o] & 1 for o in node.all_input_nodes if o in reach.index):
            return tuple(found)
        found.append(node)


def _why_once(slot: Slot, slots: Sequence[Slot]) -> str:
    if slot.fixed_because:
        return slot.fixed_because
    if slot.entry_shape != slot.branch_shape:
        return "it changes the shape of its input"
    inside = {*slot.body}
    others = [other for other in slots if other is not slot]
    if any(o.entry is slot.entry or o.join in inside or o.branch in inside for o in others):
        return "another block starts from the same value"
    return ""


def _why_skip(slot: Slot, slots: Sequence[Slot]) -> str:
    if slot.kind == "layer":
        return "a plain layer has no skip"
    beside = [o for o in slots if o.join is slot.skip and o.entry is not None and o.entry is slot.entry]
    return f"it shares the skip of block {beside[0].index}, with which it runs in parallel" if beside else ""


def _parameters(captured: Capture, reach: Reach, region: tuple[Node, ...]) -> tuple[str, ...]:
    """Names of the parameters and buffers that the branch reads."""
    bits = 0
    for node in region:
        for operand in node.all_input_nodes:
            if operand in reach.index and not reach.is_dependent(operand):
                bits |= reach.ancestors[reach.index[operand]] | reach.bit(operand)
    return tuple(
        captured.parameters[node] for node in reach.nodes(bits & reach.weighted) if node in captured.parameters
    )


def _with_parents(slots: list[Slot], reach: Reach) -> list[Slot]:
    result = []
    for slot in slots:
        around = [s for s in slots if s is not slot and slot.join in s.region and reach.ends_in(slot.join, s.join)]
        parent = min(around, key=lambda s: reach.index[s.join]).index if around else None
        holds = any(s is not slot and s.join in slot.region for s in slots)
        fixed = "its branch holds blocks of its own" if holds else slot.fixed_because
        result.append(replace(slot, parent=parent, fixed_because=fixed))
    return result


def _with_spans(slots: list[Slot]) -> list[Slot]:
    result: list[Slot] = []
    span = -1
    for slot in slots:
        before = result[-1] if result else None
        same = before is not None and not slot.fixed_because and not before.fixed_because
        same = same and before is not None and _trade_key(before) == _trade_key(slot)
        span += not same
        result.append(replace(slot, span=span))
    return result


def _trade_key(slot: Slot) -> tuple[object, ...]:
    entry, branch = slot.entry, slot.branch
    assert entry is not None
    return slot.entry_shape, slot.branch_shape, entry.meta["val"].dtype, branch.meta["val"].dtype
