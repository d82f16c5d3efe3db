"""A random sign on every edge of the routes, so that the product of signs along one route tells it from all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from torch.fx import Node

from resect.calculus.linear import Lanes
from resect.graph.routes import Routes

Source = tuple[int, int | None, int]  # station (the output's is their number), slot or None for the skip, and source


def several_sources(routes: Routes) -> list[Source]:
    """The edges that are told from others by their source alone: where a skip, a branch or the output reads several."""
    edges: list[Source] = []
    for number, station in enumerate((*routes.stations, routes.output)):
        times = Counter(slot for slot, _ in station.edges)
        edges += [(number, slot, source) for slot, source in station.edges if times[slot] > 1]
    return edges


class Signs:
    """Signs of one draw.

    Attributes:
        slots: by slot, on its branch.
        output: the station that the output is.
    """

    def __init__(self, slots: Mapping[int, float], sources: Mapping[Source, float], routes: Routes) -> None:
        self.slots, self._sources, self._routes = slots, sources, routes
        self.output = len(routes.stations)
        self._parted = {(station, slot) for station, slot, _ in sources}

    @classmethod
    def drawn(cls, routes: Routes, draw: np.random.Generator) -> Signs:
        """Independent signs with equal odds."""
        several = several_sources(routes)
        slots = dict(enumerate(draw.choice([-1.0, 1.0], len(routes.sliced.slots))))
        return cls(slots, dict(zip(several, draw.choice([-1.0, 1.0], len(several)), strict=True)), routes)

    def parts(self, station: int, slot: int | None) -> bool:
        """Whether the edges over a slot, or the skip, come from several sources."""
        return (station, slot) in self._parted

    def parted(self, station: int, slot: int | None, cotangents: Lanes, nodes: Sequence[Node]) -> Lanes:
        """The cotangents of live values that came over an end, each with the sign of where it comes from."""
        if not self.parts(station, slot):
            return cotangents
        return {key: value * self._sign(station, slot, nodes[key]) for key, value in cotangents.items()}

    def _sign(self, station: int, slot: int | None, node: Node) -> float:
        """Of a value that holds several sources that cannot be told apart, the sign of the first."""
        edges = ((station, slot, source) for source in sorted(self._routes.sources(node)))
        return next((self._sources[edge] for edge in edges if edge in self._sources), 1.0)
