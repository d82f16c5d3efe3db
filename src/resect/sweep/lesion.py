"""Lesion a network by a plan and measure what every lesion does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resect.errors import CheckpointError, DataError, InputError
from resect.graph.outputs import logits_of
from resect.measuring.batches import Batches, checked
from resect.measuring.metrics import agreement, divergence, error_and_loss, positions
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.sweep.execution import Execution, branch_means
from resect.sweep.plans import Plan
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings, UserMetric
from resect.sweep.walk import Tour, walk

Outcomes = dict[str, np.ndarray]  # per metric (arrangements, B) float32
Keep = Callable[[Sequence[Arrangement], Any, Tensor, Callable[[], Outcomes]], Outcomes]
"""Gives the outcomes of arrangements on (inputs, targets): those it kept of an earlier run, or else computed ones."""


def lesion(
    net: Unraveled,
    data: Batches,
    plan: Plan,
    settings: LesionSettings | None = None,
    *,
    progress: Callable[[float], None] | None = None,
    keep: Keep | None = None,
) -> LesionResult:
    """Run every arrangement of `plan`, its references and the intact network on `data`.

    Args:
        net: the unravelled network.
        data: (inputs, targets) batches; inputs as the network takes them, targets (B,) or (B, L) integers.
        settings: metrics, precision, and how the network runs.
        progress: called with the number of samples since the last call that a lesion has run on, or need not.
        keep: a place where the outcomes of finished batches are kept.

    Raises:
        DataError: the data are empty or do not fit the network, or a metric's values do not fit the batch.
        CheckpointError: the intact network's outputs are not finite.
    """
    settings = settings or LesionSettings()
    wrong = [len(arrangement) for arrangement in plan.arrangements if len(arrangement) != len(net.sliced.slots)]
    if wrong:
        raise InputError(
            f"`plan` must be made for this network of {len(net.sliced.slots)} blocks, but is for one of {wrong[0]}."
        )
    if plan.removal == "mean" and iter(data) is data:
        data = list(data)  # it is read twice
    sweep = _Sweep(net, data, plan, settings)
    rows = len(plan)
    active = list(range(rows))
    parts: list[LesionResult] = []
    for inputs, targets in checked(data):
        if rows and not active:
            break
        meter = _Meter((rows + len(plan.references) + 1) * len(targets), progress)
        outcomes = sweep.batch(active, inputs, targets, meter, keep)
        parts.append(_as_result(plan, active, outcomes, targets))
        meter.finish()
        if settings.precision is not None:
            active = _imprecise(parts, active, settings.precision)
    return LesionResult.joined(plan, parts)


class _Meter:
    """Reports the progress of one batch, of which parts may be kept or not needed: in all just its total."""

    def __init__(self, total: float, progress: Callable[[float], None] | None) -> None:
        self._left, self._progress = total, progress

    def __call__(self, amount: float) -> None:
        self._left -= amount
        if self._progress:
            self._progress(amount)

    def finish(self) -> None:
        """Report what is left."""
        self(self._left)


class _Sweep:
    """One plan on one network: the execution, and the tours for the lesions that are still running."""

    def __init__(self, net: Unraveled, data: Batches, plan: Plan, settings: LesionSettings) -> None:
        self.net, self.plan, self.settings = net, plan, settings
        means = branch_means(net, data) if plan.removal == "mean" else None
        self.execution = Execution(
            net,
            removal=plan.removal,
            means=means,
            channels_last=settings.channels_last,
            compile=settings.compile,
            seed=settings.seed,
        )
        self._tour: tuple[list[int], Tour] | None = None

    def batch(self, active: list[int], inputs: Any, targets: Tensor, meter: _Meter, keep: Keep | None) -> Outcomes:
        """The outcomes of the active lesions, the references and the intact network (last) on one batch."""
        arrangements = [*(self.plan.arrangements[i] for i in active), *self.plan.references, self.net.intact]
        if self._tour is None or self._tour[0] != active:
            self._tour = active, Tour.of(self.execution.programs, arrangements)
        tour = self._tour[1]

        def compute() -> Outcomes:
            return measure_batch(self.execution, (inputs, targets), tour, self.settings.metrics, meter)

        outcomes = keep(arrangements, inputs, targets, compute) if keep else compute()
        _check_intact(self.net, outcomes)
        return outcomes


def measure_batch(
    execution: Execution,
    batch: tuple[Any, Tensor],
    tour: Tour,
    metrics: Sequence[str | UserMetric],
    advance: Callable[[float], None],
) -> Outcomes:
    """Per-sample values of every metric for all arrangements of a tour, the last of which must be the intact one."""
    net, names = execution.net, LesionSettings(metrics=tuple(metrics)).names
    inputs, targets = batch[0], batch[1].to(execution.net.device)
    total = tour.arrangements
    values = {name: torch.zeros(total, len(targets), device=net.device) for name in names}
    predictions: dict[int, Tensor] = {}
    intact: list[Tensor] = []

    def visit(group: Sequence[int], outputs: Any) -> None:
        logits = logits_of(outputs)
        error, loss = error_and_loss(logits, targets)
        rows = list(group)
        for name, metric in zip(names, metrics, strict=True):
            if callable(metric):
                values[name][rows] = _checked(name, metric(outputs, targets), len(targets))
            elif metric == "kl":
                values[name][rows] = divergence(logits, intact[0], targets)
            elif metric == "agreement":
                predictions.update(dict.fromkeys(rows, logits.argmax(-1).to(torch.int32)))
            else:
                values[name][rows] = error if metric == "error" else loss
        advance(len(rows) * len(targets))

    if "kl" in metrics:
        alone = Tour.of(execution.programs, [net.intact])
        walk(execution, inputs, alone, lambda _, outputs: intact.append(logits_of(outputs)))
    walk(execution, inputs, tour, visit)
    for row, predicted in predictions.items():
        values["agreement"][row] = agreement(predicted, predictions[total - 1], targets)
    # A lesion can make a network overflow; NaN is for samples that it did not run on.
    return {name: value.nan_to_num(nan=torch.inf, posinf=torch.inf).cpu().numpy() for name, value in values.items()}


def _checked(name: str, values: Any, samples: int) -> Tensor:
    if not isinstance(values, Tensor) or tuple(values.shape) != (samples,):
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise DataError(f"the metric {name} must return one value a sample, a tensor ({samples},), got {found}.")
    return values.detach().float()


def _as_result(plan: Plan, active: list[int], outcomes: Mapping[str, np.ndarray], targets: Tensor) -> LesionResult:
    """One batch as a result; lesions that were stopped have NaN."""
    rows, beside = {}, {}
    for name, values in outcomes.items():
        rows[name] = np.full((len(plan), values.shape[1]), np.nan, dtype=np.float32)
        rows[name][active] = values[: len(active)]
        beside[name] = values[len(active) :]
    return LesionResult(
        plan,
        values=rows,
        references={name: values[:-1] for name, values in beside.items()},
        intact={name: values[-1] for name, values in beside.items()},
        targets=targets.cpu().numpy() if targets.ndim == 1 else None,
        weights=positions(targets).cpu().numpy(),
    )


def _imprecise(parts: Sequence[LesionResult], active: list[int], precision: float) -> list[int]:
    """The active lesions whose damage is not yet known to `precision` percentage points."""
    widths = LesionResult.joined(parts[0].plan, parts).damage_widths() * 100
    return [row for row in active if widths[row] > precision]


def _check_intact(net: Unraveled, outcomes: Mapping[str, np.ndarray]) -> None:
    if all(np.isfinite(values[-1]).all() for values in outcomes.values()):
        return
    bad = [name for name, value in net.model.state_dict().items() if not torch.isfinite(value).all()]
    cause = f"`{bad[0]}` holds NaN or infinity" if bad else "its weights are finite, so look at the inputs"
    raise CheckpointError(f"the intact network must give finite outputs, but its loss is not finite: {cause}.")
