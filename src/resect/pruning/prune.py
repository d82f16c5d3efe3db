"""Depth pruning: which units can go within a budget, chosen on some samples and judged on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL
from resect.engines.work import Engine, Progress
from resect.errors import InputError, settings_or_default
from resect.measuring.batches import AnyTask, Batches
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning import costs
from resect.pruning.bench import Bench
from resect.pruning.candidates import candidates
from resect.pruning.evolution import evolution
from resect.pruning.exchange import exchange
from resect.pruning.groups import indices
from resect.pruning.heal import heal as healed
from resect.pruning.pairwise import pairwise
from resect.pruning.problem import Choice, Problem
from resect.pruning.result import Pruning
from resect.pruning.search import beam, exhaustive, greedy, one_shot, window
from resect.pruning.settings import Budget, HealSettings, PruneSettings
from resect.pruning.treatment import Treatment
from resect.words import plural

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
    heal: HealSettings | None = None,
    training: Batches | None = None,
    checkpoints: Path | None = None,
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
        heal: train the best candidates a little before one is chosen, `resect.HealSettings(epochs=5)`.
        training: (inputs, targets) batches to heal on, or a data spec, whose training samples are taken; by default
            those of the spec `data`. Samples that choose or judge are left out.
        checkpoints: a folder that an interrupted healing goes on from.

    Raises:
        InputError: the budget cannot be reached, or a setting means nothing here.
        DataError: the data are empty, do not fit the network, or cannot be parted; or there are none to heal on.

    Example:
        >>> result = resect.prune(net, "digits", resect.Budget(remove=10))
        >>> small = net.standalone(result.arrangement)
        >>> small = resect.prune(net, "digits", resect.Budget(remove=30), heal=resect.HealSettings()).healing.network
    """
    settings = settings_or_default(settings, PruneSettings)
    if not isinstance(budget, Budget):
        raise InputError(f"`budget` must be resect.Budget(...), got {type(budget).__name__}.")
    bench = Bench.of(net, data, settings, calibration, task, progress, engine).for_search()
    treatment = _treatment(bench, heal, training, checkpoints)
    search, healing = _Search(bench, budget), None
    choices, problem = search.choices()
    if treatment:
        healing = healed(bench, treatment, search.candidates(choices[-1], problem, treatment.settings.candidates))
        choices[-1] = healing.choice
    return bench.judged(choices, search.stays(choices, problem), budget, healing)


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
    heal: HealSettings | None = None,
    training: Batches | None = None,
    checkpoints: Path | None = None,
) -> Pruning:
    """What `prune` says of a choice that is made: an arrangement that deletes blocks; for the rest see there."""
    settings = settings_or_default(settings, PruneSettings)
    bench = Bench.of(net, data, settings, calibration, task, progress, engine)
    gone = frozenset(i for i, decision in enumerate(arrangement) if decision is None)
    if arrangement != net.intact.without(gone) or not gone:
        raise InputError(f"the plan must delete some blocks and leave all others in their place, got {arrangement}.")
    removed = frozenset(i for i, group in enumerate(bench.groups) if gone.issuperset(group.blocks))
    if {block for i in removed for block in bench.groups[i].blocks} != gone:
        raise InputError(f"the plan must delete whole {settings.called}s, got {arrangement}.")
    treatment = _treatment(bench, heal, training, checkpoints)
    choice = Choice(removed, float(bench.objective([removed])[0]))
    healing = healed(bench, treatment, [choice]) if treatment else None
    return bench.judged([choice], bench.stays([choice]), None, healing)


def _treatment(
    bench: Bench, heal: HealSettings | None, training: Batches | None, checkpoints: Path | None
) -> Treatment | None:
    """How candidates are healed; None if they are not. What cannot be done is refused before the search."""
    if heal is None:
        if training is not None:
            raise InputError("`training` is for healing: give `heal`, too, as resect.HealSettings(...).")
        return None
    return Treatment.of(bench, heal, training, checkpoints)


