"""Searches for units to remove: one at a time, by beam, and all sets. Each gives a choice a level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from resect.errors import InputError
from resect.pruning.objective import Removed
from resect.pruning.problem import Choice, Problem
from resect.pruning.scores import SCORES, scores_of
from resect.pruning.states import moved


def one_shot(problem: Problem) -> list[Choice]:
    """Remove what matters least by a score (for what it saves), without looking again."""
    worth = _score(problem)
    order = sorted(problem.candidates, key=lambda i: (worth[i], i))
    return _measured(problem, [first_to_meet(problem, order, level) for level in problem.levels])


def window(problem: Problem) -> list[Choice]:
    """Remove the run of consecutive units over which the state turns least (Gromov et al. 2024)."""
    objective = problem.objective
    groups = objective.groups
    angles = objective.scored("angles", moved)["angles"].mean(2)
    chosen = []
    for level in problem.levels:
        runs = [range(first, last + 1) for first in range(len(groups)) for last in range(first, len(groups))]
        blocks = {run: sorted(block for i in run for block in groups[i].blocks) for run in runs}
        whole = [run for run in runs if len(blocks[run]) == blocks[run][-1] - blocks[run][0] + 1]
        turned = [(angles[blocks[run][0], blocks[run][-1]], run) for run in whole if problem.meets(run, level)]
        fitting = [(angle, run) for angle, run in turned if not np.isnan(angle)]
        if not fitting:
            raise InputError("no run of consecutive units keeps the shape and saves so much; choose another `search`.")
        chosen.append(frozenset(min(fitting, key=lambda pair: (len(pair[1]), pair[0], pair[1][0]))[1]))
    return _measured(problem, chosen)


def greedy(problem: Problem) -> list[Choice]:
    """Remove, again and again, the unit that does the least harm beside those that are gone (Song et al. 2024)."""
    return _beam(problem, 1)


def beam(problem: Problem) -> list[Choice]:
    """The same from several of the best sets at a time."""
    return _beam(problem, problem.settings.width)


def _beam(problem: Problem, width: int) -> list[Choice]:
    kept: list[Removed] = [frozenset()]
    best: list[Choice] = []
    for level in problem.levels:
        while not (met := [removed for removed in kept if problem.meets(removed, level)]):
            grown = dict.fromkeys(old | {i} for old in kept for i in problem.candidates if i not in old)
            sets = list(grown)
            kept = [sets[i] for i in problem.objective.least(sets, width, problem.price_of_harm)]
        best.append(best_of(problem, met))
    return best


def exhaustive(problem: Problem) -> list[Choice]:
    """The best of all sets that save just enough."""
    settings, chosen = problem.settings, []
    for level in problem.levels:
        if not problem.fewer_than(level, settings.most_sets):
            raise InputError(
                f"`search` must not be exhaustive where more than {settings.most_sets:,} sets may save enough. Take "
                "pairwise, evolution or beam."
            )
        chosen.append(best_of(problem, [frozenset(removed) for removed in problem.minimal(level)]))
    return chosen


def best_of(problem: Problem, sets: Sequence[Removed]) -> Choice:
    """The set with the least harm, the first of equals."""
    (best,) = problem.objective.least(sets, 1)
    return Choice(sets[best], float(problem.objective([sets[best]])[0]))


def first_to_meet(problem: Problem, order: Sequence[int], level: float) -> Removed:
    """The first units of an order that save enough."""
    return next(frozenset(order[:size]) for size in range(1, len(order) + 1) if problem.meets(order[:size], level))


def _measured(problem: Problem, sets: Iterable[Removed]) -> list[Choice]:
    chosen = list(sets)
    return [Choice(s, float(value)) for s, value in zip(chosen, problem.objective(chosen), strict=True)]


def _score(problem: Problem) -> np.ndarray:
    """(units,) the sum of the scores of a unit's blocks, for what it saves; infinite where that is nothing."""
    objective, name = problem.objective, problem.settings.score
    known = scores_of(objective.batches[0].task)
    if name not in known:
        raise InputError(f"`score` must be one of {', '.join(known)}, which the task has, got {name!r}.")
    values = objective.scored(name, SCORES[name])["value"].to_numpy()
    worth = np.array([values[list(group.blocks)].sum() for group in objective.groups])
    chosen, order = problem.candidates, np.full(len(worth), np.inf)
    order[chosen] = problem.price_of_harm(worth[chosen], [(i,) for i in chosen])
    return order
