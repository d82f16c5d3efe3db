"""Many lesions at once: tests and limits that hold for all of them together, and what the worst of them costs.

Letters: L lesions, N samples. Outcomes are whether a sample is wrong under a lesion.
"""

from __future__ import annotations

from math import ceil, log2

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from resect.errors import InputError
from resect.measuring.statistics import check_level, paired_error_interval


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values: those below 5 % are, together, wrong in at most 5 % of all experiments.

    Args:
        p_values: (L,) 0 to 1, of any dependence; NaN where there was no test, which then counts as none.

    Returns:
        (L,) float64, at least the p-values.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979), 65-70.
    """
    p, known = _tests(p_values)
    adjusted = np.full(len(p), np.nan)
    order = np.flatnonzero(known)[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> np.ndarray:
    """Benjamini and Hochberg's q-values: of those below 5 %, on average at most 5 % are no effects.

    Args:
        p_values: as for `holm`; independent, or positively dependent.

    Source: Y. Benjamini and Y. Hochberg, J. R. Statist. Soc. B 57 (1995), 289-300.
    """
    p, known = _tests(p_values)
    q = np.full(len(p), np.nan)
    order = np.flatnonzero(known)[np.argsort(p[known], kind="stable")]
    steps = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(1.0, np.minimum.accumulate(steps[::-1])[::-1])
    return q


def may_be_worst(wrong: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The lesions that no other is shown to be worse than: the worst is among them, with probability `level`.

    Every two are compared on the same samples by a one-sided exact McNemar test, each lesion with all others at
    (1 - level) / (L - 1).

    Args:
        wrong: (L, N) booleans.

    Returns:
        (L,) booleans; at least one is true.

    Source: J. Hsu, Multiple Comparisons (1996), chapter 4: comparisons with the best.
    """
    check_level(level)
    own = np.asarray(wrong, dtype=np.float64)
    if own.ndim != 2 or not own.size:
        raise InputError(f"`wrong` must have the shape (lesions, samples), got {own.shape}.")
    if len(own) == 1:
        return np.array([True])
    worse = (own @ (1 - own).T).astype(np.int64)  # [i, j]: samples that are wrong under i alone
    p_values = bdtr(worse.T, worse + worse.T, 0.5)  # that i breaks so many more if both are alike
    return np.asarray(~(p_values < (1 - level) / (len(own) - 1)).any(0))


def held_out_largest(wrong: np.ndarray, intact: np.ndarray, level: float = 0.95) -> tuple[int, float, float, float]:
    """The damage of the lesion that is worst on every other sample, measured on the samples between.

    The largest of many damages is too large on the samples that chose it; on others it is not.

    Args:
        wrong: (L, N) booleans; N at least 2.
        intact: (N,) booleans; whether the intact network is wrong.

    Returns:
        The lesion, and its damage with the ends of Tango's score interval.
    """
    choosing, measuring = wrong[:, ::2], wrong[:, 1::2]
    worst = int(choosing.sum(1).argmax())
    before, after = intact[1::2], measuring[worst]
    broken, repaired = int((after & ~before).sum()), int((before & ~after).sum())
    low, high = paired_error_interval([broken], [repaired], len(before), level)
    return worst, (broken - repaired) / len(before), float(low[0]), float(high[0])


def least_seen(lesions: int, samples: int, level: float = 0.95) -> float:
    """The smallest damage that Holm's test of so many lesions could have shown: that of samples that only break."""
    check_level(level)
    return ceil(log2(2 * lesions / (1 - level)) - 1e-12) / samples


def _tests(p_values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """p-values as an array, and which of them are tests."""
    p = np.asarray(p_values, dtype=np.float64)
    known = ~np.isnan(p)
    if p.ndim != 1 or not np.all((p[known] >= 0) & (p[known] <= 1)):
        raise InputError(f"`p_values` must be numbers from 0 to 1 in one dimension, got shape {p.shape}.")
    return p, known
