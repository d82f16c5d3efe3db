"""What of a network is fitted: the last layers of kept branches, and batch norms that these leave out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

from torch.fx import Node

from resect.errors import InputError
from resect.graph.endings import Ending, endings
from resect.graph.ops import hint_shape
from resect.graph.slots import Slot
from resect.measuring.calibration import norms_of
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled


@dataclass(frozen=True)
class Piece:
    """A kept block whose last layer is fitted.

    Attributes:
        behind: the join of the intact network whose value it is to hand on: its own, or that of the last block that is
            gone behind it.
    """

    slot: Slot
    ending: Ending
    behind: Node


def _joins(net: Unraveled) -> dict[Node, list[Slot]]:
    """The joins in order, with the blocks that meet there; of parallel ones there is one."""
    joins: dict[Node, list[Slot]] = {}
    for slot in net.sliced.slots:
        if slot.place.parent is None:
            joins.setdefault(slot.join.node, []).append(slot)
    return joins


def pieces_of(net: Unraveled, arrangement: Arrangement) -> list[Piece]:
    """All that is fitted, in order: kept blocks behind, or right before, the first that is gone."""
    joins = _joins(net)
    following = defaultdict[Node, list[Node]](list)
    for node, slots in joins.items():
        following[slots[0].join.bypass].append(node)
    gone = {node: all(arrangement[slot.index] is None for slot in slots) for node, slots in joins.items()}
    kept = [slot for slots in joins.values() for slot in slots if arrangement[slot.index] is not None]
    read = {entry for slot in kept for entry in slot.join.entries}

    def behind(node: Node) -> Node:
        """The last join of those that only hand on what this one gives; a kept branch beside them needs that itself."""
        while len(following[node]) == 1 and gone[following[node][0]] and node not in read:
            node = following[node][0]
        return node

    first = min((i for i, decision in enumerate(arrangement) if decision is None), default=len(arrangement))
    found = {i: own for i, own in endings(net.sliced).items() if arrangement[i] is not None}
    return [
        Piece(slot, found[slot.index], last)
        for node, slots in joins.items()
        for last in (behind(node),)
        for slot in slots
        if slot.index in found and first <= joins[last][-1].index
    ]


def far_norms(net: Unraveled, arrangement: Arrangement, pieces: Sequence[Piece]) -> Collection[str]:
    """Names of the statistics of norms whose inputs no fit brings near to what they were measured on: of kept blocks
    behind a gap that no fitted block before it makes up for, as far as to the next fitted one; without any, all."""
    if not pieces:
        return {name for name, _ in net.model.named_buffers()} if measures_norms(net) else ()
    joins, parameters = _joins(net), net.sliced.captured.parameters
    order, found, near = list(joins), set[str](), True
    fitted_at = {piece.slot.join.node: piece.behind for piece in pieces}
    bridged = {own for node, last in fitted_at.items() for own in order[order.index(node) + 1 : order.index(last) + 1]}
    for node, slots in joins.items():
        if all(arrangement[slot.index] is None for slot in slots):
            near = near and node in bridged
        elif node in fitted_at:
            near = True
        elif not near:
            inside = [part for slot in slots for part in net.sliced.slices[slot.place.slice]]
            found |= {parameters[own] for part in inside for own in part.all_input_nodes if own in parameters}
    return found


def require_fittable(net: Unraveled) -> None:
    """Raise InputError unless a branch ends in a layer that can be fitted, or there are batch norms."""
    if not norms_of(net.model) and not endings(net.sliced):
        raise InputError(
            "`refit` fits linear layers and convolutions that branches end in, or the statistics of batch norms, but "
            "the network has neither."
        )


def measures_norms(net: Unraveled) -> bool:
    """Whether a fit can have norms to measure, which runs the graph of train mode."""
    return bool(norms_of(net.model)) and len(endings(net.sliced)) < len(net.sliced.slots)


def positions(net: Unraveled) -> tuple[int, int]:
    """Of a sample of the example: the rows that the fit of a layer has of it, at the least and at the most."""
    found = [(own, hint_shape(own.layer) or (1,)) for own in endings(net.sliced).values()]
    rows = [prod(shape) // (shape[1] if own.window else shape[-1]) for own, shape in found] or [1]
    least, most = (max(1, number // net.programs.example_batch) for number in (min(rows), max(rows)))
    return least, most
