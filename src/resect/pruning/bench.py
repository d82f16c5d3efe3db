"""What a search stands on: a network, its units, what they cost, the samples that choose and those that judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
from torch import nn

from resect.digest import fingerprint
from resect.engines.work import Arrays, Engine, Progress
from resect.measuring.batches import AnyTask, Batch, Batches, Read, again, to_device
from resect.measuring.tasks import Task
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning import costs
from resect.pruning.generation import Generation, generated
from resect.pruning.groups import Group, groups_of, without
from resect.pruning.hardest import hardest_first
from resect.pruning.healed import Healing
from resect.pruning.held_out import held_out
from resect.pruning.latency import Timer
from resect.pruning.objective import Objective
from resect.pruning.problem import Choice
from resect.pruning.rerun import Rerun, beside
from resect.pruning.result import Pruning
from resect.pruning.settings import OBJECTIVES, Budget, PruneSettings
from resect.pruning.writers import Writers
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings


@dataclass(frozen=True)
class Bench:
    """A network, its units, and the samples that choose and those that judge."""

    net: Unraveled
    settings: PruneSettings
    objective: Objective
    judges: Iterable[Batch]

    @classmethod
    def of(
        cls,
        net: Unraveled,
        data: Batches,
        settings: PruneSettings,
        calibration: Batches | None,
        task: AnyTask,
        progress: Progress | None,
        engine: Engine,
    ) -> Bench:
        """All that a search needs."""
        groups = groups_of(net, settings.unit)
        judges: Iterable[Batch] = Read(again(data), net, task)
        if calibration is None:
            chooses, judges = held_out(net, judges, settings.calibration_samples)
        else:
            chooses = list(Read(calibration, net, task))
        metric = settings.objective or next(m for m in OBJECTIVES if m in chooses[0].task.metrics)
        bench = cls(net, settings, Objective(net, groups, chooses, metric, engine, progress), judges)
        if settings.timed:
            _ = bench.timer  # which says what cannot be timed
        return bench

    def for_search(self) -> Bench:
        """With the calibration samples in the order in which a search is soonest sure."""
        objective = self.objective
        batches = hardest_first(self.net, objective.batches, objective.engine)
        return replace(self, objective=replace(objective, batches=batches))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The units."""
        return self.objective.groups

    def arrangement(self, choice: Choice) -> Arrangement:
        """The network without the units of a choice."""
        return without(self.net, self.groups, choice.removed)

    @cached_property
    def first(self) -> Any:
        """One sample's inputs, or as many as the graph is held to."""
        inputs = self.objective.batches[0].inputs
        some = inputs if self.net.batch_size is not None else self.net.part_of(inputs, slice(1))
        return to_device(some, self.net.device)

    @cached_property
    def timer(self) -> Timer:
        """Times this network on samples of the calibration."""
        own, inputs = self.settings, self.objective.batches[0].inputs
        return Timer.of(self.net, inputs, own.timing_batch, own.timing_length, self.objective.engine, own.seed)

    def stays(self, choices: Sequence[Choice], *, timed: bool = True) -> pd.DataFrame:
        """What stays of parameters and operations, and of the last choice of the latency."""
        rows: list[dict[str, float]] = []
        whole = costs.parameters(self.net, self.net.intact), costs.flops(self.net, self.net.intact, self.first)
        for choice in choices:
            arrangement = self.arrangement(choice)
            left = costs.parameters(self.net, arrangement), costs.flops(self.net, arrangement, self.first)
            parts = (part / max(all_, 1) for part, all_ in zip(left, whole, strict=True))
            rows.append(dict(zip(("params", "flops"), parts, strict=True)))
        if timed and self.settings.timed:
            rows[-1] |= self.timer.against_intact(self.arrangement(choices[-1]))
        return pd.DataFrame(rows)

    def run(
        self, arrangements: Sequence[Arrangement], batches: Iterable[Batch], metrics: LesionSettings | None = None
    ) -> LesionResult:
        """The outcomes of arrangements on some batches."""
        plan, objective = plans.explicit(self.net, arrangements), self.objective
        return lesion(self.net, batches, plan, metrics, progress=objective.progress, engine=objective.engine)

    def rerun(self, module: nn.Module, arrangement: Arrangement, batches: Iterable[Batch]) -> Arrays:
        """The outcomes of a module that was made of an arrangement, (N,) each."""
        work, objective = Rerun(module, f"{arrangement} {fingerprint(module)}"), self.objective
        return work.outcomes(self.net, batches, objective.engine, objective.progress)

    def judged(
        self, choices: Sequence[Choice], stays: pd.DataFrame, budget: Budget | None, healing: Healing | None = None
    ) -> Pruning:
        """The choices, run on the samples that chose nothing."""
        objective = self.objective
        outcomes = self.run([self.arrangement(choice) for choice in choices], self.judges)
        return Pruning(
            self.settings.called,
            self.groups,
            tuple(choices),
            outcomes,
            stays,
            budget,
            objective.metric,
            sum(map(len, objective.batches)),
            objective.passes,
            objective.measured,
            self.settings.tolerance,
            self._generation(outcomes, healing),
            healing,
        )

    @property
    def task(self) -> Task:
        """What the targets mean."""
        return self.objective.batches[0].task

    def _generation(self, outcomes: LesionResult, healing: Healing | None) -> Generation | None:
        """How a language model writes under the last arrangement, and healed; None of other networks."""
        if self.settings.generation is None:
            return None

        def asked(batches: Sequence[Batch], metrics: LesionSettings) -> LesionResult:
            cut = outcomes.plan.arrangements[-1]
            found = self.run([cut], batches, metrics)
            return found if healing is None else beside(found, 0, self.rerun(healing.network, cut, batches))

        text, objective = outcomes if healing is None else healing.both, self.objective
        writers = Writers(self.net, asked, objective.engine, objective.progress)
        return generated(writers, self.judges, self.settings.generation, text)
