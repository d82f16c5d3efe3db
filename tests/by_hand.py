"""Networks with gradients along single paths, written out by hand, and their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from conftest import randomise_norms
from networks import Encoder
from resect.graph.routes import STEM, Routes
from resect.models.resnet import CifarResNet
from resect.paths.participation import participation
from resect.paths.polynomial import at_target, decompose
from resect.paths.sampled import path_norms
from resect.paths.sampler import Edge, Route
from resect.paths.signs import Signs, several_sources
from resect.paths.strongest import strongest_paths
from resect.paths.target import resolve_target
from resect.paths.trace import Trace

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


def slot_of(net: resect.Unraveled, prefix: str) -> int:
    """The slot whose branch holds the parameters under a prefix."""
    (slot,) = (s.index for s in net.sliced.slots if any(name.startswith(prefix) for name in s.block.parameters))
    return slot


def check_against_routes(
    net: resect.Unraveled, images: Tensor, paths: dict[frozenset[int], list[Tensor]], *, signs: bool = True
) -> None:
    """Everything against the gradients of all routes, by the blocks that they take.

    Args:
        signs: try all random signs, too.
    """
    data = [(images, TARGETS)]
    routed = [(blocks, gradient) for blocks, found in paths.items() for gradient in found]
    truth = sum(gradient for _, gradient in routed)
    shares = [(blocks, mean_share(g, truth)) for blocks, g in routed]
    spectrum = resect.path_spectrum(net, data)
    for k in range(len(net.blocks) + 1):
        assert spectrum.count[k] == sum(len(blocks) == k for blocks, _ in routed)
        expected = sum(share for blocks, share in shares if len(blocks) == k)
        assert spectrum.share[k] == pytest.approx(expected, rel=1e-8, abs=1e-12)
    found = participation(net, data, pairs=True)
    for i in range(len(net.blocks)):
        assert found.share[i] == pytest.approx(sum(s for b, s in shares if i in b), rel=1e-8, abs=1e-12)
        for j in range(len(net.blocks)):
            both = sum(share for blocks, share in shares if {i, j} <= blocks)
            assert found.pairs[i, j] == pytest.approx(both, rel=1e-8, abs=1e-12)
    norms = sorted((-(g.square().sum() / 4).sqrt().item(), tuple(sorted(blocks))) for blocks, g in routed)
    strong = strongest_paths(net, data, count=len(routed), limit=10**6)
    assert strong.table["blocks"].tolist() == [blocks for _, blocks in norms]
    np.testing.assert_allclose(strong.table["norm"], [-norm for norm, _ in norms], rtol=1e-8)
    trace, routes = Trace(net, images, TARGETS, resolve_target(net, "input")), net.routes()
    single = list(_every_route(routes, len(routes.stations), routes.output.edges))
    sampled = [
        (-norm, blocks) for norm, blocks in zip(path_norms(trace, routes, single), map(_blocks, single), strict=True)
    ]
    rms = sorted((-np.sqrt(np.square(norm).mean()), blocks) for norm, blocks in sampled)
    assert [blocks for _, blocks in rms] == [blocks for _, blocks in norms]
    np.testing.assert_allclose([norm for norm, _ in rms], [norm for norm, _ in norms], rtol=1e-8)
    if signs:
        _check_signs(net, images, routed, spectrum.longest)


def _every_route(routes: Routes, where: int, edges: Iterable[Edge]) -> Iterator[Route]:
    for slot, source in edges:
        here = {where: (slot, source)}
        if source == STEM:
            yield here
        else:
            yield from ({**here, **rest} for rest in _every_route(routes, source, routes.stations[source].edges))


def _blocks(route: Route) -> tuple[int, ...]:
    return tuple(sorted(slot for slot, _ in route.values() if slot is not None))


def _check_signs(
    net: resect.Unraveled, images: Tensor, routed: list[tuple[frozenset[int], Tensor]], longest: int
) -> None:
    """The mean over all signs against every route by itself, also those through the same blocks."""
    trace, routes = Trace(net, images, TARGETS, resolve_target(net, "input")), net.routes()
    several, n = several_sources(routes), len(net.blocks)
    squares, draws = np.zeros(n + 1), 2 ** (n + len(several))
    for drawn in product([-1.0, 1.0], repeat=n + len(several)):
        every = Signs(dict(enumerate(drawn[:n])), dict(zip(several, drawn[n:], strict=True)), routes)
        degrees = decompose(trace, longest, rest=False, signs=every)
        for some, arrived in at_target(trace, degrees.lanes, longest + 1):
            (lanes,) = arrived.values()
            powers = np.ldexp(1.0, degrees.exponents[some])
            squares[: longest + 1][some] += np.square(lanes.flatten(1).norm(dim=1).numpy() * powers)
    for k in range(n + 1):
        expected = sum(g.square().sum().item() for blocks, g in routed if len(blocks) == k)
        assert squares[k] / draws == pytest.approx(expected, rel=1e-8, abs=1e-14)
