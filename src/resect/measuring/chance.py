"""What a network would do by chance: always name the commonest class."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from resect.graph.outputs import IGNORED


def chance_error(targets: np.ndarray) -> float | None:
    """The error of always naming the commonest class of integers of any shape; None if no target counts."""
    counted = targets[targets != IGNORED]
    return None if not counted.size else 1.0 - int(np.bincount(counted).max()) / counted.size


def no_better_than_chance(error: float, targets: np.ndarray) -> bool:
    """Whether an error is not significantly below `chance_error`: its 95 % Wilson interval reaches up to it.

    Where all targets are of one class, or none is missed, there is nothing to tell.

    Args:
        error: fraction of the targets that count.
    """
    chance, counted = chance_error(targets), int((targets != IGNORED).sum())
    if not chance or not error:
        return False
    return bool(binomtest(round(error * counted), counted).proportion_ci(0.95, method="wilson").high >= chance)
