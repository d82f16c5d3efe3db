"""Every plan against loops that patch the model by hand, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from conftest import randomise_norms
from networks import CUSTOM, Encoder, Frame, Parallel, Residual
from resect.models.resnet import CifarResNet
from resect.sweep import plans
from resect.sweep.execution import _others

GENERATOR = torch.Generator().manual_seed(11)
IMAGES, TARGETS = torch.randn(7, 1, 8, 8, generator=GENERATOR), torch.randint(0, 10, (7,), generator=GENERATOR)
DATA = [(IMAGES[:4], TARGETS[:4]), (IMAGES[4:], TARGETS[4:])]


@cache
def unravelled(preactivation: bool) -> resect.Unraveled:
    """A ResNet-20 of width 4, made once: a way to patch it is taken back."""
    torch.manual_seed(1)
    model = randomise_norms(CifarResNet(20, width=4, channels=1, preactivation=preactivation))
    return resect.unravel(model, IMAGES[:2])


@pytest.fixture(params=[True, False], ids=["pre-activation", "original"])
def net(request: pytest.FixtureRequest) -> resect.Unraveled:
    return unravelled(request.param)


@pytest.fixture
def preactivated() -> resect.Unraveled:
    return unravelled(True)


@contextmanager
def patched(module: nn.Module, forward: Callable[[Callable], Callable]) -> Iterator[None]:
    """A module whose forward is replaced by `forward(its own)`."""
    module.forward = forward(module.forward)
    try:
        yield
    finally:
        del module.forward


def losses(model: nn.Module) -> np.ndarray:
    """Cross-entropies of all samples, batch by batch as the sweep runs them."""
    with torch.no_grad():
        found = [nn.functional.cross_entropy(model(x), y, reduction="none") for x, y in DATA]
    return torch.cat(found).numpy()


def deleted(model: CifarResNet, i: int):
    block = model.blocks[i]
    if model.preactivation:
        return patched(block, lambda own: lambda x: block.sc(x))
    return patched(block, lambda own: lambda x: torch.relu(block.sc(x)))


def check(net: resect.Unraveled, plan: plans.Plan, ways: list) -> resect.LesionResult:
    """The sweep's losses against those of the model with each way of patching applied."""
    model, result = net.model, resect.lesion(net, DATA, plan)
    assert len(plan) == len(ways)
    assert np.array_equal(result.intact["loss"], losses(model))
    for row, way in zip(result.losses, ways, strict=True):
        with way():
            assert np.array_equal(row, losses(model))
    return result


@contextmanager
def together(*contexts) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def test_pairs_and_their_interaction(net: resect.Unraveled) -> None:
    model = net.model
    both = list(combinations(range(9), 2))
    ways = [lambda i=i, j=j: together(deleted(model, i), deleted(model, j)) for i, j in both]
    result = check(net, plans.pairs(net), ways)
    assert [(label["first"], label["second"]) for label in result.plan.labels] == both
    matrix = result.interaction("loss").to_numpy()
    with deleted(model, 2):
        two = losses(model).mean(dtype=np.float64)
    with deleted(model, 5):
        five = losses(model).mean(dtype=np.float64)
    with together(deleted(model, 2), deleted(model, 5)):
        joint = losses(model).mean(dtype=np.float64)
    assert matrix[2, 5] == pytest.approx(joint - two - five + losses(model).mean(dtype=np.float64), abs=1e-12)
    assert np.array_equal(matrix, matrix.T, equal_nan=True)
    assert np.isnan(np.diag(matrix)).all()
    assert np.isnan(matrix).sum() == 9
    with pytest.raises(resect.InputError, match=r"of the plan 'pairs', got 'single'"):
        resect.lesion(net, DATA, plans.single(net)).interaction()


