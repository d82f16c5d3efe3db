"""Intervals of rates whose outcomes come in clusters, by simulation and by what they must agree with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resect
from resect.measuring.clusters import clustered_rate_interval
from resect.measuring.statistics import paired_error_interval

EXACT = 1e-9


def simulated(samples: int, tokens: np.ndarray, rates: tuple[float, float], correlation: float) -> np.ndarray:
    """(2000, samples) changes in error; of two tokens of a sequence, whether they change correlates by so much."""
    rng = np.random.default_rng(samples)
    shape, (broken, repaired) = (2000, samples), rates
    changing = broken + repaired
    if correlation == 1:
        moves = rng.random(shape)
        return (moves < broken).astype(float) - (moves > 1 - repaired)
    chance = np.full(shape, changing)
    if correlation:
        scale = 1 / correlation - 1
        chance = rng.beta(changing * scale, (1 - changing) * scale, shape)
    changed = rng.binomial(tokens, chance)
    return (2 * rng.binomial(changed, broken / changing) - changed) / tokens


def coverage(samples: int, tokens: int | np.ndarray, rates: tuple[float, float], correlation: float) -> float:
    sizes = np.broadcast_to(tokens, samples)
    low, high = clustered_rate_interval(simulated(samples, sizes, rates, correlation), sizes)
    truth = rates[0] - rates[1]
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize(("broken", "repaired"), [(0, 0), (1, 0), (0, 1), (2, 1), (7, 0), (64, 0)])
def test_samples_of_one_outcome_are_independent_outcomes(broken: int, repaired: int) -> None:
    changes = np.zeros((1, 64))
    changes[0, :broken], changes[0, broken : broken + repaired] = 1, -1
    got, wanted = clustered_rate_interval(changes, np.ones(64)), paired_error_interval([broken], [repaired], 64)
    np.testing.assert_allclose(got, wanted, atol=EXACT)


@pytest.mark.parametrize("samples", [2, 3, 5, 10, 20, 50])
@pytest.mark.parametrize("tokens", [1, 4, 32, 1000])
@pytest.mark.parametrize("rates", [(0.002, 0.001), (0.02, 0.005), (0.2, 0.05), (0.1, 0.1)])
def test_it_covers_with_few_samples_few_tokens_and_rare_changes(
    samples: int, tokens: int, rates: tuple[float, float]
) -> None:
    for correlation in (0, 0.02, 1):
        # 2,000 lesions: standard error 0.5 %. Rare changes that correlate fall on few sequences.
        assert coverage(samples, tokens, rates, correlation) >= (0.93 if sum(rates) > 0.1 else 0.90)


@pytest.mark.parametrize("samples", [50, 200])
def test_it_is_no_wider_than_it_needs_to_be_with_many_samples(samples: int) -> None:
    for correlation in (0, 0.02, 0.2, 1):
        assert 0.93 <= coverage(samples, 32, (0.2, 0.05), correlation) <= 0.97


def test_it_covers_where_samples_are_of_all_lengths() -> None:
    tokens = np.random.default_rng(0).integers(5, 500, 30)
    for correlation in (0, 0.05, 0.3):
        assert 0.93 <= coverage(30, tokens, (0.2, 0.05), correlation) <= 0.98


@given(st.integers(1, 60), st.integers(1, 1000))
def test_without_a_change_each_sample_is_one_outcome(samples: int, tokens: int) -> None:
    limits = clustered_rate_interval(np.zeros((1, samples)), np.full(samples, tokens))
    np.testing.assert_allclose(limits, paired_error_interval([0], [0], samples), rtol=EXACT)


def test_samples_that_all_change_alike_say_nothing_either() -> None:
    low, high = clustered_rate_interval([[0.5] * 4, [-1.0] * 4, [0.5] * 2 + [np.nan] * 2], np.full(4, 100))
    for ends in ((low[:2], high[:2]),):
        np.testing.assert_allclose(ends, paired_error_interval([2, 0], [0, 4], 4), rtol=EXACT)
    np.testing.assert_allclose((low[2], high[2]), np.ravel(paired_error_interval([1], [0], 2)), rtol=EXACT)


def test_one_outcome_a_sample_is_nearly_tangos_interval() -> None:
    rng = np.random.default_rng(1)
    changes = rng.choice([-1.0, 0.0, 1.0], (5, 400), p=[0.1, 0.7, 0.2])
    expected = paired_error_interval((changes > 0).sum(1), (changes < 0).sum(1), 400)
    np.testing.assert_allclose(clustered_rate_interval(changes, np.ones(400)), expected, atol=1e-3)  # t for z


@settings(max_examples=50)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_it_never_closes_and_mirrors(samples: int, seed: int, changing: float) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 40, samples)
    changed = rng.binomial(tokens, changing, (6, samples))
    changes = (2 * rng.binomial(changed, rng.random()) - changed) / tokens
    low, high = clustered_rate_interval(changes, tokens)
    mean = changes @ tokens / tokens.sum()
    assert ((low <= mean + EXACT) & (mean - EXACT <= high)).all()
    assert ((low >= -1) & (high <= 1) & (high - low > 1e-3)).all()
    np.testing.assert_allclose(clustered_rate_interval(-changes, tokens), (-high, -low), atol=EXACT)
    order = rng.permutation(samples)
    np.testing.assert_allclose(clustered_rate_interval(changes[:, order], tokens[order]), (low, high), atol=EXACT)


def test_what_was_not_measured_is_left_out() -> None:
    changes, tokens = np.random.default_rng(2).choice([0.0, 0.25, 0.5], (3, 9)), np.full(9, 4)
    changes[1, 5:], changes[2] = np.nan, np.nan
    low, high = clustered_rate_interval(changes, tokens)
    part = clustered_rate_interval(changes[1:2, :5], tokens[:5])
    np.testing.assert_allclose((low[1], high[1]), np.ravel(part), rtol=EXACT)
    assert np.isnan([low[2], high[2]]).all()


def test_bad_clusters_are_refused() -> None:
    for changes, tokens in ((np.zeros(3), np.ones(3)), (np.zeros((1, 3)), np.ones(2)), (np.zeros((1, 2)), [1, 0])):
        with pytest.raises(resect.InputError, match="`changes` must have the shape"):
            clustered_rate_interval(changes, tokens)
    with pytest.raises(resect.InputError, match="`level` must lie between 0 and 1"):
        clustered_rate_interval(np.zeros((1, 2)), [1, 1], level=95)
