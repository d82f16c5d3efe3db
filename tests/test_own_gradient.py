"""The model's own gradient is the reference: followed, or refused where no graph can hold it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import resect
from resect.network.gradients import require_own_gradient
from small_nets import TARGETS, Block, Net, X, mlp, plain, two


class Timed(Net):
    """A float for every sample, and a factor without dimensions."""

    def __init__(self) -> None:
        super().__init__(Block(plain))
        self.alpha = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.head(self.blocks(self.alpha * self.stem(x) + time[:, None]))


@pytest.mark.parametrize("at", ["input", "alpha", "stem"])
def test_inputs_and_parameters_may_be_single_numbers(at: str) -> None:
    net = resect.unravel(Timed().eval(), (X, X[:, 0]))
    data, settings = [((X, X[:, 0]), TARGETS)], resect.PathSettings(at=at)
    spectrum = resect.path_spectrum(net, data, settings)
    assert spectrum.sum_error < 1e-5
    table = resect.participation(net, data, settings).table
    assert table["share"].sum() == pytest.approx(float(spectrum.share[1]), abs=1e-5)
    strongest = resect.strongest_paths(net, data, settings=settings)
    assert sorted(strongest.table["share"]) == pytest.approx(sorted(spectrum.pooled_share), abs=1e-5)
    assert len(resect.sample_paths(net, data, settings, draws=2).table) == 2
    assert np.isfinite(resect.path_squares(net, data, settings, sweeps=2).rms).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_measured_whatever_is_switched_off_around(mode: Callable[[], torch.no_grad]) -> None:
    net = resect.unravel(two(), X)
    expected = resect.path_spectrum(net, [(X, TARGETS)])
    with mode():
        measured = resect.path_spectrum(net, [(X.clone(), TARGETS)])
        assert len(resect.strongest_paths(net, [(X.clone(), TARGETS)]).table) == 4
    assert (measured.share == expected.share).all()
    with pytest.raises(resect.InputError, match="`of` must be differentiable"):
        resect.path_spectrum(net, [(X, TARGETS)], resect.PathSettings(of=lambda out, targets: out.argmax(1).float()))


class Stopped(Net):
    """Stem and first block run without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.blocks[0](self.stem(x))
        return self.head(self.blocks[1](x))


