"""Small pre-norm residual networks of linear layers, and samples for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import resect
from resect.measuring.batches import Batch, batches_of

WIDE, HIDDEN = 5, 7
SHAPE = (4, WIDE)


def drawn(count: int, size: int, *shape: int, seed: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Batches of random samples of three classes."""
    draws = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, *shape, generator=draws), torch.randint(0, 3, (size,), generator=draws))
        for _ in range(count)
    ]


class Block(nn.Module):
    """x + layers(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Pooled(nn.Module):
    """The mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def mlp(*, bias: bool = True) -> Block:
    """One of them."""
    return Block(nn.LayerNorm(WIDE), nn.Linear(WIDE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDE, bias=bias))


class First(nn.Module):
    """The first position, as a vision transformer reads its class token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def network(*blocks: nn.Module, pool: type[nn.Module] = Pooled) -> resect.Unraveled:
    """Blocks on four positions, and a head."""
    torch.manual_seed(0)
    return resect.unravel(nn.Sequential(*blocks, pool(), nn.Linear(WIDE, 3)).eval(), torch.randn(2, *SHAPE))


def on(net: resect.Unraveled, count: int = 4, size: int = 6, shape: tuple[int, ...] = SHAPE) -> list[Batch]:
    """Batches for a network."""
    return list(batches_of(drawn(count, size, *shape), net))


def states(net: resect.Unraveled, until: int, batches: list[Batch]) -> Tensor:
    """(positions, WIDE) behind some blocks of the intact network."""
    with torch.no_grad():
        return torch.cat([net.model[:until](batch.inputs) for batch in batches]).flatten(0, -2).double()
