"""Fitting what is left to the intact network: what is solved, what can be fitted, and what healing makes of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import resect
from resect.engines.local import Local, Memory
from resect.measuring.batches import batches_of
from resect.pruning.pieces import positions
from resect.pruning.prune import remove
from resect.pruning.refit import fitted, refit, with_tensors
from residual_mlps import HIDDEN, SHAPE, WIDE, Block, drawn, mlp, network, on, states


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_a_fit_is_the_ridge_regression_of_what_is_missing(bias: bool, strength: float) -> None:
    net = network(mlp(), mlp(bias=bias), mlp(), mlp())
    batches = on(net)
    tensors = fitted(net, net.intact.without(2, 3), batches, strength)
    names = {"1.branch.3.weight", "1.branch.3.bias"} if bias else {"1.branch.3.weight"}
    assert set(tensors) == names
    layer = net.model[1].branch[3]
    with torch.no_grad():
        hidden = net.model[1].branch[:3](states(net, 1, batches).float()).double()
    missing = states(net, 4, batches) - states(net, 2, batches)
    if bias:
        centred, aim = hidden - hidden.mean(0), missing - missing.mean(0)
    else:
        centred, aim = hidden, missing
    ridge = strength * centred.square().sum(0).mean()
    rows = torch.cat([centred, ridge.sqrt() * torch.eye(HIDDEN).double()])  # least squares of the same, otherwise
    change = torch.linalg.lstsq(rows, torch.cat([aim, torch.zeros(HIDDEN, WIDE).double()])).solution
    torch.testing.assert_close(tensors["1.branch.3.weight"], (layer.weight.double() + change.T).float())
    if bias:
        shift = missing.mean(0) - hidden.mean(0) @ change
        torch.testing.assert_close(tensors["1.branch.3.bias"], (layer.bias.double() + shift).float())


def test_a_block_that_adds_a_constant_leaves_nothing_to_be_missed() -> None:
    net = network(mlp(), mlp(), mlp())
    with torch.no_grad():
        net.model[1].branch[3].weight.zero_()
    batches, arrangement = on(net), net.intact.without(1)
    small = with_tensors(net.standalone(arrangement), fitted(net, arrangement, batches, 0.1))
    for batch in batches:
        torch.testing.assert_close(small(batch.inputs), net(batch.inputs))


def test_later_blocks_mend_what_is_left_and_those_before_the_gap_stay() -> None:
    net = network(mlp(), mlp(), mlp(), mlp(), mlp())
    batches, arrangement = on(net, 4, 40), net.intact.without(2)
    tensors = fitted(net, arrangement, batches, 1e-3)
    assert {name.partition(".")[0] for name in tensors} == {"1", "3", "4"}
    aim = states(net, 5, batches)

    def off(own: dict[str, Tensor]) -> float:
        small = copy.deepcopy(net.model)
        small.load_state_dict(own, strict=False)
        with torch.no_grad():
            got = torch.cat([small[3:5](small[:2](batch.inputs)) for batch in batches]).flatten(0, -2)
        return float((got - aim).square().mean())

    first = {name: value for name, value in tensors.items() if name.startswith("1.")}
    assert off(tensors) < off(first) < off({})


def test_the_network_stays_as_it_is_and_the_strength_is_that_of_the_least_divergence() -> None:
    net = network(mlp(), mlp(), mlp())
    before = copy.deepcopy(net.model.state_dict())
    fit = refit(net, net.intact.without(1), on(net, 8), (10.0, 0.1))
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())
    assert set(fit.distances) == {None, 10.0, 0.1}
    assert fit.distances[fit.strength] == min(fit.distances.values())
    assert bool(fit.tensors) == (fit.strength is not None)


def test_a_fit_that_does_no_good_is_left_out() -> None:
    copied = Block(nn.Linear(WIDE, WIDE, bias=False))
    with torch.no_grad():
        copied.branch[0].weight.zero_()[:, 0] = 1  # it adds the first number to all
    net = network(mlp(), copied, mlp())
    batches = on(net, 8)
    for batch in batches:
        batch.inputs[..., 0] = 5 if batch.number < 6 else -5  # where a fit is judged, what it is fitted to is wrong
    fit = refit(net, net.intact.without(1), batches)
    assert (fit.strength, fit.tensors) == (None, {})


class Parallel(nn.Module):
    """x + a(x) + b(x), the branches added to each other first, as GPT-NeoX does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mlp().branch, mlp().branch

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x) + x


def test_parallel_blocks_are_fitted_and_go_together() -> None:
    torch.manual_seed(2)
    net = network(Parallel(), Parallel(), Parallel())
    assert len(net.blocks) == 6
    batches = on(net, 4, 30)
    of = {name.rpartition(".")[0] for name in fitted(net, net.intact.without(2, 3), batches, 0.1)}
    assert of == {"0.a.3", "0.b.3", "2.a.3", "2.b.3"}
    half = fitted(net, net.intact.without(2), batches, 0.1)
    assert {name.rpartition(".")[0] for name in half} == {"1.b.3", "2.a.3", "2.b.3"}


