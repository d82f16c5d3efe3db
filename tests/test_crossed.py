"""Intervals over orders or repeats, and over samples, at the same time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import t as student

import resect
from conftest import randomise_norms
from resect.measuring.crossed import crossed_interval
from resect.models.resnet import CifarResNet
from resect.sweep.shapley import from_orders

plans = resect.plans


@pytest.fixture(scope="module")
def population() -> tuple[resect.Unraveled, resect.LesionResult]:
    """300 samples and all 8 sub-networks of 3 blocks."""
    torch.manual_seed(2)
    net = resect.unravel(randomise_norms(CifarResNet(8, width=4, channels=1)), torch.randn(2, 1, 8, 8))
    data = [(torch.randn(300, 1, 8, 8), torch.randint(10, (300,)))]
    every = [net.intact.without(*gone) for k in (1, 2, 3) for gone in combinations(range(3), k)]
    return net, resect.lesion(net, data, plans.explicit(net, every))


def _losses(net: resect.Unraveled, result: resect.LesionResult) -> dict[tuple[int, ...], np.ndarray]:
    """By deleted blocks, the loss of every sample."""
    gone = [tuple(i for i, run in enumerate(each) if run is None) for each in result.plan.arrangements]
    return {(): result.intact["loss"].astype(float), **dict(zip(gone, result.losses.astype(float), strict=True))}


def _of(plan: resect.plans.Plan, losses: dict[tuple[int, ...], np.ndarray], some: np.ndarray) -> resect.LesionResult:
    """What `lesion` would have found on some samples."""

    def values(arrangements) -> dict[str, np.ndarray]:
        return {
            "loss": np.array([losses[tuple(i for i, run in enumerate(a) if run is None)][some] for a in arrangements])
        }

    intact, ones = {"loss": losses[()][some]}, np.ones(len(some))
    return resect.LesionResult(plan, values(plan.arrangements), values(plan.references), intact, None, ones)


def test_what_samples_say_is_each_samples_own_value(population) -> None:
    """Against Shapley values of the loss of single samples, over the very orders that were drawn."""
    net, result = population
    losses, some = _losses(net, result), np.arange(50)
    plan = plans.orders(net, 4, seed=1)
    found = from_orders(net, _of(plan, losses, some))
    expected = np.zeros((3, 50))
    for order in range(8):
        gone: tuple[int, ...] = ()
        for block in [row["block"] for row in plan.labels if row["order"] == order]:
            more = tuple(sorted((*gone, block)))
            expected[block] += (losses[more] - losses[gone])[some] / 8
            gone = more
    np.testing.assert_allclose(found.by_sample["loss"], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.by_sample["loss"].mean(1), found.marginals["loss"].mean(0), rtol=1e-9)
    more = from_orders(net, _of(plans.orders(net, 2, seed=5), losses, some))
    joined = resect.ShapleyResult.joined([found, more])
    np.testing.assert_allclose(joined.by_sample["loss"].mean(1), joined.table["loss"], rtol=1e-9)


def test_shapley_intervals_hold_for_other_orders_and_other_samples(population) -> None:
    net, result = population
    losses, draw = _losses(net, result), np.random.default_rng(0)
    exact = from_orders(net, _of(plans.orders(net, 60, seed=0), losses, np.arange(300))).table["loss"]
    crossed, fixed = [], []
    for seed in range(30):
        own = from_orders(net, _of(plans.orders(net, 6, seed), losses, draw.integers(0, 300, 40)))
        for inside, each in (
            (crossed, own),
            (fixed, resect.ShapleyResult(own.names, own.marginals, own.alone, own.total)),
        ):
            inside.append(((each.table["loss_low"] <= exact) & (exact <= each.table["loss_high"])).mean())
    assert 0.9 <= np.mean(crossed) <= 0.99  # 90 intervals of 95 %
    assert np.mean(fixed) < 0.6


def test_intervals_over_repeats_hold_for_other_samples(population) -> None:
    net, result = population
    losses, draw = _losses(net, result), np.random.default_rng(1)
    exact = {k: np.mean([losses[gone].mean() for gone in losses if len(gone) == k]) for k in (1, 2, 3)}
    inside = []
    for seed in range(30):
        table = _of(plans.random(net, [1, 2, 3], 8, seed), losses, draw.integers(0, 300, 40)).over_repeats("loss")
        truth = table["deleted"].map(exact)
        inside.append((table["loss_low"] <= truth) & (truth <= table["loss_high"]))
    assert 0.88 <= np.mean(inside) <= 0.99  # deleting all 3 differs over samples only


def test_samples_that_were_left_out_are_stood_for(population) -> None:
    net, result = population
    losses = _losses(net, result)
    short = _of(plans.random(net, [1], 3, seed=0), losses, np.arange(100))
    short.values["loss"][1, 60:] = np.nan
    said = short.by_sample("loss", slice(None))
    np.testing.assert_allclose(said.mean(1), short.means("loss"), rtol=1e-12)
    assert said[1, :60].var() / 60 == pytest.approx(short.losses[1, :60].var() / 60 * (100 / 60) ** 2)
    table = short.over_repeats("loss")
    assert (table["loss_low"] < table["loss"]).all() and (table["loss"] < table["loss_high"]).all()


def test_crossed_intervals_of_two_repeats_are_students() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(2, 1)) + draw.normal(size=(2, 300))
    low, high = crossed_interval(values.mean(1)[None], values.mean(0)[None])
    a, b = values.mean(1).var(ddof=1) / 2, values.mean(0).var(ddof=1) / 300
    freedom = (a + b) ** 2 / (a**2 + b**2 / 299)
    reach = student.ppf(0.975, freedom) * np.sqrt(a + b)
    np.testing.assert_allclose([low[0], high[0]], [values.mean() - reach, values.mean() + reach], rtol=1e-9)


@pytest.mark.parametrize(("repeats", "samples"), [(1, 20), (20, 1)])
def test_one_repeat_or_one_sample_has_no_interval(repeats: int, samples: int) -> None:
    draw = np.random.default_rng(0)
    assert np.isnan(crossed_interval(draw.random((3, repeats)), draw.random((3, samples)))).all()


def test_what_varies_one_way_only_has_the_interval_of_that_way() -> None:
    values, level = np.random.default_rng(0).exponential(size=(2, 30)), np.ones((2, 9))
    level *= values.mean(1, keepdims=True)
    ways = crossed_interval(level, values), crossed_interval(values, level)
    for low, high in ways:
        assert (low < values.mean(1)).all() and (values.mean(1) < high).all()
    np.testing.assert_allclose(*(high - low for low, high in ways), rtol=0.15)  # they see other resamples
    assert np.isnan(crossed_interval(level, np.repeat(level, 4, axis=1))).all()
    assert np.isnan(crossed_interval(np.array([[1.0, np.inf, 2.0]]), values[:1])).all()
    with pytest.raises(resect.InputError, match=r"must have the shapes \(means, repeats\) and \(means, samples\)"):
        crossed_interval(values, values[:1])
