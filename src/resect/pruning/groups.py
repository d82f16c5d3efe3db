"""What is removed as one: a block, a layer, or a group of the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from resect.errors import InputError
from resect.graph.decisions import Unit
from resect.network.arrangement import Arrangement
from resect.network.blocks import block_indices
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled

AnyUnit = Unit | Sequence[Any]
"""What users give as `unit`: "block", "layer", or groups of blocks, each a collection of numbers and names."""


@dataclass(frozen=True)
class Group:
    """Blocks that are removed together."""

    name: str
    blocks: tuple[int, ...]


def groups_of(net: Unraveled, unit: AnyUnit) -> tuple[Group, ...]:
    """The units of a network, in order; blocks in no group of the user's stay.

    Raises:
        InputError: the network has no blocks, the unit is unknown, or groups are empty or share a block.
    """
    require_blocks(net)
    if isinstance(unit, str):
        if unit not in get_args(Unit):
            raise InputError(f"`unit` must be block, layer, or groups of blocks, got {unit!r}.")
        names = net.intact.layers if unit == "layer" else net.blocks.names
        return tuple(
            Group(names[first], tuple(range(first, last + 1)))
            for first, last in net.intact.units(unit)  # type: ignore[arg-type]  # it is one
        )
    groups = [_group(net, blocks) for blocks in unit]
    taken: set[int] = set()
    for group in groups:
        if shared := taken.intersection(group.blocks):
            raise InputError(f"groups of blocks must share none, but two hold block {min(shared)}.")
        taken.update(group.blocks)
    if not groups:
        raise InputError("`unit` must hold at least one group of blocks, got none.")
    return tuple(groups)


def indices(net: Unraveled, blocks: Any) -> set[int]:
    """The indices of a block or several, by number or name.

    Raises:
        ArrangementError: there is no such block.
    """
    return block_indices([blocks], len(net.blocks), net.blocks.names)


def _group(net: Unraveled, blocks: Any) -> Group:
    chosen = tuple(sorted(indices(net, blocks)))
    if not chosen:
        raise InputError("`unit` must be groups of at least one block each, got an empty one.")
    return Group("+".join(net.blocks[i].name for i in chosen), chosen)


def without(net: Unraveled, groups: Sequence[Group], removed: Iterable[int]) -> Arrangement:
    """The network without some of the groups, by number."""
    return net.intact.without([block for i in removed for block in groups[i].blocks])
