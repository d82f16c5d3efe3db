"""Differences over seeds and samples, slopes over designs, and rank correlations by permutations."""

from __future__ import annotations

from itertools import permutations
from math import log

import numpy as np
import pytest
from scipy import stats

import resect
from resect.jobs.verdict import DIFFERS, EARLY, NONE, SMALL, UNKNOWN, answer_of, verdicts
from resect.measuring.contrasts import crossed_contrast, logit_slopes, power
from resect.measuring.ranks import permuted_correlation
from resect.words import decimal


def test_without_an_effect_of_samples_it_is_the_paired_t_test_over_seeds() -> None:
    by_seed = np.array([0.01, 0.03, -0.01, 0.02])
    values = np.repeat(by_seed[:, None], 50, axis=1)
    contrast, test = crossed_contrast(values), stats.ttest_1samp(by_seed, 0)
    assert contrast.p_value == pytest.approx(test.pvalue)
    assert contrast.interval() == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert contrast.error == pytest.approx(contrast.seed_error)


def test_without_an_effect_of_seeds_it_is_the_t_test_over_samples() -> None:
    by_sample = np.random.default_rng(0).normal(0.1, 1, 40)
    contrast, test = crossed_contrast(np.repeat(by_sample[None], 3, axis=0)), stats.ttest_1samp(by_sample, 0)
    assert contrast.p_value == pytest.approx(test.pvalue)


def test_the_interval_holds_the_mean_of_other_seeds_on_other_samples() -> None:
    draw, held, trials = np.random.default_rng(1), 0, 400
    for _ in range(trials):
        seeds, samples = draw.normal(0, 0.1, (6, 1)), draw.normal(0, 1, (1, 200))
        low, high = crossed_contrast(0.3 + seeds + samples + draw.normal(0, 1, (6, 200))).interval()
        held += low <= 0.3 <= high
    assert 0.92 < held / trials < 0.98


def test_one_seed_cannot_tell() -> None:
    contrast = crossed_contrast(np.ones((1, 9)))
    assert contrast.mean == 1
    assert np.isnan([*contrast.interval(), contrast.p_value, contrast.p_equivalent(0.1)]).all()
    with pytest.raises(resect.InputError, match="`values` must have the shape"):
        crossed_contrast(np.ones((2, 1)))


def differing(mean: float, spread: float) -> np.ndarray:
    """(R, N) whose means by seed have this mean, and deviations about it."""
    by_seed = mean + spread * np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    return np.repeat(by_seed[:, None], 20, axis=1)


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [(0.01, 0.002, DIFFERS), (0.001, 0.0004, SMALL), (0.0, 0.001, NONE), (0.002, 0.02, UNKNOWN)],
)
def test_a_verdict_follows_from_the_difference_and_the_bound(mean: float, spread: float, verdict: str) -> None:
    values = {("few", "many"): differing(mean, spread)}
    assert verdicts(values, 0.0025, over=True)[0].verdict == verdict
    assert verdicts(values, 0.0025, over=False)[0].verdict == EARLY


def test_equal_outcomes_show_nothing() -> None:
    row = verdicts({("few", "many"): np.zeros((2, 9))}, 0.0025, over=True)[0]
    assert (row.low, row.high, row.p_value, row.p_equivalent, row.verdict) == (0, 0, 1, 1, UNKNOWN)


def test_equivalence_is_that_of_the_interval_of_90_percent() -> None:
    contrast = crossed_contrast(differing(0.001, 0.002))
    low, high = contrast.interval(0.9)
    assert contrast.p_equivalent(max(abs(low), abs(high))) == pytest.approx(0.05)
    row = verdicts({("few", "many"): differing(0.0, 0.001)}, 0.0025, over=True)[0]
    assert row.verdict == NONE and row.low < row.low_90 < 0 < row.high_90 < 0.0025
    outer, inner = (
        f"{decimal(low * 100)} to {decimal(high * 100)}"
        for low, high in ((row.low, row.high), (row.low_90, row.high_90))
    )
    assert f"from many to few (95 % {outer}, 90 % {inner})" in answer_of(row, row.seeds, row.seeds, 0.25)


