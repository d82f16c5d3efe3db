"""Many single paths in one backward sweep.

Paths that agree from the output down to some join share their lane down to there: the lanes are the leaves of a tree
that grows on the way back. A lane that only takes a skip stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from resect.calculus.linear import Lanes, add_into
from resect.engines.work import Progress
from resect.graph.routes import Routes
from resect.paths.lanes import Watch, apart, buffer, first_lanes, group_size
from resect.paths.sampler import Edge, Route
from resect.paths.trace import SliceGradient, Trace, enter


def path_lanes(
    trace: Trace, routes: Routes, drawn: Sequence[Route], most: int, progress: Progress | None = None
) -> Iterator[tuple[list[int], Lanes, np.ndarray]]:
    """The gradients of routes, back to the live values before the first slice of the trace's target.

    Args:
        most: lanes at one time; the routes are taken in as many parts as that needs.

    Yields:
        The routes of a part (indices into `drawn`), their lanes (L, B, ...) and exponents (L,).
    """
    order = sorted(range(len(drawn)), key=lambda i: _from_output(drawn[i]))
    for first in range(0, len(order), most):
        part = order[first : first + most]
        tree = _Tree(trace.scalar_gradient, [drawn[i] for i in part], len(routes.stations))
        for index, gradient in trace.slices():
            tree.through(gradient, index - 1, routes, trace)
            if progress:
                progress(len(part) / len(order))
        slots = sorted(tree.members)
        yield [part[tree.members[slot][0]] for slot in slots], tree.lanes, tree.exponents


def _from_output(route: Route) -> list[tuple[int, int, int]]:
    """A key that puts routes side by side that agree longest from the output on."""
    return [(-where, -1 if slot is None else slot, source) for where, (slot, source) in sorted(route.items())[::-1]]


_Way = tuple[Edge | None, int | None]  # the edge over this join, None for past it; the station ahead of the route


class _Tree:
    """The lanes of some different routes.

    Args:
        output: the station that the output is.

    Attributes:
        members: per lane in use the routes that share it.
        ahead: per route the next station that it passes, if it says so.
    """

    def __init__(self, start: Lanes, drawn: Sequence[Route], output: int) -> None:
        self.drawn = drawn
        self.ahead = [route[output][1] if output in route else None for route in drawn]
        self.lanes = first_lanes(start, len(drawn))
        self.exponents = np.zeros(len(drawn), dtype=np.int64)
        self.members: dict[int, list[int]] = {0: list(range(len(drawn)))}

    def through(self, gradient: SliceGradient, station: int, routes: Routes, trace: Trace) -> None:
        """Back through one join, every lane over the edges that its routes take there."""
        moves = self._grow(station)
        step = _Step(self, gradient)
        for in_place in (False, True):  # a lane's own place is overwritten last, when all that branch off are served
            for (edge, ahead), pairs in moves.items():
                chosen = [pair for pair in pairs if (pair[0] == pair[1]) == in_place]
                if chosen:
                    step.move(edge, ahead, chosen, routes, trace)
        step.watch.settle(self.lanes, self.exponents)

    def _grow(self, station: int) -> dict[_Way, list[tuple[int, int]]]:
        """Split the lanes whose routes part here: per way pairs (lane before, lane behind)."""
        moves: dict[_Way, list[tuple[int, int]]] = {}
        members: dict[int, list[int]] = {}
        free = len(self.members)
        for lane, routes in self.members.items():
            by_way: dict[_Way, list[int]] = {}
            for route in routes:
                edge = self.drawn[route].get(station)
                by_way.setdefault((edge, self.ahead[route]), []).append(route)
                self.ahead[route] = self.ahead[route] if edge is None else edge[1]
            ways = sorted(by_way, key=lambda way: way[0] is not None and way[0][0] is not None)  # a skip stays in place
            for i, way in enumerate(ways):
                place = lane if i == 0 else free
                free += i > 0
                members[place] = by_way[way]
                moves.setdefault(way, []).append((lane, place))
        self.members = members
        return moves


class _Step:
    """One join, with the lanes that end there."""

    def __init__(self, tree: _Tree, gradient: SliceGradient) -> None:
        self.tree, self.gradient = tree, gradient
        self.ending, self.stays, self.reusable = enter(gradient, tree.lanes)
        self.present = tree.lanes.keys() - {self.stays}
        self.watch = Watch()

    def move(
        self, edge: Edge | None, ahead: int | None, moves: list[tuple[int, int]], routes: Routes, trace: Trace
    ) -> None:
        """Bring lanes over one way to their places."""
        in_place = moves[0][0] == moves[0][1]
        if in_place and edge is not None and edge[0] is None and self.stays is not None and not self.present:
            return
        size = group_size(value[0] for value in [*self.ending.values(), *self.tree.lanes.values()])
        for start in range(0, len(moves), size):
            before, behind = (list(column) for column in zip(*moves[start : start + size], strict=True))
            moved = over_edge(self.gradient, edge, self._lanes(before), trace, routes, ahead)
            self._write(moved, before, behind)

    def _lanes(self, which: list[int]) -> Lanes:
        every = {**self.ending, **{key: self.tree.lanes[key] for key in self.present}}
        return {key: _picked(value, which) for key, value in every.items()}

    def _write(self, moved: Lanes, before: list[int], behind: list[int]) -> None:
        tree = self.tree
        if moved:
            tree.exponents[behind] = tree.exponents[before]
            self.watch.note(behind, moved.values())
            moved = {key: apart(value, [*self.ending.values(), *tree.lanes.values()]) for key, value in moved.items()}
        for key, value in moved.items():
            if key not in tree.lanes:
                tree.lanes[key] = buffer(len(tree.drawn), value[0], self.reusable)
            tree.lanes[key].index_copy_(0, torch.tensor(behind, device=value.device), value)
        for key in tree.lanes.keys() - moved.keys():
            tree.lanes[key][behind] = 0
        self.reusable = []


def _picked(lanes: Tensor, which: list[int]) -> Tensor:
    if which == list(range(which[0], which[0] + len(which))):
        return lanes[which[0] : which[0] + len(which)]
    return lanes[torch.tensor(which, device=lanes.device)]


def over_edge(
    part: SliceGradient,
    edge: Edge | None,
    cotangents: Lanes,
    trace: Trace,
    routes: Routes,
    ahead: int | None = None,
) -> Lanes:
    """From behind a join to before it, over one edge; for None past the join. May hold views of what was given.

    Args:
        ahead: the next station of the route, where it says so: only what comes from there goes on.
    """
    if ahead is not None:
        cotangents = of_source(cotangents, ahead, trace, routes)
    total = {key: value for key, value in cotangents.items() if not part.ends_here(key)}
    ends, direct = part.to_ends({key: value for key, value in cotangents.items() if key not in total})
    if edge is not None:
        end = part.end(edge[0])
        over = part.from_ends({end: ends[end]}) if end in ends else {}
        add_into(total, of_source(over, edge[1], trace, routes))
    add_into(total, direct)
    return total


def of_source(cotangents: Lanes, source: int, trace: Trace, routes: Routes) -> Lanes:
    """Those of the live values that come from one station: a branch may read several states (U-Net, DenseNet)."""
    if len(cotangents) < 2:
        return cotangents
    return {key: value for key, value in cotangents.items() if source in routes.sources(trace.programs.keys.nodes[key])}
