"""The strongest single paths, found by best-first search from the output back.

A node of the search is the part of a path from the output down to some join, with its cotangent. The next to be
expanded is the one whose cotangent, times the gain that the whole gradient finds on the best edges below, is largest.
That order is a guess. What is proven rests on a bound: no path that begins with a node can be stronger than the node's
norm times the product of the operator norms below it, so that a path stronger than the bounds of all nodes left open is
surely among the strongest.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from resect.calculus.linear import Lanes
from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import DataError, InputError, require_whole
from resect.graph.routes import Routes
from resect.measuring.batches import Batch, Batches, batches_of
from resect.measuring.results import Shown, require_alike
from resect.network.unraveled import Unraveled
from resect.paths.lanes import group_size, widened
from resect.paths.sampler import Edge
from resect.paths.settings import PathSettings, PathWork, Traces, passing
from resect.paths.spectrum import aligned
from resect.paths.trace import SliceGradient, Trace, require_finite
from resect.paths.tree import of_source, over_edge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POWER_STEPS = 15
_FACTS = ("bound", "expanded", "open", "settled", "samples", "squares")


@dataclass(frozen=True, repr=False)
class StrongPaths(Shown):
    """The strongest paths that a search has found, and what is known about all others.

    Attributes:
        table: one row a path, the strongest first: `blocks` (tuple of indices), `length`, `layers`, `norm` (root mean
            square over samples of the norm of the gradient along it), `relative` (norm over that of the whole
            gradient), `share` (of the gradient; can be negative).
        bound: no path that was not completed is stronger, as far as the operator norms are right; they come from
            power iteration, which approaches them from below.
        expanded: nodes of the search that were expanded.
        open: nodes that were left.
        settled: whether the search ended because, by its own estimate, nothing left is stronger; else because of its
            limit.
        at: where the gradient is measured.
        samples: of the search.
        squares: <g, g>, summed over them.
    """

    table: pd.DataFrame
    bound: float
    expanded: int
    open: int
    settled: bool
    at: str
    samples: int
    squares: float

    @classmethod
    def joined(cls, parts: Sequence[StrongPaths]) -> StrongPaths:
        """Searches of one network on other samples each, as one: the paths that all of them found.

        The norm of a path over all samples is known if every part found it. Of any other path each part knows its norm
        or the part's bound, which together bound it.

        Raises:
            InputError: the parts were measured at different places, or have no path in common.
        """
        require_alike(parts, "at")
        samples, squares = sum(part.samples for part in parts), sum(part.squares for part in parts)
        norms, shares = (
            [dict(zip(part.table["blocks"], part.table[column], strict=True)) for part in parts]
            for column in ("norm", "share")
        )

        def norm_of(path: tuple[int, ...] | None) -> float:
            known = zip(norms, parts, strict=True)
            return math.sqrt(sum(own.get(path, part.bound) ** 2 * part.samples for own, part in known) / samples)

        def share_of(path: tuple[int, ...]) -> float:
            return float(sum(own[path] * part.squares for own, part in zip(shares, parts, strict=True)) / squares)

        common = set(norms[0]).intersection(*norms[1:])
        if not common:
            raise InputError("`parts` must have a path in common to be joined, but have none. Search for more paths.")
        rows = parts[0].table[parts[0].table["blocks"].isin(common)]
        table = rows.assign(norm=rows["blocks"].map(norm_of), share=rows["blocks"].map(share_of))
        table["relative"] = table["norm"] / math.sqrt(squares / samples)
        others = set().union(*norms) - common
        return cls(
            table.sort_values("norm", ascending=False, ignore_index=True),
            bound=max(map(norm_of, [None, *others])),
            expanded=sum(part.expanded for part in parts),
            open=sum(part.open for part in parts) + len(others),
            settled=all(part.settled for part in parts),
            at=parts[0].at,
            samples=samples,
            squares=squares,
        )

    @property
    def proven(self) -> int:
        """How many of the paths are surely the strongest, in this order: those at least as strong as `bound`."""
        return int((self.table["norm"] >= self.bound).sum())

    def summary(self) -> str:
        """What is proven about the paths and what is not."""
        many, one, best = len(self.table), len(self.table) == 1, self.table["norm"].iloc[0]
        if not self.open:
            which = "this one is" if one else f"these {many} are"
            return f"Every path was looked at ({self.expanded} nodes): {which} the strongest."
        ended = "nothing left open seemed stronger" if self.settled else "its limit was reached"
        first = "The first is" if self.proven == 1 else f"The first {self.proven} are"
        known = f"{first} proven to be the strongest" if self.proven else "None is proven to be so"
        reach = f"as strong as {self.bound / best:.3g} times the first" if best else "stronger"
        return (
            f"The {'' if one else f'{many} '}strongest path{'' if one else 's'} found in {self.expanded} nodes; the "
            f"search ended as {ended}. {known}: paths left open may be {reach}, by the operator norms of the branches "
            "(power iteration). That all others are weaker is the search's estimate."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw which blocks each path goes through, with its norm and its share; returns the axes."""
        from resect.figures import carriers

        return carriers.strongest(self.table, ax=ax)


