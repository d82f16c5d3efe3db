"""Whether a network does better than chance: than always naming the commonest class."""

from __future__ import annotations

from scipy.stats import binomtest


def no_better_than_chance(error: float, chance: float | None, counted: int) -> bool:
    """Whether an error is not significantly below that of chance: its 95 % Wilson interval reaches up to it.

    Where none is missed, there is nothing to tell; where all targets are of one class, any error is no better.

    An error above that of chance is no better either, however sure.

    Args:
        error: fraction of the targets that count.
        chance: that of always naming the commonest class; None if no target counts.
        counted: how many targets count.
    """
    if chance is None or not error:
        return False
    return bool(binomtest(round(error * counted), counted).proportion_ci(0.95, method="wilson").high >= chance)
