"""The magnitude of single paths, by the paper's own protocol (Veit et al., section 5.2, Figure 6b).

Sample a path of length k; let the backward pass go only through the branches of its k blocks and only through the
skips elsewhere; take the norm of what arrives. Sampled paths are lanes, so one backward sweep serves many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from resect.errors import DataError, InputError
from resect.graph.routes import STEM, Counts, Routes
from resect.network.unraveled import Unraveled
from resect.paths.backward import Lanes, Trace, add_into, resolve_target
from resect.paths.lanes import renormalise, widened
from resect.paths.measures import Effective, effective_range, weighted_by_count
from resect.paths.spectrum import require_paths
from resect.sweep.engine import as_batch


@dataclass(frozen=True)
class PathSamples:
    """Norms of the gradients of sampled single paths.

    Attributes:
        counts: exact numbers of paths and of their layers.
        norms: per length 0..n an array of float64 norms, one a sampled path and sample; empty where there is no path.
        at: "input" or "stem": where the gradient is measured.
    """

    counts: Counts
    norms: tuple[np.ndarray, ...]
    at: str

    @property
    def mean(self) -> np.ndarray:
        """(n+1,) mean norm of a single path; NaN where there is none."""
        return np.array([values.mean() if len(values) else np.nan for values in self.norms])

    @property
    def rms(self) -> np.ndarray:
        """(n+1,) root mean square of the norms of single paths; NaN where there is none."""
        return np.array([np.sqrt(np.square(values).mean()) if len(values) else np.nan for values in self.norms])

    @property
    def magnitude(self) -> np.ndarray:
        """(n+1,) count x mean norm, normalised to sum to 1 (paper, Figure 6c)."""
        return weighted_by_count(self.mean, self.counts)

    @property
    def magnitude_rms(self) -> np.ndarray:
        """(n+1,) count x root mean square norm, normalised to sum to 1."""
        return weighted_by_count(self.rms, self.counts)

    def effective(self, mass: float = 0.95, *, rms: bool = False) -> Effective:
        """The shortest range of lengths that holds `mass` of count x magnitude: the paper's effective paths."""
        return effective_range(self.magnitude_rms if rms else self.magnitude, self.counts, mass)

    @property
    def table(self) -> pd.DataFrame:
        """One row a length: `length`, `path_norm`, `path_norm_rms`, `sampled`, `magnitude`, `magnitude_rms`."""
        return pd.DataFrame(
            {
                "length": range(len(self.norms)),
                "path_norm": self.mean,
                "path_norm_rms": self.rms,
                "sampled": [len(values) for values in self.norms],
                "magnitude": self.magnitude,
                "magnitude_rms": self.magnitude_rms,
            }
        )

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False))


