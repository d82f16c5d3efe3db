"""Evolutionary search by level switches (EvoPress, Sieberling et al. 2024): what harms alone may help beside others.

Every child restores some of its parent's removed units and removes others, so that it saves as much. Children are
measured on few samples, the best quarter of them on all; the best set survives, the parent included.
"""

from __future__ import annotations

from random import Random

import numpy as np

from resect.pruning.objective import Removed
from resect.pruning.problem import Choice, Problem
from resect.pruning.search import best_of, first_to_meet

_SWITCHES = 3  # at the most in a child
_PATIENCE = 8  # generations without a better set


def evolution(problem: Problem) -> list[Choice]:
    """Switch units, again and again, keeping the best set of a generation."""
    draw, alone, chosen = Random(problem.settings.seed), _by_harm_alone(problem), list[Choice]()
    for level in problem.levels:
        start = [first_to_meet(problem, alone, level)]
        start += [_repaired(problem, set(), level, draw) for _ in range(problem.settings.offspring // 2)]
        start += [_repaired(problem, set(before.removed), level, draw) for before in chosen[-1:]]
        chosen.append(_evolved(problem, best_of(problem, list(dict.fromkeys(start))), level, draw))
    return chosen


def _evolved(problem: Problem, best: Choice, level: float, draw: Random) -> Choice:
    settings, idle = problem.settings, 0
    for _ in range(settings.generations):
        children = dict.fromkeys(_child(problem, best.removed, level, draw) for _ in range(settings.offspring))
        new = [child for child in children if child != best.removed]
        if not new:
            return best
        promising = np.argsort(problem.objective(new, few=True), kind="stable")[: -(-len(new) // 4)]
        rival = best_of(problem, [new[i] for i in promising])
        idle = 0 if rival.value < best.value else idle + 1
        best = rival if rival.value < best.value else best
        if idle >= _PATIENCE:
            break
    return best


def _by_harm_alone(problem: Problem) -> list[int]:
    """The candidates by the harm that each does alone."""
    alone = [(i,) for i in problem.candidates]
    order = np.argsort(problem.price_of_harm(problem.objective(alone), alone), kind="stable")
    return [problem.candidates[i] for i in order]


def _child(problem: Problem, parent: Removed, level: float, draw: Random) -> Removed:
    child = set(parent)
    for _ in range(min(draw.randint(1, _SWITCHES), draw.randint(1, _SWITCHES))):
        kept = [i for i in problem.candidates if i not in child]
        if not kept or not child:
            break
        back = draw.choice(sorted(child))
        child.add(draw.choice(kept))
        child.discard(back)
    return _repaired(problem, child, level, draw)


def _repaired(problem: Problem, removed: set[int], level: float, draw: Random) -> Removed:
    """Units added at random until enough is saved; then those put back that it does not take."""
    order = [i for i in problem.candidates if i not in removed]
    draw.shuffle(order)
    while not problem.meets(removed, level):
        removed.add(order.pop())
    spare = sorted(removed)
    draw.shuffle(spare)
    for i in spare:
        if problem.meets(removed - {i}, level):
            removed.discard(i)
    return frozenset(removed)
