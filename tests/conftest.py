"""Small real networks and data for all tests."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import resect
from networks import Encoder
from resect.models.resnet import CifarResNet

pytest_plugins = ["affected"]

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # two workers on two cores; torch.export, where the time goes, has one thread anyway
gc.set_threshold(50_000, 20, 20)  # a tenth of the time of torch.export goes to looking for dead objects


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers for every test, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def own_accelerate() -> Iterator[None]:
    """Accelerate has one precision a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every export from now on whether garbage is collected meanwhile."""
    seen: list[bool] = []
    export = torch.export.export

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(gc.isenabled())
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    return seen


def randomise_norms(module: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights as training leaves them; fresh ones are nearly the identity."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    return module.eval()


def _resnet() -> CifarResNet:
    torch.manual_seed(1)
    return randomise_norms(CifarResNet(20, width=4, channels=1))


@pytest.fixture(scope="session")
def _shared() -> tuple[resect.Unraveled, dict[str, Tensor]]:
    """The ResNet-20, unravelled, and a copy of its values."""
    network = _resnet()
    return resect.unravel(network, _batch()[0][:1]), copy.deepcopy(network.state_dict())


@pytest.fixture
def net(_shared: tuple[resect.Unraveled, dict[str, Tensor]]) -> Iterator[resect.Unraveled]:
    """The ResNet-20, unravelled once for all tests: its values and modes are put back after each."""
    net, values = _shared
    yield net
    net.model.load_state_dict(values)
    net.model.eval().requires_grad_(True).zero_grad(set_to_none=True)
    for name, value in net.model.state_dict().items():
        kept = values[name]
        assert (value.dtype, value.stride()) == (kept.dtype, kept.stride()), f"a test of its own network changes {name}"
    for module in net.model.modules():
        assert "forward" not in vars(module)
        assert not [*module._forward_hooks, *module._forward_pre_hooks], "put hooks on a network of the test's own"


@pytest.fixture(scope="session")
def encoder() -> resect.Unraveled:
    """A small vision transformer of two layers, 4 blocks, unravelled once for all tests, which leave it as it is."""
    torch.manual_seed(3)
    return resect.unravel(Encoder().eval(), _batch()[0][:2])


@pytest.fixture
def resnet(request: pytest.FixtureRequest) -> CifarResNet:
    """A pre-activation ResNet-20 of width 4, 9 blocks, 2 of them with projections; the one of `net`, where both are."""
    return request.getfixturevalue("net").model if "net" in request.fixturenames else _resnet()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(6, 1, 8, 8, generator=generator), torch.randint(0, 10, (6,), generator=generator)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """6 images (6, 1, 8, 8) and their targets."""
    return _batch()
