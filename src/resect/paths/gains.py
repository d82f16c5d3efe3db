"""How much the norm of a cotangent can grow on its way to the target: as the gradient does, and at the most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resect.calculus.linear import Lanes
from resect.graph.routes import Routes
from resect.paths.lanes import per_lane, widened
from resect.paths.sampler import Edge
from resect.paths.trace import Trace
from resect.paths.tree import over_edge

_POWER_STEPS = 15


def gradient_gains(trace: Trace, routes: Routes) -> dict[int, float]:
    """Per slice, from behind it to the target: the gain of the gradient itself on its best edges."""
    own = {}
    for index, cotangents in _gradients(trace):
        ways = [_over(trace, routes, index, edge, cotangents) for edge in _edges(trace, routes, index)]
        own[index] = max(map(_norm, ways)) / _norm(cotangents) if _norm(cotangents) else 1.0
    return _products(own)


def largest_gains(trace: Trace, routes: Routes) -> dict[int, float]:
    """Per slice, from behind it to the target: the largest gain that any cotangent can find."""
    random = torch.Generator().manual_seed(0)  # where power iterations start
    own = {}
    for index, cotangents in _gradients(trace):
        edges = _edges(trace, routes, index)
        own[index] = max(_limit(trace, routes, index, edge, cotangents, random) for edge in edges)
    return _products(own)


def square(lanes: Lanes) -> float:
    """The squared norm of all lanes together."""
    return float(each_square(lanes).sum()) if lanes else 0.0


def each_square(lanes: Lanes) -> Tensor:
    """(L,) the squared norm of every lane, widened."""
    return torch.stack([widened(per_lane(value)).square().sum(1) for value in lanes.values()]).sum(0)


def _gradients(trace: Trace) -> Iterator[tuple[int, Lanes]]:
    """The gradient itself behind every slice, the last first."""
    cotangents = trace.scalar_gradient
    for index, part in trace.slices():
        yield index, cotangents
        cotangents, _ = part.backward(cotangents)
    yield trace.first - 1, cotangents


def _edges(trace: Trace, routes: Routes, index: int) -> Sequence[Edge | None]:
    """The edges of a slice's join, and past it; from before the first slice there is one way."""
    return (*routes.stations[index - 1].edges, None) if index in trace.parts else (None,)


def _over(trace: Trace, routes: Routes, index: int, edge: Edge | None, lanes: Lanes) -> Lanes:
    if index not in trace.parts:
        return trace.to_target(lanes)
    return over_edge(trace.parts[index], edge, lanes, trace, routes)


def _limit(trace: Trace, routes: Routes, index: int, edge: Edge | None, like: Lanes, random: torch.Generator) -> float:
    """The largest gain of a slice's cotangents over one edge."""
    there = partial(_over, trace, routes, index, edge)
    if index not in trace.parts:
        return _largest_gain(there, trace.from_target, like, random)
    if edge is None:
        return 1.0 if len(like) > 1 else 0.0
    part = trace.parts[index]
    return _largest_gain(there, lambda tangents: part.push(tangents, only=part.end(edge[0])), like, random)


def _largest_gain(
    there: Callable[[Lanes], Lanes], back: Callable[[Lanes], Lanes], like: Lanes, random: torch.Generator
) -> float:
    """The norm of the linear map `there`, whose transpose is `back`, by power iteration; from below."""
    plain: Any = {"generator": random, "dtype": torch.float32, "device": "cpu"}
    lanes = {key: torch.randn(value.shape, **plain).to(value) for key, value in like.items()}
    gain = 0.0
    for _ in range(_POWER_STEPS):
        norm = _norm(lanes)
        if not norm:
            return 0.0
        image = there({key: value / norm for key, value in lanes.items()})
        gain, returned = _norm(image), back(image)
        lanes = {key: returned.get(key, torch.zeros_like(value)) for key, value in like.items()}
    return gain


def _products(own: dict[int, float]) -> dict[int, float]:
    """Of factors per slice, their product from the first slice up to each."""
    indices = sorted(own)
    return dict(zip(indices, np.cumprod([own[index] for index in indices]).tolist(), strict=True))


def _norm(lanes: Lanes) -> float:
    return math.sqrt(square(lanes))
