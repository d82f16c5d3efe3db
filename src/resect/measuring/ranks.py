"""Intervals that rest on ranks alone: of a median, and of a rank correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import binom

from resect.measuring.statistics import check_level

_ALMOST = 1 - 1e-12  # a correlation of which Fisher's transform is finite


def median_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The interval of the median of values, (N,), from two of them, for any distribution.

    It covers at least `level`; of fewer than six values, less: there it is their range.
    """
    check_level(level)
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    below = max(int(binom.ppf((1 - level) / 2, len(ordered), 0.5)) - 1, 0)
    return float(ordered[below]), float(ordered[-1 - below])


def correlation_interval(correlation: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of Spearman's rank correlation of `count` pairs, by Fisher's transform.

    Source: D. Bonett and T. Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations,
    Psychometrika 65 (2000), 23-28.
    """
    check_level(level)
    middle = np.arctanh(np.clip(correlation, -_ALMOST, _ALMOST))
    width = ndtri((1 + level) / 2) * np.sqrt((1 + correlation**2 / 2) / max(count - 3, 1))
    return float(np.tanh(middle - width)), float(np.tanh(middle + width))
