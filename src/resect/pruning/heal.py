"""The best candidates within a budget are healed before one of them is chosen, as healing may turn their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from resect.digest import fingerprint
from resect.engines.work import Arrays, Progress
from resect.graph.calls import as_call
from resect.measuring.batches import Batch, to_device
from resect.network.standalone import Standalone
from resect.network.unraveled import Unraveled
from resect.pruning.bench import Bench
from resect.pruning.healed import Candidate, Healing
from resect.pruning.problem import Choice
from resect.pruning.treatment import Treatment
from resect.sweep.settings import LesionSettings


def heal(bench: Bench, treatment: Treatment, choices: Sequence[Choice]) -> Healing:
    """Heal some choices, take the one with the least loss on the samples that choose, and judge all on the others.

    Args:
        choices: by what the search thinks of them, the best first.
    """
    arrangements = [bench.arrangement(choice) for choice in choices]
    metrics = LesionSettings(tuple(name for name in ("error", "loss") if name in bench.task.metrics))
    before, cut = (bench.run(arrangements, batches, metrics) for batches in (bench.objective.batches, bench.judges))
    best: tuple[float, Standalone] | None = None
    losses: list[float] = []
    rows: list[Arrays] = []
    weights = np.concatenate([batch.task.weights(batch.targets).cpu().numpy() for batch in bench.objective.batches])
    for arrangement in arrangements:
        module = treatment(arrangement)
        work = Rerun(module, f"{arrangement} {fingerprint(module)}")
        own = _outcomes(bench, work, bench.objective.batches)
        losses.append(float(np.average(own["loss"][weights > 0], weights=weights[weights > 0])))
        rows.append(_outcomes(bench, work, bench.judges))
        if best is None or losses[-1] < best[0]:
            best = losses[-1], module
    assert best is not None, "there is at least one choice"
    values = {name: np.stack([row[name] for row in rows]) for name in cut.values}
    candidates = [
        Candidate(choice, tuple(bench.groups[i].name for i in sorted(choice.removed)), arrangement, loss, healed)
        for choice, arrangement, loss, healed in zip(
            choices, arrangements, map(float, before.means("loss")), losses, strict=True
        )
    ]
    lesson = treatment.lesson
    return Healing(
        best[1], tuple(candidates), losses.index(best[0]), cut, replace(cut, values=values), treatment.settings,
        treatment.recipe, len(lesson), lesson.left_out,
    )  # fmt: skip


def _outcomes(bench: Bench, work: Rerun, batches: Iterable[Batch]) -> Arrays:
    """Of a healed network, `loss` and, if the task has one, `error` of every sample, (N,) float32 each."""
    engine, progress = bench.objective.engine, bench.objective.progress
    parts = list(engine.run(bench.net, ((work, batch) for batch in batches), progress))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
