"""Tests and limits for many lesions together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, false_discovery_control

import resect
from resect.measuring.many import benjamini_hochberg, held_out_largest, holm, least_seen, may_be_worst
from resect.measuring.statistics import bootstrap_interval, mcnemar

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(P_VALUES)
def test_adjusted_p_values(p_values: list[float]) -> None:
    p, adjusted, q = np.array(p_values), holm(p_values), benjamini_hochberg(p_values)
    np.testing.assert_allclose(q, false_discovery_control(p), rtol=1e-12, atol=1e-300)
    assert (adjusted >= q - 1e-15).all() and (q >= p - 1e-15).all() and (adjusted <= 1).all()
    for alpha in (0.01, 0.05, 0.3):  # Holm's own words: step through the sorted p-values while each is small enough
        rejected = set()
        for step, index in enumerate(np.argsort(p, kind="stable")):
            if p[index] * (len(p) - step) > alpha:
                break
            rejected.add(int(index))
        assert set(np.flatnonzero(adjusted <= alpha)) == rejected


def test_what_was_not_tested_counts_as_no_test() -> None:
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    np.testing.assert_allclose(benjamini_hochberg([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    with pytest.raises(resect.InputError, match="`p_values` must be numbers from 0 to 1"):
        holm([0.5, 2])


def test_the_set_of_the_worst_is_that_of_pairwise_tests() -> None:
    draw = np.random.default_rng(0)
    rates = np.array([0.02, 0.02, 0.3, 0.32, 0.1])
    wrong = draw.random((5, 400)) < rates[:, None]
    expected = []
    for j in range(5):
        beaten = False
        for i in set(range(5)) - {j}:
            mine, other = int((wrong[j] & ~wrong[i]).sum()), int((wrong[i] & ~wrong[j]).sum())
            beaten |= binomtest(other, mine + other, alternative="greater").pvalue < 0.05 / 4
        expected.append(not beaten)
    assert may_be_worst(wrong).tolist() == expected == [False, False, True, True, False]
    assert may_be_worst(wrong[:1]).tolist() == [True]
    assert may_be_worst(np.zeros((4, 50), bool)).all()


@pytest.mark.slow
def test_the_worst_is_in_its_set_and_its_damage_is_held_out() -> None:
    """54 equal blocks: the largest damage is too large on the samples that chose it, and not on the others."""
    draw, covered, named, naive = np.random.default_rng(1), 0, 0, []
    for _ in range(200):
        intact = draw.random(400) < 0.05
        change = draw.random((54, 400))
        wrong = np.where(change < 0.01, ~intact, intact)  # a hundredth of all outcomes turn
        true = 0.01 * (1 - 2 * 0.05)
        lesion, damage, low, high = held_out_largest(wrong, intact)
        assert damage == pytest.approx(wrong[lesion, 1::2].mean() - intact[1::2].mean())
        covered += low <= true <= high
        named += may_be_worst(wrong)[0]
        naive.append(wrong.mean(1).max() - intact.mean())
    assert covered >= 185
    assert named >= 190
    assert np.mean(naive) > 2 * 0.009


def test_simultaneous_limits_hold_all_means_at_once() -> None:
    draw, single, together = np.random.default_rng(2), 0, 0
    for seed in range(120):
        differences = draw.normal(size=(20, 60)) + draw.normal(size=60)
        low, high = bootstrap_interval(differences, resamples=300, seed=seed)
        single += ((low <= 0) & (high >= 0)).all()
        low, high = bootstrap_interval(differences, resamples=300, seed=seed, simultaneous=True)
        together += ((low <= 0) & (high >= 0)).all()
    assert together >= 108 > single
    low, high = bootstrap_interval(np.zeros((3, 10)), simultaneous=True)
    assert np.isnan(low).all() and np.isnan(high).all()


def test_the_least_damage_that_could_be_seen() -> None:
    for lesions in (1, 9, 54, 162):
        broken = round(least_seen(lesions, 1000) * 1000)
        assert mcnemar([broken], [0])[0] * lesions <= 0.05 < mcnemar([broken - 1], [0])[0] * lesions
    assert least_seen(54, 1000) == pytest.approx(0.012)