class Beside(nn.Module):
    """(x + a(x)) + b(x): b reads the state before the gap that a leaves (Cohere)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mlp().branch, mlp().branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a(x) + self.b(x)


def test_a_state_that_a_kept_branch_reads_is_fitted_to_itself() -> None:
    net = network(mlp(), Beside(), mlp())
    assert len(net.blocks) == 4
    (gone,) = [i for i, block in enumerate(net.blocks) if block.name.startswith("1.a")]
    tensors = fitted(net, net.intact.without(gone), on(net, 4, 30), 0.1)
    assert not any(name.startswith("0.") for name in tensors)  # as it is, it is what the intact network has
    assert {name.rpartition(".")[0] for name in tensors} == {"1.b.3", "2.branch.3"}


class Dropped(nn.Module):
    """A convolution with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def test_a_fit_does_not_depend_on_other_random_numbers() -> None:
    net = network(Dropped(), Dropped(), Dropped())
    batches, training = drawn(8, 6, *SHAPE), drawn(16, 6, *SHAPE, seed=4)
    heal, settings = resect.HealSettings(epochs=0, refit=True), resect.PruneSettings(timed=False)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        healing = remove(net, batches, net.intact.without(1), settings, heal=heal, training=training).healing
        assert healing is not None
        found.append(healing.network.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_training_samples_that_say_too_little_are_refused_before_the_search() -> None:
    net = network(mlp(), mlp(), mlp())
    heal, settings = resect.HealSettings(epochs=0, refit=True), resect.PruneSettings(timed=False)
    with pytest.raises(resect.DataError, match="`training` must be at least 4 samples for a fit, got 3"):
        resect.prune(
            net, drawn(8, 6, *SHAPE), resect.Budget(remove=1), settings, heal=heal, training=drawn(1, 3, *SHAPE, seed=4)
        )
    *some, (inputs, targets) = drawn(4, 6, *SHAPE)
    held = [*some, (inputs, torch.full_like(targets, -100))]
    with pytest.raises(resect.DataError, match="targets that count, but all of theirs are ignored"):
        refit(net, net.intact.without(1), list(batches_of(held, net)))


def test_one_batch_is_refused() -> None:
    net = network(mlp(), mlp())
    with pytest.raises(resect.DataError, match="`batches` must be at least 2"):
        refit(net, net.intact.without(1), on(net, 1))


def test_positions_are_counted() -> None:
    assert positions(network(mlp(), mlp())) == (4, 4)


def test_half_precision_is_fitted_where_training_is_refused() -> None:
    net = network(mlp(), mlp(), mlp())
    half = resect.unravel(copy.deepcopy(net.model).bfloat16(), torch.randn(2, 4, WIDE).bfloat16())
    batches = [(inputs.bfloat16(), targets) for inputs, targets in drawn(8, 6, *SHAPE)]
    training = [(inputs.bfloat16(), targets) for inputs, targets in drawn(16, 6, *SHAPE, seed=4)]
    settings, heal = resect.PruneSettings(timed=False), resect.HealSettings(epochs=0, refit=True)
    healing = remove(half, batches, half.intact.without(1), settings, heal=heal, training=training).healing
    assert healing is not None
    assert {value.dtype for value in healing.network.state_dict().values()} == {torch.bfloat16}
    with pytest.raises(resect.InputError, match="`heal` trains weights and measures batch norms in float32"):
        remove(half, batches, half.intact.without(1), settings, heal=resect.HealSettings(refit=True), training=training)


def test_healing_fits_candidates_and_a_store_keeps_them() -> None:
    net = network(mlp(), mlp(), mlp(), mlp(), mlp())
    batches = [(inputs, net(inputs).argmax(1)) for inputs, _ in drawn(8, 12, *SHAPE)]
    training = [(inputs, net(inputs).argmax(1)) for inputs, _ in drawn(20, 12, *SHAPE, seed=4)]
    store, settings = Memory(), resect.PruneSettings(timed=False)
    heal = resect.HealSettings(epochs=0, refit=True)

    def found() -> resect.Healing:
        result = resect.prune(
            net, batches, resect.Budget(remove=2), settings, heal=heal, training=training, engine=Local(store)
        )
        assert result.healing is not None
        return result.healing

    one, other = found(), found()
    assert one.as_dict() == other.as_dict()
    assert all(torch.equal(value, other.network.state_dict()[n]) for n, value in one.network.state_dict().items())
    row = one.table.iloc[one.chosen]
    assert one.strength is not None
    assert row["loss_after"] < row["loss_before"]
    assert f"Healed (fitted to the intact network by least squares, ridge {one.strength:g})" in one.summary()
    assert (one.as_dict()["refit"], one.as_dict()["epochs"], one.recipe) == (True, 0, None)
