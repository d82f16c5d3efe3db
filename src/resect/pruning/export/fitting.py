"""Which units a search may remove so that formats can hold what it finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from resect.errors import ExportError, InputError
from resect.network.unraveled import Unraveled
from resect.pruning.export.formats import FORMATS
from resect.pruning.export.removed import blocks_in, entries
from resect.pruning.groups import Group, groups_of, indices
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
    units = {group.blocks for group in groups}
    if units == set(parts):
        return Fitted(settings, budget)
    names, unit = " and ".join(kinds), settings.called
    said = f"The search was kept to what {names} can do without, each alone"
    stay = set(range(len(net.blocks))).difference(*parts) | indices(net, settings.protected)
    kept = replace(settings, protected=tuple(sorted(stay)))
    if units.issuperset(parts):
        return Fitted(kept, budget, f"{said}: {len(parts)} of {plural(len(groups), unit)}.")
    layers = {group.blocks for group in groups_of(net, "layer")}
    kept = replace(kept, unit="layer" if layers.issuperset(parts) else parts)
    sizes = sorted({sum(set(group.blocks).issubset(part) for group in groups) for part in parts})
    each = f"{span(sizes[0], sizes[-1], unit)} each"
    why = f"{names} can only do without {kept.called}s of {each}"
    return Fitted(kept, _counted(budget, sizes, why, unit), f"{said}: {plural(len(parts), kept.called)} of {each}.")


def _counted(budget: Budget, sizes: Sequence[int], why: str, unit: str) -> Budget:
    """A budget in units as one in entries of so many units, `sizes`, rising; other budgets as they are.

    Raises:
        InputError: entries differ in size, or the number is no multiple of it, which `why` explains.
    """
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
    """The blocks of everything that the formats can do without, in order.

    Args:
        widened: where they cannot do without a unit, try the entries of the model's lists around it.

    Raises:
        ExportError: there is nothing.
    """
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
    """Why one of the formats cannot do without some blocks; None if all can."""
    for kind in kinds:
        try:
            FORMATS[kind].express(net, net.intact.without(blocks))
        except ExportError as error:
            return error
    return None
