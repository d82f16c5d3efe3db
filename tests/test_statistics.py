"""Intervals and tests of paired differences: known values, independent references, invariances and coverage."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, bootstrap, multinomial, norm, ttest_1samp

from resect.errors import InputError
from resect.measuring.statistics import (
    bootstrap_interval,
    independent_vote_error,
    mcnemar,
    paired_error_interval,
)

EXACT = 1e-12
counts = st.integers(0, 400)


# Paired error rates


def brute_force_interval(b: int, c: int, n: int) -> tuple[float, float]:
    """Tango's interval from its definition: the constrained likelihood maximised numerically, then a root sought."""

    def excess(difference: float, z: float) -> float:
        def unlikelihood(repaired: float) -> float:
            rates = np.array([repaired + difference, repaired, 1 - 2 * repaired - difference])
            return -float(np.array([b, c, n - b - c]) @ np.log(np.maximum(rates, 1e-300)))

        bounds = (max(0.0, -difference), (1 - difference) / 2)
        best = minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return float(b - c - n * difference - z * np.sqrt(n * (2 * best + difference - difference**2)))

    z, estimate = norm.ppf(0.975), (b - c) / n
    low = brentq(lambda x: excess(x, z), -1 + 1e-9, estimate)
    return low, brentq(lambda x: excess(x, -z), estimate, 1 - 1e-9)


@pytest.mark.parametrize(("b", "c", "n"), [(40, 20, 160), (3, 1, 100), (1, 4, 50), (200, 10, 1000), (90, 2, 100)])
def test_paired_interval_equals_its_definition(b: int, c: int, n: int) -> None:
    # 1e-5: the numerical maximum of a flat likelihood is no better.
    np.testing.assert_allclose(paired_error_interval(b, c, n), brute_force_interval(b, c, n), atol=1e-5)


def test_a_published_example_is_reproduced() -> None:
    # 6 and 16 discordant of 161 (Cavo et al. 2012), as the R package contingencytables of Fagerland, Lydersen and Laake
    # prints it.
    np.testing.assert_allclose(paired_error_interval(6, 16, 161), (-0.1240, -0.0054), atol=5e-5)
    assert mcnemar(6, 16) == pytest.approx(0.052479, abs=5e-7)


@pytest.mark.parametrize("n", [1, 10, 1000, 10**6])
def test_paired_interval_without_changes_shrinks_with_the_samples(n: int) -> None:
    z2 = norm.ppf(0.975) ** 2
    np.testing.assert_allclose(paired_error_interval(0, 0, n), (-z2 / (n + z2), z2 / (n + z2)), rtol=1e-8)


@given(st.lists(st.tuples(counts, counts, st.integers(0, 1000)), min_size=1, max_size=20), st.floats(0.5, 0.999))
def test_paired_interval_properties(cases: list[tuple[int, int, int]], level: float) -> None:
    b, c, same = np.array(cases).T
    n = np.maximum(b + c + same, 1)
    low, high = paired_error_interval(b, c, n, level)
    assert low.shape == b.shape
    assert np.all((low >= -1) & (low <= (b - c) / n) & ((b - c) / n <= high) & (high <= 1) & (low < high))
    mirrored_low, mirrored_high = paired_error_interval(c, b, n, level)
    np.testing.assert_array_equal((mirrored_low, mirrored_high), (-high, -low))
    wider_low, wider_high = paired_error_interval(b, c, n, (1 + level) / 2)
    assert np.all((wider_low <= low) & (high <= wider_high))


def test_paired_interval_takes_lesions_of_different_lengths() -> None:
    together = paired_error_interval([5, 5, 0], [1, 1, 0], [50, 500, 100])
    alone = [paired_error_interval(*case) for case in ((5, 1, 50), (5, 1, 500), (0, 0, 100))]
    np.testing.assert_array_equal(np.transpose(together), alone)


