"""Which layers a fit of what is left takes: those that branches end in, and that nothing else depends on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from resect.pruning.refit import fitted, refit
from residual_mlps import WIDE, Block, network, on


class Scaled(nn.Module):
    """A layer scale behind a branch (CaiT, ConvNeXt)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, WIDE).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Moved(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class Flat(nn.Module):
    """A linear layer as transformers' Conv1D has it, on rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(WIDE, WIDE) / 3), nn.Parameter(torch.zeros(WIDE))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, WIDE), self.weight).view(x.shape)


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (lambda: Block(nn.Linear(WIDE, WIDE), Scaled(WIDE)), (4, WIDE)),
        (lambda: Block(nn.Tanh(), Flat()), (4, WIDE)),
        (
            lambda: Block(Moved(0, 2, 3, 1), nn.Linear(WIDE, WIDE), Moved(0, 3, 1, 2), Scaled(WIDE, 1, 1)),
            (WIDE, 3, 2),
        ),
    ],
    ids=["layer scale", "rows of Conv1D", "channels first"],
)
def test_what_lies_between_a_layer_and_its_sum_is_taken_back(
    block: Callable[[], Block], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    blocks = [block(), block(), block()]
    head = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3))
    net = resect.unravel(nn.Sequential(*blocks, head).eval(), torch.randn(2, *shape))
    batches, arrangement = on(net, 4, 30, shape), net.intact.without(1)
    tensors = fitted(net, arrangement, batches, 1e-6)
    small = copy.deepcopy(net.model)
    small.load_state_dict({name: value for name, value in tensors.items() if name.startswith("0.")}, strict=False)
    inputs = torch.cat([batch.inputs for batch in batches])
    with torch.no_grad():
        missing = blocks[1](blocks[0](inputs)) - small[0](inputs)
        before = blocks[1](blocks[0](inputs)) - blocks[0](inputs)
        rows = next(m for m in blocks[0].branch if not isinstance(m, Moved))
        taken = (inputs.tanh() if isinstance(rows, nn.Tanh) else inputs).double()
    if len(shape) == 3:
        taken, missing, before = (value.permute(0, 2, 3, 1) for value in (taken, missing, before))
    taken = torch.cat([taken.flatten(0, -2), torch.ones(taken.numel() // WIDE, 1).double()], 1)
    left = torch.linalg.lstsq(taken, missing.double().flatten(0, -2)).solution
    assert left.abs().max() < 1e-4 < torch.linalg.lstsq(taken, before.double().flatten(0, -2)).solution.abs().max()


class Tied(nn.Module):
    """Two blocks that end in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.end = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.end(self.one(x).relu())
        return x + self.end(self.two(x).relu())


class Seen(nn.Module):
    """A block whose branch is returned, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDE, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.layer(x.relu())
        return (x + branch) * branch.mean().sigmoid()


class Buffered(nn.Module):
    """A layer whose bias is no parameter."""

    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDE, WIDE) / 3)
        self.register_buffer("bias", torch.zeros(WIDE))

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.linear(x.tanh(), self.weight, self.bias)


class Crossed(nn.Module):
    """Cross layers of DCN-v2, whose branches are multiplied by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDE, WIDE) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first = x
        for layer in self.layers:
            x = x + first * layer(x)
        return x


class OnePerPosition(nn.Module):
    """A layer scale that varies over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(WIDE, WIDE), nn.Parameter(torch.rand(4, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x.tanh()) * self.scale


@pytest.mark.parametrize(
    "blocks",
    [
        [Tied()],
        [Seen(), Seen()],
        [Block(nn.Linear(WIDE, WIDE), nn.Tanh())],
        [Buffered(), Buffered()],
        [Crossed()],
        [OnePerPosition(), OnePerPosition()],
    ],
)
def test_layers_that_other_values_depend_on_are_not_fitted(blocks: list[nn.Module]) -> None:
    net = network(*blocks)
    with pytest.raises(
        resect.InputError, match=r"`refit` fits linear layers and convolutions that branches end in, .* has neither"
    ):
        refit(net, net.intact.without(0), on(net))
