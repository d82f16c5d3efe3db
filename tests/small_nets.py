"""A small network of blocks whose forward() is any function, for tests of how models are written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

X = torch.linspace(-1, 1, 40).reshape(5, 8).cos()


TARGETS = torch.arange(5) % 4


Way = Callable[["Block", Tensor], Tensor]


def mlp(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, width))


class Block(nn.Module):
    """Whatever `way` makes of the branches `f` and `g` and of the input."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.f, self.g, self.way = mlp(), mlp(), way
        self.weight = nn.Parameter(torch.randn(8, 8) * 0.2)
        self.cell = nn.GRUCell(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(8, 8), nn.Sequential(*blocks), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def plain(block: Block, x: Tensor) -> Tensor:
    return x + block.f(x)


def two(way: Way = plain) -> Net:
    torch.manual_seed(0)
    return Net(Block(way), Block(way)).eval()
