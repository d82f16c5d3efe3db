"""The explicit ensemble test and Shapley values against direct computation."""

from __future__ import annotations

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
import torch
from torch import Tensor

import resect
from conftest import randomise_norms
from resect.measuring.statistics import independent_vote_error
from resect.models.resnet import CifarResNet
from resect.sweep import plans
from resect.sweep.ensemble import measure_ensembles, subsets

IMAGES = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(4))
TARGETS = torch.randint(0, 10, (30,), generator=torch.Generator().manual_seed(5))
DATA = [(IMAGES[:16], TARGETS[:16]), (IMAGES[16:], TARGETS[16:])]


def test_an_ensemble_averages_log_probabilities(net) -> None:
    result = resect.ensemble(net, DATA, removed=3, members=5)
    pool = plans.random(net, [3], 5, 0).arrangements
    assert [arrangement.count(None) for arrangement in pool] == [3] * 5
    with torch.no_grad():
        members = torch.stack([net(IMAGES, arrangement).log_softmax(1) for arrangement in pool])
    average = members.mean(0)
    loss = torch.nn.functional.cross_entropy(average, TARGETS, reduction="none")
    np.testing.assert_allclose(result.values["loss"][-1], loss, rtol=1e-5)
    assert np.array_equal(result.values["error"][-1], (average.argmax(1) != TARGETS).float())
    each = torch.nn.functional.cross_entropy(members.flatten(0, 1), TARGETS.repeat(5), reduction="none").view(5, -1)
    np.testing.assert_allclose(result.values["member_loss"][-1], each.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result.values["member_loss"][0], each.mean(0), rtol=1e-5)
    ensemble = average.log_softmax(1)
    divergence = (ensemble.exp() * (ensemble - members)).sum(-1).mean(0)
    np.testing.assert_allclose(result.values["ambiguity"][-1], divergence, rtol=1e-3, atol=1e-5)
    predictions = members.argmax(-1)
    differ = torch.stack([predictions[i] != predictions[j] for i, j in combinations(range(5), 2)]).float().mean(0)
    np.testing.assert_allclose(result.values["disagreement"][-1], differ, rtol=1e-6)
    assert result.sizes == (1, 2, 3, 4, 5)
    assert result.intact_error.mean() == (net(IMAGES).argmax(1) != TARGETS).float().mean()


def test_loss_is_that_of_the_members_less_their_ambiguity(net) -> None:
    values = resect.ensemble(net, DATA, removed=4, members=8).values
    np.testing.assert_allclose(values["loss"], values["member_loss"] - values["ambiguity"], atol=2e-6)
    assert (values["ambiguity"] > -1e-6).all()
    assert (values["ambiguity"][0] < 1e-6).all()  # a single member differs from nobody


def test_ties_of_a_vote_are_broken_at_random() -> None:
    outputs = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]).log()[:, None]
    found = measure_ensembles(outputs, torch.tensor([0]), [[0, 1]])
    assert found["vote_error"].item() == pytest.approx(0.5)
    assert measure_ensembles(outputs, torch.tensor([2]), [[0, 1]])["vote_error"].item() == 1


def test_members_that_are_independent_vote_as_the_formula_says() -> None:
    generator = torch.Generator().manual_seed(6)
    targets = torch.randint(0, 4, (4000,), generator=generator)
    wrong = torch.rand(7, 4000, generator=generator) < 0.4
    votes = torch.where(wrong, (targets + torch.randint(1, 4, (7, 4000), generator=generator)) % 4, targets)
    outputs = torch.nn.functional.one_hot(votes, 4).float().mul(10).log_softmax(-1)
    found = measure_ensembles(outputs, targets, [list(range(7))])
    expected = independent_vote_error(0.4, 7, 4)
    assert found["vote_error"].mean().item() == pytest.approx(expected, abs=4 * (expected / 4000) ** 0.5)