@dataclass(frozen=True)
class _Search:
    """One budget on one bench."""

    bench: Bench
    budget: Budget

    def choices(self) -> tuple[list[Choice], Problem]:
        """The best units for every level, each set once, and the problem whose levels they reach."""
        bench, settings = self.bench, self.bench.settings
        problem = Problem(bench.objective, self._prices(), self.budget.levels(settings.sweep), settings)
        self._require_enough(problem)
        return self._until_met(problem)

    def candidates(self, choice: Choice, problem: Problem, count: int) -> list[Choice]:
        """The choice and the best others within the budget, `count` at the most, least harm first."""

        def fits(other: Choice) -> bool:
            return self.budget.what == "remove" or self._left(other) <= self.budget.asked

        return candidates(problem, choice, count, fits)

    def stays(self, choices: Sequence[Choice], problem: Problem) -> pd.DataFrame:
        """What stays of the costs."""
        bench, stays = self.bench, self.bench.stays(choices)
        if self.budget.what != "latency":
            return stays
        every = pd.DataFrame([bench.timer.against_intact(bench.arrangement(choice)) for choice in choices])
        predicted = [1 - problem.saved(choice.removed) for choice in choices]
        return pd.concat([stays[["params", "flops"]], every], axis=1).assign(predicted=predicted)

    def _prices(self) -> np.ndarray:
        """(units,) what each saves; of those that hold a protected block minus infinity."""
        protected = indices(self.bench.net, self.bench.settings.protected)
        stay = [i for i, group in enumerate(self.bench.groups) if protected.intersection(group.blocks)]
        prices = self._savings()
        prices[stay] = -np.inf
        return prices

    def _savings(self) -> np.ndarray:
        """(units,) what each saves, whether it may go or not."""
        bench, what = self.bench, self.budget.what
        if what == "remove":
            return np.ones(len(bench.groups))
        if what == "latency":
            return bench.timer.prices(bench.groups)
        return costs.saved(bench.net, bench.groups, what, bench.first)

    def _require_enough(self, problem: Problem) -> None:
        """Raise InputError unless units that save so much can go and leave a block."""
        if problem.meets(problem.largest, self.budget.need):
            return
        most, unit = len(problem.largest), self.bench.settings.called
        if not most:
            raise InputError(f"nothing can go: no {unit} saves anything and leaves the network a block.")
        if self.budget.what == "remove":
            why = ", so that one stays" if most < len(problem.candidates) else ""
            units = plural(len(problem.prices), unit)
            raise InputError(f"`remove` must be at most {most} of the {units}{why}, got {self.budget.remove}.")
        least = ceil(100 * (1 - problem.saved(problem.largest))) / 100
        raise InputError(
            f"`{self.budget.what}` must be at least {least:.2f}, about what stays without {plural(most, unit)}, the "
            f"most that can go, got {self.budget.asked:g}."
        )

    def _until_met(self, problem: Problem) -> tuple[list[Choice], Problem]:
        """Choices the last of which saves what was asked for when it is measured, and the problem that they solve:
        where prices promise too much, more goes. Those that save most, if none does.

        Latencies do not add up exactly, nor what blocks inside each other save.
        """
        asked, tried = problem, list[tuple[float, list[Choice], Problem]]()
        for _ in range(_ATTEMPTS):
            choices = _searched(asked)
            if self.budget.what == "remove" or (left := self._left(choices[-1])) <= self.budget.asked:
                return choices, asked
            tried.append((left, choices, asked))
            promised, most = asked.saved(choices[-1].removed), asked.saved(asked.largest)
            need = min(promised * min(self.budget.need / max(1 - left, _SMALL), _GROWTH), most)
            if need <= asked.levels[-1] + _SMALL:
                break
            asked = replace(problem, levels=(*problem.levels[:-1], need))
        return min(tried, key=lambda attempt: attempt[0])[1:]

    def _left(self, choice: Choice) -> float:
        """The part that stays of what the budget is about."""
        bench, arrangement = self.bench, self.bench.arrangement(choice)
        if self.budget.what == "latency":
            return bench.timer.against_intact(arrangement)["latency"]
        return float(bench.stays([choice], timed=False)[self.budget.what].iloc[0])


def _searched(problem: Problem) -> list[Choice]:
    """The choices of the search that is asked for, each set of units once.

    Raises:
        InputError: nothing less than all blocks was found.
    """
    choices = SEARCHES[problem.settings.search](problem)
    if problem.empties(choices[-1].removed):
        raise InputError(
            "`search` must find units that save so much and leave a block, but found none. Ask for less, or take "
            "another."
        )
    return list({choice.removed: choice for choice in choices}.values())
