"""Search by pairs: the harm of a set is modelled as that of each unit alone and what every two do beside that.

Q(S) = m + sum_i d_i + sum_ij I_ij, with m the intact value, d_i = m(i) - m and I_ij = m(i, j) - m(i) - m(j) + m, from
one sweep over all pairs. The model is minimised exactly where there are few sets, else by a wide beam; its best sets
are then measured. n units.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from resect.pruning.objective import Removed
from resect.pruning.problem import Choice, Problem
from resect.pruning.search import best_of

_LARGEST = 1e30  # of a harm: infinite ones have no differences
_WIDTH = 256  # of the beam over the model, which costs no run of the network


def pairwise(problem: Problem) -> list[Choice]:
    """Minimise single harms and interactions of pairs, and measure the best sets of that model."""
    intact, alone, both = _model(problem)
    chosen = []
    for level in problem.levels:
        exact = problem.fewer_than(level, problem.settings.most_sets)
        sets = list(map(frozenset, problem.minimal(level))) if exact else _beamed(problem, alone, both, level)
        values = np.array([_value(intact, alone, both, removed) for removed in sets])
        likely = np.argsort(values, kind="stable")[: problem.settings.tried]
        chosen.append(best_of(problem, [sets[i] for i in likely]))
    return chosen


def _model(problem: Problem) -> tuple[float, np.ndarray, np.ndarray]:
    """The intact value, what each unit does alone (n,), and the interactions (n, n), 0 on the diagonal."""
    n, some = len(problem.prices), problem.candidates
    pairs = list(combinations(some, 2))
    values = np.minimum(problem.objective([(), *((i,) for i in some), *pairs]), _LARGEST)
    intact, alone, both = float(values[0]), np.zeros(n), np.zeros((n, n))
    alone[some] = values[1 : 1 + len(some)] - intact
    for (i, j), value in zip(pairs, values[1 + len(some) :], strict=True):
        both[i, j] = both[j, i] = value - intact - alone[i] - alone[j]
    return intact, alone, both


def _value(intact: float, alone: np.ndarray, both: np.ndarray, removed: Removed) -> float:
    units = list(removed)
    return float(intact + alone[units].sum() + both[np.ix_(units, units)].sum() / 2)


def _beamed(problem: Problem, alone: np.ndarray, both: np.ndarray, level: float) -> list[Removed]:
    """Sets that reach a level, from the best sets of each size by the model."""
    kept: dict[Removed, float] = {frozenset(): 0.0}
    met: list[Removed] = []
    while kept:
        grown: dict[Removed, float] = {}
        for old, value in kept.items():
            beside = alone + both[:, list(old)].sum(1)
            grown |= {old | {i}: value + float(beside[i]) for i in problem.candidates if i not in old}
        met += [removed for removed in grown if problem.meets(removed, level)]
        open_ = [removed for removed in grown if not problem.meets(removed, level)]
        order = np.argsort(problem.price_of_harm(np.array([grown[s] for s in open_]), open_), kind="stable")
        kept = {open_[i]: grown[open_[i]] for i in order[:_WIDTH]}
    return met