def paired_coverage(p_broken: float, p_repaired: float, n: int) -> float:
    """The exact coverage: the sum over all outcomes that can be seen."""
    b, c = (np.arange(binom.ppf(1e-9, n, p), binom.isf(1e-9, n, p) + 1) for p in (p_broken, p_repaired))
    b, c = (grid.ravel().astype(int) for grid in np.meshgrid(b, c))
    b, c = b[b + c <= n], c[b + c <= n]
    chance = multinomial.pmf(np.stack([b, c, n - b - c], 1), n, [p_broken, p_repaired, 1 - p_broken - p_repaired])
    low, high = paired_error_interval(b, c, n)
    truth = p_broken - p_repaired
    assert chance.sum() == pytest.approx(1, abs=1e-6)
    return float(chance[(low <= truth) & (truth <= high)].sum())


RATES = [(0.01, 0.01), (0.02, 0.005), (0.05, 0.01), (0.2, 0.01), (0.5, 0.02), (0.85, 0.0), (0.1, 0.1)]


@pytest.mark.parametrize("n", [100, 300, 1000])
@pytest.mark.parametrize("rates", RATES)
def test_paired_interval_covers_the_true_difference(rates: tuple[float, float], n: int) -> None:
    coverage = paired_coverage(*rates, n)
    rare = sum(rates) * n < 3  # too few outcomes are possible to come near 95 %; it may only be too safe
    assert 0.93 <= coverage <= (0.99 if rare else 0.97)


@pytest.mark.parametrize(("b", "c", "n"), [(-1, 0, 10), (0, -1, 10), (6, 5, 10), (0, 0, 0)])
def test_paired_interval_refuses_impossible_counts(b: int, c: int, n: int) -> None:
    with pytest.raises(InputError, match="do not exceed `samples`"):
        paired_error_interval(b, c, n)


# McNemar


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=10))
def test_mcnemar_is_the_binomial_test(cases: list[tuple[int, int]]) -> None:
    b, c = np.array(cases).T
    expected = [binomtest(x, x + y, 0.5).pvalue if x + y else 1.0 for x, y in cases]
    np.testing.assert_allclose(mcnemar(b, c), expected, rtol=1e-10)
    np.testing.assert_array_equal(mcnemar(b, c), mcnemar(c, b))


def test_mcnemar_knows_its_bounds() -> None:
    np.testing.assert_allclose(mcnemar([0, 1, 5, 10], [0, 0, 5, 0]), [1, 1, 1, 2**-9], rtol=EXACT)
    with pytest.raises(InputError, match="negative"):
        mcnemar(-1, 3)


# Bootstrap


