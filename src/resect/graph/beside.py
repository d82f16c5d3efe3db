"""Units of blocks that run side by side, all on the state at which the first one starts (Sun et al. 2025b)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Node

from resect.errors import ArrangementError
from resect.graph.capture import Capture
from resect.graph.decisions import Combine, Parallel
from resect.graph.ops import free_shape, is_check, op_name
from resect.graph.slots import Slot


@dataclass(frozen=True)
class Role:
    """What a unit that runs beside others is told in one slice.

    Attributes:
        state: the value from which all units start.
        entry: the value from which this one starts in the intact network.
        exit: the value that the unit ends in, where the slice computes it.
        number: of the unit, from 1.
        last: no unit comes after it.
    """

    state: Node
    entry: Node
    exit: Node | None
    number: int
    last: bool
    combine: Combine


@dataclass(frozen=True)
class _Unit:
    """What a unit computes: the nodes from its entry, not among them, to its exit."""

    entry: Node
    exit: Node
    region: frozenset[Node]


class Beside:
    """Judges which units of a sliced network can run side by side, and tells its slices how."""

    def __init__(self, captured: Capture, slots: Sequence[Slot], slices: Sequence[Sequence[Node]]) -> None:
        self._slots = slots
        self._slice_of = {node: i for i, part in enumerate(slices) for node in part}
        self._updates = {value for value, _ in captured.mutations}
        self._outputs = {output for output in captured.outputs if isinstance(output, Node)}
        self._regions: dict[tuple[Node, Node], frozenset[Node]] = {}
        self._open: dict[tuple[tuple[int, int], Node], str] = {}
        self._roles: dict[Parallel, Mapping[int, tuple[Role, ...]]] = {}

    def roles(self, span: Parallel) -> Mapping[int, tuple[Role, ...]]:
        """By slice, what the units of a span are told.

        Raises:
            ArrangementError: they cannot run side by side.
        """
        if span not in self._roles:
            units = self._units(span)
            why = units if isinstance(units, str) else self._why_joined(span, units)
            if isinstance(units, str) or why:
                raise ArrangementError(f"blocks {span.first} to {span.last} cannot run side by side: {why}.")
            self._roles[span] = self._told(units, span.combine)
        return self._roles[span]

    def _told(self, units: Sequence[_Unit], combine: Combine) -> Mapping[int, tuple[Role, ...]]:
        told: dict[int, list[Role]] = defaultdict(list)
        for number, unit in enumerate(units, 1):
            for index in sorted({self._slice_of[node] for node in unit.region}):
                ends = index == self._slice_of[unit.exit]
                last = ends and number == len(units)
                role = Role(units[0].entry, unit.entry, unit.exit if ends else None, number, last, combine)
                told[index].append(role)
        return {index: tuple(roles) for index, roles in told.items()}

    def _units(self, span: Parallel) -> list[_Unit] | str:
        """What the units of a span compute, or why they have no one state and outputs that are alike."""
        units, tail = list[_Unit](), None
        entries = [self._slots[first].join.entry for first, _ in span.units]
        for i, (own, entry) in enumerate(zip(span.units, entries, strict=True)):
            join, is_last = self._slots[own[1]].join.node, i == len(entries) - 1
            leaves = _followed(join, tail or ()) if is_last else entries[i + 1]
            chain = None if leaves is None else _chain(join, leaves)
            if entry is None:
                return f"{self._named(own)} starts from several values"
            if not is_last and chain is None:
                return f"{self._named(span.units[i + 1])} does not start from what {self._named(own)} gives"
            if leaves is None or tail not in (None, chain):
                return f"what follows {self._named(own)} is not what follows the blocks before it"
            tail = chain
            if _type(entry) != _type(leaves):
                return f"{self._named(own)} changes the shape of its input"
            units.append(_Unit(entry, leaves, self._region(entry, leaves)))
        return units

    def _region(self, entry: Node, exit_: Node) -> frozenset[Node]:
        if (entry, exit_) not in self._regions:
            self._regions[entry, exit_] = _between(entry, exit_)
        return self._regions[entry, exit_]

    def _why_joined(self, span: Parallel, units: Sequence[_Unit]) -> str:
        """Why units are joined by more than the values that each hands to the next one; "" if they are not."""
        for slots, unit, after in zip(span.units, units, units[1:], strict=False):
            if unit.exit in self._outputs or self._is_read(set(unit.exit.users) - after.region):
                return f"what {self._named(slots)} gives is read elsewhere, too"
        return next(filter(None, map(self._why_open, span.units, units)), "")

    def _is_read(self, nodes: set[Node]) -> bool:
        """Whether one of some values leads to an output, beside updates of buffers."""
        return bool(self._outputs & _reached(nodes - self._updates, lambda node: node.users))

    def _why_open(self, slots: tuple[int, int], unit: _Unit) -> str:
        """Why more than its entry leads into a unit, or more than its exit out of it; "" if it is closed."""
        if (slots, unit.exit) not in self._open:
            self._open[slots, unit.exit] = self._opening(slots, unit)
        return self._open[slots, unit.exit]

    def _opening(self, slots: tuple[int, int], unit: _Unit) -> str:
        own, inner = unit.region, unit.region - {unit.exit}
        if {slot.index for slot in self._slots if slot.join.node in own} != set(range(slots[0], slots[1] + 1)):
            return f"{self._named(slots)} runs together with others"
        read = {operand for node in own for operand in node.all_input_nodes} - own - {unit.entry}
        if any(self._slice_of.get(operand, 0) > 0 for operand in read):
            return f"{self._named(slots)} reads other values that lesions change"
        outside = {user for node in inner for user in node.users if user not in own and not is_check(user)}
        if self._outputs & inner or self._is_read(outside):
            return f"what {self._named(slots)} computes on the way is read elsewhere, too"
        return ""

    def _named(self, slots: tuple[int, int]) -> str:
        first, last = slots
        block = f"block {first} ({self._slots[first].name})"
        return block if first == last else f"the unit from {block} to {last} ({self._slots[last].name})"


def _type(node: Node) -> tuple[object, ...]:
    return (*free_shape(node), node.meta["val"].dtype)


def _reached(start: Iterable[Node], following: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """The nodes from which a walk begins, and all that it reaches."""
    reached, pending = set(start), list(start)
    while pending:
        fresh = set(following(pending.pop())) - reached
        reached |= fresh
        pending += fresh
    return reached


def _between(entry: Node, exit_: Node) -> frozenset[Node]:
    """What depends on one value and leads to another, with the latter."""
    after = _reached([entry], lambda node: node.users)
    before = _reached([exit_], lambda node: [operand for operand in node.all_input_nodes if operand is not entry])
    return frozenset(after & before - {entry})


def _chain(join: Node, exit_: Node) -> tuple[str, ...] | None:
    """The operators that make one value of another, each of the one before alone; None if it is not so."""
    names: list[str] = []
    node: Node | None = exit_
    while node is not None and node is not join:
        names.append(op_name(node))
        node = node.args[0] if node.args and isinstance(node.args[0], Node) else None
    return None if node is None else tuple(reversed(names))


def _followed(node: Node, names: Collection[str]) -> Node | None:
    """The value that operators of these names make of another one; None where others follow."""
    for name in names:
        fitting = [user for user in node.users if op_name(user) == name and user.args[0] is node]
        if len(fitting) != 1:
            return None
        node = fitting[0]
    return node
