"""How sure the effect of a lesion is: intervals and tests for paired outcomes on the same samples.

Letters: L lesions, N samples, R resamples. An effect is the lesioned network's value minus the intact one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, nan

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, gammaln, ndtri, stdtrit, xlogy

from resect.errors import InputError

_HALVINGS = 52  # of an interval no longer than 2: to 4e-16
_BLOCK = 2**24  # numbers in one block of resamples, 128 MiB
_ROWS = 2**20  # numbers in one block of lesions, 8 MiB, of which about ten are alive at once
_FLOOR = 0.2  # least standard error of a resample, as a part of the sample's own


def paired_error_interval(
    broken: ArrayLike, repaired: ArrayLike, samples: ArrayLike, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Tango's score interval of the change in error, (broken - repaired) / samples.

    The limits are the differences that a score test of the two paired rates just does not reject. Without any change
    they are -z^2 / (N + z^2) and z^2 / (N + z^2). Where at least a few samples change, 93 to 96 % of the nominal 95 %
    intervals hold the true difference; with changes rarer than 3 in N, up to 99 %.

    Args:
        broken: (L,) integers; samples right intact and wrong lesioned.
        repaired: (L,) integers; samples wrong intact and right lesioned.
        samples: (L,) or () integers; samples measured, N. It must not depend on the outcomes.
        level: coverage, 0 to 1, exclusive.

    Returns:
        low, high: (L,) float64, -1 to 1, low < high.

    Raises:
        InputError: counts are negative, or more samples changed than were measured.

    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17 (1998), 891-908.
    """
    check_level(level)
    b, c, n = np.broadcast_arrays(*(np.asarray(count, dtype=np.float64) for count in (broken, repaired, samples)))
    if not np.all((b >= 0) & (c >= 0) & (n > 0) & (b + c <= n)):
        raise InputError("`broken` and `repaired` must be counts that together do not exceed `samples`, 1 or more.")
    return score_interval(b, c, n, ndtri((1 + level) / 2))