def test_pairs_of_blocks_that_alone_do_nearly_all_harm_are_saturated(net: resect.Unraveled) -> None:
    with torch.no_grad():
        targets = net(IMAGES).argmax(1)  # intact error 0
    targets[0] = -100
    result = resect.lesion(net, [(IMAGES, targets)], plans.pairs(net))
    chance = 1 - targets[1:].bincount().max().item() / 6
    single = resect.lesion(net, [(IMAGES, targets)], plans.single(net)).table["error"]
    alone = [error >= 0.95 * chance for error in single]
    assert any(alone)
    assert not all(alone)
    expected = [[a and b and i != j for j, b in enumerate(alone)] for i, a in enumerate(alone)]
    assert result.saturated().to_numpy().tolist() == expected
    with pytest.raises(resect.InputError, match=r"`saturated` is of the plan 'pairs', got 'single'"):
        resect.lesion(net, DATA, plans.single(net)).saturated()


def test_windows(net: resect.Unraveled) -> None:
    model, plan = net.model, plans.windows(net)
    assert len(plan) == 9 * 10 // 2
    rows = [(label["start"], label["length"]) for label in plan.labels]
    assert len(set(rows)) == len(rows)
    check(net, plan, [lambda s=s, m=m: together(*(deleted(model, i) for i in range(s, s + m))) for s, m in rows])
    assert len(plans.windows(net, [2, 9])) == 8 + 1
    with pytest.raises(resect.InputError, match=r"from 1 to 9, got \[0\]"):
        plans.windows(net, [0])


def test_skips_are_deleted_and_branches_kept(net: resect.Unraveled) -> None:
    def without_skip(i: int):
        return patched(net.model.blocks[i].sc, lambda own: lambda x: torch.zeros_like(own(x)))

    check(net, plans.skips(net), [lambda i=i: without_skip(i) for i in range(9)])


def test_blocks_run_twice(net: resect.Unraveled) -> None:
    kept = [i for i in range(9) if i not in (3, 6)]  # those two change the shape
    plan = plans.repeated(net)
    assert [label["block"] for label in plan.labels] == kept
    check(net, plan, [lambda i=i: patched(net.model.blocks[i], lambda own: lambda x: own(own(x))) for i in kept])
    with pytest.raises(resect.ArrangementError, match=r"block 3 \(blocks.3\) cannot run twice: it changes the shape"):
        net(IMAGES, net.intact.repeated(3))


def test_random_blocks_run_twice(net: resect.Unraveled) -> None:
    plan = plans.random_repeated(net, [1, 4], repeats=3, seed=2)
    chosen = [[i for i, run in enumerate(each) if run is resect.Variant.TWICE] for each in plan.arrangements]
    assert len(set(map(tuple, chosen))) > 3
    drawn = [(len(blocks), i % 3) for i, blocks in enumerate(chosen)]
    assert drawn == [(label["repeated"], label["repeat"]) for label in plan.labels]
    assert plan == plans.random_repeated(net, [1, 4], repeats=3, seed=2)

    def twice(i: int):
        return patched(net.model.blocks[i], lambda own: lambda x: own(own(x)))

    check(net, plan, [lambda blocks=blocks: together(*map(twice, blocks)) for blocks in chosen])
    assert {label["repeated"] for label in plans.random_repeated(net).labels} == {1, 2}  # a fifth of 7 is 1
    with pytest.raises(resect.InputError, match=r"`counts` must hold numbers of blocks from 0 to 7, got \[8\]"):
        plans.random_repeated(net, 8)


def test_blocks_are_left_out_with_their_skips(net: resect.Unraveled) -> None:
    kept = [i for i in range(9) if i not in (3, 6)]  # those two change the shape
    plan = plans.bypassed(net)
    assert [label["block"] for label in plan.labels] == kept
    check(net, plan, [lambda i=i: patched(net.model.blocks[i], lambda own: lambda x: x) for i in kept])
    with pytest.raises(resect.ArrangementError, match=r"block 6 \(blocks.6\) cannot be bypassed: it changes the shape"):
        net(IMAGES, net.intact.bypassed(6))