def test_p_values_of_several_contrasts_are_holms() -> None:
    rows = verdicts({("a", "b"): differing(0.01, 0.01), ("c", "d"): differing(0.02, 0.01)}, 0.0025, over=True)
    small, large = sorted(rows, key=lambda row: row.p_value)
    assert small.p_holm == pytest.approx(2 * small.p_value)
    assert large.p_holm == pytest.approx(max(large.p_value, small.p_holm))


def wrong_at(*rates: float, seeds: int = 3, samples: int = 1000) -> np.ndarray:
    """(A, R, N) with these errors, the same in all seeds."""
    return np.stack([np.tile(np.arange(samples) < rate * samples, (seeds, 1)) for rate in rates]).astype(float)


def test_slopes_are_those_of_the_logit_and_only_where_the_design_identifies_them() -> None:
    bits = np.array([1.5, 1.0])
    depth, slope = logit_slopes({"depth": np.array([3.0, 3.0]), "bits": bits}, wrong_at(0.2, 0.4))
    assert (depth.value, depth.low, depth.high) == (None, None, None)
    expected = (log(0.2 / 0.8) - log(0.4 / 0.6)) / 0.5
    assert slope.value == pytest.approx(expected, rel=1e-2)
    assert slope.low < slope.value < slope.high
    alone = logit_slopes({"bits": bits}, wrong_at(0.2, 0.4, seeds=1))[0]
    assert alone.value == pytest.approx(expected, rel=1e-2)
    assert alone.low is None


def test_depth_and_width_of_one_budget_are_not_told_apart_and_of_two_are() -> None:
    depth, width = np.array([3.0, 4.0, 5.0, 4.0]), np.array([5.0, 4.0, 3.0, 5.0])
    rates = 1 / (1 + np.exp(1 + 0.3 * depth + 0.1 * width))
    one = logit_slopes({"depth": depth[:3], "width": width[:3]}, wrong_at(*rates[:3]))
    assert [slope.value for slope in one] == [None, None]
    two = logit_slopes({"depth": depth, "width": width}, wrong_at(*rates, samples=100_000))
    assert [slope.value for slope in two] == pytest.approx([-0.3, -0.1], abs=5e-3)


def test_more_seeds_show_smaller_differences() -> None:
    nine, many = power(0.45, 9), power(0.45, 36)
    assert 2 * many.shown < nine.shown < 3 * many.shown
    assert nine.shown == pytest.approx((stats.t.ppf(0.975, 8) + stats.t.ppf(0.8, 8)) * 0.15)


def test_a_rank_correlation_has_the_exact_p_value_of_all_orders() -> None:
    x, y = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 3, 2, 5, 4])
    rho, p_value = permuted_correlation(x, y)
    every = [abs(stats.spearmanr(x, y[list(order)]).statistic) for order in permutations(range(5))]
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert p_value == pytest.approx(np.mean(np.array(every) >= abs(rho) - 1e-9))


def test_a_rank_correlation_within_groups_leaves_differences_between_them_out() -> None:
    x, y = np.array([1.0, 2, 3, 11, 12, 13]), np.array([3.0, 2, 1, 13, 12, 11])
    rho, p_value = permuted_correlation(x, y, ["a"] * 3 + ["b"] * 3)
    assert rho == pytest.approx(-1)
    assert p_value == pytest.approx(2 / 36)
    assert np.isnan(permuted_correlation([1, 1], [1, 2])).all()


def test_drawn_orders_come_close_to_all_of_them() -> None:
    draw = np.random.default_rng(3)
    x = draw.normal(size=30)
    y = 0.4 * x + draw.normal(size=30)
    p_value = permuted_correlation(x, y)[1]
    assert p_value == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.02)
