"""How far the carry gates of highway blocks are open (Veit et al., section 6).

A gated block is T(x) H(x) + C(x) x, mostly with C = 1 - T. At T = C = 1/2 both ways count alike; gates that are biased
towards the skip make most of the signal take short paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of, to_device, widest_float
from resect.network.inside import values_inside
from resect.network.unraveled import Unraveled


def carry_gates(net: Unraveled, data: Batches, *, task: AnyTask = None, engine: Engine = LOCAL) -> np.ndarray | None:
    """(N, n) float64: the mean of every block's carry gate over its elements, for each of N samples; 0 is closed.

    NaN for blocks that have none; None if no block has one.
    """
    if all(block.kind != "gated" for block in net.blocks):
        return None
    runs = engine.run(net, ((_Carried(), batch) for batch in batches_of(data, net, task)))
    return np.concatenate([arrays["carry"] for arrays in runs])


@dataclass(frozen=True)
class _Carried:
    """The work of measuring it on a batch."""

    @property
    def key(self) -> Mapping[str, Any]:
        """There is nothing to choose."""
        return {"what": "carry gates"}

    def cost(self, net: Unraveled, batch: Batch) -> float:
        """Samples."""
        return len(batch)

    def run(self, net: Unraveled, batch: Batch, progress: Progress) -> Arrays:
        """Measure it."""
        factors = {slot.index: slot.join.factor for slot in net.sliced.slots if slot.join.kind == "gated"}
        gates = {index: factor.value for index, factor in factors.items() if factor is not None}
        values = values_inside(net, to_device(batch.inputs, net.device), gates.values())
        carry = np.full((len(batch), len(net.blocks)), np.nan)
        for index, node in gates.items():
            value = values[node].movedim(net.sliced.captured.samples_at(node), 0).reshape(len(batch), -1)
            carry[:, index] = value.to(widest_float(value.device)).mean(1).cpu().numpy()
        progress(len(batch))
        return {"carry": carry}