def test_subsets_are_of_their_size_and_drawn_once() -> None:
    found = subsets(6, seed=1)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert found[6] == [list(range(6))]
    for size, some in found.items():
        assert all(len(set(chosen)) == size for chosen in some)
        assert {sum(i in chosen for chosen in some) for i in range(6)} == {size if size < 6 else 1}


def test_bad_ensembles(net) -> None:
    with pytest.raises(resect.InputError, match="must be 1 to 8 of the blocks, got 9"):
        resect.ensemble(net, DATA, removed=9)
    with pytest.raises(resect.InputError, match="at least 2, got 1"):
        resect.ensemble(net, DATA, removed=2, members=1)
    with pytest.raises(resect.DataError, match="at least one"):
        resect.ensemble(net, [], removed=2)


def test_the_ensemble_draws_and_sums_itself_up(net) -> None:
    result = resect.ensemble(net, DATA, removed=3, members=4)
    assert "Members without 3 blocks" in result.summary()
    ax = result.plot()
    assert [line.get_label() for line in ax.get_lines()][1] == "outputs averaged (95 % interval)"
    assert list(ax.get_lines()[1].get_ydata()) == pytest.approx(list(result.table["error"] * 100))


@pytest.fixture
def small() -> resect.Unraveled:
    """A ResNet-8: 3 blocks, so that all 8 subsets and all 6 orders can be run."""
    torch.manual_seed(2)
    return resect.unravel(randomise_norms(CifarResNet(8, width=4, channels=1)), IMAGES[:2])


def losses(net: resect.Unraveled, gone: tuple[int, ...]) -> float:
    with torch.no_grad():
        found: list[Tensor] = [
            torch.nn.functional.cross_entropy(net(x, net.intact.without(*gone)), y, reduction="none") for x, y in DATA
        ]
    return float(torch.cat(found).double().mean())


def exact_values(net: resect.Unraveled) -> np.ndarray:
    """Shapley values of the loss over all 6 orders."""
    exact = np.zeros(3)
    for order in permutations(range(3)):
        for step, block in enumerate(order):
            exact[block] += (losses(net, order[: step + 1]) - losses(net, order[:step])) / factorial(3)
    return exact


def test_shapley_values_approach_the_exact_ones(small) -> None:
    exact = exact_values(small)
    found = resect.shapley(small, DATA, orders=60)
    table = found.table
    assert table["loss"].sum() == pytest.approx(losses(small, (0, 1, 2)) - losses(small, ()), rel=1e-6)
    assert found.total["loss"] == pytest.approx(table["loss"].sum(), rel=1e-9)
    assert found.marginals["loss"].sum(1) == pytest.approx(found.total["loss"], rel=1e-9)
    assert table["loss"].to_numpy() == pytest.approx(
        exact, abs=3 * float((table["loss_high"] - table["loss_low"]).max())
    )
    assert table["loss_alone"].to_numpy() == pytest.approx([losses(small, (i,)) - losses(small, ()) for i in range(3)])
    assert np.abs(table["loss"] - exact).max() < 0.1 * np.abs(exact).max()
    assert list(found.plot().containers[0].datavalues) == pytest.approx(list(table["error"] * 100))
    assert "Shapley values over 120 orders" in found.summary()


def test_shapley_intervals_cover_the_exact_values(small) -> None:
    exact = np.zeros(3)
    for order in permutations(range(3)):
        for step, block in enumerate(order):
            exact[block] += (losses(small, order[: step + 1]) - losses(small, order[:step])) / factorial(3)
    inside = []
    for seed in range(40):
        table = resect.shapley(
            small, DATA, orders=12, settings=resect.LesionSettings(metrics=("loss",), seed=seed)
        ).table
        inside.append((table["loss_low"] <= exact) & (exact <= table["loss_high"]))
    assert 0.85 <= np.mean(inside) <= 1.0  # 120 intervals of 95 %, of which three share their orders
