"""Intervals of rates whose outcomes come in clusters: the tokens of a sequence, the ensembles that vote on a sample.

Letters: L lesions, N samples (clusters).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from resect.errors import InputError
from resect.measuring.statistics import check_level, score_interval, spans


def clustered_rate_interval(
    changes: ArrayLike, outcomes: ArrayLike, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Tango's score interval of a change in rate, at the number of independent outcomes that would vary as much.

    The outcomes of one sample may depend on each other in any way; different samples do not. The spread between samples
    says how many independent outcomes all of them are worth, at most as many as there are; where samples do not vary
    (none changed, or a single one was measured) it says nothing, and every sample counts as one outcome. Samples of one
    outcome each are independent outcomes, and the interval is that of `paired_error_interval`. Else Student's t stands
    for the normal quantile, as the spread is estimated, with fewer degrees of freedom the fewer samples it rests
    on. The interval never closes.

    Args:
        changes: (L, N) floating-point, -1 to 1; the change in the fraction of a sample's outcomes that are wrong. NaN
            where it was not measured.
        outcomes: (N,) or (L, N) how many outcomes each sample has, above 0.
        level: coverage, 0 to 1, exclusive.

    Returns:
        low, high: (L,) float64, -1 to 1, low < high, of the mean change over outcomes; NaN where nothing was measured.

    Raises:
        InputError: shapes do not fit, or a sample has no outcomes.

    Source: Tango 1998 as in `paired_error_interval`; J. Rao and A. Scott, A simple method for the analysis of clustered
    binary data, Biometrics 48 (1992), 577-585, for the effective number; degrees of freedom as by Satterthwaite.
    """
    check_level(level)
    values, sizes = np.asarray(changes), np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 2 or sizes.shape not in (values.shape, values.shape[1:]) or not np.all(sizes > 0):
        raise InputError(
            "`changes` must have the shape (lesions, samples) and `outcomes` be above 0, one a sample, got the shapes "
            f"{values.shape} and {sizes.shape}."
        )
    sizes = np.broadcast_to(sizes, values.shape)
    parts = [_counts(values[rows], sizes[rows], level) for rows in spans(*values.shape)]
    return score_interval(*np.concatenate(parts, axis=1)) if parts else (np.empty(0), np.empty(0))


def _counts(changes: np.ndarray, sizes: np.ndarray, level: float) -> np.ndarray:
    """(4, L): broken, repaired and all outcomes, as if independent, and the quantile."""
    measured = ~np.isnan(changes)
    size, samples = measured * sizes, measured.sum(1)
    net = np.rint(np.where(measured, changes, 0) * size)  # of floats: whole again, so that equal rates are equal
    broken, repaired, total = np.maximum(net, 0).sum(1), np.maximum(-net, 0).sum(1), size.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates, mean = np.where(measured, net / size, np.nan), (broken - repaired) / total
        square = np.where(measured, net - mean[:, None] * size, 0) ** 2
        spread = square.sum(1) * samples / (samples - 1)
        alone = (broken + repaired) - total * mean**2  # what `spread` would be of independent outcomes
        worth = np.minimum(total, total * alone / spread)
        freedom = np.clip(3 * square.sum(1) ** 2 / (square**2).sum(1) - 1, 1, samples - 1)  # of normal rates, N - 1
        silent = np.fmax.reduce(rates, axis=1) == np.fmin.reduce(rates, axis=1)
        silent |= np.all((size == 1) | ~measured, axis=1)
        worth = np.where(silent, total**2 / (size**2).sum(1), worth)
        z = np.where(silent, ndtri((1 + level) / 2), stdtrit(freedom, (1 + level) / 2))
        return np.stack([broken * worth / total, repaired * worth / total, worth, z])
