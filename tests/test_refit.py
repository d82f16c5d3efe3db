"""Fitting what is left to the intact network: what is solved, what can be fitted, and what healing makes of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import resect
from resect.engines.local import Local, Memory
from resect.measuring.batches import Batch, batches_of
from resect.measuring.calibration import calibrate
from resect.pruning.prune import remove
from resect.pruning.refit import fitted, positions, refit, with_tensors
from residual_mlps import HIDDEN, SHAPE, WIDE, Block, drawn, mlp, network, on


def states(net: resect.Unraveled, until: int, batches: list[Batch]) -> Tensor:
    """(positions, WIDE) behind some blocks of the intact network."""
    with torch.no_grad():
        return torch.cat([net.model[:until](batch.inputs) for batch in batches]).flatten(0, -2).double()


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


def test_the_network_stays_as_it_is_and_the_strength_is_that_of_the_least_loss() -> None:
    net = network(mlp(), mlp(), mlp())
    before = copy.deepcopy(net.model.state_dict())
    fit = refit(net, net.intact.without(1), on(net, 8), (10.0, 0.1))
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())
    assert set(fit.losses) == {None, 10.0, 0.1}
    assert fit.losses[fit.strength] == min(fit.losses.values())
    assert bool(fit.tensors) == (fit.strength is not None)


def test_a_fit_that_does_no_good_is_left_out() -> None:
    net = network(mlp(), mlp(), mlp())
    arrangement, ((some, _),) = net.intact.without(1), drawn(1, 128, *SHAPE)
    with torch.no_grad():
        two = net(some, arrangement).topk(2).values
    inputs = some[(two[:, 0] - two[:, 1]).topk(32).indices]  # of which the cut network is surest
    named = net(inputs, arrangement).argmax(1)  # and right, by what is taken to be right
    with torch.no_grad():
        net.model[-1].weight.mul_(100)
    data = [(inputs[i : i + 4], named[i : i + 4]) for i in range(0, 32, 4)]
    fit = refit(net, arrangement, list(batches_of(data, net)))
    assert (fit.strength, fit.tensors) == (None, {})


CHANNELS, PICTURE = 4, (4, 6, 5)


def convolved(*behind: nn.Module, bias: bool = False, **options: Any) -> Block:
    """x + a convolution of x, a ReLU, another convolution and what stands behind it."""
    options = {"padding": 1, **options}
    last = nn.Conv2d(7, CHANNELS, 3, bias=bias, **options)
    return Block(nn.Conv2d(CHANNELS, 7, 3, padding=1), nn.ReLU(), last, *behind)


def pictures(*blocks: nn.Module) -> resect.Unraveled:
    """Blocks on small pictures, and a head."""
    torch.manual_seed(0)
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 3)).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
    return resect.unravel(model, torch.randn(2, *PICTURE))


@pytest.mark.parametrize(
    "options",
    [{}, {"kernel_size": 1, "padding": 0}, {"dilation": 2, "padding": 2}, {"kernel_size": (1, 5), "padding": (0, 2)}],
    ids=str,
)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_is_fitted_as_the_ridge_regression_on_what_its_kernel_sees(
    options: dict[str, Any], norm: bool, bias: bool
) -> None:
    options = {"kernel_size": 3, "padding": 1, **options}
    last = nn.Conv2d(7, CHANNELS, bias=bias, **options)
    fit = Block(nn.Conv2d(CHANNELS, 7, 3, padding=1), nn.ReLU(), last, *[nn.BatchNorm2d(CHANNELS)] * norm)
    net = pictures(convolved(), fit, convolved(), convolved())
    batches, strength = on(net, 4, 6, PICTURE), 0.1
    tensors = fitted(net, net.intact.without(2, 3), batches, strength)
    behind = "1.branch.3.bias" if norm else "1.branch.2.bias"
    assert set(tensors) == {"1.branch.2.weight", *(["1.branch.2.bias"] if bias else [behind] if norm else [])}
    with torch.no_grad():
        start = torch.cat([net.model[:1](batch.inputs) for batch in batches])
        seen = (
            nn.functional.unfold(fit.branch[:2](start), last.kernel_size, last.dilation, last.padding, last.stride)
            .mT.flatten(0, 1)
            .double()
        )
        missing = (net.model[1:4](start) - net.model[1:2](start)).double()
    factor = torch.ones(CHANNELS).double()
    if norm:
        own = fit.branch[3]
        factor = (own.weight / (own.running_var + own.eps).sqrt()).double().detach()
    aim = missing.permute(0, 2, 3, 1).flatten(0, 2) / factor
    means = seen.mean(0), aim.mean(0)
    centred = (seen - means[0], aim - means[1]) if bias or norm else (seen, aim)
    ridge = strength * centred[0].square().sum(0).mean()
    inputs = seen.shape[1]
    rows = torch.cat([centred[0], ridge.sqrt() * torch.eye(inputs).double()])
    change = torch.linalg.lstsq(rows, torch.cat([centred[1], torch.zeros(inputs, CHANNELS).double()])).solution
    wanted = (last.weight.double() + change.T.reshape(last.weight.shape)).float()
    torch.testing.assert_close(tensors["1.branch.2.weight"], wanted, rtol=1e-4, atol=1e-5)
    shift = means[1] - means[0] @ change
    if bias:
        torch.testing.assert_close(
            tensors["1.branch.2.bias"], (last.bias.double() + shift).float(), rtol=1e-4, atol=1e-5
        )
    elif norm:
        wanted = (own.bias.double() + shift * factor).float()
        torch.testing.assert_close(tensors[behind], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_a_picture_that_is_the_same_for_all_is_not_missed(norm: bool) -> None:
    same = Block(nn.Conv2d(CHANNELS, 7, 1), nn.ReLU(), nn.Conv2d(7, CHANNELS, 1))
    first = convolved(nn.BatchNorm2d(CHANNELS)) if norm else convolved(bias=True)
    net = pictures(first, same, convolved())
    with torch.no_grad():
        net.model[1].branch[0].weight.zero_()
    batches, arrangement = on(net, 4, 6, PICTURE), net.intact.without(1)
    small = with_tensors(net.standalone(arrangement), fitted(net, arrangement, batches, 0.1))
    for batch in batches:
        torch.testing.assert_close(small(batch.inputs), net(batch.inputs))


@pytest.mark.parametrize(
    "last",
    [
        nn.Conv2d(8, CHANNELS, 3, padding=1, groups=2),
        nn.Conv2d(8, CHANNELS, 3, padding="same"),
        nn.ConvTranspose2d(8, CHANNELS, 3, padding=1),
    ],
    ids=["groups", "named padding", "transposed"],
)
def test_other_convolutions_stay_as_they_are(last: nn.Module) -> None:
    blocks = (Block(nn.Conv2d(CHANNELS, 8, 1), nn.ReLU(), copy.deepcopy(last)) for _ in range(3))
    with pytest.raises(resect.InputError, match="`refit` fits linear layers and convolutions that branches end in, or"):
        refit(net := pictures(*blocks), net.intact.without(1), on(net, 4, 6, PICTURE))


def test_a_layer_scale_behind_a_convolution_is_taken_back_and_one_over_the_places_is_not() -> None:
    class Scaled(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.branch, self.scale = convolved().branch, nn.Parameter(torch.rand(shape) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.branch(x) * self.scale

    net = pictures(convolved(), Scaled(CHANNELS, 1, 1), convolved())
    batches, arrangement = on(net, 4, 30, PICTURE), net.intact.without(2)
    change = fitted(net, arrangement, batches, 0.1)["1.branch.2.weight"] - net.model[1].branch[2].weight
    with torch.no_grad():
        net.model[1].scale.mul_(2)
        net.model[1].branch[2].weight.div_(2)
    half = fitted(net, arrangement, batches, 0.1)["1.branch.2.weight"] - net.model[1].branch[2].weight
    torch.testing.assert_close(half * 2, change, rtol=1e-3, atol=1e-5)
    places = pictures(convolved(), Scaled(PICTURE[1], 1), convolved())
    found = fitted(places, places.intact.without(2), on(places, 4, 6, PICTURE), 0.1)
    assert not any(name.startswith("1.") for name in found)


class Rows(nn.Module):
    """A line as a picture of one row."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2)


