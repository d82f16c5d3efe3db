"""Blocks and layers side by side and in reversed order, against forwards that are written by hand, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import resect
from conftest import randomise_norms
from networks import CUSTOM, Frame, Parallel, Residual
from resect.graph import decisions
from resect.graph.exporting import without_fused_attention
from resect.models.resnet import CifarResNet
from resect.sweep import plans

GENERATOR = torch.Generator().manual_seed(3)
IMAGES, TARGETS = torch.randn(5, 1, 8, 8, generator=GENERATOR), torch.randint(0, 10, (5,), generator=GENERATOR)


class Layer(nn.Module):
    """A transformer layer of two blocks, attention and MLP, with its norms before or behind the additions."""

    def __init__(self, post_norm: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.first, self.second, self.post_norm = nn.LayerNorm(8), nn.LayerNorm(8), post_norm

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = self.first(x + self.attention(x, x, x, need_weights=False)[0])
            return self.second(x + self.mlp(x))
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.second(x))


class Transformer(nn.Module):
    """Rows of an image as tokens, four layers, and a head of its own norm."""

    def __init__(self, post_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(post_norm) for _ in range(4))
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.fc(self.norm(x).mean(1))


def made(name: str) -> tuple[nn.Module, Sequence[nn.Module]]:
    """A network and its units."""
    torch.manual_seed(2)
    if "norm" in name:
        transformer = Transformer(post_norm=name == "post-norm")
        with torch.no_grad():
            for parameter in transformer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return transformer.eval(), list(transformer.layers)
    resnet = randomise_norms(CifarResNet(20, width=4, channels=1, preactivation=name == "pre-activation"))
    return resnet, list(resnet.blocks)


KINDS = [pytest.param("pre-activation", marks=pytest.mark.slow), "original", "pre-norm", "post-norm"]


@cache
def network(name: str) -> tuple[resect.Unraveled, Sequence[nn.Module]]:
    model, units = made(name)
    return resect.unravel(model, IMAGES[:2]), units


def unit_of(name: str) -> decisions.Unit:
    return "layer" if "norm" in name else "block"


def span(net: resect.Unraveled, name: str, first: int, last: int) -> tuple[int, int]:
    """The blocks between which units stand."""
    units = net.intact.units(unit_of(name))
    return units[first][0], units[last][1]


def mean(outputs: list[Tensor], state: Tensor) -> Tensor:
    return reduce(torch.add, outputs) / len(outputs)


def summed(outputs: list[Tensor], state: Tensor) -> Tensor:
    return reduce(lambda total, output: total + (output - state), outputs)


COMBINED = {"mean": mean, "sum": summed}


@contextmanager
def side_by_side(units: Sequence[nn.Module], combine: Callable[[list[Tensor], Tensor], Tensor]) -> Iterator[None]:
    """Modules in a row: the first hands on what all make of its input, the others what they get."""
    own = [unit.forward for unit in units]
    units[0].forward = lambda x: combine([forward(x) for forward in own], x)
    for unit in units[1:]:
        unit.forward = lambda x: x
    try:
        yield
    finally:
        for unit in units:
            del unit.forward


@contextmanager
def turned(units: Sequence[nn.Module]) -> Iterator[None]:
    """Modules in a row that run in reversed order."""
    own = [unit.forward for unit in units]
    for unit, forward in zip(units, own[::-1], strict=True):
        unit.forward = forward
    try:
        yield
    finally:
        for unit in units:
            del unit.forward


def by_hand(model: nn.Module, way, x: Tensor = IMAGES) -> Tensor:
    # The fused kernel of attention without gradients differs from its operators in the last bits.
    with way, torch.no_grad(), without_fused_attention():
        return model(x)


@pytest.mark.parametrize("combine", COMBINED)
@pytest.mark.parametrize("name", KINDS)
def test_side_by_side_has_the_bits_of_a_forward_by_hand(name: str, combine: decisions.Combine) -> None:
    net, units = network(name)
    spans = [(0, 3), (1, 2), (2, 3)] if "norm" in name else [(0, 2), (1, 2), (4, 5), (7, 8)]
    for first, last in spans:
        blocks = span(net, name, first, last)
        arrangement = net.intact.parallel(*blocks, unit=unit_of(name), combine=combine)
        expected = by_hand(net.model, side_by_side(units[first : last + 1], COMBINED[combine]))
        with torch.no_grad():
            assert torch.equal(net(IMAGES, arrangement), expected)
            assert torch.equal(net(IMAGES, str(arrangement)), expected)
    assert torch.equal(net.standalone(arrangement)(IMAGES), expected)


@pytest.mark.parametrize("name", KINDS[:3])
def test_reversed_has_the_bits_of_a_forward_by_hand(name: str) -> None:
    net, units = network(name)
    for first, last in [(0, 2), (1, 2)]:
        arrangement = net.intact.reversed(*span(net, name, first, last), unit=unit_of(name))
        assert torch.equal(net(IMAGES, arrangement), by_hand(net.model, turned(units[first : last + 1])))


def test_reversed_layers_keep_the_order_of_their_blocks_and_two_of_it_are_none() -> None:
    net, _ = network("pre-norm")
    assert net.intact.reversed(2, 5, unit="layer") == (0, 1, 4, 5, 2, 3, 6, 7)
    assert net.intact.reversed(3, 4, unit="layer") == net.intact.reversed(2, 5, unit="layer")  # whole layers
    assert net.intact.reversed(2, 5) == (0, 1, 5, 4, 3, 2, 6, 7)
    assert net.intact.without(3).reversed(2, 5) == (0, 1, 5, 4, None, 2, 6, 7)
    assert net.intact.reversed(0, -1).reversed(0, -1) == net.intact


def test_norms_between_reversed_branches_stay_in_their_places() -> None:
    """Of a post-norm transformer the branches alone change places."""
    net, units = network("post-norm")

    def exchanged() -> None:
        for part in ("attention", "mlp"):
            parts = [getattr(unit, part) for unit in units[1:3]]
            for unit, other in zip(units[1:3], parts[::-1], strict=True):
                setattr(unit, part, other)

    exchanged()
    try:
        with torch.no_grad(), without_fused_attention():
            expected = net.model(IMAGES)
    finally:
        exchanged()
    assert torch.equal(net(IMAGES, net.intact.reversed(2, 5, unit="layer")), expected)


@pytest.mark.parametrize("name", KINDS)
def test_a_sweep_has_the_bits_of_running_each_arrangement_alone(name: str) -> None:
    """Spans share the states of common prefixes, also within: (1, 2) is the beginning of (1, 3)."""
    net, _ = network(name)
    unit, lengths = unit_of(name), [2, 3]
    both = [plans.parallel(net, lengths, unit=unit, combine=combine) for combine in ("mean", "sum")]
    every = [*both[0].arrangements, *both[1].arrangements, *plans.reversed(net, lengths, unit=unit).arrangements]
    result = resect.lesion(net, [(IMAGES, TARGETS)], plans.explicit(net, every))
    for row, arrangement in zip(result.losses, every, strict=True):
        with torch.no_grad():
            loss = nn.functional.cross_entropy(net(IMAGES, arrangement), TARGETS, reduction="none")
        assert torch.equal(torch.from_numpy(row), loss)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_side_by_side_goes_with_deletions_and_swaps_elsewhere(data: st.DataObject) -> None:
    net, units = network("original")
    stage = range(3)
    first, last = sorted(data.draw(st.lists(st.sampled_from(stage), min_size=2, max_size=2, unique=True)))
    combine = data.draw(st.sampled_from(list(COMBINED)))
    gone = data.draw(st.sets(st.sampled_from([i for i in range(9) if not first <= i <= last])))
    arrangement = net.intact.without(gone).parallel(first, last, combine=combine)
    assert resect.Arrangement.parse(str(arrangement)) == arrangement
    assert net.arrangement(str(arrangement)) == arrangement
    with torch.no_grad(), side_by_side(units[first : last + 1], COMBINED[combine]), ExitStack() as patches:
        for i in gone:
            patches.enter_context(patched_away(units[i]))
        expected = net.model(IMAGES)
    assert torch.equal(net(IMAGES, arrangement), expected)


@contextmanager
def patched_away(block: nn.Module) -> Iterator[None]:
    block.forward = lambda x: torch.relu(block.sc(x))
    try:
        yield
    finally:
        del block.forward


def test_two_spans_side_by_side_one_behind_the_other() -> None:
    for name in ("pre-norm", "post-norm"):
        net, units = network(name)
        arrangement = net.intact.parallel(0, 3, unit="layer").parallel(4, 7, unit="layer", combine="sum")
        assert str(arrangement) == "mean(0..1|2..3),sum(4..5|6..7)"
        with side_by_side(units[:2], mean):
            expected = by_hand(net.model, side_by_side(units[2:], summed))
        assert torch.equal(net(IMAGES, arrangement), expected)


def test_one_that_stands_alone_trains_with_every_unit_on_the_shared_state() -> None:
    net, _ = network("original")
    small = net.standalone(net.intact.parallel(1, 2)).train()
    model, blocks = made("original")
    model.train()
    with side_by_side(list(blocks)[1:3], mean):
        outputs = model(IMAGES)
        nn.functional.cross_entropy(outputs, TARGETS).backward()
    own = small(IMAGES)
    nn.functional.cross_entropy(own, TARGETS).backward()
    assert torch.equal(own, outputs)
    tensors = dict(model.named_buffers())
    assert all(torch.equal(value, tensors[name]) for name, value in small.named_buffers() if "running" in name)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in small.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


def test_layers_are_the_modules_of_which_there_are_several() -> None:
    net, _ = network("pre-norm")
    assert net.intact.units("layer") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert net.intact.layers[2:4] == ("layers.1", "layers.1")
    resnet, _ = network("original")
    assert resnet.intact.units("layer") == resnet.intact.units("block")


def test_blocks_that_share_a_state_already_are_one_unit() -> None:
    torch.manual_seed(4)
    model = Frame(Parallel(), Parallel(), Residual()).eval()
    net = resect.unravel(model, IMAGES[:2])
    assert net.intact.units("layer") == ((0, 1), (2, 3), (4, 4))
    expected = by_hand(model, side_by_side(list(model.body), mean))
    assert torch.equal(net(IMAGES, net.intact.parallel(0, -1, unit="layer")), expected)
    with pytest.raises(resect.ArrangementError, match=r"0 to 1 cannot run side by side: .* does not start from what"):
        net(IMAGES, net.intact.parallel(0, 1))


def test_what_cannot_run_side_by_side_is_named() -> None:
    net, _ = network("original")
    with pytest.raises(
        resect.ArrangementError, match=r"2 to 3 .*: block 3 \(blocks.3\) changes the shape of its input"
    ):
        net(IMAGES, net.intact.parallel(2, 3))
    nested = resect.unravel(CUSTOM["restoration"][0](), IMAGES[:2])
    with pytest.raises(resect.ArrangementError, match=r"block 3 \(body.0\) does not start from what block 2"):
        nested(IMAGES, nested.intact.parallel(2, 3))
    streams = resect.unravel(CUSTOM["two streams"][0](), IMAGES[:2])
    with pytest.raises(resect.ArrangementError, match="cannot run side by side"):
        streams(IMAGES, streams.intact.parallel(0, 1))


class Read(nn.Module):
    """Two blocks, the state between which is returned, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 6, 3), nn.ModuleList(Residual() for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states = [self.stem(x)]
        for block in self.body:
            states.append(block(states[-1]))
        return states[-1].mean((2, 3)), states[2]


def test_states_that_are_read_elsewhere_keep_blocks_in_a_row() -> None:
    net = resect.unravel(Read(), IMAGES[:2])
    net(IMAGES, net.intact.parallel(0, 1))  # the state behind both is the mean
    with pytest.raises(resect.ArrangementError, match=r"what block 1 \(body.1\) gives is read elsewhere, too"):
        net(IMAGES, net.intact.parallel(0, 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mean(1..3),4", r"must begin with the slot they stand in, here 0, got mean\(1..3\)"),
        ("0,mean(1),2", r"must be two or more, .*got \(\(1, 1\),\)"),
        ("mean(3..0)", "must be two or more"),
        ("mean(0..1|3..4)", "each from behind the one before it"),
        ("mean(0..1|2..1)", "each from behind the one before it"),
        ("most(0..3)", "side by side, such as"),
        ("sum()", "side by side, such as"),
    ],
)
def test_texts_that_are_no_spans_are_named(text: str, said: str) -> None:
    with pytest.raises(resect.ArrangementError, match=said):
        resect.Arrangement.parse(text)


def test_wrong_calls_are_named() -> None:
    net, _ = network("pre-norm")
    intact = net.intact
    with pytest.raises(resect.ArrangementError, match=r"must be two or more, .*got \(\(2, 2\),\)"):
        intact.parallel(2, 2)
    with pytest.raises(resect.ArrangementError, match=r"must be two or more, .*got \(\(2, 3\),\)"):
        intact.parallel(2, 3, unit="layer")
    with pytest.raises(resect.ArrangementError, match="`first` must not stand behind `last`, got 5 and 2"):
        intact.reversed(5, 2)
    with pytest.raises(resect.ArrangementError, match="`combine` must be one of mean, sum, got 'max'"):
        intact.parallel(1, 2, combine="max")
    with pytest.raises(resect.InputError, match="`combine` must be one of mean, sum, got 'max'"):
        plans.parallel(net, combine="max")
    with pytest.raises(resect.ArrangementError, match="`unit` must be one of block, layer, got 'head'"):
        plans.reversed(net, unit="head")
    with pytest.raises(resect.ArrangementError, match="`unit` must be one of block, layer, got 'head'"):
        intact.parallel(1, 2, unit="head")
    with pytest.raises(resect.ArrangementError, match="has no layers"):
        resect.Arrangement(range(8)).parallel(0, 3, unit="layer")
    with pytest.raises(resect.ArrangementError, match="is not of such a span"):
        net(IMAGES, intact.parallel(1, 4).without(2))
    with pytest.raises(resect.ArrangementError, match="is not of such a span"):
        net(IMAGES, [*range(6), *[decisions.Parallel(((6, 7), (8, 9)))] * 2])


@pytest.mark.parametrize("plan", [plans.parallel, plans.reversed])
def test_plans_hold_every_span_that_fits(plan: Callable[..., plans.Plan]) -> None:
    net, _ = network("original")  # three stages of three, whose last two begin with a block that changes the shape
    stages = [range(3), range(4, 6), range(7, 9)]
    expected = {(i, j - i + 1) for stage in stages for i, j in itertools.combinations(stage, 2)}
    assert {(label["start"], label["length"]) for label in plan(net).labels} == expected
    assert [label["length"] for label in plan(net, 3).labels] == [3]
    middle = plan(net, middle=True).labels
    assert [(label["start"], label["length"]) for label in middle] == [(4, 2)]
    with pytest.raises(resect.InputError, match=r"`lengths` must hold numbers of blocks from 2 to 9, got \[1\]"):
        plan(net, 1)


def test_spans_of_layers_have_their_numbers_and_the_name_of_the_first() -> None:
    net, _ = network("pre-norm")
    plan = plans.parallel(net, unit="layer", middle=True)
    assert plan.labels == (
        {"start": 1, "length": 2, "name": "layers.1"},
        {"start": 0, "length": 3, "name": "layers.0"},
        {"start": 0, "length": 4, "name": "layers.0"},
    )
    assert str(plan.arrangements[0]) == "0..1,mean(2..3|4..5),6..7"
    gone = plans.windows(net, 2, unit="layer")
    assert [str(arrangement) for arrangement in gone.arrangements] == [
        "-,-,-,-,4..7",
        "0..1,-,-,-,-,6..7",
        "0..3,-,-,-,-",
    ]
    with pytest.raises(resect.InputError, match="numbers of layers from 1 to 4"):
        plans.windows(net, 5, unit="layer")
