"""Scaled skips, modulated branches, halves and second streams: blocks by data flow, and paths by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from streams import WORDS, Layers, Polynomial, X, chain, counts, mlp, plus, taken_apart, through

TARGETS = torch.arange(3)


def sigma(layer: nn.Module) -> Tensor:
    return torch.sigmoid(layer.a)


SCALED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int]] = {
    "learned (Doge)": (lambda m, x: m.a * x + m.f(x), 2),
    "numbers on both (MiniMax)": (lambda m, x: x * 0.7 + m.f(x) * 1.3, 2),
    "in another type (Muse Spark)": (
        lambda m, x: ((1 - sigma(m) ** 2).sqrt().double() * x + sigma(m) * m.f(x)).to(x.dtype),
        2,
    ),
    "twice": (lambda m, x: x * m.a * 0.5 + m.f(x), 2),
    "divided": (lambda m, x: x / 2 + m.f(x), 2),
    "in another shape": (lambda m, x: (x.view(-1, 2, 4) * m.a.view(2, 4)).view(-1, 8) + m.f(x), 2),
    "by alpha": (lambda m, x: torch.add(m.f(x), x, alpha=0.7), 2),
    "by alpha, subtracted": (lambda m, x: torch.sub(m.f(x), x, alpha=-0.7), 2),
    "of parallel branches": (lambda m, x: m.a * x + m.f(x) + m.g(x), 4),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_skip_times_a_factor_is_scaled(name: str) -> None:
    way, blocks = SCALED[name]
    net = taken_apart(Layers(way), blocks)
    assert {block.kind for block in net.blocks} == {"scaled"}
    assert counts(net) == (chain(2) if blocks == 2 else [1, 4, 4])
    layer, x = net.model.body.layers[0], net.model.stem(X)
    for branch in (layer.f, layer.g):
        branch[-1].weight.data.zero_()
        branch[-1].bias.data.zero_()
    bare = net.model.head(way(net.model.body.layers[1], way(layer, x)))
    torch.testing.assert_close(net(X, net.intact.without(*range(blocks // 2))), bare)
    assert resect.path_spectrum(net, [(X, TARGETS)]).sum_error < 1e-5


def test_a_skip_that_is_subtracted_or_scaled_by_a_signal_is_none() -> None:
    for way in (lambda m, x: m.f(x) - x, lambda m, x: -x + m.f(x), lambda m, x: torch.add(m.f(x), x, alpha=-0.5)):
        net = taken_apart(Layers(way), 0)
        assert [entry.reason for entry in net.rejected] == ["the skip would be subtracted or scaled"] * 2
    net = taken_apart(Layers(lambda m, x: m.s(x).tanh() * x + m.f(x)), 0)
    assert all("a sum of two branches" in entry.reason for entry in net.rejected)


FILM: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int, Polynomial]] = {
    "after the activation": (lambda m, x: x + m.s(x[:, :1].expand_as(x)).tanh() * m.f(x), 2, chain(2)),
    "shifted by x, in line": (lambda m, x: x + m.s(x).tanh() * m.f(x) + m.t(x), 4, [1, 4, 4]),
    "shifted by x, in brackets": (lambda m, x: x + (m.s(x).tanh() * m.f(x) + m.t(x)), 4, [1, 4, 4]),
}


@pytest.mark.parametrize("name", FILM)
def test_modulated_branches(name: str) -> None:
    way, blocks, paths = FILM[name]
    assert counts(taken_apart(Layers(way), blocks)) == paths


class Film(nn.Module):
    """x + relu(gamma f(x) + beta) or x + gamma f(x) + beta, by a second input (Perez et al. 2018)."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside
        self.f, self.film = nn.ModuleList([mlp(), mlp()]), nn.ModuleList([nn.Linear(8, 16), nn.Linear(8, 16)])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for f, film in zip(self.f, self.film, strict=True):
            gamma, beta = film(condition).chunk(2, -1)
            x = x + F.relu(gamma * f(x) + beta) if self.inside else x + gamma * f(x) + beta
        return x


