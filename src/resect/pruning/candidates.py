"""The best sets of units that save enough: those that are healed before one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from random import Random

from resect.pruning.objective import Removed
from resect.pruning.problem import Choice, Problem

_TRIED = 16  # exchanges that are measured for every candidate that the search lacks


def candidates(problem: Problem, choice: Choice, count: int, fits: Callable[[Choice], bool]) -> list[Choice]:
    """A choice and the best other sets that just reach the last level, `count` in all at the most, least harm first.

    Searches that measure fewer sets get others, drawn at random: the choice with one of its units exchanged for one
    that stays.

    Args:
        fits: whether a set stays within the budget when its costs are measured, not added up.
    """
    if count > 1 and (missing := count - len(problem.objective.known(problem.just_meets))) > 0:
        problem.objective(_exchanged(problem, choice)[: _TRIED * missing])
    chosen = [choice]
    for removed, value in problem.objective.known(problem.just_meets):
        if len(chosen) == count:
            break
        if removed != choice.removed and fits(other := Choice(removed, value)):
            chosen.append(other)
    return sorted(chosen, key=lambda one: one.value)


def _exchanged(problem: Problem, choice: Choice) -> list[Removed]:
    """All sets that just reach the last level with one unit exchanged, in random order."""
    kept = [i for i in problem.candidates if i not in choice.removed]
    sets = [choice.removed - {back} | {gone} for back, gone in product(sorted(choice.removed), kept)]
    enough = [removed for removed in sets if problem.just_meets(removed)]
    Random(problem.settings.seed).shuffle(enough)
    return enough
