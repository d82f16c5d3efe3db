"""What lesions do to the samples of a batch: the piece of work that every sweep is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resect.digest import tensors_digest
from resect.engines.work import Arrays, Progress
from resect.graph.decisions import Removal
from resect.measuring.batches import Batch
from resect.measuring.metrics import agreement
from resect.measuring.tasks import one_each
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.sweep.execution import Execution
from resect.sweep.settings import LesionSettings
from resect.sweep.walk import Tour, walk


@dataclass(frozen=True)
class Sweep:
    """How arrangements are run and what is measured: what all pieces of work of one sweep share.

    Attributes:
        removal: what stands for a deleted branch, as in `Plan`.
        means: per slot the mean of its branch; needed for the removal "mean".
    """

    settings: LesionSettings
    removal: Removal = "zero"
    means: Mapping[int, Tensor] | None = None
    _executions: dict[int, Execution] = field(default_factory=dict, init=False, repr=False, compare=False)
    _tours: dict[Any, Tour] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def key(self) -> dict[str, Any] | None:
        """All that decides outcomes beside network, batch and arrangements; None with metrics of one's own."""
        if any(map(callable, self.settings.metrics)):
            return None
        key: dict[str, Any] = {
            "metrics": list(self.settings.metrics),
            "removal": self.removal,
            "channels_last": self.settings.channels_last,
            "compile": self.settings.compile,
        }
        if self.removal == "other sample":
            key["seed"] = self.settings.seed
        if self.means is not None:
            key["means"] = tensors_digest(*(self.means[slot] for slot in sorted(self.means)))
        return key

    def execution(self, net: Unraveled) -> Execution:
        """The execution of a network, made once, as it keeps converted weights and compiled slices."""
        if id(net) not in self._executions:
            self._executions[id(net)] = Execution(net, self.settings, self.removal, self.means)
        return self._executions[id(net)]

    def tour(self, net: Unraveled, arrangements: tuple[Arrangement, ...]) -> Tour:
        """The tour of some arrangements, made once for all batches."""
        key = id(net), arrangements
        if key not in self._tours:
            self._tours[key] = Tour.of(self.execution(net).programs, arrangements)
        return self._tours[key]


@dataclass(frozen=True)
class Outcomes:
    """The work of running some arrangements on a batch: per metric (arrangements, B) float32."""

    sweep: Sweep
    arrangements: tuple[Arrangement, ...]

    @property
    def key(self) -> dict[str, Any] | None:
        """All that decides the outcomes beside network and batch."""
        key = self.sweep.key
        return None if key is None else {"what": "outcomes", **key, "arrangements": list(map(str, self.arrangements))}

    def cost(self, net: Unraveled, batch: Batch) -> float:
        """Samples that an arrangement runs on, over all arrangements."""
        return len(self.arrangements) * len(batch)

    def run(self, net: Unraveled, batch: Batch, progress: Progress) -> Arrays:
        """The outcomes; the intact network runs along where it is not among the arrangements, to compare with."""
        compared = self.arrangements if self.arrangements[-1] == net.intact else (*self.arrangements, net.intact)
        tour = self.sweep.tour(net, compared)
        values = measure(self.sweep.execution(net), batch, tour, self.sweep.settings, progress)
        return {name: value[: len(self.arrangements)] for name, value in values.items()}


def measure(
    execution: Execution, batch: Batch, tour: Tour, settings: LesionSettings, advance: Callable[[float], None]
) -> Arrays:
    """Per-sample values of every metric for all arrangements of a tour, the last of which must be the intact one."""
    net, task = execution.net, batch.task
    metrics = settings.metrics_of(task.name, task.metrics)
    names = settings.names_of(metrics)
    targets, total = batch.targets.to(net.device), tour.arrangements
    values = {name: torch.zeros(total, len(targets), dtype=torch.float32, device=net.device) for name in names}
    predictions: dict[int, Tensor] = {}
    intact: list[Any] = []

    def visit(group: Sequence[int], outputs: Any) -> None:
        error, loss = task.outcomes(outputs, targets)
        rows = list(group)
        for name, metric in zip(names, metrics, strict=True):
            if callable(metric):
                values[name][rows] = one_each(f"the metric {name}", metric(outputs, targets), targets).detach()
            elif metric == "kl":
                values[name][rows] = task.divergence(outputs, intact[0], targets)
            elif metric == "agreement":
                predictions.update(dict.fromkeys(rows, task.predictions(outputs, targets)))
            elif metric == "loss":
                values[name][rows] = loss
            elif error is not None:
                values[name][rows] = error
        advance(len(rows) * len(targets))

    if "kl" in metrics:
        alone = Tour.of(execution.programs, [net.intact])
        walk(execution, batch.inputs, alone, lambda _, outputs: intact.append(outputs))
    walk(execution, batch.inputs, tour, visit)
    for row, predicted in predictions.items():
        values["agreement"][row] = agreement(predicted, predictions[total - 1], targets)
    # A lesion can make a network overflow; NaN is for samples that it did not run on.
    return {name: value.nan_to_num(nan=torch.inf, posinf=torch.inf).cpu().numpy() for name, value in values.items()}
