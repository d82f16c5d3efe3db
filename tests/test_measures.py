"""Numbers read off distributions over path lengths, in closed form."""

from __future__ import annotations

from math import comb, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resect
from resect.graph.routes import Counts
from resect.paths.measures import (
    effective_range,
    entropy_within,
    log2_effective,
    multiplicity,
    weighted_by_count,
)


@given(n=st.integers(1, 60))
def test_counts_of_a_chain_are_binomial(n: int) -> None:
    counts = Counts(tuple(comb(n, k) for k in range(n + 1)), tuple(2 * k * comb(n, k) for k in range(n + 1)))
    grown = Counts((1,), (0,))
    for _ in range(n):
        grown = grown + grown.through(2)
    assert grown == counts


def test_effective_range_is_the_shortest() -> None:
    counts = Counts((1, 4, 6, 4, 1), (0, 8, 24, 24, 8))
    found = effective_range(np.array([0.02, 0.5, 0.46, 0.03, -0.01]), counts)
    assert (found.low, found.high, found.low_layers, found.high_layers) == (1, 2, 2.0, 4.0)
    assert found.held == pytest.approx(0.96)
    assert found.path_fraction == pytest.approx(10 / 16)
    with pytest.raises(resect.InputError, match="between 0 and 1, got 1"):
        effective_range(np.ones(5), counts, 1.0)


def test_multiplicity_of_equal_paths_is_their_number() -> None:
    counts = Counts((1, 3, 3, 1), (0, 6, 12, 6))
    size = multiplicity(np.array([1, 3, 3, 1]) / 8, counts)
    assert size.log2_paths == pytest.approx(3.0)
    assert size.log2_effective_paths == pytest.approx(3.0)
    assert size.effective_depth == pytest.approx(1.5)
    one = multiplicity(np.array([0, 0, 0, 1.0]), counts)
    assert one.log2_effective_paths == pytest.approx(0.0)
    assert multiplicity(np.array([0, 1.0, 0, 0]), counts).log2_effective_paths == pytest.approx(log2(3))


def test_entropy_within_a_length_is_that_of_the_squared_norms() -> None:
    counts = Counts((1, 4, 1), (0, 8, 4))
    weights = np.array([8, 4, 2, 2]) / 16  # all four paths of length 1, drawn once each: the entropy is 1.75 bits
    squares = np.stack([np.ones(4), weights, np.full(4, 3.0)], 1)
    within = entropy_within(squares, counts)
    np.testing.assert_allclose(within, [0, 1.75, 0])
    assert log2_effective(np.array([0.25, 0.5, 0.25]), within) == pytest.approx(1.5 + 0.5 * 1.75)
    assert log2_effective(np.array([0, 1.0, -0.1]), within) == pytest.approx(1.75)


def test_weights_by_count_survive_huge_counts() -> None:
    counts = Counts(tuple(comb(600, k) for k in range(601)), (0,) * 601)
    weights = weighted_by_count(np.full(601, 1e-30), counts)
    assert weights.sum() == pytest.approx(1.0)
    assert weights.argmax() == 300
    assert weights[300] == pytest.approx(comb(600, 300) / 2**600)
