"""Residual streams of today: scaled skips, halves, two streams, attention over depth, loops and recurrences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resect

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
WORDS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(4))
TARGETS = torch.arange(3)
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
    "negative": (lambda m, x: -x + m.f(x), 2),
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
    for way in (lambda m, x: m.f(x) - x, lambda m, x: torch.add(m.f(x), x, alpha=-0.5)):
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


class Recurrence(nn.Module):
    """x + out(states), where the states are a recurrence over time written by hand; the last one is returned, too."""

    def __init__(self, cell: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.k, self.v, self.h, self.out = (nn.Linear(8, 8) for _ in "kvho")
        self.decay, self.cell = nn.Parameter(torch.rand(8)), cell

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state, states = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = self.cell(self, state, x[:, t])
            states.append(state)
        return x + self.out(torch.stack(states, 1)), state


class Stateful(nn.Module):
    """Two of them; their states are outputs as well (RWKV)."""

    def __init__(self, cell: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Recurrence(cell) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        returned = []
        for layer in self.layers:
            x, state = layer(x)
            returned.append(state)
        return x, *returned


def by_hand(m: nn.Module, state: Tensor, x: Tensor) -> Tensor:
    z, n = torch.sigmoid(m.k(x) + m.h(state)), torch.tanh(m.v(x) + m.h(state))
    return (1 - z) * n + z * state


CELLS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "linear": lambda m, s, x: s * torch.exp(-m.decay) + m.k(x).exp() * m.v(x),
    "GRU": by_hand,
    "residual": lambda m, s, x: s + torch.tanh(m.h(s) + m.v(x)),
    "delta rule": lambda m, s, x: s + m.decay * m.k(x) * (m.v(x) - m.h(s) * m.k(x)),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_recurrence_whose_state_is_returned_is_one_block_a_layer(name: str) -> None:
    net = taken_apart(Stateful(CELLS[name]), 2, WORDS)
    assert counts(net) == chain(2)
    without, state = net(WORDS, net.intact.without(0))[:2]
    second = net.model.body.layers[1](net.model.stem(WORDS))[0]
    torch.testing.assert_close(without, net.model.head(second))
    assert torch.equal(state, net.model(WORDS)[1])  # an output of the branch by itself


class Depthwise(nn.Module):
    """Each layer starts from a weighted sum of all that came before: DenseFormer, attention over depth."""

    def __init__(self, how: str, layers: int = 3) -> None:
        super().__init__()
        self.how, self.layers = how, nn.ModuleList(mlp() for _ in range(layers))
        self.query, self.weights = nn.Linear(8, 8), nn.Parameter(torch.rand(layers, layers + 1) + 0.5)

    def mixed(self, values: list[Tensor], row: int) -> Tensor:
        if self.how == "added":
            return sum(weight * value for weight, value in zip(self.weights[row], values, strict=False))
        stacked = torch.stack(values)
        if self.how == "stacked":
            return torch.einsum("l...,l->...", stacked, self.weights[row, : len(values)])
        scores = torch.einsum("bd,lbd->lb", self.query(values[-1]), stacked)
        return (scores.softmax(0)[..., None] * stacked).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for row, f in enumerate(self.layers):
            values.append(x + f(x))
            x = self.mixed(values, row)
        return x


@pytest.mark.parametrize("how", ["stacked", "attended"])
def test_weighted_sums_over_a_stack_of_earlier_outputs_are_listed(how: str) -> None:
    net = taken_apart(Depthwise(how), 3, X)
    assert net.blocks.names == tuple(f"body.layers.{i}" for i in range(3))
    stacks = [entry for entry in net.rejected if "stacked and read together" in entry.reason]
    assert len(stacks) == 3
    model, values = net.model, [net.model.stem(X)]
    for row, f in enumerate(model.body.layers):  # without the second branch
        x = model.body.mixed(values, row - 1) if row else values[0]
        values.append(x if row == 1 else x + f(x))
    torch.testing.assert_close(net(X, net.intact.without(1)), model.head(model.body.mixed(values, 2)))


def test_a_weighted_sum_that_is_written_as_additions_is_made_of_scaled_skips() -> None:
    net = taken_apart(Depthwise("added"), 3 + 1 + 2 + 3)  # 3 layers, and sums of 2, 3 and 4 terms
    assert [block.kind for block in net.blocks].count("scaled") == 6


def test_outputs_that_are_stacked_to_be_returned_are_not_listed() -> None:
    class Kept(Layers):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            one = self.way(self.layers[0], x)
            two = self.way(self.layers[1], one)
            return two, torch.stack([x, one, two])

    assert not taken_apart(Kept(lambda m, x: x + m.f(x)), 2).rejected


class Loop(nn.Module):
    """One block run several times, the state of the one before added again each time (Universal Transformer)."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.f, self.again = mlp(), again

    def forward(self, x: Tensor) -> Tensor:
        state = x
        for turn in range(3):
            state = state + x if self.again and turn else state
            state = state + self.f(state)
        return state


@pytest.mark.parametrize("again", [False, True])
def test_weights_that_run_again_are_a_block_every_time(again: bool) -> None:
    # x enters again by `state + x`: a skip around all that made the state of it, two more blocks
    net = taken_apart(Loop(again), 5 if again else 3)
    if not again:
        assert net.blocks.names == ("body.f", "body.f#2", "body.f#3")
        small = net.without(1)
        assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in net.model.parameters())
        x = net.model.stem(X)
        x = x + net.model.body.f(x)
        torch.testing.assert_close(small(X), net.model.head(x + net.model.body.f(x)))


class AltUp(nn.Module):
    """Copies of the stream: one runs the layer, the others are predicted and corrected (Gemma 3n)."""

    def __init__(self, copies: int = 3) -> None:
        super().__init__()
        self.predict, self.correct = nn.Linear(8, copies * copies), nn.Linear(8, copies)
        self.f, self.embedding, self.copies = mlp(), nn.Linear(8, 8), copies

    def forward(self, x: Tensor) -> Tensor:
        streams = torch.stack([x * (i + 1) for i in range(self.copies)])
        matrix = self.predict(streams[0].tanh()).reshape(-1, self.copies, self.copies)
        streams = streams + torch.einsum("sbd,bst->tbd", streams, matrix)
        active = streams[0]
        made = active + self.f(active)
        gain = self.correct(made.tanh()).T[..., None] + 1
        streams = streams + (made - active).repeat(self.copies, 1, 1) * gain
        rest = streams[1:] + self.embedding(F.gelu(streams[0]))  # one value for all of them
        return torch.cat([streams[:1], rest]).sum(0)


def test_alternating_updates() -> None:
    net = taken_apart(AltUp(), 3)  # the prediction, the layer, the correction
    assert {block.kind for block in net.blocks} == {"identity"}
    reasons = [entry.reason for entry in net.rejected]
    assert sum("differ in shape: (3, 3, 8) and (3, 8)" in r or "(2, 3, 8) and (3, 8)" in r for r in reasons) == 1
