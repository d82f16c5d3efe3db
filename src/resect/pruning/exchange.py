"""Search by exchanges: sets that a beam finds, in which units are put back for others as long as that does less harm.

What each of the removed units would spare if it were put back, and each other cost if it went, too, is measured on few
samples; the exchanges that promise most by the sum of the two are then measured on all.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from resect.pruning.objective import Removed
from resect.pruning.problem import Choice, Problem
from resect.pruning.search import beam, best_of

_TRIED = 64  # exchanges of a round
_ROUNDS = 50


def exchange(problem: Problem) -> list[Choice]:
    """Improve a beam's sets by exchanging units, one for one."""
    return [_improved(problem, choice, level) for choice, level in zip(beam(problem), problem.levels, strict=True)]


def _improved(problem: Problem, best: Choice, level: float) -> Choice:
    for _ in range(_ROUNDS):
        rival = best_of(problem, [best.removed, *_promising(problem, best.removed, level)])
        if rival.removed == best.removed:
            break
        best = rival
    return best


def _promising(problem: Problem, removed: Removed, level: float) -> list[Removed]:
    """Sets with one unit exchanged for another that save enough, the likeliest to do less harm."""
    gone, others = sorted(removed), [i for i in problem.candidates if i not in removed]
    harms = problem.objective([*(removed - {i} for i in gone), *(removed | {i} for i in others)], few=True)
    spared, added = harms[: len(gone)], harms[len(gone) :]
    likely = np.argsort(np.add.outer(spared, added), axis=None, kind="stable")
    pairs = ((gone[i], others[j]) for i, j in zip(*np.divmod(likely, len(others)), strict=True))
    changed = (removed - {i} | {j} for i, j in pairs)
    return list(islice((some for some in changed if problem.meets(some, level)), _TRIED))