class Frozen(Net):
    """The stem runs without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x)
        return self.head(self.blocks(x))


def _step(model: nn.Module, net: resect.Unraveled | None = None) -> dict[str, Tensor | None]:
    """The gradients of one training step of the model, with `net` under a schedule that runs all blocks."""
    model = model.train()
    model.zero_grad()
    if net is None:
        F.cross_entropy(model(X), TARGETS).backward()
    else:
        with net.schedule(resect.schedules.FixedCount(len(net.blocks)), correction=False):
            F.cross_entropy(model(X), TARGETS).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


GRADIENTS: dict[str, Callable[[], nn.Module]] = {
    "a part under no_grad": lambda: Stopped(Block(plain), Block(plain)),
    "detached": lambda: two(lambda b, x: x + b.f(x.detach())),
    "straight through": lambda: two(lambda b, x: x + (lambda y: y + (y.round() - y).detach())(b.f(x))),
    "checkpointed": lambda: two(lambda b, x: x + checkpoint(b.f, x, use_reentrant=False)),
    "checkpointed, reentrant": lambda: two(lambda b, x: x + checkpoint(b.f, x, use_reentrant=True)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_scheduled_step_has_the_gradients_of_the_model(name: str) -> None:
    model = GRADIENTS[name]()
    net = resect.unravel(model, X)
    wanted, got = _step(model), _step(model, net)
    assert {n for n, g in wanted.items() if g is None} == {n for n, g in got.items() if g is None}
    assert all(torch.allclose(got[n], g, atol=1e-6) for n, g in wanted.items() if g is not None)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


def _hooked(x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda gradient: 0.5 * gradient)
    return x


def _with_module_hook() -> Net:
    model = two()
    model.blocks[0].f.register_full_backward_hook(lambda module, given, out: (2 * given[0],))
    return model


OTHER_GRADIENTS: dict[str, Callable[[], nn.Module]] = {
    "a custom backward": lambda: two(lambda b, x: x + Reversed.apply(b.f(x))),
    "a hook on a tensor": lambda: two(lambda b, x: x + _hooked(b.f(x))),
    "a hook on a module": _with_module_hook,
}


@pytest.mark.parametrize("name", OTHER_GRADIENTS)
def test_a_gradient_that_no_graph_holds_is_refused(name: str) -> None:
    model = OTHER_GRADIENTS[name]()
    net = resect.unravel(model, X)
    assert net.check(X).identical
    assert len(resect.lesion(net, [(X, TARGETS)], resect.plans.single(net)).table) == 2
    with pytest.raises(resect.ExportError, match=r"must have the gradient of the operators.*stem\.weight"):
        resect.path_spectrum(net, [(X, TARGETS)])
    with pytest.raises(resect.ExportError, match="in train mode"):
        _step(model, net)
    assert all(parameter.grad is None for parameter in model.parameters())


class Weightless(nn.Module):
    """A skip that turns the gradient, behind which there is no parameter."""

    def __init__(self, turned: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f, self.head, self.turned = mlp(), nn.Linear(8, 4), turned

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turned(x) + self.f(x))


@pytest.mark.parametrize("turned", [Reversed.apply, lambda x: _hooked(x.clone())])
def test_another_gradient_at_the_input_alone_is_refused_for_paths_but_not_for_training(turned: Any) -> None:
    model = Weightless(turned)
    net = resect.unravel(model, X)
    with pytest.raises(resect.ExportError, match=r"must have the gradient of the operators.*`input 0`"):
        resect.path_spectrum(net, [(X, TARGETS)])
    _step(model, net)


def test_a_place_that_no_gradient_reaches_is_refused_by_name() -> None:
    net = resect.unravel(Frozen(Block(plain), Block(plain)), X)
    for measure in (resect.path_spectrum, resect.participation, resect.path_energy, resect.path_squares):
        with pytest.raises(resect.InputError, match="none reaches input: the model stops it on the way"):
            measure(net, [(X, TARGETS)], resect.PathSettings(at="input"))
    assert resect.path_spectrum(net, [(X, TARGETS)], resect.PathSettings(at=1)).sum_error < 1e-6


def _drawing_in_vain(block: Block, x: Tensor) -> Tensor:
    if block.training:
        torch.rand(3)  # not in the graph, whose dropout draws otherwise
    return x + F.dropout(Reversed.apply(block.f(x)), 0.5, block.training)


def test_random_numbers_do_not_hide_another_gradient_in_training() -> None:
    model = two(_drawing_in_vain)
    net = resect.unravel(model, X)
    assert not require_own_gradient(net.train_graph, X)
    with pytest.raises(resect.ExportError, match="in eval mode"):
        _step(model, net)


def test_a_model_that_was_cast_since_is_not_taken_for_compared() -> None:
    model = two(lambda b, x: x + Reversed.apply(b.f(x)))
    net = resect.unravel(model, X)
    model.double()
    with pytest.raises(resect.ExportError, match="cast or changed since it was unravelled"):
        resect.path_spectrum(net, [(X, TARGETS)])
    model.float()
    with pytest.raises(resect.ExportError, match="must have the gradient"):
        resect.path_spectrum(net, [(X, TARGETS)])


COINS: dict[str, Callable[[Block], float | bool | Tensor]] = {
    "random": lambda b: random.random() < 0.1,
    "torch, a number": lambda b: torch.rand(1).item() < 0.1,
    "torch, a tensor": lambda b: torch.rand(()) < 0.1,
    "a generator of its own": lambda b: b.own.random() < 0.1,
}


@pytest.mark.parametrize("coin", COINS)
def test_a_coin_is_refused_in_training(coin: str) -> None:
    model = two(lambda b, x: x if b.training and COINS[coin](b) else x + b.f(x))
    for block in model.blocks:
        block.own = random.Random(0)
    net = resect.unravel(model, X)
    with pytest.raises(resect.ExportError, match=r"LayerDrop"):
        _step(model, net)
    assert model.blocks[0].own.random() == random.Random(0).random()
