"""Intervals that rest on ranks alone: of a median, and of a rank correlation; and its test by permutations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations as permutations_of
from itertools import product
from math import factorial, nan, prod

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import binom, rankdata

from resect.measuring.statistics import check_level

LEAST = 6  # values of which the median has an interval of 95 %
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


def permuted_correlation(
    x: ArrayLike, y: ArrayLike, groups: Sequence[str] | None = None, permutations: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Spearman's rank correlation within groups, and the two-sided p-value of it by permutations within them.

    Args:
        x, y: (N,)
        groups: (N,) of what only its like are compared with; None for one group. Ranks are taken within each.
        permutations: drawn at random; where there are no more than so many, each is taken once.

    Returns:
        correlation, p: NaN where either does not vary within any group.
    """
    names = np.zeros(len(np.asarray(x)), dtype=int) if groups is None else np.unique(groups, return_inverse=True)[1]
    places = [np.flatnonzero(names == name) for name in np.unique(names)]
    first, second = (np.asarray(values, dtype=np.float64).copy() for values in (x, y))
    for values in (first, second):
        for own in places:
            values[own] = rankdata(values[own]) - (len(own) + 1) / 2
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    if size == 0:
        return nan, nan
    here = float(first @ second)
    every = prod(factorial(len(own)) for own in places) <= permutations
    orders: Iterable[np.ndarray] = _every_order(places) if every else _some_orders(places, permutations, seed)
    reached = np.array([abs(first @ second[order]) >= abs(here) - 1e-9 for order in orders])
    p_value = reached.mean() if every else (reached.sum() + 1) / (len(reached) + 1)
    return here / size, float(p_value)


def _every_order(places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    order = np.empty(sum(map(len, places)), dtype=int)
    for orders in product(*(permutations_of(own) for own in places)):
        for own, chosen in zip(places, orders, strict=True):
            order[own] = chosen
        yield order


def _some_orders(places: Sequence[np.ndarray], count: int, seed: int) -> Iterator[np.ndarray]:
    draw, order = np.random.default_rng(seed), np.empty(sum(map(len, places)), dtype=int)
    for _ in range(count):
        for own in places:
            order[own] = draw.permutation(own)
        yield order
