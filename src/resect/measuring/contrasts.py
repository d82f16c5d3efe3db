"""Differences between trainings that are paired by seed and measured on the same samples, and slopes over designs.

Both seeds and samples are drawn from many: an effect of seed, one of sample and what is left are told apart, and the
standard error is that of other seeds on other samples. Letters: R seeds, N samples, A arms, K coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from scipy.special import stdtr, stdtrit

from resect.errors import InputError

_ROUNDING = 1e-9  # of a matrix of the numbers of a design


@dataclass(frozen=True)
class Contrast:
    """The mean of values (R, N), with Student's t of its standard error.

    Attributes:
        error: standard error over seeds and samples; NaN with a single seed.
        freedom: of Student's t, by Satterthwaite.
        seed_error: the part of the standard error that seeds have, were the samples the only ones.
        seeds: R.
    """

    mean: float
    error: float
    freedom: float
    seed_error: float
    seeds: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """(low, high) of the mean; NaN with a single seed."""
        reach = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error if self.error else 0.0
        return self.mean - reach, self.mean + reach

    @property
    def p_value(self) -> float:
        """Two-sided, of the mean being 0; NaN with a single seed."""
        return min(2 * self._below(-abs(self.mean)), 1.0)  # in this order NaN stays

    def p_equivalent(self, bound: float) -> float:
        """That of a mean at or beyond -bound or bound, by two one-sided tests; NaN with a single seed.

        1 without a standard error, as of networks that answer alike on all samples: they say nothing of others.

        Source: D. Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987), 657-680.
        """
        return self._below(abs(self.mean) - bound) if self.error else 1.0

    def _below(self, shift: float) -> float:
        if self.error == 0:
            return float(shift >= 0)
        return float(stdtr(self.freedom, shift / self.error))


def crossed_contrast(values: np.ndarray) -> Contrast:
    """The mean of values that every seed has on every sample, both drawn from many.

    Of a two-way layout without repeats the variance of the mean is (seeds + samples - rest) / RN, in mean squares, and
    at least what either says alone.

    Args:
        values: (R, N), N of at least 2.

    Source: H. Scheffe, The Analysis of Variance (1959), section 7.4; F. Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values) or values.shape[1] < 2:
        raise InputError(f"`values` must have the shape (seeds, samples), with 2 samples or more, got {values.shape}.")
    seeds, samples = values.shape
    mean = float(values.mean())
    if seeds == 1:
        return Contrast(mean, nan, nan, nan, seeds)
    by_seed, by_sample = values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_sample + mean
    squares = np.array(
        [samples * by_seed.var(ddof=1), seeds * by_sample.var(ddof=1), (rest**2).sum() / (seeds - 1) / (samples - 1)]
    )
    freedoms = np.array([seeds - 1, samples - 1, (seeds - 1) * (samples - 1)])
    signs = np.array([1, 1, -1])
    if signs @ squares < squares[:2].max():  # one of the two effects is none
        signs = np.where(squares == squares[:2].max(), [1, 1, 0], 0)
    total = float(signs @ squares)
    spread = float((signs**2 * squares**2 / freedoms).sum())
    freedom = total**2 / spread if spread else float(seeds - 1)
    return Contrast(mean, sqrt(total / values.size), freedom, sqrt(squares[0] / values.size), seeds)


@dataclass(frozen=True)
class Slope:
    """A coefficient of a model over arms.

    Attributes:
        value: None if the design does not identify it.
        low, high: of 95 %; None with a single seed of as many arms as coefficients.
    """

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


def logit_slopes(columns: dict[str, np.ndarray], wrong: np.ndarray) -> list[Slope]:
    """Least squares of the logit of the error of arms on columns of a design, and a constant.

    The interval is over seeds and samples (the logit is taken as linear about each arm's error), and where arms are
    left over reaches as far as that over architectures, by how far their errors lie off the model.

    Args:
        columns: (A,) each, by name.
        wrong: (A, R, N) whether a sample is answered wrong, 0 or 1.
    """
    design = np.column_stack([np.ones(len(wrong)), *columns.values()])
    inverse = np.linalg.pinv(design, rtol=_ROUNDING)
    identified = np.abs(inverse @ design - np.eye(design.shape[1])).max(1) < sqrt(_ROUNDING)
    arms, counted = len(wrong), wrong[0].size
    error = (wrong.sum((1, 2)) + 0.5) / (counted + 1)  # no logit is infinite
    logits = np.log(error / (1 - error))
    fitted = inverse @ logits
    left = arms - np.linalg.matrix_rank(design, rtol=_ROUNDING)
    off = sqrt(float(np.square(logits - design @ fitted).sum()) / left) if left else 0.0
    slopes = []
    for place, name in enumerate(columns, start=1):
        if not identified[place]:
            slopes.append(Slope(name))
            continue
        own = inverse[place]
        contrast = crossed_contrast(np.tensordot(own / (error * (1 - error)), wrong, axes=1))
        reach = np.diff(contrast.interval())[0] / 2
        if left:
            reach = np.fmax(reach, float(stdtrit(left, 0.975)) * off * float(np.linalg.norm(own)))
        ends = (None, None) if np.isnan(reach) else (fitted[place] - reach, fitted[place] + reach)
        slopes.append(Slope(name, float(fitted[place]), *(end if end is None else float(end) for end in ends)))
    return slopes


@dataclass(frozen=True)
class Power:
    """What so many seeds can show if the difference within one seed has this standard deviation; all in one unit."""

    deviation: float
    shown: float  # the difference that is shown with a probability of 80 %
    excluded: float  # the bound within which no difference is shown to lie with that probability, if there is none


def power(deviation: float, seeds: int) -> Power:
    """By Student's t, about: without the noncentral distribution."""
    freedom, error = max(seeds - 1, 1), deviation / sqrt(seeds)
    shown, excluded = (float(stdtrit(freedom, a) + stdtrit(freedom, b)) * error for a, b in ((0.975, 0.8), (0.95, 0.9)))
    return Power(deviation, shown, excluded)
