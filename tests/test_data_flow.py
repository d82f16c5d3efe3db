"""What a block is, by data flow alone: however a sum is written, and in whichever module it stands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from small_nets import TARGETS, Block, Net, Way, X, mlp, two


def copied(block: Block, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:, :4].copy_(block.f(x)[:, :4])
    y[:, 4:].copy_(x.double()[:, 4:])
    return x + y


def routed(block: Block, x: Tensor) -> Tensor:
    rows = block.g(x)[:, 0].relu().nonzero()[:, 0]
    return x + torch.zeros_like(x).index_add(0, rows, block.f(x[rows]))


SPELLINGS: dict[str, tuple[Way, int]] = {
    "x + (f + g)": (lambda b, x: x + (b.f(x) + b.g(x)), 4),
    "x + (f + g), reshaped": (lambda b, x: x + (b.f(x) + b.g(x)).reshape(len(x), 2, 4).reshape(len(x), 8), 4),
    "x + (f + g), to the type that it has": (lambda b, x: x + (b.f(x) + b.g(x)).to(x.dtype), 4),
    "relu(x) + f(relu(x))": (lambda b, x: F.relu(x) + b.f(F.relu(x)), 2),
    "copies into slices": (copied, 2),
    "rows that the values choose": (routed, 2),
    "a scaled skip": (lambda b, x: 0.5 * x + b.f(x), 2),
    "x + (f - g)": (lambda b, x: x + (b.f(x) - b.g(x)), 4),
    "x + half of (f + g)": (lambda b, x: x + 0.5 * (b.f(x) + b.g(x)), 4),
    "stack and sum": (lambda b, x: torch.stack([x, b.f(x)]).sum(0), 2),
    "x - f, spelt with alpha": (lambda b, x: torch.sub(x, b.f(x), alpha=-1), 2),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_block_is_found_however_it_is_written(name: str) -> None:
    way, blocks = SPELLINGS[name]
    net = resect.unravel(two(way), X)
    assert len(net.blocks) == blocks
    assert {b.kind for b in net.blocks} == {"scaled" if name == "a scaled skip" else "identity"}
    assert net.check(X).identical
    assert resect.path_spectrum(net, [(X, TARGETS)]).sum_error < 1e-5


WORDS: dict[str, tuple[Way, str]] = {
    "lerp": (lambda b, x: torch.lerp(x, b.f(x), 0.5), "interpolated"),
    "addmm": (lambda b, x: torch.addmm(x, b.f(x).relu(), b.weight), "inside a matrix product"),
    "a layer in its addmm": (lambda b, x: torch.addmm(x, x.relu(), b.weight), "inside a matrix product"),
    "baddbmm": (
        lambda b, x: torch.baddbmm(x[:, None], b.f(x).relu()[:, None], b.weight.expand(len(x), -1, -1))[:, 0],
        "inside a matrix product",
    ),
    "index_add": (lambda b, x: x.index_add(0, torch.arange(len(x)), b.f(x)), "at chosen places"),
    "where": (lambda b, x: torch.where(x > 0, x, b.f(x)), "neither is added"),
    "complex": (lambda b, x: (lambda z: z + torch.complex(b.f(z.real), z.imag))(torch.complex(x, x)).real, "complex"),
    "complex, of reals": (
        lambda b, x: (torch.complex(x, torch.zeros_like(x)) + torch.complex(b.f(x), torch.zeros_like(x))).real,
        "complex",
    ),
    "a matrix over both": (
        lambda b, x: torch.cat([x, b.f(x)], -1) @ torch.eye(8).repeat(2, 1),
        "by a sum over stacked values",
    ),
    "gru cell": (lambda b, x: b.cell(b.f(x), x), "inside one operator"),
    "cond": (
        lambda b, x: torch.cond(x.sum() > -1e9, lambda x: x + b.f(x), lambda x: x.clone(), (x,)),
        "inside one operator",
    ),
}


@pytest.mark.parametrize("word", WORDS)
def test_a_sum_in_other_words_is_listed_with_its_reason(word: str) -> None:
    way, reason = WORDS[word]
    net = resect.unravel(two(way), X)
    assert not net.blocks
    assert [reason in entry.reason for entry in net.rejected] == [True, True]


def test_a_number_divided_by_the_signal_is_no_skip() -> None:
    net = resect.unravel(two(lambda b, x: b.weight.mean() / x + b.f(x)), X)
    assert not net.blocks
    assert ["with a non-linearity" in entry.reason for entry in net.rejected] == [True, True]


class Halved(nn.Module):
    """A block at whose end a maximum over pairs of features halves both skip and branch (Hiera)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip, self.f = nn.Linear(width, width), mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        skip, branch = (y.reshape(len(x), 2, -1).max(dim=1).values for y in (self.skip(x), self.f(x)))
        return skip + branch


