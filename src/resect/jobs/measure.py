"""Measure one network piece by piece, so that a killed study goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from resect.data.samples import Samples
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.runs.folder import RunFolder
from resect.sweep.lesion import Keep, Outcomes, lesion
from resect.sweep.plans import Plan
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings

Advance = Callable[[float], None]
Track = Callable[[str, float], Advance]


@dataclass(frozen=True)
class Bench:
    """Where a network is measured: on which samples, in pieces kept in which folder, shown on which bars."""

    folder: RunFolder
    samples: Samples
    batch_size: int
    track: Track


def fingerprint(net: Unraveled) -> str:
    """A hash of a network's graph and weights."""
    total = hashlib.sha256()
    for part in net.sliced.slices:
        for node in part:
            total.update(str(node.format_node()).encode())
    for name, value in net.model.state_dict().items():
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:32]


def measure_lesions(
    net: Unraveled, bench: Bench, plan: Plan, title: str, settings: LesionSettings | None = None
) -> LesionResult:
    """Outcomes of a plan on all samples, one piece of work a batch."""
    settings = settings or LesionSettings()
    advance = bench.track(title, (len(plan) + len(plan.references) + 1) * len(bench.samples))
    keep = kept_in(bench, net, plan, settings)
    return lesion(net, _Batches(bench), plan, settings, progress=advance, keep=keep)


def kept_in(bench: Bench, net: Unraveled, plan: Plan, settings: LesionSettings) -> Keep:
    """Keep the outcomes of every batch as a piece of work in the bench's folder."""
    key: dict[str, Any] = {
        "work": "lesion",
        "network": fingerprint(net),
        "metrics": list(settings.names),
        "removal": [plan.removal, settings.seed] if plan.removal == "other sample" else plan.removal,
        "channels_last": settings.channels_last,
        "compile": settings.compile,
    }
    if plan.removal == "mean":
        key["means over"] = bench.samples.digest()

    def keep(
        arrangements: Sequence[Arrangement], inputs: Any, targets: torch.Tensor, compute: Callable[[], Outcomes]
    ) -> Outcomes:
        own = {
            "arrangements": [str(arrangement) for arrangement in arrangements],
            "samples": batch_digest(inputs, targets),
        }
        table, _ = bench.folder.piece({**key, **own}, lambda: _outcomes_table(compute()))
        values = table.drop(columns=["arrangement", "sample"])
        return {str(name): values[name].to_numpy().reshape(len(arrangements), -1) for name in values}

    return keep


def _outcomes_table(outcomes: Outcomes) -> pd.DataFrame:
    """One row an arrangement and sample; the last arrangement is the intact one."""
    arrangements, samples = next(iter(outcomes.values())).shape
    index = {
        "arrangement": np.repeat(np.arange(arrangements, dtype=np.int32), samples),
        "sample": np.tile(np.arange(samples, dtype=np.int32), arrangements),
    }
    return pd.DataFrame({**index, **{name: values.ravel() for name, values in outcomes.items()}})


class _Batches:
    """The batches of a bench, as often as they are asked for."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.bench.samples.batches(self.bench.batch_size)


def batch_digest(inputs: torch.Tensor, targets: torch.Tensor) -> str:
    """A hash of the samples of one batch."""
    return Samples("piece", inputs, targets, None).digest()
