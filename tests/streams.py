"""Small networks of several streams, and polynomials of their paths, counted by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

import resect

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
WORDS = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(4))
Polynomial = Sequence[int]  # entry k: the number of paths through k branches


def plus(*terms: Polynomial) -> Polynomial:
    return [sum(column) for column in zip_longest(*terms, fillvalue=0)]


def through(paths: Polynomial) -> Polynomial:
    """The same paths, on through a branch."""
    return [0, *paths]


def chain(blocks: int, start: Polynomial = (1,)) -> Polynomial:
    for _ in range(blocks):
        start = plus(start, through(start))
    return start


def mlp(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, width))


class Net(nn.Module):
    """stem -> body -> head; what the body returns beside its value is returned, too."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(8, 8), body, nn.Linear(8, 4)

    def forward(self, x: Tensor, *more: Tensor) -> object:
        y = self.body(self.stem(x), *more)
        return self.head(y) if isinstance(y, Tensor) else (self.head(y[0]), *y[1:])


def taken_apart(body: nn.Module, blocks: int, x: object = X) -> resect.Unraveled:
    """A network of that body, with as many blocks as it has by its definition, and the bits of the model."""
    net = resect.unravel(Net(body).eval(), x)
    assert len(net.blocks) == blocks, [block.name for block in net.blocks]
    assert net.check(x).identical
    return net


def counts(net: resect.Unraveled) -> Polynomial:
    """Paths by length, without the lengths that none has."""
    paths = [*net.routes().counts.paths]
    while paths and not paths[-1]:
        paths.pop()
    return paths


class Layers(nn.Module):
    """Two layers of `way`, which has two branches, two factors and two linear maps."""

    def __init__(self, way: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.way, self.layers = way, nn.ModuleList()
        for _ in range(2):
            layer = nn.Module()
            layer.f, layer.g, layer.s, layer.t = mlp(), mlp(), nn.Linear(8, 8), nn.Linear(8, 8)
            layer.a, layer.b = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8) + 0.5)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.way(layer, x)
        return x