def score_interval(b: np.ndarray, c: np.ndarray, n: np.ndarray, z: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """`paired_error_interval` of counts that need not be whole, at a normal or other quantile z."""
    return np.asarray(-_upper_limit(c, b, n, np.asarray(z))), _upper_limit(b, c, n, np.asarray(z))


def mcnemar(broken: ArrayLike, repaired: ArrayLike) -> np.ndarray:
    """Exact two-sided p-value of "the lesion breaks as many samples as it repairs"; 1 where it changes none.

    Args:
        broken, repaired: (L,) integers, as in `paired_error_interval`.

    Returns:
        (L,) float64, 0 to 1.

    Source: Q. McNemar, Psychometrika 12 (1947), 153-157; exact by the binomial distribution with p = 1/2.
    """
    b, c = np.asarray(broken, dtype=np.int64), np.asarray(repaired, dtype=np.int64)
    if np.any(b < 0) or np.any(c < 0):
        raise InputError("`broken` and `repaired` must be counts, got negative ones.")
    return np.asarray(np.minimum(1.0, 2 * bdtr(np.minimum(b, c), b + c, 0.5)))


def bootstrap_interval(
    differences: np.ndarray,
    weights: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    *,
    simultaneous: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Studentised bootstrap interval of the mean difference, sum(w d) / sum(w), for any distribution of differences.

    All lesions see the same resamples, so their limits may be compared. Percentile and BCa intervals, the cheaper
    choices, hold the true mean too seldom if a few samples carry most of it, as with cross-entropy they do.

    Args:
        differences: (L, N) floating-point; NaN where a lesion was not measured on a sample, which is then left out.
        weights: (N,) positive, such as the tokens of a sequence; None for equal ones.
        level: coverage, 0 to 1, exclusive.
        resamples: R.
        seed: of the resamples.
        simultaneous: intervals that hold the true means of all lesions at once with the probability `level`, by the
            largest |t| of each resample.

    Returns:
        low, high: (L,) float64 in the unit of `differences`; NaN for lesions with fewer than two measured samples, with
        differences that do not vary, which say nothing of how far off their mean is, or with an infinite one. Of two
        samples: Student's t interval.

    Raises:
        InputError: shapes do not fit, or weights are not positive.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), section 12.5.
    """
    check_level(level)
    differences = np.asarray(differences)
    if differences.ndim != 2 or not differences.shape[1] or resamples < 1:
        raise InputError(
            f"`differences` must have the shape (lesions, samples), got {differences.shape}, "
            f"and `resamples` must be 1 or more, got {resamples}."
        )
    weights = mean_one(weights, differences.shape[1])
    effect, spread = np.empty((2, len(differences)))
    pivot = np.empty((len(differences), resamples))
    for columns, counts in resampled(differences.shape[1], resamples, seed):
        for rows in spans(*differences.shape):
            effect[rows], spread[rows], *moved = deviations(differences[rows], weights, counts)
            pivot[rows, columns] = pivots(*moved)
    tails = np.array([(1 + level) / 2, (1 - level) / 2])
    # With the (R + 1)-quantiles ("weibull") the coverage is exact for an exact pivot, at any R.
    high_t, low_t = np.quantile(pivot, tails, axis=1, method="weibull")
    two = (~np.isnan(differences)).sum(1) == 2  # they have no other resamples than themselves
    high_t, low_t = (
        np.where(two, 2**0.5 * stdtrit(1, tail), t) for tail, t in zip(tails, (high_t, low_t), strict=True)
    )
    spread[spread == 0] = nan
    if simultaneous and len(pivot):
        varying = pivot[~np.isnan(spread)]
        largest = np.abs(varying).max(0) if len(varying) else np.zeros(resamples)
        reach = spread * np.quantile(largest, level, method="weibull")
        return effect - reach, effect + reach
    return effect - spread * high_t, effect - spread * low_t


def independent_vote_error(error: float, members: int, classes: int) -> float:
    """The error of a plurality vote of equally good voters whose errors are independent: Condorcet's jury.

    Wrong votes fall uniformly on the other classes, and ties are broken at random. Exact but for rounding, up to some
    hundred members.

    Args:
        error: of every voter, 0 to 1.
        members: voters, 1 or more.
        classes: 2 or more.

    Returns:
        0 to 1.

    Source: L. Hansen and P. Salamon, Neural network ensembles, IEEE TPAMI 12 (1990), 993-1001, who count a vote as
    right by majority; the plurality is counted here.
    """
    if not 0 <= error <= 1 or members < 1 or classes < 2:
        raise InputError(
            f"`error` must lie from 0 to 1, `members` be 1 or more and `classes` 2 or more, "
            f"got {error}, {members} and {classes}."
        )
    right = np.arange(members // 2 + 1)  # more than half the votes always win
    ways = gammaln(members + 1) - gammaln(right + 1) - gammaln(members - right + 1)
    chance = np.exp(ways + xlogy(right, 1 - error) + xlogy(members - right, error))
    lost = [_lost_vote(int(k), members - int(k), classes - 1) for k in right]
    return min(1.0, float(chance @ lost))


def _upper_limit(b: np.ndarray, c: np.ndarray, n: np.ndarray, z: np.ndarray) -> np.ndarray:
    # The greatest difference that the score test accepts, by bisection: it is a root of a quartic, whose closed form
    # loses digits where roots coincide, as with b = c = 0.
    low, high = (b - c) / n, np.ones_like(n)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        accepted = n * middle - (b - c) < z * _score_deviation(middle, b, c, n)
        low, high = np.where(accepted, middle, low), np.where(accepted, high, middle)
    return high


def _score_deviation(difference: np.ndarray, b: np.ndarray, c: np.ndarray, n: np.ndarray) -> np.ndarray:
    # Standard deviation of b - c at the rates that are most likely given their difference (Tango 1998, section 4).
    linear = (2 * n - b + c) * difference - b - c
    product = difference * (1 - difference)
    root = np.sqrt(np.maximum(linear**2 + 8 * n * c * product, 0))
    repaired_rate = (root - linear) / (4 * n)
    return np.asarray(np.sqrt(n * np.maximum(2 * repaired_rate + product, 0)))


def deviations(
    differences: np.ndarray, weights: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weighted mean and its standard error, (L,) each, and the resamples' mean* - mean and error*, (L, R) each.

    Args:
        differences: (L, N); weights: (N,); counts: (N, R) how often a resample holds a sample.
    """
    residual, weight, effect = _residuals(differences, weights)
    weighted = weight * residual
    spread = np.sqrt((weighted**2).sum(1)) / weight.sum(1)
    total = weight @ counts  # (1, R) if every lesion was measured on every sample
    total = np.where(total > 0, total, np.inf)  # a resample without any measured sample says nothing: shift 0
    shift = (weighted @ counts) / total
    # sum of count (weight (residual - shift))^2
    square = weighted**2 @ counts - 2 * shift * ((weight * weighted) @ counts) + shift**2 * (weight**2 @ counts)
    error = np.sqrt(np.maximum(square, 0)) / total
    # Resamples of equal values have no error, and would make the pivot infinite: with differences of which few are
    # not 0, many resamples are such.
    return effect, spread, shift, np.maximum(error, _FLOOR * spread[:, None])


def pivots(shift: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(mean* - mean) / error*; 0 where nothing varies."""
    return np.asarray(np.divide(shift, error, out=np.zeros_like(shift), where=error > 0))


def _residuals(differences: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences minus their mean (L, N), 0 where not measured; weights (L, N) or (1, N); and the means (L,)."""
    values = np.asarray(differences, dtype=np.float64)
    measured = ~np.isnan(values)
    unusable = (measured.sum(1) < 2) | np.isinf(values).any(1)
    measured[unusable] = True
    values = np.where(measured, values, 0)
    values[unusable] = 0
    # Taking off one of the values first keeps the mean of equal ones exact.
    origin = np.take_along_axis(values, measured.argmax(1)[:, None], axis=1)
    weight = weights[None] if measured.all() else measured * weights
    offset = ((values - origin) * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    effect = np.where(unusable, nan, (origin + offset)[:, 0])
    return np.where(measured, values - origin - offset, 0), weight, effect


def resampled(samples: int, resamples: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of resamples: their place among all of them, and how often each holds every sample, (N, block)."""
    generator = np.random.default_rng(seed)
    for span in _parts(resamples, _BLOCK // samples):
        counts = np.empty((span.stop - span.start, samples))
        for row in counts:
            row[:] = np.bincount(generator.integers(0, samples, samples), minlength=samples)
        yield span, counts.T


def spans(lesions: int, samples: int) -> Iterator[slice]:
    """Parts of the lesions that are small in memory."""
    return _parts(lesions, _ROWS // samples)


def _parts(length: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def mean_one(weights: np.ndarray | None, samples: int) -> np.ndarray:
    """(N,) weights whose mean is 1; InputError unless there is a positive one for every sample."""
    if weights is None:
        return np.ones(samples)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (samples,) or not np.all((weights > 0) & np.isfinite(weights)):
        raise InputError(f"`weights` must be {samples} positive numbers, one a sample, got shape {weights.shape}.")
    return np.asarray(weights / weights.mean())


def _lost_vote(right: int, wrong: int, others: int) -> float:
    """The chance to lose with `right` votes, while `wrong` ones fall uniformly on `others` classes.

    Independent Poisson counts, given their sum, are such votes; as all terms are positive and near 1, nothing cancels
    or overflows. Of the t classes that tie, all hold `right` votes; the rest of the classes hold fewer.
    """
    if right == 0:
        return 1.0
    rate = wrong / others
    fewer = _poisson(np.arange(min(right, wrong + 1)), rate)
    factor = float(_poisson(np.array([right]), rate)[0])
    most = min(others, wrong // right)
    coefficient = np.cumprod([1.0] + [factor * (others - t + 1) / t for t in range(1, most + 1)])
    power = _power(fewer, others - most, wrong + 1)
    won = 0.0
    for ties in range(most, -1, -1):
        left = wrong - right * ties
        won += coefficient[ties] * (power[left] if left < len(power) else 0.0) / (ties + 1)
        power = np.convolve(power, fewer)[: wrong + 1]
    return max(0.0, 1 - won / float(_poisson(np.array([wrong]), wrong)[0]))


def _poisson(count: np.ndarray, rate: float) -> np.ndarray:
    return np.asarray(exp(-rate) * np.exp(xlogy(count, rate) - gammaln(count + 1)))


def _power(polynomial: np.ndarray, exponent: int, terms: int) -> np.ndarray:
    """The first coefficients of a power of a polynomial, by repeated squaring."""
    result = np.ones(1)
    while exponent:
        if exponent & 1:
            result = np.convolve(result, polynomial)[:terms]
        polynomial = np.convolve(polynomial, polynomial)[:terms]
        exponent >>= 1
    return result


def check_level(level: float) -> None:
    """Raise InputError unless a level of coverage is a fraction."""
    if not 0 < level < 1:
        raise InputError(f"`level` must lie between 0 and 1, got {level}.")
