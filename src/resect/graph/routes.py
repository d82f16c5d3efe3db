"""The routes of a signal from the output back to the stem: what a path is, in any network.

At a join a route takes either the skip or one branch; everywhere else there is nothing to choose. In a chain of n
blocks that gives the 2^n paths of Veit et al. (section 3, Figure 1); parallel branches, which read one state, exclude
each other, and the blocks inside another block's branch count only on routes through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from torch.fx import Node

from resect.graph.ops import SHAPE_ONLY, op_name
from resect.graph.outputs import scored_output
from resect.graph.parts import operands_read
from resect.graph.slices import Sliced

STEM = -1


@dataclass(frozen=True)
class Start:
    """Where routes begin: before the first `skipped` joins, or at the nodes of a parameter."""

    skipped: int = 0
    parameters: frozenset[Node] = frozenset()


@dataclass(frozen=True)
class Station:
    """A join, or the output, with the edges by which a route can go on from it.

    Attributes:
        edges: (slot of the branch taken or None for the skip, station where the edge comes from).
    """

    edges: tuple[tuple[int | None, int], ...]


@dataclass(frozen=True)
class Counts:
    """Paths by length.

    Attributes:
        paths: entry k is the exact number of paths of length k.
        layers: entry k is the sum of their lengths in layers.
    """

    paths: tuple[int, ...]
    layers: tuple[int, ...]

    def __add__(self, other: Counts) -> Counts:
        return Counts(_add(self.paths, other.paths), _add(self.layers, other.layers))

    def through(self, layers: int) -> Counts:
        """The same paths, each extended by one branch of so many layers."""
        totals = tuple(total + layers * count for total, count in zip(self.layers, self.paths, strict=True))
        return Counts((0, *self.paths), (0, *totals))


class Routes:
    """All routes from `start` (the stem by default) to an output; station i is the join that ends slice i + 1."""

    def __init__(self, sliced: Sliced, start: Start | None = None, output: str | None = None) -> None:
        self.sliced = sliced
        self.start = start or Start()
        joins = [part[-1] for part in sliced.slices[1:-1]]
        self._station = {node: i for i, node in enumerate(joins)}
        self._gate = {slot.place.gate: slot for slot in sliced.slots}
        self._sources: dict[Node, frozenset[int]] = {}
        self.stations = tuple(Station(self._edges(node.all_input_nodes)) for node in joins)
        self.output = Station(self._edges([scored_output(sliced.captured, output)]))
        self._counts: list[Counts] = []  # of the paths to each station
        for station in self.stations:
            self._counts.append(self._sum(station))

    def sources(self, node: Node) -> frozenset[int]:
        """The stations from which the signal in `node` comes."""
        if node not in self._sources:
            if node in self._gate:  # it lives on beyond its join, as a part of the same branch
                stations = {self._station[self._gate[node].join.node]}
            else:
                stations = {source for _, source in self._edges([node])}
            self._sources[node] = frozenset(stations)
        return self._sources[node]

    def _edges(self, start: Sequence[Node]) -> tuple[tuple[int | None, int], ...]:
        """The edges found by walking back from `start` to the nearest joins, gates and stem values."""
        edges: dict[tuple[int | None, int], None] = {}
        reached = self._walk(start)
        for node in reached:
            if node in self._gate:
                slot = self._gate[node]
                if slot.join.node in reached:  # a join on a part of the branch: the rest of it is the same route
                    continue
                for _, source in self._edges(node.all_input_nodes):
                    edges[slot.index, source] = None
            else:
                station = self._station.get(node, STEM)
                edges[None, station if station >= self.start.skipped else STEM] = None
        return tuple(edges)

    def _walk(self, start: Sequence[Node]) -> list[Node]:
        ends = self.start.parameters or self.sliced.stem
        stops = {*self._station, *self._gate, *ends}
        pending, seen, reached = list(start), set(start), []
        while pending:
            node = pending.pop()
            if node in stops:
                reached.append(node)
            elif op_name(node) not in SHAPE_ONLY:
                fresh = [operand for operand in operands_read(node, stops) if operand not in seen]
                seen.update(fresh)
                pending.extend(fresh)
        return reached

    def _sum(self, station: Station) -> Counts:
        total = Counts((0,), (0,))
        for slot, source in station.edges:
            before = self.counts_before(source)
            total += before if slot is None else before.through(self.sliced.slots[slot].block.layers)
        return total

    def counts_before(self, source: int) -> Counts:
        """The paths from the stem to a station."""
        return Counts((1,), (0,)) if source == STEM else self._counts[source]

    @property
    def counts(self) -> Counts:
        """All paths of the network by length, 0 to the number of blocks."""
        total = self._sum(self.output)
        missing = len(self.sliced.slots) + 1 - len(total.paths)
        return Counts(total.paths + (0,) * missing, total.layers + (0,) * missing)


def _add(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip_longest(first, second, fillvalue=0))
