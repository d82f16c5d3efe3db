"""Under autocast, other defaults, without gradients, compiled: the network is the model in the same context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from small_nets import TARGETS, Block, Net, X, plain, two

DATA = [(X, TARGETS)]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64 by default": lambda: _default_dtype(torch.float64),
    "another device by default": lambda: torch.device("meta"),
    "deterministic algorithms": _deterministic,
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_network_is_the_model_in_the_same_context(name: str) -> None:
    model = two()
    outside = resect.unravel(model, X)
    with CONTEXTS[name]():
        inside = resect.unravel(model, X)
        assert outside.check(X).identical
        assert inside.check(X).identical
        assert inside(X).dtype == model(X).dtype
        small = inside.without(1)
    assert inside.check(X).identical
    assert torch.equal(small(X), outside(X, outside.intact.without(1)))
    small(X).sum().backward()
    assert small.stem.weight.grad is not None
    with inside.schedule(resect.schedules.FixedCount(1)):
        model.train()(X).sum().backward()
    assert model.stem.weight.grad is not None


@pytest.mark.parametrize("name", ["float64 by default", "another device by default", "deterministic algorithms"])
def test_measures_do_not_depend_on_defaults(name: str) -> None:
    net = resect.unravel(two(), X)

    def measured() -> list[np.ndarray]:
        lesions = resect.lesion(net, DATA, resect.plans.single(net).removing("other sample"))
        return [
            lesions.table["loss"].to_numpy(),
            resect.path_spectrum(net, DATA).share,
            resect.participation(net, DATA).table["share"].to_numpy(),
            resect.path_squares(net, DATA, sweeps=2).rms,
            resect.strongest_paths(net, DATA).table["share"].to_numpy(),
            resect.shapley(net, DATA, orders=2).table["loss"].to_numpy(),
        ]

    wanted = measured()
    with CONTEXTS[name]():
        got = measured()
    for one, other in zip(wanted, got, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_compiled_model_and_a_compiled_part() -> None:
    model, part = two(), two()
    part.blocks[0] = torch.compile(part.blocks[0], backend="aot_eager")
    for compiled in (torch.compile(two(), backend="aot_eager"), part):
        net = resect.unravel(compiled, X)
        assert len(net.blocks) == 2
        assert torch.equal(net(X), model(X))


class Labelled(Tensor):
    """A tensor of another class."""


def test_parameters_of_other_classes() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    model = two()
    weight = model.stem.weight.detach()
    model.stem.weight = nn.Parameter(weight.as_subclass(Labelled))
    net = resect.unravel(model, X)
    assert net.check(X).identical
    assert resect.path_spectrum(net, DATA).sum_error < 1e-5
    model.stem.weight = nn.Parameter(TwoTensor(weight, weight.clone()))
    with pytest.raises(resect.ExportError, match=r"must hold plain tensors, but `stem\.weight` is a TwoTensor"):
        resect.unravel(model, X)


class Asking(nn.Module):
    """Computes by other operators when it is exported, as linear attention in transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(x)
        if torch.compiler.is_exporting():
            return x + (y / 3) * x.tanh()
        return x + (y * x.tanh()) / 3


def test_a_model_that_computes_in_another_way_when_exported_is_taken_as_it_runs() -> None:
    net = resect.unravel(Net(Asking(), Block(plain)).eval(), X)
    assert net.check(X).identical
    assert net.train_graph.check(X).identical
    assert resect.path_spectrum(net, DATA).sum_error < 1e-5
