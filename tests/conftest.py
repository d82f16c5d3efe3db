"""Small real networks and data for all tests."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

import resect
from resect.models.resnet import CifarResNet

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # two workers on two cores; torch.export, where the time goes, has one thread anyway


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers for every test, whatever ran before."""
    torch.manual_seed(0)


def randomise_norms(module: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights as training leaves them; fresh ones are nearly the identity."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    return module.eval()


@pytest.fixture
def resnet() -> CifarResNet:
    """A pre-activation ResNet-20 of width 4: 9 blocks, 2 of them with projections."""
    torch.manual_seed(1)
    network = CifarResNet(20, width=4, channels=1)
    randomise_norms(network)
    return network


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """6 images (6, 1, 8, 8) and their targets."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(6, 1, 8, 8, generator=generator), torch.randint(0, 10, (6,), generator=generator)


@pytest.fixture
def net(resnet: CifarResNet, batch: tuple[torch.Tensor, torch.Tensor]) -> resect.Unraveled:
    """The ResNet-20, unravelled."""
    return resect.unravel(resnet, batch[0][:1])
