"""A module made of a network, such as one that was healed, run on batches beside the network itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from resect.engines.work import Arrays, Engine, Progress
from resect.errors import DataError
from resect.graph.calls import as_call
from resect.measuring.batches import Batch, to_device
from resect.network.unraveled import Unraveled
from resect.sweep.result import LesionResult


@dataclass(frozen=True)
class Rerun:
    """The work of running a module made of the network on a batch: `loss` and `error`, (B,) float32 each.

    Attributes:
        which: tells its program and weights from those of others.
    """

    module: nn.Module
    which: str

    @property
    def key(self) -> Mapping[str, Any]:
        """Which module it is."""
        return {"what": "rerun", "which": self.which}

    def cost(self, net: Unraveled, batch: Batch) -> float:
        """Samples."""
        return len(batch)

    @torch.inference_mode()
    def run(self, net: Unraveled, batch: Batch, progress: Progress) -> Arrays:
        """Run it."""
        args, kwargs = as_call(to_device(batch.inputs, net.device))
        error, loss = batch.task.outcomes(self.module(*args, **kwargs), batch.targets.to(net.device))
        progress(len(batch))
        values = {"loss": loss} if error is None else {"loss": loss, "error": error}
        # healing can make a network overflow; NaN is for samples that it did not run on
        return {name: value.nan_to_num(nan=torch.inf, posinf=torch.inf).cpu().numpy() for name, value in values.items()}

    def outcomes(
        self, net: Unraveled, batches: Iterable[Batch], engine: Engine, progress: Progress | None = None
    ) -> Arrays:
        """`loss` and, if the task has one, `error` of every sample, (N,) float32 each."""
        parts = list(engine.run(net, ((self, batch) for batch in batches), progress))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def mean_over(values: np.ndarray, batches: Sequence[Batch]) -> float:
    """The mean over what counts, of a loss or a divergence of every sample.

    Raises:
        DataError: nothing counts.
    """
    weights = np.concatenate([batch.task.weights(batch.targets).cpu().numpy() for batch in batches])
    if not weights.any():
        raise DataError("the samples must have targets that count, but all of theirs are ignored. Give others.")
    return float(np.average(values[weights > 0], weights=weights[weights > 0]))


def beside(cut: LesionResult, place: int, healed: Arrays) -> LesionResult:
    """One of some arrangements in two rows: what was measured of it, and of the module that was made of it.

    Args:
        healed: (N,) of each metric.
    """
    plan, rows = cut.plan, [place, place]
    plan = replace(
        plan, arrangements=tuple(plan.arrangements[i] for i in rows), labels=tuple(plan.labels[i] for i in rows)
    )
    return replace(cut, plan=plan, values={name: np.stack([cut.values[name][place], healed[name]]) for name in healed})
