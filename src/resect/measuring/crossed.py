"""Intervals of means over two things that both vary: orders of deletion and samples, random draws and samples.

Letters: L means, P repeats, N samples, R resamples.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from resect.errors import InputError
from resect.measuring.statistics import check_level, deviations, mean_one, pivots, resampled, spans


def crossed_interval(
    repeats: np.ndarray,
    samples: np.ndarray,
    weights: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Studentised two-way bootstrap interval of a mean over repeats and samples, where each repeat ran on all samples.

    Repeats and samples are resampled at the same time, each on their own, and the two deviations add up: the interval
    is for other repeats on other samples. What a repeat does to one sample alone counts in both, so that the interval
    is too wide, by up to 1.4 times, where that is nearly all that varies. All means see the same resamples.

    Args:
        repeats: (L, P) every repeat's mean over samples.
        samples: (L, N) every sample's mean over repeats.
        weights: (N,) positive, of the samples; None for equal ones.
        level: coverage, 0 to 1, exclusive.
        resamples: R.
        seed: of the resamples.

    Returns:
        low, high: (L,) float64; NaN with a single repeat or sample, an infinite value, or where neither repeats nor
        samples differ. Of two repeats or samples: Student's t interval, with degrees of freedom as by Satterthwaite.

    Raises:
        InputError: shapes do not fit, or weights are not positive.

    Source: A. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007), 386-411; studentised as in
    `bootstrap_interval`, and without the resampled interaction.
    """
    check_level(level)
    repeats, samples = (np.asarray(values, dtype=np.float64) for values in (repeats, samples))
    if (
        repeats.ndim != 2
        or samples.ndim != 2
        or len(repeats) != len(samples)
        or not min(*repeats.shape, *samples.shape)
    ):
        raise InputError(
            "`repeats` and `samples` must have the shapes (means, repeats) and (means, samples), got "
            f"{repeats.shape} and {samples.shape}."
        )
    both = ((repeats, np.ones(repeats.shape[1])), (samples, mean_one(weights, samples.shape[1])))
    (effect, own, *moved), (other, beside, *shifted) = (
        _moved(values, weight, resamples, seed + i) for i, (values, weight) in enumerate(both)
    )
    effect = (effect + other) / 2  # equal, but NaN where either says nothing
    if 2 in (repeats.shape[1], samples.shape[1]):  # they have no other resamples than themselves
        reach = _satterthwaite(own, repeats.shape[1], beside, samples.shape[1], level)
        return effect - reach, effect + reach
    pivot = pivots(moved[0] + shifted[0], np.hypot(moved[1], shifted[1]))
    high_t, low_t = np.quantile(pivot, [(1 + level) / 2, (1 - level) / 2], axis=1, method="weibull")
    spread = np.hypot(own, beside)
    spread[spread == 0] = np.nan
    return effect - spread * high_t, effect - spread * low_t


def _moved(values: np.ndarray, weights: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, ...]:
    """Means and their standard errors, (L,), and of all resamples what `deviations` says, (L, R)."""
    effect, spread = np.empty((2, len(values)))
    shift, error = np.empty((2, len(values), resamples))
    for columns, counts in resampled(values.shape[1], resamples, seed):
        for rows in spans(*values.shape):
            effect[rows], spread[rows], shift[rows, columns], error[rows, columns] = deviations(
                values[rows], weights, counts
            )
    return effect, spread, shift, error


def _satterthwaite(own: np.ndarray, repeats: int, beside: np.ndarray, samples: int, level: float) -> np.ndarray:
    """How far Student's t interval reaches, (L,), from two standard errors of plain means."""
    parts = np.square([own, beside]) * np.array([[repeats / (repeats - 1)], [samples / (samples - 1)]])
    with np.errstate(invalid="ignore"):
        freedom = parts.sum(0) ** 2 / (parts[0] ** 2 / (repeats - 1) + parts[1] ** 2 / (samples - 1))
    return np.asarray(stdtrit(freedom, (1 + level) / 2) * np.sqrt(parts.sum(0)))