def test_a_maximum_over_one_dimension_pools_a_skip_as_max_pooling_does() -> None:
    net = resect.unravel(nn.Sequential(Halved(16), Halved(8)), torch.cat([X, X], 1))
    assert [block.kind for block in net.blocks] == ["projection", "projection"]
    assert resect.path_spectrum(net, [(torch.cat([X, X], 1), TARGETS)]).sum_error < 1e-5


class LongSkip(nn.Module):
    """Residual blocks under a long skip, in one forward()."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.ModuleList(mlp() for _ in range(4)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for f in self.inner:
            y = y + f(y)
        return x + self.last(y)


class Cascade(nn.Module):
    """Each part is added to what the one before it gave (Res2Net, EfficientViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(4, -1)
        ends = [self.parts[0](parts[0])]
        for f, part in zip(self.parts[1:], parts[1:], strict=True):
            ends.append(f(ends[-1] + part))
        return torch.cat(ends, -1)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class CascadeAround(Cascade):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Projected(nn.Module):
    """The skip has a projection behind an activation of its own (DPN)."""

    def __init__(self) -> None:
        super().__init__()
        self.skip = nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        self.f = nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), *mlp())

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.f(x)


class Pooled(nn.Module):
    """A learned scale on the skip, a branch without weights that mix (PoolFormer V2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.norm = nn.Parameter(torch.rand(8) + 0.5), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x * self.scale + (F.avg_pool1d(y, 3, 1, 1) - y)


DATA_FLOW = {
    "a long skip": (LongSkip, 5),
    "a cascade in a module of its own": (lambda: Around(Cascade()), 1),
    "a cascade in the module of the addition": (CascadeAround, 1),
    "a projection behind an activation": (Projected, 1),
    "a scaled skip around pooling": (Pooled, 1),
}


@pytest.mark.parametrize("name", DATA_FLOW)
def test_blocks_are_a_matter_of_data_flow(name: str) -> None:
    build, blocks = DATA_FLOW[name]
    net = resect.unravel(Net(build()).eval(), X)
    assert len(net.blocks) == blocks, [b.name for b in net.blocks]
    assert net.check(X).identical


class ClassAttention(nn.Module):
    """A class token of parameters to which attention over the patches is added (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.attention, self.f = nn.MultiheadAttention(8, 2, batch_first=True), mlp()
        self.head, self.extra = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(len(x), -1, -1)
        everything = torch.cat([token, x], 1)
        token = token + self.attention(token, everything, everything, need_weights=False)[0]
        token = token + self.f(token)
        both = torch.cat([token, x], 1)
        return self.head(both[:, 0]) + 0.5 * self.extra(both[:, 1:]).max(1)[0]  # two heads are no block


def test_a_class_token_is_a_skip_and_a_second_head_is_no_branch() -> None:
    tokens = torch.randn(3, 5, 8)
    net = resect.unravel(ClassAttention().eval(), tokens)
    assert [b.name for b in net.blocks] == ["attention", "f"]
    token = net.model.token.expand(3, -1, -1)
    bare = torch.cat([token + net.model.f(token), tokens], 1)
    expected = net.model.head(bare[:, 0]) + 0.5 * net.model.extra(bare[:, 1:]).max(1)[0]
    assert torch.equal(net(tokens, net.intact.without(0)), expected)


def test_experts_weighed_by_parts_of_one_router_are_one_branch() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.shared = nn.Linear(8, 3), mlp(8)
            self.experts = nn.ModuleList(mlp(8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            gates = self.router(x).softmax(-1)
            routed = sum(gates[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
            return x + (routed + self.shared(x))

    model, x = nn.Sequential(Experts(), Experts()).eval(), torch.randn(3, 8)
    net = resect.unravel(model, x)
    assert len(net.blocks) == 4  # the routed experts, and the shared one
    (shared,) = (b.index for b in net.blocks[:2] if b.name.endswith("shared"))
    assert torch.equal(net(x, net.intact.without(0, 1)), model[1](x))
    gates = model[0].router(x).softmax(-1)
    routed = sum(gates[..., i : i + 1] * expert(x) for i, expert in enumerate(model[0].experts))
    torch.testing.assert_close(net(x, net.intact.without(shared)), model[1](x + routed))
