"""Which positions a fit has to come near at: those that the outputs depend on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from resect.errors import ResectWarning
from resect.measuring.batches import batches_of
from resect.pruning.refit import fitted, passes, position_weights, refit
from resect.pruning.sensitivity import squared_gradients
from resect.seeds import generator_for
from residual_mlps import HIDDEN, SHAPE, WIDE, Block, First, mlp, network, on, states


def test_what_is_behind_a_state_says_which_positions_count() -> None:
    net = network(mlp(), mlp(), mlp(), pool=First)
    batches, arrangement = on(net), net.intact.without(2)
    weights = position_weights(net, arrangement, batches)
    assert [set(own) for own in weights] == [{1}] * 4
    first = torch.stack([own[1].view(-1, SHAPE[0]) for own in weights])
    assert bool(first[..., 0].all())
    assert not bool(first[..., 1:].any())
    found = fitted(net, arrangement, batches, 0.1, weights=weights)
    with torch.no_grad():
        counts = torch.cat([own[1] for own in weights]).double()[:, None]
        hidden = net.model[1].branch[:3](states(net, 1, batches).float()).double()
        missing = states(net, 3, batches) - states(net, 2, batches)
        rows = torch.cat([hidden, torch.ones(len(hidden), 1).double()], 1) * counts.sqrt()
        ridge = 0.1 * ((hidden - (hidden * counts).sum(0) / counts.sum()).square() * counts).sum(0).mean()
        rows = torch.cat([rows, torch.cat([ridge.sqrt() * torch.eye(HIDDEN), torch.zeros(HIDDEN, 1)], 1).double()])
        aims = torch.cat([missing * counts.sqrt(), torch.zeros(HIDDEN, WIDE).double()])
        change = torch.linalg.lstsq(rows, aims).solution
    layer = net.model[1].branch[3]
    torch.testing.assert_close(found["1.branch.3.weight"], (layer.weight.double() + change[:-1].T).float())
    torch.testing.assert_close(found["1.branch.3.bias"], (layer.bias.double() + change[-1]).float())


def test_squared_gradients_are_those_of_autograd_for_random_sums_of_what_counts() -> None:
    net = network(mlp(), mlp(), mlp(), pool=nn.Identity)
    inputs, targets = torch.randn(6, *SHAPE), torch.randint(0, 3, (6, SHAPE[0]))
    targets[:, 2] = -100
    (batch,) = batches_of([(inputs, targets)], net, "next-token")
    key_of = net.programs.keys.of
    keys = [key_of(slot.join.node) for slot in net.sliced.slots]
    found = squared_gradients(net, batch, keys)
    draws, noises = generator_for(0, "sensitivity", 0), []
    for _ in range(4):
        numbers = torch.randn(3, generator=draws)
        signs = torch.randint(0, 2, (6, SHAPE[0]), generator=draws) * 2 - 1
        noises.append((numbers - numbers.mean()) * (signs * (targets != -100))[..., None])
    for place, key in enumerate(keys, start=1):
        state = net.model[:place](inputs).detach().requires_grad_()
        outputs = net.model[place:](state)
        gradients = [torch.autograd.grad((outputs * noise).sum(), state, retain_graph=True)[0] for noise in noises]
        wanted = torch.stack(gradients).square().mean(0)
        torch.testing.assert_close(found[key], wanted)
        assert not bool(wanted[:, 2].any())


@torch.library.custom_op("resect_tests::halved", mutates_args=())
def halved(x: Tensor) -> Tensor:
    """An operator that has no derivative."""
    return x / 2


@halved.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Halved(nn.Module):
    """Half of what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.resect_tests.halved(x)


def test_positions_count_alike_where_there_is_no_derivative() -> None:
    net = network(mlp(), mlp(), Block(Halved(), nn.Linear(WIDE, WIDE)), mlp(), pool=First)
    batches, arrangement = on(net, 8), net.intact.without(1)
    with pytest.warns(ResectWarning, match="All positions count alike in the fit: .*halved.* no autograd formula"):
        assert position_weights(net, arrangement, batches) == [{}] * 8
    with pytest.warns(ResectWarning, match="count alike"):
        fit = refit(net, arrangement, batches)
    assert fit.distances[1.0] < fit.distances[None]


