"""Depth pruning: which units can go within a budget, chosen on some samples and judged on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL
from resect.engines.work import Engine, Progress
from resect.errors import InputError, settings_or_default
from resect.measuring.batches import AnyTask, Batch, Batches, Read, again, to_device
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning import costs
from resect.pruning.evolution import evolution
from resect.pruning.exchange import exchange
from resect.pruning.generation import Generation, generated
from resect.pruning.groups import Group, groups_of, without
from resect.pruning.hardest import hardest_first
from resect.pruning.held_out import held_out
from resect.pruning.latency import Timer
from resect.pruning.objective import Objective
from resect.pruning.pairwise import pairwise
from resect.pruning.problem import Choice, Problem
from resect.pruning.result import Pruning
from resect.pruning.search import beam, exhaustive, greedy, one_shot, window
from resect.pruning.settings import OBJECTIVES, Budget, PruneSettings
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.result import LesionResult

SEARCHES: dict[str, Callable[[Problem], list[Choice]]] = {
    "greedy": greedy,
    "one-shot": one_shot,
    "window": window,
    "beam": beam,
    "evolution": evolution,
    "pairwise": pairwise,
    "exchange": exchange,
    "exhaustive": exhaustive,
}
_ATTEMPTS = 4  # searches, at the most, until what was asked for is saved when it is measured
_GROWTH = 1.5  # times as much is asked of the next one, at the most: one measurement may be noise
_SMALL = 1e-9


def prune(
    net: Unraveled,
    data: Batches,
    budget: Budget,
    settings: PruneSettings | None = None,
    *,
    calibration: Batches | None = None,
    task: AnyTask = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> Pruning:
    """Find the units whose removal does the least harm within a budget.

    Args:
        net: an unravelled network with at least one block.
        data: (inputs, targets) batches, or a data spec. Every fourth batch chooses, up to about
            `calibration_samples`, all others judge the choice; a single batch is halved.
        budget: what has to go: `resect.Budget(remove=10)` units, or the part that may stay of `params`, `flops` or
            `latency`, `resect.Budget(latency=0.7)`.
        settings: unit, search, objective, and how far it looks.
        calibration: batches that choose; then all of `data` judge.
        task: what the targets mean, as for `lesion`.
        progress: called with the number of samples since the last call that a set of units has run on.
        engine: runs the pieces of work; with a store that outlives the process, a search that was killed goes on.

    Raises:
        InputError: the budget cannot be reached, or a setting means nothing here.
        DataError: the data are empty, do not fit the network, or cannot be parted.

    Example:
        >>> result = resect.prune(net, "digits", resect.Budget(remove=10))
        >>> small = net.standalone(result.arrangement)
    """
    settings = settings_or_default(settings, PruneSettings)
    if not isinstance(budget, Budget):
        raise InputError(f"`budget` must be resect.Budget(...), got {type(budget).__name__}.")
    bench = Bench.of(net, data, settings, calibration, task, progress, engine)
    choices, stays = _Search(bench, budget).choices()
    return bench.judged(choices, stays, budget)


def remove(
    net: Unraveled,
    data: Batches,
    arrangement: Arrangement,
    settings: PruneSettings | None = None,
    *,
    calibration: Batches | None = None,
    task: AnyTask = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> Pruning:
    """What `prune` says of a choice that is made: an arrangement that deletes blocks; for the rest see there."""
    settings = settings_or_default(settings, PruneSettings)
    bench = Bench.of(net, data, settings, calibration, task, progress, engine)
    gone = frozenset(i for i, decision in enumerate(arrangement) if decision is None)
    if arrangement != net.intact.without(gone) or not gone:
        raise InputError(f"the plan must delete some blocks and leave all others in their place, got {arrangement}.")
    removed = frozenset(i for i, group in enumerate(bench.groups) if gone.issuperset(group.blocks))
    if {block for i in removed for block in bench.groups[i].blocks} != gone:
        raise InputError(f"the plan must delete whole units of {settings.unit}, got {arrangement}.")
    choice = Choice(removed, float(bench.objective([removed])[0]))
    return bench.judged([choice], bench.stays([choice]), None)


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
        chooses = hardest_first(net, chooses, engine)
        return cls(net, settings, Objective(net, groups, chooses, metric, engine, progress), judges)

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

    def judged(self, choices: Sequence[Choice], stays: pd.DataFrame, budget: Budget | None) -> Pruning:
        """The choices, run on the samples that chose nothing."""
        objective, unit = self.objective, self.settings.unit
        plan = plans.explicit(self.net, [self.arrangement(choice) for choice in choices])
        outcomes = lesion(self.net, self.judges, plan, progress=objective.progress, engine=objective.engine)
        return Pruning(
            unit if isinstance(unit, str) else "group",
            self.groups,
            tuple(choices),
            outcomes,
            stays,
            budget,
            objective.metric,
            sum(map(len, objective.batches)),
            objective.measured,
            self.settings.tolerance,
            self._generation(choices[-1], outcomes),
        )

    def _generation(self, choice: Choice, outcomes: LesionResult) -> Generation | None:
        """How a language model writes without the units of a choice; None of other networks."""
        if self.settings.generation is None:
            return None
        own, engine = self.settings.generation, self.objective.engine
        return generated(
            self.net, self.judges, self.arrangement(choice), own, outcomes, engine, self.objective.progress
        )


@dataclass(frozen=True)
class _Search:
    """One budget on one bench."""

    bench: Bench
    budget: Budget

    def choices(self) -> tuple[list[Choice], pd.DataFrame]:
        """The best units for every level, each set once, and what stays of the costs."""
        bench, settings = self.bench, self.bench.settings
        problem = Problem(bench.objective, self._prices(), self.budget.levels(settings.sweep), settings)
        self._require_enough(problem)
        choices = self._until_met(problem)
        stays = bench.stays(choices)
        if self.budget.what == "latency":
            every = pd.DataFrame([bench.timer.against_intact(bench.arrangement(choice)) for choice in choices])
            predicted = [1 - problem.saved(choice.removed) for choice in choices]
            stays = pd.concat([stays[["params", "flops"]], every], axis=1).assign(predicted=predicted)
        return choices, stays

    def _prices(self) -> np.ndarray:
        bench, what = self.bench, self.budget.what
        if what == "remove":
            return np.ones(len(bench.groups))
        if what == "latency":
            return bench.timer.prices(bench.groups)
        return costs.saved(bench.net, bench.groups, what, bench.first)

    def _require_enough(self, problem: Problem) -> None:
        if problem.meets(problem.candidates, self.budget.need):
            return
        if self.budget.what == "remove":
            units = len(problem.prices)
            raise InputError(f"`remove` must be at most the number of units, {units}, got {self.budget.remove}.")
        least = 1 - problem.saved(problem.candidates)
        raise InputError(
            f"`{self.budget.what}` must be at least {least:.2f}, about what stays without all units, got "
            f"{self.budget.asked:g}."
        )

    def _until_met(self, problem: Problem) -> list[Choice]:
        """Choices the last of which saves what was asked for when it is measured: where prices promise too much, more
        goes. Those that save most, if none does.

        Latencies do not add up exactly, nor what blocks inside each other save.
        """
        asked, tried = problem, []
        for _ in range(_ATTEMPTS):
            choices = _searched(asked)
            if self.budget.what == "remove" or (left := self._left(choices[-1])) <= self.budget.asked:
                return choices
            tried.append((left, choices))
            promised, most = asked.saved(choices[-1].removed), asked.saved(asked.candidates)
            need = min(promised * min(self.budget.need / max(1 - left, _SMALL), _GROWTH), most)
            if need <= asked.levels[-1] + _SMALL:
                break
            asked = replace(problem, levels=(*problem.levels[:-1], need))
        return min(tried, key=lambda attempt: attempt[0])[1]

    def _left(self, choice: Choice) -> float:
        """The part that stays of what the budget is about."""
        bench, arrangement = self.bench, self.bench.arrangement(choice)
        if self.budget.what == "latency":
            return bench.timer.against_intact(arrangement)["latency"]
        return float(bench.stays([choice], timed=False)[self.budget.what].iloc[0])


def _searched(problem: Problem) -> list[Choice]:
    """The choices of the search that is asked for, each set of units once."""
    choices = SEARCHES[problem.settings.search](problem)
    return list({choice.removed: choice for choice in choices}.values())
