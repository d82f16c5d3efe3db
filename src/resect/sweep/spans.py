"""Spans of consecutive blocks or layers: what plans delete, reverse and run side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf
from typing import Any

from resect.errors import InputError, whole_number
from resect.graph.decisions import Unit
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled


@dataclass(frozen=True)
class Span:
    """Consecutive units.

    Attributes:
        first: the first block.
        last: the last block.
        label: `start` and `length` in units; of layers also the `name` of the first.
    """

    first: int
    last: int
    label: dict[str, Any]


def spans(
    net: Unraveled, lengths: Iterable[int] | int | None, least: int, *, unit: Unit, middle: bool
) -> Iterator[Span]:
    """The spans of some lengths, all from `least` by default.

    Args:
        unit: what they are counted in: a "block", or a "layer", whose blocks stay together.
        middle: one of each length, around the middle of those units that stand in the middle of the network and can
            trade places; else at every start.

    Raises:
        InputError: `unit` is unknown, or a length is below `least` or above the number of units.
    """
    require_blocks(net)
    units = net.intact.units(unit)
    most = len(units)
    wanted = range(least, most + 1) if lengths is None else numbers("lengths", lengths, least, most, unit)
    low, high = _middle(net, units) if middle else (0, most)
    for length in wanted:
        starts = range(low, high - length + 1)
        for start in starts[(len(starts) - 1) // 2 :][:1] if middle else starts:
            name = {"name": net.intact.layers[units[start][0]]} if unit == "layer" else {}
            yield Span(units[start][0], units[start + length - 1][1], {"start": start, "length": length, **name})


def _middle(net: Unraveled, units: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Which units stand in the middle and can trade places: the first, and the one behind the last."""
    shapes = [{block.span for block in net.blocks[first : last + 1]} for first, last in units]
    runs = [[i for i, _ in run] for _, run in groupby(enumerate(shapes), key=lambda entry: entry[1])]
    centre = (len(units) - 1) / 2
    nearest = min(runs, key=lambda run: (max(run[0] - centre, centre - run[-1], 0), -len(run)))
    return nearest[0], nearest[-1] + 1


def numbers(name: str, given: Iterable[int] | int, least: int, most: int | None = None, of: str = "block") -> list[int]:
    """One whole number or several, from `least` to that of the blocks or layers; InputError for others, or none."""
    wanted = list(given) if isinstance(given, Iterable) else [given]
    whole = [number for number in map(whole_number, wanted) if number is not None]
    top = inf if most is None else most
    if not wanted or len(whole) < len(wanted) or not all(least <= number <= top for number in whole):
        range_of = f"numbers of {of}s from {least} to {most}" if most else f"whole numbers of at least {least}"
        raise InputError(f"`{name}` must hold {range_of}, got {wanted}.")
    return whole