# The condition is a source of its own: it enters the second branch, and the sums, beside what came before.
@pytest.mark.parametrize(("inside", "paths"), [(True, [1, 3, 1]), (False, [3, 3, 1])])
def test_a_condition_is_no_branch(inside: bool, paths: Polynomial) -> None:
    net = taken_apart(Film(inside), 2, (X, X.flip(0)))
    assert counts(net) == paths
    model = net.model
    shift = 0 if inside else model.body.film[0](X.flip(0)).chunk(2, -1)[1]
    gamma, beta = model.body.film[1](X.flip(0)).chunk(2, -1)
    x = model.stem(X) + shift
    y = gamma * model.body.f[1](x) + beta
    expected = model.head(x + (F.relu(y) if inside else y))
    torch.testing.assert_close(net((X, X.flip(0)), net.intact.without(0)), expected)


class Halves(nn.Module):
    """y1 = x1 + f(x2), y2 = x2 + g(y1) (RevNet, Gomez et al. 2017)."""

    def __init__(self, layers: int, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.f, self.g = (nn.ModuleList(mlp(4) for _ in range(layers)) for _ in "fg")

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, -1)
        for f, g in zip(self.f, self.g, strict=True):
            if self.whole:  # each layer takes and gives one tensor
                one, two = torch.cat([one, two], -1).chunk(2, -1)
            one = one + f(two)
            two = two + g(one)
        return torch.cat([one, two], -1)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_reversible_halves(layers: int, whole: bool) -> None:
    net = taken_apart(Halves(layers, whole), 2 * layers)
    assert net.blocks.names == tuple(f"body.{half}.{i}" for i in range(layers) for half in "fg")
    assert {(block.layers, block.parameters) for block in net.blocks} == {(2, 4 * 12 + 12 + 12 * 4 + 4)}
    one: Polynomial = [1]
    two: Polynomial = [1]
    for _ in range(layers):
        one = plus(one, through(two))
        two = plus(two, through(one))
    assert counts(net) == plus(one, two)
    assert resect.path_spectrum(net, [(X, TARGETS)]).sum_error < 1e-5
    model = net.model
    model.body.g[0][-1].weight.data.zero_()
    model.body.g[0][-1].bias.data.zero_()
    torch.testing.assert_close(net(X, net.intact.without(1)), model(X))


def test_a_network_without_logits_is_taken_apart() -> None:
    class Classes(Layers):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(-1)

    net = resect.unravel(Classes(lambda m, x: x + m.f(x)).eval(), X)
    assert len(net.blocks) == 2


class TwoStreams(nn.Module):
    """A fine stream with blocks of its own is projected and added to a coarse one, layer by layer (TNT)."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.start = nn.Linear(8, 8)
        self.fine, self.coarse = (nn.ModuleList(mlp() for _ in range(layers)) for _ in "fc")
        self.proj = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.start(x)
        for fine, proj, coarse in zip(self.fine, self.proj, self.coarse, strict=True):
            x = x + fine(x)
            patches = torch.cat([patches[:, :1], patches[:, 1:] + proj(x)[:, 1:]], 1)
            patches = patches + coarse(patches)
        return patches


def test_a_stream_that_is_added_to_another_is_a_block_every_time() -> None:
    net = taken_apart(TwoStreams(), 9, WORDS)
    assert net.blocks.names[:6] == tuple(f"body.{part}.{i}" for i in range(2) for part in ("fine", "proj", "coarse"))
    assert [block.layers for block in net.blocks][:6] == [2, 1, 2] * 2
    small = net(WORDS, net.intact.without(4))
    net.model.body.proj[1].weight.data.zero_()
    net.model.body.proj[1].bias.data.zero_()
    torch.testing.assert_close(small, net.model(WORDS))


def test_the_sum_of_two_streams_is_no_block() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Layers(lambda m, x: x + m.f(x)), Layers(lambda m, x: x + m.f(x))

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x)

    assert [entry.reason for entry in taken_apart(Towers(), 4).rejected] == [
        "both operands come over ways with a non-linearity: a sum of two branches, without a skip"
    ]
