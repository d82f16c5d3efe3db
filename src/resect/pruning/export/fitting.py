"""Which units a search may remove so that formats can hold what it finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from resect.errors import ExportError, InputError
from resect.network.blocks import block_indices
from resect.network.unraveled import Unraveled
from resect.pruning.export.formats import FORMATS
from resect.pruning.export.removed import blocks_in, entries
from resect.pruning.groups import Group, groups_of
from resect.pruning.settings import Budget, PruneSettings
from resect.words import plural, span


@dataclass(frozen=True)
class Fitted:
    """A search that is kept to what formats can do without.

    Attributes:
        said: how, in a sentence; none where every unit may go as before.
    """

    settings: PruneSettings
    budget: Budget
    said: str = ""


def fitted(net: Unraveled, settings: PruneSettings, budget: Budget, kinds: Sequence[str]) -> Fitted:
    """The same search among the units without which all formats can hold the network, each alone.

    Where they cannot do without a block or a layer by itself, it goes with the rest of the smallest entry of the
    model's lists that they can do without, such as attention and MLP of a decoder layer.

    Args:
        kinds: of `FORMATS`.

    Raises:
        ExportError: there is no such unit, with the reason for the first, or for the largest entry around it.
        InputError: the number of units to remove is none that whole entries have.
    """
    groups = groups_of(net, settings.unit)
    parts = _parts(net, groups, kinds, widened=isinstance(settings.unit, str))
    if len(parts) == len(groups) and {group.blocks for group in groups} == set(parts):
        return Fitted(settings, budget)
    others = set(range(len(net.blocks))).difference(*parts)
    others |= block_indices(settings.protected, len(net.blocks), net.blocks.names)
    settings, unit = replace(settings, protected=tuple(sorted(others))), _unit(settings)
    names, kept = " and ".join(kinds), f"The search was kept to what {' and '.join(kinds)} can do without, each alone"
    if {group.blocks for group in groups}.issuperset(parts):
        return Fitted(settings, budget, f"{kept}: {len(parts)} of {plural(len(groups), unit)}.")
    layers = {group.blocks for group in groups_of(net, "layer")}
    settings = replace(settings, unit="layer" if layers.issuperset(parts) else parts)
    sizes = sorted({sum(set(group.blocks).issubset(part) for group in groups) for part in parts})
    each = f"{span(sizes[0], sizes[-1], unit)} each"
    said = f"{kept}: {plural(len(parts), _unit(settings))} of {each}."
    why = f"{names} can only do without {_unit(settings)}s of {each}"
    return Fitted(settings, _counted(budget, sizes, why, unit), said)


def _unit(settings: PruneSettings) -> str:
    return settings.unit if isinstance(settings.unit, str) else "group"


def _counted(budget: Budget, sizes: Sequence[int], why: str, unit: str) -> Budget:
    """A number of units as one of entries that hold several."""
    if budget.remove is None:
        return budget
    if len(sizes) > 1:
        raise InputError(
            f"`remove` counts {unit}s, but {why}. Give a budget of `params`, `flops` or `latency`, or another `unit`."
        )
    if budget.remove % sizes[0]:
        raise InputError(f"`remove` must be a multiple of {sizes[0]}, as {why}, got {budget.remove}.")
    return Budget(remove=budget.remove // sizes[0])


def _parts(net: Unraveled, groups: Sequence[Group], kinds: Sequence[str], *, widened: bool) -> list[tuple[int, ...]]:
    """The blocks of everything that the formats can do without, in order."""
    parts: list[tuple[int, ...]] = []
    reasons: list[ExportError] = []
    for group in groups:
        taken = {block for part in parts for block in part}
        ways = [group.blocks, *(_around(net, groups, group) if widened else ())]
        for blocks in ways if taken.isdisjoint(group.blocks) else ():
            if not taken.isdisjoint(blocks):
                continue
            if (refused := _refused(net, blocks, kinds)) is None:
                parts.append(blocks)
                break
            reasons += [refused] if group is groups[0] else []
    if not parts:
        raise reasons[-1]
    return parts


def _around(net: Unraveled, groups: Sequence[Group], group: Group) -> Iterator[tuple[int, ...]]:
    """The blocks of the entries of lists that hold a unit and others, all of them whole; the smallest first."""
    names = net.blocks.names
    for entry in reversed(list(entries(net.model, names[group.blocks[0]]))):
        inside = blocks_in(entry, names)
        units = [other.blocks for other in groups if inside.intersection(other.blocks)]
        if inside > set(group.blocks) and inside == {block for blocks in units for block in blocks}:
            yield tuple(sorted(inside))


def _refused(net: Unraveled, blocks: Sequence[int], kinds: Sequence[str]) -> ExportError | None:
    """Why a format cannot do without some blocks; None if all can."""
    for kind in kinds:
        try:
            FORMATS[kind].express(net, net.intact.without(blocks))
        except ExportError as error:
            return error
    return None