class Lines(nn.Module):
    """And back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(2)


def as_wide(line: nn.Conv1d) -> nn.Conv2d:
    """The convolution over pictures of one row that does the same."""
    wide = nn.Conv2d(line.in_channels, line.out_channels, (1, 3), padding=(0, 1))
    wide.load_state_dict({"weight": line.weight.unsqueeze(2), "bias": line.bias})
    return wide


def test_a_convolution_over_one_dimension() -> None:
    blocks = (Block(nn.Conv1d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv1d(6, 4, 3, padding=1)) for _ in range(3))
    net = network(*blocks)
    batches = on(net)
    tensors = fitted(net, net.intact.without(2), batches, 0.1)
    wide = [
        Block(*(as_wide(part) if isinstance(part, nn.Conv1d) else part for part in own.branch)) for own in net.model[:3]
    ]
    same = resect.unravel(nn.Sequential(Rows(), *wide, Lines(), *net.model[3:]).eval(), torch.randn(2, *SHAPE))
    others = fitted(same, same.intact.without(2), batches, 0.1)
    assert set(tensors) == {"1.branch.2.weight", "1.branch.2.bias"}
    torch.testing.assert_close(tensors["1.branch.2.weight"], others["2.branch.2.weight"].squeeze(2))
    torch.testing.assert_close(tensors["1.branch.2.bias"], others["2.branch.2.bias"])


@pytest.mark.parametrize("positions", [3, WIDE])
def test_a_norm_over_positions_is_not_one_over_outputs(positions: int) -> None:
    def block() -> Block:
        return Block(nn.Linear(WIDE, WIDE, bias=False), nn.BatchNorm1d(positions))

    torch.manual_seed(0)
    model = nn.Sequential(block(), block(), block(), nn.Flatten(), nn.Linear(positions * WIDE, 3)).eval()
    net = resect.unravel(model, torch.randn(2, positions, WIDE))
    assert all(
        name.endswith(("mean", "var"))
        for name in fitted(net, net.intact.without(1), on(net, 4, 6, (positions, WIDE)), 0.1)
    )


def test_a_channel_that_a_norm_hides_is_not_missed() -> None:
    net = pictures(convolved(nn.BatchNorm2d(CHANNELS)), convolved(), convolved())
    with torch.no_grad():
        net.model[0].branch[3].weight[1] = 1e-40
    batches, arrangement = on(net, 4, 6, PICTURE), net.intact.without(1)
    tensors = fitted(net, arrangement, batches, 0.1)
    change = tensors["0.branch.2.weight"] - net.model[0].branch[2].weight
    assert change[1].abs().max() == 0 < change[0].abs().max()
    assert refit(net, arrangement, batches).losses[0.1] < float("inf")


def test_norms_between_a_gap_and_the_next_fitted_block_are_measured() -> None:
    def unfitted() -> Block:
        return convolved(nn.BatchNorm2d(CHANNELS), nn.ReLU())

    net = pictures(unfitted(), unfitted(), unfitted(), convolved(), unfitted(), convolved())
    batches = on(net, 4, 6, PICTURE)
    statistics = {"2.branch.3.running_mean", "2.branch.3.running_var"}  # not of the last, which is behind a fitted one
    found = fitted(net, net.intact.without(1), batches, 0.1)
    assert set(found) == {"3.branch.2.weight", "5.branch.2.weight", *statistics}
    before = fitted(net, net.intact.without(4), batches, 0.1)
    assert set(before) == {"3.branch.2.weight", "5.branch.2.weight"}  # the first is right before the gap


def test_of_very_many_positions_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    net = pictures(convolved(), convolved(), convolved())
    batches, arrangement = on(net, 4, 60, PICTURE), net.intact.without(1)
    every = fitted(net, arrangement, batches, 0.1)
    monkeypatch.setattr("resect.pruning.refit.ROWS", 4 * 60 * 15)  # half
    some = fitted(net, arrangement, batches, 0.1)
    for name, value in some.items():
        old = net.model.get_parameter(name).detach()
        assert not torch.equal(value, every[name])
        assert (value - every[name]).norm() < (value - old).norm() / 2
    assert all(torch.equal(value, some[name]) for name, value in fitted(net, arrangement, batches, 0.1).items())


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


def test_statistics_of_batch_norms_are_mixed_by_the_strength_where_no_layer_can_be_fitted() -> None:
    net = pictures(*(convolved(nn.BatchNorm2d(CHANNELS), nn.ReLU()) for _ in range(3)))
    batches = on(net, 4, 6, PICTURE)
    arrangement = net.intact.without(1)
    measured = net.standalone(arrangement)
    old = {name: value.clone() for name, value in measured.named_buffers() if value.is_floating_point()}
    calibrate(measured, [(batch.inputs, batch.targets) for batch in batches])
    new = dict(measured.named_buffers())
    tensors = fitted(net, arrangement, batches, 0.25)
    assert tensors.keys() == {name for name, value in old.items() if not torch.equal(value, new[name])}
    assert tensors
    for name, value in tensors.items():
        torch.testing.assert_close(value, (new[name] + 0.25 * old[name]) / 1.25)


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
