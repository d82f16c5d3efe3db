"""Drawing single paths, uniformly among all of a length, so that those of different lengths share much of their way.

The lengths of one draw are coupled, which leaves each length's paths uniform and independent between draws, and lets a
backward sweep serve many paths at once: it pays only for the different ways back from the output. The network is cut
at joins that every path passes, the nearest half first. How many blocks a path takes in a part is drawn for one length
after the other, staying with the same number as often as the distributions allow (a maximal coupling); and of two
paths that differ in it, the shorter one's blocks are among the longer one's, as they follow the same random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resect.graph.routes import STEM, Routes, Start, Station

Edge = tuple[int | None, int]  # the slot whose branch is taken, None for the skip; the station where it comes from
Route = dict[int, Edge]  # per station that the route passes, how it goes on from there
_DIGITS = 1024  # bits of a random number at a station
_SMALLEST = 4  # joins that are not worth cutting


@dataclass(frozen=True)
class _Segment:
    """The part of the network between two joins that every path passes.

    Attributes:
        begin, end: the station where a path enters it (the output: the number of stations) and leaves it, or STEM.
        routes: all ways back to `end`, as its start.
        inside, before: numbers of ways by length: within the segment, and from its end on.
    """

    begin: int
    end: int
    routes: Routes
    inside: tuple[int, ...]
    before: tuple[int, ...]


class PathDraw:
    """Draws routes of a network."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self.segments = _segments(routes)

    def __call__(self, lengths: Sequence[int], draw: np.random.Generator) -> list[Route]:
        """One route of each length, each uniform among all of its length; see above for how they hang together."""
        numbers = [int.from_bytes(draw.bytes(_DIGITS // 8), "big") for _ in range(len(self.routes.stations) + 1)]
        groups: list[tuple[Route, dict[int, int]]] = [({}, {length: length for length in sorted(set(lengths))})]
        for segment in self.segments:
            grown = []
            for way, left in groups:
                taken = _coupled(segment, left, draw)
                for count in sorted(set(taken.values())):
                    part = _way(segment, count, numbers)
                    grown.append(({**way, **part}, {k: left[k] - count for k in left if taken[k] == count}))
            groups = grown
        ways = {length: way for way, members in groups for length in members}
        return [ways[length] for length in lengths]


def _segments(routes: Routes) -> list[_Segment]:
    segments: list[_Segment] = []
    begin, lowest = len(routes.stations), routes.start.skipped
    while begin - lowest > _SMALLEST and not routes.start.parameters:
        end = (begin + lowest) // 2
        part = Routes(routes.sliced, Start(end + 1))
        inside, before = _counts(part, begin), routes.counts_before(end).paths
        # The numbers of ways are exact integers of any size.
        through = np.convolve(np.array(inside, dtype=object), np.array(before, dtype=object))
        every = np.array(_counts(routes, begin), dtype=object)
        if not np.array_equal(np.trim_zeros(through, "b"), np.trim_zeros(every, "b")):  # some path does not pass there
            break
        segments.append(_Segment(begin, end, part, inside, before))
        begin = end
    return [*segments, _Segment(begin, STEM, routes, _counts(routes, begin), (1,))]


def _counts(routes: Routes, station: int) -> tuple[int, ...]:
    """Ways from the routes' start to a station by length."""
    return routes.counts.paths if station == len(routes.stations) else routes.counts_before(station).paths


def _coupled(segment: _Segment, left: dict[int, int], draw: np.random.Generator) -> dict[int, int]:
    """How many blocks each length takes within the segment, given how many it has left."""
    taken: dict[int, int] = {}
    last: tuple[int, np.ndarray] | None = None
    for length, rest in left.items():
        weights = [
            count * segment.before[rest - k] if 0 <= rest - k < len(segment.before) else 0
            for k, count in enumerate(segment.inside)
        ]
        total = sum(weights)
        chances = np.array([weight / total for weight in weights])  # of integers of any size
        if last is not None and draw.random() * last[1][last[0]] < chances[last[0]]:
            taken[length] = last[0]
        else:
            spare = chances if last is None else np.maximum(chances - last[1], 0)
            taken[length] = int(draw.choice(len(spare), p=spare / spare.sum()))
        last = taken[length], chances
    return taken


def _way(segment: _Segment, length: int, numbers: Sequence[int]) -> Route:
    """A way through the segment with so many branches, uniform among all."""
    route: Route = {}
    where, routes = segment.begin, segment.routes
    while True:
        station = routes.output if where == len(routes.stations) else routes.stations[where]
        slot, source = _edge(routes, station, length, numbers[where])
        route[where] = slot, segment.end if source == STEM else source
        length -= slot is not None
        if source == STEM:
            return route
        where = source


def _edge(routes: Routes, station: Station, length: int, number: int) -> Edge:
    weights = []
    for slot, source in station.edges:
        left = length - (slot is not None)
        before = routes.counts_before(source).paths
        weights.append(before[left] if 0 <= left < len(before) else 0)
    # Counts are exact integers beyond float64, so the choice is made among integers; the bias is below
    # sum(weights) / 2**_DIGITS.
    point, chosen = (number * sum(weights)) >> _DIGITS, 0
    while point >= weights[chosen]:
        point -= weights[chosen]
        chosen += 1
    return station.edges[chosen]