def heavy_tailed(lesions: int, n: int, tail: Callable[..., np.ndarray], seed: int) -> np.ndarray:
    """Like cross-entropy: 80 % of the samples hardly change, the others by `tail`."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.01, (lesions, n))
    return np.where(rng.random((lesions, n)) < 0.2, tail(rng, size=(lesions, n)), noise)


def exponential(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return rng.exponential(1.0, size)


def lognormal(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return rng.lognormal(0.0, 1.0, size)


@pytest.mark.parametrize(("tail", "mean"), [(exponential, 0.2), (lognormal, 0.2 * np.exp(0.5))])
@pytest.mark.parametrize("n", [100, 500])
def test_bootstrap_covers_the_mean_of_heavy_tails(tail: Callable[..., np.ndarray], mean: float, n: int) -> None:
    low, high = bootstrap_interval(heavy_tailed(3000, n, tail, seed=1), seed=2)
    # 3,000 lesions: standard error of the coverage 0.4 %.
    assert 0.93 <= np.mean((low <= mean) & (mean <= high)) <= 0.97


def test_bootstrap_covers_the_weighted_mean_of_sequences() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(5, 200, 500)
    differences = heavy_tailed(2000, 500, exponential, seed=4)
    low, high = bootstrap_interval(differences, tokens)
    assert 0.93 <= np.mean((low <= 0.2) & (high >= 0.2)) <= 0.97


def test_bootstrap_covers_where_samples_are_missing() -> None:
    differences = heavy_tailed(2000, 600, exponential, seed=5)
    differences[:, 400:] = np.nan
    low, high = bootstrap_interval(differences)
    assert 0.93 <= np.mean((low <= 0.2) & (high >= 0.2)) <= 0.97


def test_bootstrap_of_normal_differences_is_near_the_t_interval() -> None:
    differences = np.random.default_rng(0).normal(1.0, 2.0, (20, 200))
    expected = ttest_1samp(differences, 0, axis=1).confidence_interval(0.95)
    # A tenth of the half width: what 4,000 resamples leave open at the quantiles.
    np.testing.assert_allclose(
        bootstrap_interval(differences, resamples=4000), expected, atol=0.1 * 2 * 1.97 / 200**0.5
    )


def test_bootstrap_is_wider_towards_the_tail_than_scipys_bca() -> None:
    values = heavy_tailed(1, 100, lognormal, seed=6)
    low, high = bootstrap_interval(values)
    bca = bootstrap((values[0],), np.mean, rng=np.random.default_rng(0), n_resamples=2000).confidence_interval
    assert bca.low == pytest.approx(low[0], abs=0.2 * values.mean())
    assert bca.high < high[0] < 2 * bca.high


def loop_interval(values: np.ndarray, weights: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The studentised interval of one lesion, one resample after another."""
    rng = np.random.default_rng(seed)

    def mean_and_error(index: np.ndarray) -> tuple[float, float]:
        kept = index[~np.isnan(values[index])]
        v, w = values[kept], weights[kept]
        mean = (w * v).sum() / w.sum()
        return mean, np.sqrt((w**2 * (v - mean) ** 2).sum()) / w.sum()

    mean, error = mean_and_error(np.arange(len(values)))
    pairs = [mean_and_error(rng.integers(0, len(values), len(values))) for _ in range(resamples)]
    pivot = [(m - mean) / max(e, 0.2 * error) for m, e in pairs]
    low_t, high_t = np.quantile(pivot, [0.025, 0.975], method="weibull")
    return mean - error * high_t, mean - error * low_t


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_bootstrap_equals_a_loop_over_resamples(missing: bool, weighted: bool) -> None:
    differences = heavy_tailed(3, 40, exponential, seed=7)
    if missing:
        differences[1, 25:] = np.nan
    weights = np.random.default_rng(8).uniform(1, 9, 40) if weighted else None
    used = np.ones(40) if weights is None else weights
    expected = np.transpose([loop_interval(row, used, 200, seed=9) for row in differences])
    np.testing.assert_allclose(bootstrap_interval(differences, weights, resamples=200, seed=9), expected, rtol=1e-9)


def test_bootstrap_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = heavy_tailed(5, 30, exponential, seed=1)
    whole = bootstrap_interval(differences, resamples=100)
    monkeypatch.setattr("resect.measuring.statistics._BLOCK", 7 * 30)
    monkeypatch.setattr("resect.measuring.statistics._ROWS", 1)
    np.testing.assert_allclose(bootstrap_interval(differences, resamples=100), whole, rtol=EXACT)


