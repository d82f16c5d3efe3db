"""What results by path length say of themselves."""

from __future__ import annotations

import numpy as np

from resect.paths.measures import Effective
from resect.words import lengths, percent, plural, power_of_ten

MASS = 0.95


def held(effective: Effective, what: str) -> str:
    """ "95 % of the gradient lies on 2 to 7 blocks (4 to 14 layers), 0.3 % of all paths"."""
    return f"{percent(MASS, 0)} of {what} lies on {lengths(effective)}, {percent(effective.path_fraction)} of all paths"


def ends(norm: np.ndarray, what: str) -> str:
    """The norms of the shortest and of the longest length that has one.

    Args:
        norm: (n+1,) by length; NaN where it is not known.
    """
    known = np.flatnonzero(norm > 0)
    if not len(known):
        return f"{what} is zero"
    both = [f"{power_of_ten(float(norm[k]))} at length {k}" for k in dict.fromkeys((known[0], known[-1]))]
    return f"{what} is {' and '.join(both)}"


def drawn(opening: str, shape: tuple[int, ...], at: str, *rest: str) -> str:
    """What was drawn, on how many gradients, and what that says."""
    return f"{opening}, of {plural(shape[0], 'gradient')} at {at}: {'; '.join(rest)}."
