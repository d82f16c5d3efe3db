"""Lesion a network by a plan and measure what every lesion does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import CheckpointError, InputError, settings_or_default
from resect.measuring.batches import AnyTask, Batch, Batches, again, batches_of
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.sweep.batching import forward_seconds
from resect.sweep.execution import branch_means
from resect.sweep.outcomes import Outcomes, Sweep
from resect.sweep.plans import Plan
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings

_PIECE_SECONDS = 20.0  # what a kill loses at the most, about


def lesion(
    net: Unraveled,
    data: Batches,
    plan: Plan,
    settings: LesionSettings | None = None,
    *,
    task: AnyTask = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> LesionResult:
    """Run every arrangement of `plan`, its references and the intact network on `data`.

    Args:
        net: the unravelled network.
        data: (inputs, targets) batches, or a data spec such as "digits"; inputs as the network takes them, targets (B,)
            or (B, L) integers, or what else the task takes.
        plan: of `resect.plans`, e.g. `resect.plans.single(net)`.
        settings: metrics, precision, and how the network runs.
        task: what the targets mean: a name such as "multi-label" (see `resect.Task.named`), a `resect.Task`, or a loss
            (outputs, targets) -> (B,); None to have it guessed from targets and outputs, which the result says.
        progress: called with the number of samples since the last call that a lesion has run on, or need not.
        engine: runs the pieces of work: some lesions on one batch each.

    Raises:
        DataError: the data are empty or do not fit the network, or a metric's values do not fit the batch.
        CheckpointError: the intact network's outputs are not finite.

    Example:
        >>> result = resect.lesion(net, "digits", resect.plans.single(net))
        >>> result.table

    Source: Veit et al. 2016, section 4.
    """
    settings = settings_or_default(settings, LesionSettings)
    if not isinstance(plan, Plan):
        raise InputError(
            "`plan` must be made by resect.plans, such as plans.single(net), or plans.explicit(net, [arrangement]) of "
            f"arrangements of your own, got {type(plan).__name__}."
        )
    wrong = [len(arrangement) for arrangement in plan.arrangements if len(arrangement) != len(net.blocks)]
    if wrong:
        raise InputError(
            f"`plan` must be made for this network of {len(net.blocks)} blocks, but is for one of {wrong[0]}."
        )
    means, batches = None, batches_of(data, net, task)
    if plan.removal == "mean":
        data = again(data)
        means = branch_means(net, batches_of(data, net, task))
        batches = batches_of(data, net, task, seen=True)
    return _Run(net, plan, Sweep(settings, plan.removal, means), engine, progress).over(batches)


@dataclass
class _Run:
    """One plan on one network, batch by batch."""

    net: Unraveled
    plan: Plan
    sweep: Sweep
    engine: Engine
    progress: Progress | None

    def over(self, data: Iterable[Batch]) -> LesionResult:
        """The outcomes of all batches; lesions that are known precisely enough are left out of the next ones."""
        active, precision = list(range(len(self.plan))), self.sweep.settings.precision
        parts: list[LesionResult] = []
        for batch in data:
            if precision is not None and not (batch.task.rate and batch.task.error):
                raise InputError(f"`precision` is in points of an error rate, which {batch.task.name} has not.")
            if len(self.plan) and not active:
                break
            parts.append(self._batch(batch, active))
            if self.progress:
                self.progress((len(self.plan) - len(active)) * len(batch))
            if precision is not None and any(part.weights.any() for part in parts):
                widths = LesionResult.joined(parts).damage_widths() * 100
                active = [row for row in active if not widths[row] <= precision]
        return LesionResult.joined(parts)

    def _batch(self, batch: Batch, active: list[int]) -> LesionResult:
        """The outcomes of the active lesions, the references and the intact network on one batch."""
        arrangements = (*(self.plan.arrangements[i] for i in active), *self.plan.references, self.net.intact)
        pieces = self._pieces(batch, arrangements)
        works = [(Outcomes(self.sweep, tuple(arrangements[i] for i in piece)), batch) for piece in pieces]
        order = np.argsort(np.concatenate(pieces))
        results = list(self.engine.run(self.net, works, self.progress))
        outcomes = {name: np.concatenate([arrays[name] for arrays in results])[order] for name in results[0]}
        _check_intact(self.net, outcomes)
        return _as_result(self.plan, active, outcomes, batch)

    def _pieces(self, batch: Batch, arrangements: tuple[Arrangement, ...]) -> list[list[int]]:
        """Positions of the arrangements in parts of the trie, small enough where they are kept; else all in one."""
        key, passes = self.sweep.key, 1 + self.sweep.settings.compile  # the second run of a slice compiles it
        if not self.engine.keeps or key is None:
            return [list(range(len(arrangements)))]

        def timed() -> Arrays:
            return {"seconds": np.array(forward_seconds(self.sweep.execution(self.net), batch.inputs, passes))}

        what = {"what": "seconds of a pass", **key, "samples": len(batch)}
        seconds = float(self.engine.once(self.net, what, timed)["seconds"])
        return self.sweep.tour(self.net, arrangements).cut(int(_PIECE_SECONDS / max(seconds, 1e-9) * self.net.slices))


def _as_result(plan: Plan, active: Sequence[int], outcomes: Arrays, batch: Batch) -> LesionResult:
    """One batch as a result; lesions that were stopped have NaN."""
    rows, beside = {}, {}
    for name, values in outcomes.items():
        rows[name] = np.full((len(plan), values.shape[1]), np.nan, dtype=np.float32)
        rows[name][list(active)] = values[: len(active)]
        beside[name] = values[len(active) :]
    return LesionResult(
        plan,
        values=rows,
        references={name: values[:-1] for name, values in beside.items()},
        intact={name: values[-1] for name, values in beside.items()},
        targets=batch.targets.cpu().numpy() if batch.targets.ndim == 1 and batch.task.rate else None,
        weights=batch.task.weights(batch.targets).cpu().numpy(),
        meaning=batch.task.meaning(batch.targets),
    )


def _check_intact(net: Unraveled, outcomes: Mapping[str, np.ndarray]) -> None:
    if all(np.isfinite(values[-1]).all() for values in outcomes.values()):
        return
    bad = [name for name, value in net.model.state_dict().items() if not torch.isfinite(value).all()]
    cause = (
        f"`{bad[0]}` holds NaN or infinity"
        if bad
        else "its weights are finite, so look at the inputs, and at a loss of your own"
    )
    raise CheckpointError(f"the intact network must give finite outputs, but its loss is not finite: {cause}.")