@settings(max_examples=30)
@given(st.floats(-100, 100), st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_bootstrap_moves_and_scales_with_the_differences(shift: float, scale: float, seed: int) -> None:
    differences = np.random.default_rng(seed).exponential(1.0, (3, 40))
    low, high = bootstrap_interval(differences, resamples=100, seed=seed)
    moved = bootstrap_interval(shift + scale * differences, resamples=100, seed=seed)
    # Shifts of 10,000 times the width cost that many digits.
    np.testing.assert_allclose(moved, (shift + scale * low, shift + scale * high), rtol=1e-8, atol=1e-8)
    mirrored_low, mirrored_high = bootstrap_interval(-differences, resamples=100, seed=seed)
    np.testing.assert_allclose((mirrored_low, mirrored_high), (-high, -low), rtol=1e-9, atol=EXACT)


def test_bootstrap_does_not_depend_on_the_unit_of_weights_or_other_lesions() -> None:
    differences, weights = heavy_tailed(4, 60, lognormal, seed=2), np.random.default_rng(3).uniform(1, 9, 60)
    whole = np.array(bootstrap_interval(differences, weights))
    np.testing.assert_allclose(bootstrap_interval(differences, 1000 * weights), whole, rtol=EXACT)
    np.testing.assert_allclose(bootstrap_interval(differences[2:3], weights), whole[:, 2:3], rtol=EXACT)
    equal = bootstrap_interval(differences, np.full(60, 3.0))
    np.testing.assert_allclose(equal, bootstrap_interval(differences), rtol=EXACT)


def test_bootstrap_hardly_depends_on_the_order_of_samples_or_the_seed() -> None:
    differences = heavy_tailed(10, 500, exponential, seed=4)
    low, high = bootstrap_interval(differences, resamples=4000)
    order = np.random.default_rng(5).permutation(500)
    # A tenth of the width: the noise of 4,000 resamples.
    for values, seed in ((differences[:, order], 0), (differences, 1)):
        other = np.array(bootstrap_interval(values, resamples=4000, seed=seed))
        assert np.all(np.abs(other - (low, high)) < 0.1 * (high - low))
    np.testing.assert_array_equal(bootstrap_interval(differences, seed=6), bootstrap_interval(differences, seed=6))


def test_bootstrap_knows_nothing_from_equal_differences() -> None:
    differences = np.array([[0.1] * 7, [-3.3] * 7, [0.0] * 7, [0.7] * 4 + [np.nan] * 3])
    for weights in (None, np.arange(1.0, 8.0)):
        assert np.isnan(bootstrap_interval(differences, weights)).all()


def test_bootstrap_of_two_is_students() -> None:
    differences = np.random.default_rng(0).normal(1.0, 2.0, (20, 3))
    differences[:, 1] = np.nan
    expected = ttest_1samp(differences[:, [0, 2]], 0, axis=1).confidence_interval(0.95)
    np.testing.assert_allclose(bootstrap_interval(differences), expected, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_bootstrap_covers_with_few_samples(n: int) -> None:
    low, high = bootstrap_interval(np.random.default_rng(n).normal(0.0, 1.0, (3000, n)))
    assert np.mean((low <= 0) & (high >= 0)) >= 0.935


def test_bootstrap_stays_finite_where_one_sample_changes() -> None:
    differences = np.zeros((1, 100))
    differences[0, 17] = 1.0
    low, high = bootstrap_interval(differences)
    assert -0.05 < low[0] < 0.01
    assert 0.02 < high[0] < 0.1  # 1 seen of 100: the exact binomial limit is 0.054


def test_bootstrap_knows_nothing_of_unmeasured_and_infinite_differences() -> None:
    differences = np.random.default_rng(0).normal(size=(4, 5))
    differences[0], differences[1, 1:], differences[2, 3] = np.nan, np.nan, np.inf
    for limit in bootstrap_interval(differences):
        np.testing.assert_array_equal(np.isnan(limit), [True, True, True, False])


def test_bootstrap_stays_small_in_memory() -> None:
    differences = np.random.default_rng(0).normal(size=(200, 10_000)).astype(np.float32)
    tracemalloc.start()
    bootstrap_interval(differences, resamples=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 * 2**20


def test_bootstrap_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"shape \(lesions, samples\), got \(5,\)"):
        bootstrap_interval(np.zeros(5))
    for weights in (np.ones(4), np.zeros(5), np.full(5, np.nan)):
        with pytest.raises(InputError, match="`weights` must be 5 positive numbers"):
            bootstrap_interval(np.zeros((2, 5)), weights)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_levels_are_fractions(level: float) -> None:
    for call in (
        lambda: paired_error_interval(1, 1, 9, level),
        lambda: bootstrap_interval(np.zeros((1, 3)), level=level),
    ):
        with pytest.raises(InputError, match="`level` must lie between 0 and 1"):
            call()


# Votes


def enumerated_vote_error(error: float, members: int, classes: int) -> float:
    """Over every combination of votes; class 0 is right."""
    total = 0.0
    for votes in itertools.product(range(classes), repeat=members):
        held = np.bincount(votes, minlength=classes)
        chance = np.prod([1 - error if vote == 0 else error / (classes - 1) for vote in votes])
        won = 1 / np.sum(held == held.max()) if held[0] == held.max() else 0.0
        total += chance * (1 - won)
    return float(total)


@pytest.mark.parametrize(("classes", "most"), [(2, 7), (3, 6), (5, 4)])
@pytest.mark.parametrize("error", [0.0, 0.15, 0.6, 1.0])
def test_vote_equals_enumeration(classes: int, most: int, error: float) -> None:
    for members in range(1, most + 1):
        expected = enumerated_vote_error(error, members, classes)
        assert independent_vote_error(error, members, classes) == pytest.approx(expected, abs=EXACT)


@given(st.floats(0, 1), st.integers(1, 64))
def test_vote_of_two_classes_is_condorcets(error: float, members: int) -> None:
    wrong = np.arange(members + 1)
    lost = np.where(2 * wrong == members, 0.5, 2 * wrong > members)
    # Not scipy's binom.pmf: it overflows at errors like 1e-308.
    chance = [comb(members, w) * error**w * (1 - error) ** (members - w) for w in range(members + 1)]
    expected = float(np.array(chance) @ lost)
    assert independent_vote_error(error, members, 2) == pytest.approx(expected, abs=EXACT)


@given(st.floats(0, 1), st.integers(1, 64), st.integers(2, 1000))
def test_vote_properties(error: float, members: int, classes: int) -> None:
    vote = independent_vote_error(error, members, classes)
    assert 0 <= vote <= 1
    assert vote >= independent_vote_error(error, members, classes + 1) - 1e-10  # wrong votes scatter more
    assert independent_vote_error(error, 1, classes) == pytest.approx(error, abs=EXACT)
    assert independent_vote_error(error, 2, classes) == pytest.approx(error, abs=EXACT)  # a tie is a throw
    chance = independent_vote_error(1 - 1 / classes, members, classes)
    assert chance == pytest.approx(1 - 1 / classes, abs=1e-10)


def test_vote_of_endless_classes_needs_two_right() -> None:
    # Wrong votes never meet: with one right vote it is a draw among all, with none it is lost.
    error, members = 0.9, 64
    expected = error**members + comb(members, 1) * (1 - error) * error ** (members - 1) * (1 - 1 / members)
    # 1e-5: two of 64 wrong votes meet among 1e9 classes with a chance of 2e-6.
    assert independent_vote_error(error, members, 10**9) == pytest.approx(expected, abs=1e-5)


def test_vote_matches_a_simulated_one_of_many_classes() -> None:
    rng, error, members, classes = np.random.default_rng(0), 0.93, 32, 100
    votes = np.where(rng.random((20_000, members)) < error, rng.integers(1, classes, (20_000, members)), 0)
    held = (votes[:, :, None] == np.arange(classes)).sum(1)
    top = held.max(1)
    won = np.where(held[:, 0] == top, 1 / (held == top[:, None]).sum(1), 0)
    # Four standard errors of the simulation.
    assert independent_vote_error(error, members, classes) == pytest.approx(1 - won.mean(), abs=4 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize(("error", "members", "classes"), [(-0.1, 3, 2), (1.1, 3, 2), (0.1, 0, 2), (0.1, 3, 1)])
def test_vote_refuses_what_cannot_be(error: float, members: int, classes: int) -> None:
    with pytest.raises(InputError, match="`error` must lie from 0 to 1"):
        independent_vote_error(error, members, classes)