def sample_paths(
    net: Unraveled,
    data: Iterable[tuple[Any, Tensor]],
    *,
    samples: int = 20,
    at: str = "auto",
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> PathSamples:
    """Sample single paths of every length and measure the norms of their gradients.

    Args:
        net: an unravelled network with at least one block.
        data: (inputs, targets) batches; every batch meets paths of its own.
        samples: paths drawn of each length and batch, uniformly among all paths of that length.
        at: where the gradient is measured, as in `path_spectrum`.
        seed: of the paths.
        progress: called with the number of slices done since the last call.

    Raises:
        InputError: the network has no joins.
        DataError: the data are empty or do not fit the network.
    """
    require_paths(net)
    if samples < 1:
        raise InputError(f"`samples` must be at least 1, got {samples}.")
    routes = Routes(net.sliced)
    draw = np.random.default_rng(seed)
    collected: list[list[np.ndarray]] = [[] for _ in routes.counts.paths]
    for inputs, targets in map(as_batch, data):
        lengths = [k for k, count in enumerate(routes.counts.paths) if count for _ in range(samples)]
        drawn = [draw_route(routes, k, draw) for k in lengths]
        norms = path_norms(Trace(net, inputs, targets, at), routes, drawn, progress)
        for k, lane in zip(lengths, norms, strict=True):
            collected[k].append(lane)
    if not any(collected):
        raise DataError("`data` must hold at least one (inputs, targets) batch, got none.")
    found = tuple(np.concatenate(values) if values else np.empty(0) for values in collected)
    return PathSamples(routes.counts, found, resolve_target(net, at))


Route = dict[int, tuple[int | None, int]]  # station -> (the slot whose branch is taken, None for the skip; from where)


def draw_route(routes: Routes, length: int, draw: np.random.Generator) -> Route:
    """A route of so many branches, uniformly among all of them."""
    route: Route = {}
    station, where = routes.output, len(routes.stations)
    while True:
        weights = []
        for slot, source in station.edges:
            left = length - (slot is not None)
            before = routes.counts_before(source).paths
            weights.append(before[left] if 0 <= left < len(before) else 0)
        total = sum(weights)
        # Counts are exact integers beyond float64, so the choice is made among integers.
        point, chosen = _below(total, draw), 0
        while point >= weights[chosen]:
            point -= weights[chosen]
            chosen += 1
        slot, source = station.edges[chosen]
        route[where] = slot, source
        length -= slot is not None
        if source == STEM:
            return route
        station, where = routes.stations[source], source


def _below(total: int, draw: np.random.Generator) -> int:
    """A uniform integer in [0, total) for a total of any size."""
    size = (total.bit_length() + 7) // 8 + 8  # 64 spare bits make the bias of the remainder negligible
    return int.from_bytes(draw.bytes(size), "big") % total


def path_norms(
    trace: Trace, routes: Routes, drawn: list[Route], progress: Callable[[float], None] | None = None
) -> np.ndarray:
    """Norm of the gradient of every route and sample, (routes, B) float64."""
    count = len(drawn)
    cotangents = {
        key: value.expand(count, *value.shape[1:]).contiguous() for key, value in trace.loss_gradient().items()
    }
    exponents = torch.zeros(count, dtype=torch.int32, device=next(iter(cotangents.values())).device)
    for index, gradient in trace.slices():
        edges, collected = gradient.to_edges(cotangents)
        for (slot, source), lanes in _by_edge(drawn, index - 1).items():
            key = gradient.skip if slot is None else gradient.branches[slot]
            if key is not None and key in edges:
                found = gradient.from_edge(key, edges[key][lanes])
                _spread(collected, _from(found, source, trace, routes), lanes, count)
        cotangents = collected
        exponents = renormalise(cotangents, exponents)
        if progress:
            progress(1)
    arrived = trace.to_target(cotangents)
    squares = sum(widened(value.flatten(2)).square().sum(2) for value in arrived)
    assert isinstance(squares, Tensor)
    norms = squares.sqrt().cpu().double().numpy()
    return np.asarray(np.ldexp(norms, exponents.view(-1, 1).cpu().numpy()))


def _by_edge(drawn: list[Route], station: int) -> dict[tuple[int | None, int], list[int]]:
    """The lanes of the routes that pass a station, by the edge over which they go on."""
    found: dict[tuple[int | None, int], list[int]] = {}
    for lane, route in enumerate(drawn):
        if station in route:
            found.setdefault(route[station], []).append(lane)
    return found


def _from(cotangents: Lanes, source: int, trace: Trace, routes: Routes) -> Lanes:
    """Those of the live values that come from one station: a branch may read several states (U-Net, DenseNet)."""
    if len(cotangents) < 2:
        return cotangents
    return {key: value for key, value in cotangents.items() if source in routes.sources(trace.node[key])}


def _spread(total: Lanes, part: Lanes, lanes: list[int], count: int) -> None:
    """Add the cotangents of some lanes to those of all."""
    for key, value in part.items():
        if len(lanes) == count:
            add_into(total, {key: value})
            continue
        if key not in total:
            total[key] = value.new_zeros(count, *value.shape[1:])
        total[key].index_add_(0, torch.tensor(lanes, device=value.device), value)
