"""Fitting convolutions that branches end in, and batch norms behind them or out of their reach."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import resect
from resect.measuring.calibration import calibrate
from resect.pruning.refit import fitted, refit, with_tensors
from residual_mlps import SHAPE, WIDE, Block, network, on

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
    assert refit(net, arrangement, batches).distances[0.1] < float("inf")


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
