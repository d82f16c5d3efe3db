"""A sum is its terms, however it is written: the same blocks, kinds and layers for every spelling of one data flow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from small_nets import mlp

X = torch.linspace(-1, 1, 40).reshape(5, 8).cos()
DATA = [(X, torch.arange(5) % 4)]
Sum = Callable[[Tensor, Tensor], Tensor]
Way = Callable[["Terms", Tensor], Tensor]

PAIRS: dict[str, Sum] = {
    "a + b": lambda a, b: a + b,
    "b + a": lambda a, b: b + a,
    "a - (-b)": lambda a, b: a - (-b),
    "b - a, turned": lambda a, b: torch.neg(-a) + b,
    "sub with alpha": lambda a, b: torch.sub(a, b, alpha=-1),
    "add with alpha": lambda a, b: torch.add(a, -b, alpha=-1),
    "rsub": lambda a, b: torch.rsub(-a, b),
    "times one": lambda a, b: 1 * a + b * 1.0,
    "in place": lambda a, b: a.clone().add_(b),
    "minus in place": lambda a, b: a.clone().sub_(b * -1),
    "stack and sum": lambda a, b: torch.stack((a, b)).sum(0),
    "stack and sum, last": lambda a, b: torch.stack((a, b), -1).sum(-1),
    "cat and sum": lambda a, b: torch.cat((b[None], a[None])).sum(0),
    "cat and split": lambda a, b: (lambda parts: parts[0] + parts[1])(torch.cat((a, b), -1).chunk(2, -1)),
    "Python's sum": lambda a, b: sum((a, b)),
}
BRANCH_PAIRS: dict[str, Sum] = {  # of terms none of which is the skip
    **PAIRS,
    "through views": lambda a, b: (a + b).view(len(a), 2, 4).reshape(len(a), 8),
    "twice the half": lambda a, b: 2 * (a / 2 + b / 2),
    "twice the mean": lambda a, b: torch.stack((a, b)).mean(0) * 2,
    "lerp": lambda a, b: torch.lerp(a, b, 0.5) * 2,
    "addcmul": lambda a, b: torch.addcmul(a, torch.ones(8), b),
}
SKIPS = {"identity": lambda x, p: x, "scaled": lambda x, p: 0.5 * x, "projection": lambda x, p: p(x)}


class Terms(nn.Module):
    """Whatever `way` makes of the input and of three branches."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.branches, self.projection = nn.ModuleList(mlp() for _ in range(3)), nn.Linear(8, 8)
        self.fused, self.way = nn.Linear(8, 16), way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


class Net(nn.Module):
    def __init__(self, *ways: Way) -> None:
        super().__init__()
        self.stem, self.parts, self.head = nn.Linear(8, 8), nn.Sequential(*map(Terms, ways)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.parts(self.stem(x)))


def unraveled(*ways: Way) -> resect.Unraveled:
    torch.manual_seed(0)
    return resect.unravel(Net(*ways).eval(), X)


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, object]:
    """The kind of a skip, and a tree of its sum with three branches, in any order, association and words."""
    kind = draw(st.sampled_from(sorted(SKIPS)))
    trees: list[tuple[int, ...] | tuple[object, ...]] = [(i,) for i in draw(st.permutations(range(4)))]
    while len(trees) > 1:
        at = draw(st.integers(0, len(trees) - 2))
        one, other = trees[at : at + 2]
        words = PAIRS if _holds_skip(one) or _holds_skip(other) else BRANCH_PAIRS
        trees[at : at + 2] = [(one, other, draw(st.sampled_from(sorted(words))))]

    return kind, trees[0]


def written(kind: str, tree: object) -> Way:
    """The sum as a function."""

    def way(terms: Terms, x: Tensor) -> Tensor:
        values = [SKIPS[kind](x, terms.projection), *(branch(x) for branch in terms.branches)]

        def value(tree: tuple[object, ...]) -> Tensor:
            if len(tree) == 1:
                return values[tree[0]]
            return BRANCH_PAIRS[tree[2]](value(tree[0]), value(tree[1]))

        return value(tree)

    return way