def test_what_is_left_out_is_the_block_alone() -> None:
    class Shrunk(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x + self.f(x)

    model = Frame(Shrunk(), Shrunk()).eval()
    net = resect.unravel(model, IMAGES)
    with patched(model.body[0], lambda own: lambda x: x), torch.no_grad():
        assert torch.equal(net(IMAGES, net.intact.bypassed(0)), model(IMAGES))
    for grouped in (False, True):
        parallel = resect.unravel(Frame(Parallel(grouped)), IMAGES)
        with pytest.raises(resect.ArrangementError, match=r"cannot be bypassed: it shares the skip of block 0, with"):
            parallel(IMAGES, parallel.intact.bypassed(1))


def test_a_highway_block_runs_twice_and_without_its_carry() -> None:
    model = CUSTOM["highway"][0]().eval()
    net = resect.unravel(model, IMAGES)
    block = model.body[1]
    with patched(block, lambda own: lambda x: own(own(x))), torch.no_grad():
        assert torch.equal(net(IMAGES, net.intact.repeated(1)), model(IMAGES))

    def gated_branch(own):
        return lambda x: torch.sigmoid(block.t(x)) * block.h(x)

    with patched(block, gated_branch), torch.no_grad():
        assert torch.equal(net(IMAGES, net.intact.without_skip(1)), model(IMAGES))


@pytest.mark.parametrize("name", ["subtracted", "scaled", "fused"])
def test_skips_of_scaled_and_subtracted_branches(name: str) -> None:
    model = CUSTOM[name][0]().eval()
    net = resect.unravel(model, IMAGES)
    block = model.body[0]
    scale = {"subtracted": lambda y: -y, "scaled": lambda y: 0.5 * y, "fused": lambda y: block.gamma * y}[name]
    with patched(block, lambda own: lambda x: scale(block.f(x))), torch.no_grad():
        assert torch.equal(net(IMAGES, net.intact.without_skip(0)), model(IMAGES))


def test_parallel_blocks_share_one_skip() -> None:
    model = Frame(Parallel(), Residual()).eval()
    net = resect.unravel(model, IMAGES)
    block = model.body[0]
    assert [label["block"] for label in plans.skips(net).labels] == [0, 2]
    with patched(block, lambda own: lambda x: block.f(x) + block.g(x)), torch.no_grad():
        assert torch.equal(net(IMAGES, net.intact.without_skip(0)), model(IMAGES))
    with pytest.raises(resect.ArrangementError, match="it shares the skip of block 0"):
        net(IMAGES, net.intact.without_skip(1))
    with pytest.raises(resect.ArrangementError, match="another block starts from the same value"):
        net(IMAGES, net.intact.repeated(0))


def test_encoder_layers_run_twice() -> None:
    model = Encoder(2).eval()
    net = resect.unravel(model, IMAGES)

    def by_hand(x: Tensor, twice: int) -> Tensor:
        x, block = model.patch(x).flatten(2).transpose(1, 2) + model.position, 0
        for i in range(2):
            for branch in (lambda y, i=i: model.attention[i](y, y, y, need_weights=False)[0], model.mlp[i]):
                for _ in range(2 if block == twice else 1):
                    x = x + branch(model.norms[block](x))
                block += 1
        return model.fc(x.mean(1))

    for i in range(4):
        assert torch.equal(net(IMAGES, net.intact.repeated(i)), by_hand(IMAGES, i)), i


def test_plain_layers_have_no_skip_and_can_run_twice() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    net = resect.unravel(model.eval(), IMAGES, plain=True)
    x = model[2](model[1](IMAGES.flatten(1)))
    twice = model[4](model[3](model[4](model[3](x))))
    assert torch.equal(net(IMAGES, net.intact.repeated(1)), model[5](twice))
    swapped = model[5](model[2](model[1](model[4](model[3](IMAGES.flatten(1))))))  # each with its activation
    assert torch.equal(net(IMAGES, net.intact.swapped(0, 1)), swapped)
    assert len(plans.skips(net)) == 0
    with pytest.raises(resect.InputError, match="a plain network has none"):
        resect.lesion(net, DATA, plans.single(net).removing("mean"))


def branch_of(block: nn.Module) -> nn.Module:
    """The last module of a pre-activation block's branch."""
    return block.c2


def test_removed_branches_can_be_their_means(preactivated: resect.Unraveled) -> None:
    net, model, outputs = preactivated, preactivated.model, {}
    for i, block in enumerate(model.blocks):
        branch_of(block).register_forward_hook(lambda _, __, out, i=i: outputs.setdefault(i, []).append(out))
    losses(model)
    for block in model.blocks:
        branch_of(block)._forward_hooks.clear()
    means = {i: torch.cat(found).double().mean(0).float() for i, found in outputs.items()}

    for plan, gone in ((plans.single(net), [(i,) for i in range(9)]), (plans.pairs(net), combinations(range(9), 2))):
        ways = [
            lambda g=g: together(
                *(
                    patched(branch_of(model.blocks[i]), lambda own, i=i: lambda x: means[i].expand(len(x), -1, -1, -1))
                    for i in g
                )
            )
            for g in gone
        ]
        check(net, plan.removing("mean"), ways)


def test_removed_branches_can_be_those_of_other_samples(preactivated: resect.Unraveled) -> None:
    net, model = preactivated, preactivated.model

    def other(i: int):
        return patched(branch_of(model.blocks[i]), lambda own: lambda x: own(x)[_others(len(x), 0)])

    check(net, plans.single(net).removing("other sample"), [lambda i=i: other(i) for i in range(9)])
    for size in range(2, 9):
        others = _others(size, 3)
        assert sorted(others.tolist()) == list(range(size))
        assert not (others == torch.arange(size)).any()
    with pytest.raises(resect.DataError, match="at least two samples"):
        resect.lesion(net, [(IMAGES[:1], TARGETS[:1])], plans.single(net).removing("other sample"))
    with pytest.raises(resect.InputError, match="must be one of zero, mean, other sample, got 'one'"):
        plans.single(net).removing("one")


def test_one_shot_data_are_read_twice_for_means(preactivated: resect.Unraveled) -> None:
    plan = plans.single(preactivated).removing("mean")
    again = resect.lesion(preactivated, iter(DATA), plan)
    assert np.array_equal(again.losses, resect.lesion(preactivated, DATA, plan).losses)


def test_orders_delete_every_block_both_ways(preactivated: resect.Unraveled) -> None:
    plan = plans.orders(preactivated, 2, seed=5)
    blocks = np.array([label["block"] for label in plan.labels]).reshape(4, 9)
    assert (np.sort(blocks, axis=1) == np.arange(9)).all()
    assert np.array_equal(blocks[1], blocks[0][::-1])
    for row, arrangement in enumerate(plan.arrangements):
        gone = blocks[row // 9][: row % 9 + 1]
        assert arrangement == preactivated.intact.without(*gone.tolist())


def test_explicit_plans_may_be_empty_and_hold_variants(preactivated: resect.Unraveled) -> None:
    net = preactivated
    assert resect.lesion(net, DATA, plans.explicit(net, [])).summary() == "0 arrangements on 7 samples."
    chosen = [net.intact.without(1).repeated(2), (resect.Variant.BRANCH_ONLY, *range(1, 9))]
    result = check(net, plans.explicit(net, chosen), _ways(net.model))
    assert list(result.table["arrangement"]) == [0, 1]
    named = resect.lesion(net, DATA, plans.explicit(net, dict(zip(("another way", "no skip"), chosen, strict=True))))
    assert list(named.table["arrangement"]) == ["another way", "no skip"]
    assert np.array_equal(named.losses, result.losses)
    assert named.summary().endswith(("(arrangement another way).", "(arrangement no skip)."))


def _ways(model: CifarResNet) -> list:
    def first():
        return together(deleted(model, 1), patched(model.blocks[2], lambda own: lambda x: own(own(x))))

    def second():
        return patched(model.blocks[0].sc, lambda own: lambda x: torch.zeros_like(own(x)))

    return [first, second]


def test_plans_of_other_networks_are_refused(preactivated: resect.Unraveled) -> None:
    other = resect.unravel(CifarResNet(8, width=4, channels=1), IMAGES[:2])
    with pytest.raises(resect.InputError, match="made for this network of 9 blocks, but is for one of 3"):
        resect.lesion(preactivated, DATA, plans.single(other))
    with pytest.raises(resect.InputError, match=r"must come from resect.unravel\(model, example\), got CifarResNet"):
        plans.single(preactivated.model)
