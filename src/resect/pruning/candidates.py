"""The best sets of units that save enough: those that are healed before one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, product
from random import Random

from resect.pruning.objective import Removed
from resect.pruning.problem import Choice, Problem

_TRIED = 16  # exchanges that are measured for every candidate that the search lacks
_ROUNDS = 8  # in which those that do not fit are replaced, as to time one takes seconds


def candidates(problem: Problem, choice: Choice, count: int, fits: Callable[[Choice], bool]) -> list[Choice]:
    """A choice and the best other sets that just reach the last level, `count` in all at the most, least harm first.

    They are the best of all sets that the search looked at. Searches that look at fewer get others, drawn at random:
    the choice with one of its units exchanged for one that stays.

    Args:
        fits: whether a set stays within the budget when its costs are measured, not added up.
    """
    objective, level, found = problem.objective, problem.levels[-1], [choice]
    others = [removed for removed in objective.seen if removed != choice.removed and problem.just_meets(removed, level)]
    if (missing := count - 1 - len(others)) > 0:
        drawn = (removed for removed in _exchanged(problem, choice) if removed not in others)
        others += islice(drawn, _TRIED * missing)
    for _ in range(_ROUNDS):
        missing = count - len(found)
        if not missing or not others:
            break
        best = [others[i] for i in objective.least(others, missing)]
        others = [removed for removed in others if removed not in best]
        found += filter(
            fits, (Choice(removed, float(value)) for removed, value in zip(best, objective(best), strict=True))
        )
    return sorted(found, key=lambda one: one.value)


def _exchanged(problem: Problem, choice: Choice) -> list[Removed]:
    """All sets that just reach the last level with one unit exchanged, in random order."""
    kept = [i for i in problem.candidates if i not in choice.removed]
    sets = [choice.removed - {back} | {gone} for back, gone in product(sorted(choice.removed), kept)]
    enough = [removed for removed in sets if problem.just_meets(removed, problem.levels[-1])]
    Random(problem.settings.seed).shuffle(enough)
    return enough