def _holds_skip(tree: tuple[object, ...]) -> bool:
    return tree == (0,) or (len(tree) == 3 and any(_holds_skip(part) for part in tree[:2]))


@settings(max_examples=5, deadline=None, phases=[Phase.generate])  # to make an example smaller takes minutes
@given(drawn=st.lists(spellings(), min_size=5, max_size=5))
def test_every_spelling_of_a_sum_has_the_same_blocks(drawn: list[tuple[str, object]]) -> None:
    kinds = [kind for kind, _ in drawn]
    net = unraveled(*(written(*spelling) for spelling in drawn))
    blocks = [(b.name, b.kind, b.layers, b.parent) for b in net.blocks]
    wanted = [(f"parts.{i}.branches.{j}", kind, 2, None) for i, kind in enumerate(kinds) for j in range(3)]
    assert sorted(blocks) == sorted(wanted), net.rejected
    assert net.check(X).identical
    state = net.model.stem(X)
    for part, kind in zip(net.model.parts, kinds, strict=True):
        state = SKIPS[kind](state, part.projection)
    bare = net(X, net.intact.without(range(len(blocks))))
    torch.testing.assert_close(bare, net.model.head(state), rtol=1e-5, atol=1e-6)


STACKS: dict[str, Way] = {
    "the skip among them": lambda t, x: torch.stack([x, *(f(x) for f in t.branches)]).sum(0),
    "the branches alone": lambda t, x: x + torch.stack([f(x) for f in t.branches], 1).sum(1),
    "their mean": lambda t, x: x + torch.stack([f(x) for f in t.branches], -1).mean(-1),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_sum_over_a_stack_is_one_block_a_term(name: str) -> None:
    net = unraveled(STACKS[name], STACKS[name])
    assert [b.kind for b in net.blocks] == ["identity"] * 6
    assert not net.rejected
    assert net.check(X).identical
    state, share = net.model.stem(X), 3 if "mean" in name else 1
    for i, part in enumerate(net.model.parts):
        state = state + sum(f(state) for j, f in enumerate(part.branches) if (i, j) != (0, 1)) / share
    torch.testing.assert_close(net(X, net.intact.without("parts.0.branches.1")), net.model.head(state))
    torch.testing.assert_close(net.without("parts.0.branches.1")(X), net.model.head(state))
    spectrum = resect.path_spectrum(net, DATA)
    assert spectrum.sum_error < 1e-5
    assert sum(net.routes().counts.paths) == 4**2
    assert resect.participation(net, DATA).table["share"].sum() == pytest.approx(
        sum(k * float(share) for k, share in enumerate(spectrum.share)), abs=1e-5
    )


def _halves(t: Terms, x: Tensor) -> tuple[Tensor, Tensor]:
    f, g = t.fused(x).chunk(2, -1)
    return F.gelu(f), torch.tanh(g)


FUSED: dict[str, Way] = {
    "x + f + g": lambda t, x: (lambda f, g: x + f + g)(*_halves(t, x)),
    "x + (f + g)": lambda t, x: (lambda f, g: x + (f + g))(*_halves(t, x)),
    "f + (x + g)": lambda t, x: (lambda f, g: f + (x + g))(*_halves(t, x)),
    "x + stack": lambda t, x: (lambda f, g: x + torch.stack((g, f)).sum(0))(*_halves(t, x)),
    "x + f + half": lambda t, x: (lambda f, g: x + F.gelu(f) + g)(*t.fused(x).chunk(2, -1)),
    "x + (f + half)": lambda t, x: (lambda f, g: x + (F.gelu(f) + g))(*t.fused(x).chunk(2, -1)),
    "x + f + Px": lambda t, x: x + t.branches[0](x) + t.projection(x),
    "x + (f + Px)": lambda t, x: x + (t.branches[0](x) + t.projection(x)),
}


@pytest.mark.parametrize("name", FUSED)
def test_terms_that_share_layers_are_blocks_in_every_spelling(name: str) -> None:
    net = unraveled(FUSED[name])
    assert [b.kind for b in net.blocks] == ["identity", "identity"]
    assert sorted(b.layers for b in net.blocks) == ([1, 2] if "P" in name else [1, 1])
    assert [b.parent for b in net.blocks] == [None, None]
    assert resect.path_spectrum(net, DATA).sum_error < 1e-5


def test_linear_maps_that_are_added_are_one_branch() -> None:
    net = unraveled(lambda t, x: x + (t.projection(x) + F.avg_pool1d(t.branches[0][2](t.branches[0][0](x)), 3, 1, 1)))
    assert len(net.blocks) == 1


class Cells(nn.Module):
    """Cells of recurrent networks, unrolled over a sequence by hand."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        pair = (state, state)
        for t in range(x.shape[1]):
            if isinstance(self.cell, nn.LSTMCell):
                state, _ = pair = self.cell(x[:, t], pair)
            else:
                state = self.cell(x[:, t], state)
        return self.head(state)


class WrittenOut(nn.Module):
    """A gated recurrent unit in plain operators."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.new = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        z, n = (layer(torch.cat((x, state), -1)) for layer in (self.gate, self.new))
        return (1 - z.sigmoid()) * n.tanh() + z.sigmoid() * state


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_the_steps_of_torchs_cells_are_listed_but_the_first_which_has_no_state(kind: type[nn.RNNCellBase]) -> None:
    net = resect.unravel(Cells(kind(8, 8)).eval(), torch.randn(3, 4, 8))
    assert not net.blocks
    assert ["additions stand inside one operator" in entry.reason for entry in net.rejected] == [True] * 3


def test_the_steps_of_a_gated_cell_in_plain_operators_are_blocks_but_the_first_which_has_no_state() -> None:
    model, x = Cells(WrittenOut()).eval(), torch.randn(3, 4, 8)
    net = resect.unravel(model, x)
    assert [(block.kind, block.layers) for block in net.blocks] == [("gated", 1)] * 3
    assert ["no parameters lie on the way" in entry.reason for entry in net.rejected] == [True]
    for block in range(3):  # without it the state passes its step as it is
        steps = [step for step in range(4) if step != block + 1]
        torch.testing.assert_close(net(x, net.intact.without(block)), model(x[:, steps]))


OPAQUE: dict[str, Way] = {
    "einsum": lambda t, x: torch.einsum("nbd->bd", torch.stack((x, t.branches[0](x)))),
    "einsum with weights": lambda t, x: torch.einsum("n,nbd->bd", torch.ones(2), torch.stack((x, t.branches[0](x)))),
    "matmul": lambda t, x: torch.stack((x, t.branches[0](x)), -1) @ torch.ones(2),
    "weighted stack": lambda t, x: (torch.stack((x, t.branches[0](x))) * torch.ones(2, 1, 1)).sum(0),
    "cat, view and sum": lambda t, x: torch.cat((x, t.branches[0](x)), -1).unflatten(-1, (2, 8)).sum(-2),
    "mean": lambda t, x: torch.stack((x, t.branches[0](x))).mean(0),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_a_sum_inside_another_operator_is_listed(name: str) -> None:
    net = unraveled(OPAQUE[name])
    assert not net.blocks
    assert ["sum over stacked values" in entry.reason for entry in net.rejected] == [True]


def test_deletions_run_where_python_has_read_the_batch_size() -> None:
    def split(terms: Terms, x: Tensor) -> Tensor:
        parts = torch.cat([branch(x) for branch in terms.branches]).split(len(x))  # len() fixes the size
        return x + sum(parts)

    net = unraveled(split)
    assert net.batch_size == len(X)
    state = net.model.stem(X)
    torch.testing.assert_close(net(X, net.intact.without(range(len(net.blocks)))), net.model.head(state))
