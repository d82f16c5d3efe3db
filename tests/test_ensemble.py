"""The explicit ensemble test and Shapley values against direct computation."""

from __future__ import annotations

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from conftest import randomise_norms
from resect.measuring.clusters import clustered_rate_interval
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


class Words(nn.Module):
    """A language model of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 8), nn.Linear(8, 9)
        self.mlps = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for mlp in self.mlps:
            x = x + torch.tanh(mlp(x))
        return self.out(x)


def test_the_interval_of_an_ensemble_is_over_sequences() -> None:
    ids = torch.randint(0, 9, (3, 6))
    targets = torch.roll(ids, -1, 1)
    targets[1, 2:] = -100
    net = resect.unravel(Words(), ids)
    result = resect.ensemble(net, [(ids[:2], targets[:2]), (ids[2:], targets[2:])], removed=1, members=2)
    assert list(result.sample) == [0] * 6 + [1] * 2 + [2] * 6
    pool = plans.random(net, [1], 2, 0).arrangements
    with torch.no_grad():
        outputs = torch.stack([net(ids, arrangement).log_softmax(-1) for arrangement in pool])
    counted = targets != -100
    alone = ((outputs.argmax(-1) != targets) & counted).sum(-1).double().mean(0) / counted.sum(1)
    both = ((outputs.mean(0).argmax(-1) != targets) & counted).sum(-1).double() / counted.sum(1)
    tokens = np.array([6, 2, 6])
    for size, errors, ensembles in ((0, alone, 2), (1, both, 1)):
        low, high = clustered_rate_interval(errors[None].numpy(), tokens * ensembles)
        assert result.table["error_low"][size] == pytest.approx(max(0, low[0]))
        assert result.table["error_high"][size] == pytest.approx(high[0])


def test_an_ensemble_that_is_never_wrong_may_still_be(net) -> None:
    with torch.no_grad():
        members = [net(IMAGES[:1], arrangement) for arrangement in plans.random(net, [1], 2, 0).arrangements]
    targets = torch.stack([member.log_softmax(1) for member in members]).mean(0).argmax(1)
    table = resect.ensemble(net, [(IMAGES[:1], targets)] * 4, removed=1, members=2).table
    assert table["error"][1] == 0
    assert (table["error_low"][1], table["error_high"][1]) == (0, pytest.approx(1.96**2 / (4 + 1.96**2), rel=1e-4))


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


def test_members_are_of_their_size_and_cover_all_equally() -> None:
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


def test_shapley_intervals_cover_the_exact_values_of_every_block(net) -> None:
    lesions = [tuple(i for i in range(9) if mask >> i & 1) for mask in range(512)]
    outcomes = resect.lesion(net, DATA, plans.explicit(net, [net.intact.without(*gone) for gone in lesions]))
    rng, bits = np.random.default_rng(0), 1 << np.arange(9)
    value = outcomes.means("error")
    exact = np.zeros(9)
    for mask, gone in enumerate(lesions):
        for i in set(range(9)) - {*gone}:
            gain = value[mask | 1 << i] - value[mask]
            exact[i] += factorial(len(gone)) * factorial(8 - len(gone)) / factorial(9) * gain
    orders = rng.permuted(np.broadcast_to(np.arange(9), (100, 20, 9)), axis=2)
    orders = np.stack([orders, orders[..., ::-1]], 2).reshape(100, 40, 9)
    passed = np.pad(np.cumsum(bits[orders], -1), ((0, 0), (0, 0), (1, 0)))
    marginals = np.empty(orders.shape)
    np.put_along_axis(marginals, orders, np.diff(value[passed], axis=-1), -1)
    inside = []
    for own in marginals:
        none: dict[str, np.ndarray] = {"error": np.zeros(9)}
        table = resect.ShapleyResult(("",) * 9, {"error": own}, none, {"error": 0.0}).table
        inside.append((table["error_low"] <= exact + 1e-12) & (exact - 1e-12 <= table["error_high"]))
    assert np.mean(inside) >= 0.94
    assert np.mean(inside, axis=0).min() >= 0.90  # of one block: standard error 2.2 %


def test_blocks_that_cost_nothing_in_any_order_have_no_interval() -> None:
    marginals = {"loss": np.tile([[0.1, 0.7], [0.3, 0.5]], (3, 1)), "kl": np.random.default_rng(0).random((6, 2))}
    table = resect.ShapleyResult(
        ("a", "b"), marginals, dict.fromkeys(marginals, np.zeros(2)), dict.fromkeys(marginals, 0.0)
    ).table
    assert table[["loss_low", "loss_high"]].isna().all(axis=None)  # every pair has the same mean
    assert (table["kl_low"] < table["kl"]).all()
    marginals = {"error": np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])}  # two pairs: Student's t is wide
    table = resect.ShapleyResult(("a", "b"), marginals, {"error": np.zeros(2)}, {"error": 1.0}).table
    assert (table["error_low"].tolist(), table["error_high"].tolist()) == ([-1, -1], [1, 1])


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
