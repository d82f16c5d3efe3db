"""Networks with gradients along single paths, written out by hand, and their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import torch
from torch import Tensor, nn

import resect
from conftest import randomise_norms
from networks import Encoder
from resect.models.resnet import CifarResNet

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(7))


TARGETS = torch.tensor([3, 1, 4, 1])


def chain_forward(
    model: CifarResNet, images: Tensor, taken: tuple[bool, ...], states: list[Tensor] | None = None
) -> Tensor:
    """A CIFAR ResNet in which gradients take only the branches of `taken` and only the skips elsewhere."""
    relu, x = torch.relu, model.stem(images)
    if not model.preactivation:
        x = relu(model.bn(x))
    states = [] if states is None else states
    for block, through in zip(model.blocks, taken, strict=True):
        states.append(x)
        if model.preactivation:
            branch = block.c2(relu(block.bn2(block.c1(relu(block.bn1(x))))))
        else:
            branch = block.bn2(block.c2(relu(block.bn1(block.c1(x)))))
        skip = block.sc(x)
        x = skip.detach() + branch if through else skip + branch.detach()
        x = x if model.preactivation else relu(x)
    states.append(x)
    if model.preactivation:
        x = relu(model.bn(x))
    return model.fc(x.mean((2, 3)))


def encoder_forward(model: Encoder, images: Tensor, taken: tuple[bool, ...]) -> Tensor:
    x = model.patch(images).flatten(2).transpose(1, 2) + model.position
    edges = iter(taken)

    def join(skip: Tensor, branch: Tensor) -> Tensor:
        return skip.detach() + branch if next(edges) else skip + branch.detach()

    for i, (attention, mlp) in enumerate(zip(model.attention, model.mlp, strict=True)):
        y = model.norms[2 * i](x)
        x = join(x, attention(y, y, y, need_weights=False)[0])
        x = join(x, mlp(model.norms[2 * i + 1](x)))
    return model.fc(x.mean(1))


def brute_force(model: nn.Module, forward, blocks: int) -> dict[tuple[bool, ...], Tensor]:
    """The gradient at the input of each of the 2^n paths, one backward pass a path, in float64."""
    found = {}
    for taken in product([False, True], repeat=blocks):
        images = IMAGES.to(torch.float64).requires_grad_()
        loss = nn.functional.cross_entropy(forward(model, images, taken), TARGETS, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        found[taken] = gradient
    return found


CHAINS = {
    "CNN of 3 blocks": (lambda: CifarResNet(8, width=3, channels=1), chain_forward, 3),
    "original form": (lambda: CifarResNet(14, width=3, channels=1, preactivation=False), chain_forward, 6),
    "CNN of 6 blocks": (lambda: CifarResNet(14, width=3, channels=1), chain_forward, 6),
    "encoder of 8 blocks": (lambda: Encoder(4), encoder_forward, 8),
}


@dataclass(frozen=True)
class Chain:
    """A network of `CHAINS` in float64, unravelled, and how its forward is written out; nobody changes it."""

    model: nn.Module
    net: resect.Unraveled
    forward: Callable[..., Tensor]
    blocks: int

    @cached_property
    def paths(self) -> dict[tuple[bool, ...], Tensor]:
        """The gradient at the input of every path."""
        return brute_force(self.model, self.forward, self.blocks)


@cache
def chain(name: str) -> Chain:
    """A chain, made once for all tests."""
    build, forward, blocks = CHAINS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomise_norms(build()).double()
    return Chain(model, resect.unravel(model, IMAGES.double()), forward, blocks)


class Linear(nn.Module):
    """x + s_1 A_1 x, n times: every Jacobian is known."""

    def __init__(self, scales: list[float], size: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        matrices = [torch.randn(size, size, generator=generator) / size**0.5 for _ in scales]
        self.matrices = nn.ParameterList(s * m for s, m in zip(scales, matrices, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for matrix in self.matrices:
            x = x + x @ matrix.T
        return x


def mean_share(part: Tensor, whole: Tensor) -> float:
    """The mean over samples of the share of a part, (N, ...), in the sample's whole gradient."""
    return float(((part * whole).flatten(1).sum(1) / whole.flatten(1).square().sum(1)).mean())
