"""What a block is where weights, states or outputs are used again: recurrences, loops, attention over depth, AltUp."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streams import WORDS, Layers, X, chain, counts, mlp, taken_apart


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