def strongest_paths(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    count: int = 20,
    limit: int = 5000,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> StrongPaths:
    """Search for the single paths along which the gradient is largest.

    Args:
        net, settings, progress, engine: as for `path_spectrum`.
        data: as for `path_spectrum`; the first batch is used, cut to what fits into the memory.
        count: paths to find; fewer if there are not so many.
        limit: nodes to expand at the most.

    Raises:
        InputError, DataError: as for `path_spectrum`; DataError, too, if no path is complete within `limit`.
    """
    require_whole("count", count)
    require_whole("limit", limit)
    traces = Traces(net, settings)
    work = PathWork("strongest paths", _find, traces.settings, {"count": count, "limit": limit}, bounded=True)
    (batch,) = batches_of(islice(data, 1))
    (arrays,) = engine.run(net, [(work, batch)], progress)
    paths = [tuple(int(block) for block in row if block >= 0) for row in arrays["blocks"]]
    table = pd.DataFrame(
        {
            "blocks": paths,
            "length": [len(path) for path in paths],
            "layers": [sum(net.blocks[i].layers for i in path) for path in paths],
            "norm": arrays["norms"],
            "relative": arrays["norms"] / float(arrays["squares"] / arrays["samples"]) ** 0.5,
            "share": arrays["shares"],
        }
    )
    return StrongPaths(table, at=traces.target.name, **{name: arrays[name].item() for name in _FACTS})


def _find(traces: Traces, batch: Batch, progress: Progress, count: int, limit: int) -> Arrays:
    """One search: of every path its blocks (-1 behind the last), norm and share; and what is left open."""
    trace, _ = next(traces.of(batch, 2, progress))
    search = _Search(trace, traces.routes, traces.lanes_for(trace))
    settled = search.run(count, limit, lambda nodes: progress(nodes / limit * passing(traces.net)))
    if not search.complete:
        raise DataError(f"`limit` must be larger: no path was complete after {search.expanded} nodes.")
    blocks, norms, shares = zip(*sorted(search.complete, key=lambda path: path[1], reverse=True), strict=True)
    longest = max(map(len, blocks))
    bound = max([search.bound(), *norms[count:]])
    left = sum(map(len, search.heaps.values())) + search.dropped
    facts = (bound, search.expanded, left, settled, len(trace.targets), search.squares)
    return {
        "blocks": np.array([[*path, *[-1] * (longest - len(path))] for path in blocks[:count]], dtype=int),
        "norms": np.array(norms[:count]),
        "shares": np.array(shares[:count]),
        **{name: np.array(fact) for name, fact in zip(_FACTS, facts, strict=True)},
    }


@dataclass(order=True)
class _Node:
    """A path from the output down to before some slice. Sorted by its estimate, the largest first."""

    estimate: float  # negative, for the heap
    number: int
    norm: float = field(compare=False)
    station: int = field(compare=False)  # where the path goes on
    blocks: tuple[int, ...] = field(compare=False)
    lanes: Lanes = field(compare=False)


class _Search:
    """Open nodes by the slice that is next on their way; the slices of the batch stay linearised."""

    def __init__(self, trace: Trace, routes: Routes, room: int) -> None:
        self.trace, self.routes, self.room = trace, routes, room
        self.slices = dict(trace.slices())
        self.random = torch.Generator().manual_seed(0)  # where power iterations start
        self.squares = _square(trace.true_gradient)
        require_finite(np.array([self.squares]), trace.target.name)
        self.complete: list[tuple[tuple[int, ...], float, float]] = []  # blocks, norm, share
        self.expanded, self.dropped, self.dropped_bound, self.numbers = 0, 0, 0.0, 0
        self.heaps: dict[int, list[_Node]] = {}
        self.gains, self.limits = self._gains()
        for station in dict.fromkeys(source for _, source in routes.output.edges):
            self._open(trace.last, of_source(trace.scalar_gradient, station, trace, routes), station, ())

    def run(self, count: int, limit: int, progress: Progress) -> bool:
        """Expand nodes until `count` paths are complete and nothing left seems stronger; False at the limit."""
        while any(self.heaps.values()):
            index = min((heap[0].estimate, i) for i, heap in self.heaps.items() if heap)[1]
            norms = sorted((norm for _, norm, _ in self.complete), reverse=True)
            least = norms[count - 1] if len(norms) >= count else 0.0
            if -self.heaps[index][0].estimate * len(self.trace.targets) ** -0.5 < least:
                return True
            if self.expanded >= limit:
                return False
            nodes = self._take(index, least * len(self.trace.targets) ** 0.5)
            self.expanded += len(nodes)
            self._expand(index, nodes)
            self._prune()
            progress(len(nodes))
        return True

    def bound(self) -> float:
        """No path that begins with an open node is stronger, root mean square over samples."""
        norms = [node.norm * self.limits[index] for index, heap in self.heaps.items() for node in heap]
        return float(max([*norms, self.dropped_bound], default=0.0) / len(self.trace.targets) ** 0.5)

    def _take(self, index: int, least: float) -> list[_Node]:
        heap = self.heaps[index]
        most = group_size(value[0] for value in heap[0].lanes.values())
        nodes = [heapq.heappop(heap)]
        while heap and len(nodes) < most and -heap[0].estimate >= max(least, -nodes[0].estimate / 2):
            nodes.append(heapq.heappop(heap))
        return nodes

    def _expand(self, index: int, nodes: list[_Node]) -> None:
        if index < self.trace.first:
            self._finish(nodes)
            return
        groups: dict[tuple[int, frozenset[int]], list[_Node]] = {}
        for node in nodes:
            groups.setdefault((node.station, frozenset(node.lanes)), []).append(node)
        for (station, _), group in groups.items():
            lanes = {key: torch.cat([node.lanes[key] for node in group]) for key in group[0].lanes}
            edges: Sequence[Edge | None] = self.routes.stations[station].edges if station == index - 1 else [None]
            for edge in edges:
                before = over_edge(self.slices[index], edge, lanes, self.trace, self.routes)
                for i, node in enumerate(group):
                    own = {key: value[i : i + 1].clone() for key, value in before.items()}
                    blocks = node.blocks if edge is None or edge[0] is None else (edge[0], *node.blocks)
                    self._open(index - 1, own, node.station if edge is None else edge[1], blocks)

    def _open(self, index: int, lanes: Lanes, station: int, blocks: tuple[int, ...]) -> None:
        if not lanes:  # nothing comes this way
            return
        norm = _norm(lanes)
        self.numbers += 1
        node = _Node(-norm * self.gains[index], self.numbers, norm, station, blocks, lanes)
        heapq.heappush(self.heaps.setdefault(index, []), node)

    def _finish(self, nodes: list[_Node]) -> None:
        for node in nodes:
            lanes, truth = aligned(self.trace.to_target(node.lanes), self.trace.true_gradient)
            norm = float(lanes.norm()) / len(self.trace.targets) ** 0.5
            self.complete.append((node.blocks, norm, float((lanes[0] * truth).sum()) / self.squares))

    def _prune(self) -> None:
        """Forget the least promising nodes where the memory is full."""
        if sum(map(len, self.heaps.values())) <= self.room:
            return
        everything = sorted((node, index) for index, heap in self.heaps.items() for node in heap)
        for node, index in everything[self.room :]:
            self.dropped += 1
            self.dropped_bound = max(self.dropped_bound, node.norm * self.limits[index])
        self.heaps = {}
        for node, index in everything[: self.room]:  # sorted, and so a heap
            self.heaps.setdefault(index, []).append(node)

    def _gains(self) -> tuple[dict[int, float], dict[int, float]]:
        """Per slice, from behind it to the target: the gain of the gradient itself on its best edges, and a limit."""
        typical, largest, cotangents = {}, {}, self.trace.scalar_gradient
        for index, part in self.slices.items():
            edges = (*self.routes.stations[index - 1].edges, None)
            best = max(_norm(over_edge(part, edge, cotangents, self.trace, self.routes)) for edge in edges)
            whole = _norm(cotangents)
            typical[index] = best / whole if whole else 1.0
            largest[index] = max(self._edge_limit(part, edge, cotangents) for edge in edges)
            cotangents, _ = part.backward(cotangents)
        last = self.trace.first - 1
        arrived = self.trace.to_target(cotangents)
        gains = {last: _norm(arrived) / _norm(cotangents) if _norm(cotangents) else 1.0}
        limits = {last: self._largest_gain(self.trace.to_target, self.trace.from_target, cotangents)}
        for index in sorted(self.slices):
            gains[index] = gains[index - 1] * typical[index]
            limits[index] = limits[index - 1] * largest[index]
        return gains, limits

    def _edge_limit(self, part: SliceGradient, edge: Edge | None, like: Lanes) -> float:
        """The largest gain of a slice's cotangents over one edge."""
        if edge is None:
            return 1.0 if len(like) > 1 else 0.0
        end = part.end(edge[0])
        return self._largest_gain(
            lambda lanes: over_edge(part, edge, lanes, self.trace, self.routes),
            lambda tangents: part.push(tangents, only=end),
            like,
        )

    def _largest_gain(self, there: Callable[[Lanes], Lanes], back: Callable[[Lanes], Lanes], like: Lanes) -> float:
        """The norm of the linear map `there`, whose transpose is `back`, by power iteration; from below."""
        lanes = {key: torch.randn(value.shape, generator=self.random).to(value) for key, value in like.items()}
        gain = 0.0
        for _ in range(_POWER_STEPS):
            norm = _norm(lanes)
            if not norm:
                return 0.0
            image = there({key: value / norm for key, value in lanes.items()})
            gain, returned = _norm(image), back(image)
            lanes = {key: returned.get(key, torch.zeros_like(value)) for key, value in like.items()}
        return gain


def _norm(lanes: Lanes) -> float:
    return math.sqrt(_square(lanes))


def _square(lanes: Lanes) -> float:
    return sum(float(widened(value).square().sum()) for value in lanes.values())
