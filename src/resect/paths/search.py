"""The search for strong paths, from the output back.

A node of the search is the part of a path from the output down to some join, with its cotangent; expanding it passes
that join. Where all nodes fit into the limit, all are expanded, the deepest first, which needs the least memory. Else
the next is the one whose cotangent, times the gain that the whole gradient finds on the best edges below, is largest.
That order is a guess. What is proven rests on a bound: no path that begins with a node can be stronger than the node's
norm times the product of the operator norms below it, so that a path stronger than the bounds of all nodes left open is
surely among the strongest.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from resect.calculus.linear import Lanes
from resect.engines.work import Progress
from resect.graph.routes import Routes
from resect.measuring.statistics import bootstrap_interval
from resect.paths.gains import each_square, gradient_gains, largest_gains, square
from resect.paths.lanes import group_size
from resect.paths.sampler import Edge
from resect.paths.spectrum import aligned
from resect.paths.trace import Trace, require_finite
from resect.paths.tree import of_source, over_edge

_SIGNS = 32  # random signs, from which the squared norms of the paths that were not found are estimated


@dataclass(frozen=True)
class Path:
    """A path that was found: its blocks, its norm (root mean square over samples), its share of the gradient."""

    blocks: tuple[int, ...]
    norm: float
    share: float


@dataclass(order=True)
class _Node:
    """A path from the output down to before some slice. Sorted by its estimate, the largest first."""

    estimate: float  # negative, for the heap
    number: int
    norm: float = field(compare=False)
    station: int = field(compare=False)  # where the path goes on
    blocks: tuple[int, ...] = field(compare=False)
    lanes: Lanes = field(compare=False)


class Search:
    """Open nodes by the slice that is next on their way; the slices of the batch stay linearised.

    Args:
        count: how many paths are wanted.
        limit: nodes to expand at the most.
        room: nodes that the memory holds.

    Attributes:
        paths: all that were completed.
        expanded, dropped: nodes that were expanded, and that the memory did not hold.
        squares: <g, g>, summed over samples.
    """

    def __init__(self, trace: Trace, routes: Routes, room: int, count: int, limit: int) -> None:
        self.trace, self.routes, self.room, self.count = trace, routes, room, count
        self.slices = dict(trace.slices())
        self.starts = tuple(dict.fromkeys(source for _, source in routes.output.edges))  # stations
        self.size = self._tree_size()
        # Nodes that are open at once where one is taken at a time, the deepest first: at each join all edges but one.
        self.depth_first = len(self.starts) + sum(len(routes.stations[index - 1].edges) - 1 for index in self.slices)
        self.whole = self.size <= limit and self.depth_first <= room
        self.most = min(self.size, limit)
        self.squares = square(trace.true_gradient)
        require_finite(np.array([self.squares]), trace.target.name)
        self.paths: list[Path] = []
        self.best: list[tuple[float, int, Path, Tensor]] = []  # a heap of `count`, the weakest first, with gradients
        self.expanded, self.dropped, self.dropped_bound, self.numbers = 0, 0, 0.0, 0
        self.heaps: dict[int, list[_Node]] = {}

    def run(self, progress: Progress) -> None:
        """Expand all nodes, or as many as the limit allows; progress is told the part that is done."""
        for station in self.starts:
            lanes = of_source(self.trace.scalar_gradient, station, self.trace, self.routes)
            self._open(self.trace.last, lanes, station, [()])
        while self.expanded < self.most and any(self.heaps.values()):
            nodes = self._take()
            self.expanded += len(nodes)
            self._prune()
            progress(len(nodes) / self.most)

    @property
    def open(self) -> int:
        """Nodes that were left."""
        return sum(map(len, self.heaps.values())) + self.dropped

    @property
    def bound(self) -> float:
        """No path that begins with an open node is stronger, root mean square over samples."""
        norms = [node.norm * self.limits[index] for index, heap in self.heaps.items() for node in heap]
        return float(max([*norms, self.dropped_bound], default=0.0) / len(self.trace.targets) ** 0.5)

    def total(self) -> tuple[float, float, float]:
        """The squared norms of all paths, summed over paths and samples; and the ends of its 95 % interval.

        Exact if no node was left. Else, under random signs of the branches, the expected squared norm of the gradient
        less the best paths is the sum over all other paths.
        """
        samples = len(self.trace.targets)
        known = sum(path.norm**2 for path in self.paths) * samples
        if not self.open:
            return known, known, known
        best = sum(path.norm**2 for *_, path, _ in self.best) * samples
        left = np.array(self._squares_left())
        low, high = bootstrap_interval(left[None])
        return max(known, best + left.mean()), float(np.fmax(known, best + low[0])), float(best + high[0])

    def _tree_size(self) -> int:
        """How many nodes there are in all: the paths from the output down to every slice."""
        below = dict.fromkeys(range(-1, self.trace.last), 0)
        for index in sorted(self.slices):
            joined = sum(below[source] for _, source in self.routes.stations[index - 1].edges)
            below = {station: 1 + nodes for station, nodes in below.items()}
            below[index - 1] = 1 + joined
        return sum(below[station] for station in self.starts)

    def _take(self) -> list[_Node]:
        """Expand some nodes before one slice."""
        some = [index for index, heap in self.heaps.items() if heap]
        index = min(some) if self.whole else min((self.heaps[index][0].estimate, index) for index in some)[1]
        heap = self.heaps[index]
        most = min(group_size(value[0] for value in heap[0].lanes.values()), self.most - self.expanded)
        if self.whole:
            most = min(most, self.room // self.depth_first)
        nodes = [heapq.heappop(heap)]
        while heap and len(nodes) < most and (self.whole or -heap[0].estimate >= -nodes[0].estimate / 2):
            nodes.append(heapq.heappop(heap))
        self._expand(index, nodes)
        return nodes

    def _expand(self, index: int, nodes: list[_Node]) -> None:
        groups: dict[tuple[int, frozenset[int]], list[_Node]] = {}
        for node in nodes:
            groups.setdefault((node.station, frozenset(node.lanes)), []).append(node)
        for (station, _), group in groups.items():
            lanes = {key: torch.cat([node.lanes[key] for node in group]) for key in group[0].lanes}
            edges: Sequence[Edge | None] = self.routes.stations[station].edges if station == index - 1 else [None]
            for edge in edges:
                before = over_edge(self.slices[index], edge, lanes, self.trace, self.routes, station)
                taken = () if edge is None or edge[0] is None else (edge[0],)
                blocks = [(*taken, *node.blocks) for node in group]
                self._open(index - 1, before, station if edge is None else edge[1], blocks)

    def _open(self, index: int, lanes: Lanes, station: int, blocks: list[tuple[int, ...]]) -> None:
        """Go on with some paths before a slice; those before the first are complete."""
        if not lanes:  # nothing comes this way
            return
        if index < self.trace.first:
            self._finish(lanes, blocks)
            return
        norms = each_square(lanes).sqrt().tolist()
        for i, (taken, norm) in enumerate(zip(blocks, norms, strict=True)):
            own = {key: value[i : i + 1].clone() for key, value in lanes.items()}
            self.numbers += 1
            node = _Node(-norm if self.whole else -norm * self.gains[index], self.numbers, norm, station, taken, own)
            heapq.heappush(self.heaps.setdefault(index, []), node)

    def _finish(self, lanes: Lanes, blocks: list[tuple[int, ...]]) -> None:
        gradients, truth = aligned(self.trace.to_target(lanes), self.trace.true_gradient)
        norms = (each_square({0: gradients}) / len(self.trace.targets)).sqrt().tolist()
        shares = ((gradients * truth).sum((1, 2)) / self.squares).tolist()
        for path, gradient in zip(map(Path, blocks, norms, shares), gradients, strict=True):
            self.paths.append(path)
            if not self.whole and (len(self.best) < self.count or path.norm > self.best[0][0]):
                heapq.heappush(self.best, (path.norm, len(self.paths), path, gradient.clone()))
                if len(self.best) > self.count:
                    heapq.heappop(self.best)

    def _prune(self) -> None:
        """Forget the least promising nodes where the memory is full."""
        excess = sum(map(len, self.heaps.values())) - self.room
        if excess <= 0:
            return
        # a step opens few nodes: to find as many is quicker than to sort all
        worst = heapq.nlargest(excess, ((node, index) for index, heap in self.heaps.items() for node in heap))
        gone = {node.number for node, _ in worst}
        self.dropped += excess
        self.dropped_bound = max(self.dropped_bound, *(node.norm * self.limits[index] for node, index in worst))
        for index in {index for _, index in worst}:
            self.heaps[index] = [node for node in self.heaps[index] if node.number not in gone]
            heapq.heapify(self.heaps[index])

    def _squares_left(self) -> list[float]:
        """Under each of some random signs, the squared norm of the gradient less the best paths, over all samples."""
        drawn = np.random.default_rng(0).choice([-1.0, 1.0], (_SIGNS, len(self.routes.sliced.slots)))
        size = max(1, min(self.room, group_size(value[0] for value in self.trace.scalar_gradient.values())))
        squares: list[float] = []
        for start in range(0, _SIGNS, size):
            signs = torch.from_numpy(drawn[start : start + size])
            lanes = {
                key: value.expand(len(signs), *value.shape[1:]) for key, value in self.trace.scalar_gradient.items()
            }
            for part in self.slices.values():
                lanes, _ = part.backward(lanes, signs)
            left, _ = aligned(self.trace.to_target(lanes), self.trace.true_gradient)
            for *_, path, gradient in self.best:
                left = left - signs[:, list(path.blocks)].prod(1).to(gradient).view(-1, 1, 1) * gradient
            squares += left.square().sum((1, 2)).tolist()
        return squares

    @cached_property
    def gains(self) -> dict[int, float]:
        """Per slice, from behind it to the target: the gain of the gradient itself on its best edges."""
        return gradient_gains(self.trace, self.routes)

    @cached_property
    def limits(self) -> dict[int, float]:
        """Per slice, from behind it to the target: the largest gain that any cotangent can find."""
        return largest_gains(self.trace, self.routes)