TASKS: dict[str, tuple[Any, Any, Tensor]] = {  # the task, which targets it ignores, and some
    "regression": ("regression", None, torch.randn(6, 3)),
    "multi-label": ("multi-label", -100.0, torch.tensor([[0.0, 1.0, -100.0]] * 6)),
    "contrastive": ("contrastive", None, torch.tensor([0, 1, 2, -100, -100, -100])),
    "of functions": (resect.Task("off", nn.MSELoss(reduction="none")), None, torch.randn(6, 3)),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_what_it_depends_on(name: str) -> None:
    task, ignored, targets = TASKS[name]
    net, inputs = network(mlp(), mlp(), mlp()), torch.randn(6, *SHAPE)
    (batch,) = batches_of([(inputs, targets)], net, task)
    key = net.programs.keys.of(net.sliced.slots[1].join.node)
    draws, gradients = generator_for(0, "sensitivity", 0), []
    state = net.model[:2](inputs).detach().requires_grad_()
    outputs = net.model[2:](state)
    for _ in range(4):
        numbers = torch.randn(3, generator=draws)
        signs = torch.randint(0, 2, (6,), generator=draws) * 2 - 1
        counted = numbers * signs[:, None] * (targets != ignored if ignored else torch.ones(6, 1))
        gradients.append(torch.autograd.grad((outputs * counted).sum(), state, retain_graph=True)[0])
    torch.testing.assert_close(squared_gradients(net, batch, [key])[key], torch.stack(gradients).square().mean(0))


def test_positions_are_found_where_an_ending_has_them_in_another_order() -> None:
    class Turned(nn.Module):
        """A branch whose positions lie behind its channels."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDE, WIDE)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(x.mT).mT

    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 1]

    torch.manual_seed(0)
    model = nn.Sequential(Turned(), Turned(), Turned(), Last(), nn.Linear(WIDE, 3)).eval()
    net = resect.unravel(model, torch.randn(2, WIDE, 4))
    weights = position_weights(net, net.intact.without(2), on(net, 4, 6, (WIDE, 4)))
    for own in weights:
        counted = own[1].view(6, 4) > 0
        assert bool(counted[:, 1].all())
        assert int(counted.sum()) == 6


def test_only_positions_that_count_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(mlp(), mlp(), mlp(), pool=First)
    batches, arrangement = on(net, 4, 20), net.intact.without(2)
    weights = position_weights(net, arrangement, batches)
    whole = fitted(net, arrangement, batches, 0.1, weights=weights)
    monkeypatch.setattr("resect.pruning.refit.ROWS", 80)  # as many as count
    drawn = fitted(net, arrangement, batches, 0.1, weights=weights)
    assert all(torch.equal(value, drawn[name]) for name, value in whole.items())


def test_a_batch_that_counts_nothing_and_inference_mode_change_nothing() -> None:
    net = network(mlp(), mlp(), mlp(), pool=nn.Identity)
    inputs, targets = torch.randn(4, 6, *SHAPE), torch.randint(0, 3, (4, 6, SHAPE[0]))
    targets[3] = -100
    batches = list(batches_of(list(zip(inputs, targets, strict=True)), net, "next-token"))
    weights = position_weights(net, net.intact.without(1), batches)
    assert [bool(own[0].any()) for own in weights] == [True, True, True, False]
    with torch.inference_mode():
        again = position_weights(net, net.intact.without(1), batches)
    assert all(torch.equal(one[i], other[i]) for one, other in zip(weights, again, strict=True) for i in one)


def test_half_precision_has_weights() -> None:
    net = network(mlp(), mlp(), mlp(), pool=First)
    half = resect.unravel(copy.deepcopy(net.model).bfloat16(), torch.randn(2, *SHAPE).bfloat16())
    batches = list(batches_of([(b.inputs.bfloat16(), b.targets) for b in on(net)], half))
    for one, other in zip(
        position_weights(half, half.intact.without(2), batches), position_weights(net, net.intact.without(2), on(net)),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one[1].float(), other[1], rtol=0.1, atol=0.05)


def test_the_distance_is_the_divergence_from_the_intact_network_whatever_the_labels_are() -> None:
    net = network(mlp(), mlp(), mlp())
    batches, arrangement = on(net, 4), net.intact.without(1)
    held = batches[3]
    with torch.no_grad():
        cut, intact = (F.log_softmax(net(held.inputs, one), 1) for one in (arrangement, net.intact))
    fit = refit(net, arrangement, batches)
    wanted = F.kl_div(cut, intact, reduction="batchmean", log_target=True)
    assert fit.distances[None] == pytest.approx(float(wanted), rel=1e-4)
    others = list(batches_of([(batch.inputs, (batch.targets + 1) % 3) for batch in batches], net))
    assert refit(net, arrangement, others).distances == fit.distances


class Masked(nn.Module):
    """Classes of which the last is never named."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)[:, :3].masked_fill(torch.tensor([False, False, True]), -torch.inf)


def test_classes_that_are_masked_are_no_difference() -> None:
    torch.manual_seed(0)
    net = resect.unravel(nn.Sequential(mlp(), mlp(), mlp(), Masked()).eval(), torch.randn(2, *SHAPE))
    batches = [(batch.inputs, batch.targets % 2) for batch in on(net, 8)]
    fit = refit(net, net.intact.without(1), list(batches_of(batches, net)))
    assert all(0 < distance < 10 for distance in fit.distances.values())
    plan, settings = resect.plans.explicit(net, [net.intact.without(1)]), resect.LesionSettings(metrics=("kl",))
    assert 0 < resect.lesion(net, batches, plan, settings).means("kl")[0] < 10


def test_targets_that_do_not_fit_are_refused() -> None:
    net = network(mlp(), mlp(), mlp())
    batches = list(batches_of([(batch.inputs, batch.targets + 5) for batch in on(net)], net))
    with pytest.raises(resect.DataError, match="classes"):
        refit(net, net.intact.without(1), batches)


def test_progress_comes_to_what_is_said_before() -> None:
    net = network(mlp(), mlp(), mlp())
    batches, told = on(net, 8), list[float]()
    refit(net, net.intact.without(1), batches, progress=told.append)
    assert sum(told) == pytest.approx(passes(net) * sum(map(len, batches)), rel=0.15)
