"""How far a block, or a window of blocks, moves the state of the signal: scores that need neither targets nor lesions.

Letters: B samples, P positions (tokens; 1 where a sample has none), D numbers, n blocks. The state before a block is
what its join would hand on without the branch, that behind it what the join hands on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resect.engines.work import Arrays, Engine, Progress
from resect.measuring.batches import Batch, Batches, batches_of, to_device, widest_float
from resect.network.inside import values_inside
from resect.network.unraveled import Unraveled

_ROOM = 2**26  # bytes of states in float64 that are held at one time, about


@dataclass(frozen=True)
class Moved:
    """The work of measuring, on a batch, how far every block moves the state.

    Per sample, the mean over its positions: `influence` (n, B), 1 - cos(before, behind), ShortGPT's Block Influence;
    `norm_ratio` (n, B), the norm of what the block adds over that of the state before it; `angles` (n, n, B), entry
    (i, j) the angle between the state before block i and that behind block j over pi, for windows i..j of one shape;
    NaN elsewhere.
    """

    @property
    def key(self) -> Mapping[str, Any]:
        """There is nothing to choose."""
        return {"what": "states moved"}

    def cost(self, net: Unraveled, batch: Batch) -> float:
        """Samples."""
        return len(batch)

    def run(self, net: Unraveled, batch: Batch, progress: Progress) -> Arrays:
        """Measure it, some samples at a time."""
        parts, size = [], net.samples_of(batch.inputs)
        step = size if net.batch_size else max(1, _ROOM // max(1, _state_bytes(net)))
        for start in range(0, size, step):
            some = batch.inputs if step >= size else net.part_of(batch.inputs, slice(start, start + step))
            parts.append(_moved(net, to_device(some, net.device)))
            progress(len(next(iter(parts[-1].values())).T))
        return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def moved(net: Unraveled, data: Batches, engine: Engine) -> Arrays:
    """What `Moved` measures, over all samples."""
    parts = list(engine.run(net, ((Moved(), batch) for batch in batches_of(data, net))))
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def _state_bytes(net: Unraveled) -> int:
    """Of one sample's states in float64, if the network computes in float32."""
    programs, joins = net.programs, [slot.join for slot in net.sliced.slots]
    sizes = [programs.value_bytes[programs.keys.of(node)] for join in joins for node in (join.node, join.bypass)]
    return 2 * sum(sizes) // programs.example_batch


def _moved(net: Unraveled, inputs: Any) -> Arrays:
    states = _states(net, inputs)
    n, size = len(net.blocks), len(states[0][0])
    influence, ratio = np.empty((2, n, size))
    angles = np.full((n, n, size), np.nan)
    for i, (before, behind) in enumerate(states):
        norm = before.norm(dim=-1).clamp_min(torch.finfo(before.dtype).tiny)
        ratio[i] = ((behind - before).norm(dim=-1) / norm).mean(1).cpu().numpy()
        influence[i] = 1 - torch.nn.functional.cosine_similarity(before, behind, dim=-1).mean(1).cpu().numpy()
    for rows in _alike(states):
        before, behind = (
            torch.nn.functional.normalize(torch.stack([states[i][k] for i in rows]), dim=-1) for k in (0, 1)
        )
        for place, i in enumerate(rows):
            cosines = torch.einsum("bpd,jbpd->jbp", before[place], behind[place:])
            angles[i, rows[place:]] = (cosines.clamp(-1, 1).arccos() / pi).mean(-1).cpu().numpy()
    return {"influence": influence, "norm_ratio": ratio, "angles": angles}


def _alike(states: list[tuple[Tensor, Tensor]]) -> Iterator[list[int]]:
    """The blocks whose states have one shape, together."""
    shapes = [before.shape for before, _ in states]
    for shape in dict.fromkeys(shapes):
        yield [i for i, other in enumerate(shapes) if other == shape]


def _states(net: Unraveled, inputs: Any) -> list[tuple[Tensor, Tensor]]:
    """The states before and behind every block, (B, P, D) each, of the intact network."""
    joins, at, size = [slot.join for slot in net.sliced.slots], net.sliced.captured.samples_at, net.samples_of(inputs)
    values = values_inside(net, inputs, (node for join in joins for node in (join.node, join.bypass)))
    vectors = {node: _vectors(value, at(node), size) for node, value in values.items()}
    return [(vectors[join.bypass], vectors[join.node]) for join in joins]


def _vectors(value: Tensor, samples_at: int, size: int) -> Tensor:
    """(B, P, D): of a sequence (B, L, D) one vector a position, of all else one a sample."""
    value = value.movedim(samples_at, 0).to(widest_float(value.device))
    if value.ndim == 3 and len(value) == size:
        return value
    return value.reshape(size, 1, -1)
