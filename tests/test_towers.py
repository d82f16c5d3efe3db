"""Towers: branches that run side by side for several blocks before they are added."""

from __future__ import annotations

from functools import cache
from itertools import chain, combinations, pairwise, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from by_hand import IMAGES, TARGETS, check_against_routes
from conftest import randomise_norms
from resect.errors import SpecError
from resect.models.resnet import CifarResNet
from resect.models.specs import load_model

Way = tuple[int, tuple[int, ...]]  # a tower, and the blocks that a path takes in it; none for the way past all towers


@cache
def towers(depth: int, branches: int, merge: int) -> tuple[CifarResNet, resect.Unraveled]:
    """A network, unravelled once for all tests; nobody changes it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomise_norms(CifarResNet(depth, width=3, channels=1, branches=branches, merge=merge)).double()
    return model, resect.unravel(model, IMAGES[:1].double())


SIZES = [(14, 2, 3), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((8, 3, 1), (14, 3, 2), (20, 2, 9)))]


def forward(model: CifarResNet, images: Tensor, gone: tuple[tuple[int, int], ...] = ()) -> Tensor:
    """x + sum over towers of (tower(x) - x), as it is defined; without the branches (block, tower) of `gone`."""
    x = model.stem(images)
    for start in range(0, len(model.blocks), model.merge):
        unit = list(enumerate(model.blocks))[start : start + model.merge]
        skip = x
        for _, block in unit:
            skip = block.sc(skip)
        total = skip
        for tower in range(len(unit[0][1].branches)):
            y = x
            for i, block in unit:
                y = block.sc(y) + (0 if (i, tower) in gone else block.branches[tower](y))
            total = total + (y - skip)
        x = total
    return model.fc(F.relu(model.bn(x)).mean((2, 3)))


def test_one_block_a_tower_is_the_network_of_twice_the_hidden_width() -> None:
    model = randomise_norms(CifarResNet(14, width=3, channels=1, branches=2)).double()
    wide = CifarResNet(14, width=3, channels=1).double().eval()
    for block, one in zip(model.blocks, wide.blocks, strict=True):
        first, second = block.branches
        second.bn1 = first.bn1  # their affine parts are all that is not shared
        one.sc, one.bn1 = block.sc, first.bn1
        one.c1.weight = nn.Parameter(torch.cat([first.c1.weight, second.c1.weight]))
        one.c2.weight = nn.Parameter(torch.cat([first.c2.weight, second.c2.weight], dim=1))
        one.bn2 = nn.BatchNorm2d(one.c1.weight.shape[0]).double().eval()
        for part in ("weight", "bias", "running_mean", "running_var"):
            getattr(one.bn2, part).data = torch.cat([getattr(branch.bn2, part).data for branch in (first, second)])
    wide.stem, wide.bn, wide.fc = model.stem, model.bn, model.fc
    images = IMAGES.double()
    assert (model(images) - wide(images)).abs().max() <= 4e-15 * model(images).abs().max()


def test_the_weights_of_a_seed_do_not_depend_on_where_towers_merge() -> None:
    names = ("resnet14-w4-x2", "resnet14-w4-b2-s1", "resnet14-w4-b2-s3", "resnet14-w4-b2-s6")
    models = [load_model(f"resect:{name}", seed=3).module for name in names]
    for one, other in pairwise(models):
        assert all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(models[0](images), models[1](images))
    assert not torch.allclose(models[1](images), models[2](images))


@pytest.mark.parametrize(("depth", "branches", "merge"), SIZES)
def test_every_branch_of_every_tower_is_a_block(depth: int, branches: int, merge: int) -> None:
    (model, net), images = towers(depth, branches, merge), IMAGES.double()
    n = len(model.blocks)
    assert sorted(net.blocks.names) == sorted(f"blocks.{i}.branches.{t}" for i in range(n) for t in range(branches))
    assert {block.layers for block in net.blocks} == {2}
    paths = net.routes().counts.paths
    assert sum(paths) == (branches * 2**merge - branches + 1) ** (n // merge)
    longest = max(k for k, count in enumerate(paths) if count)
    assert (longest, paths[longest], paths[1]) == (n, branches ** (n // merge), n * branches)
    torch.testing.assert_close(model(images), forward(model, images), rtol=1e-12, atol=1e-12)
    assert torch.equal(net(images), model(images))


def test_lesions_inside_towers_are_those_of_a_forward_written_by_hand() -> None:
    (model, net), images = towers(14, 2, 3), IMAGES.double()
    places = [tuple(map(int, name.split(".")[1::2])) for name in net.blocks.names]
    for gone in chain(combinations(range(12), 1), [(0, 5), (2, 3, 11), tuple(range(12))]):
        expected = forward(model, images, tuple(places[i] for i in gone))
        torch.testing.assert_close(net(images, net.intact.without(*gone)), expected, rtol=1e-12, atol=1e-12)
    result = resect.lesion(net, [(images, TARGETS)], resect.plans.single(net))
    without = forward(model, images, (places[7],))
    assert result.table["loss"][7] == pytest.approx(F.cross_entropy(without, TARGETS).item())


def along(unit: nn.ModuleList, x: Tensor, way: Way) -> Tensor:
    """One merge with gradients along one way through it."""
    skips, (taken, blocks) = [x], way
    for block in unit:
        skips.append(block.sc(skips[-1]))
    total = skips[-1].detach() if blocks else skips[-1]
    for tower in range(len(unit[0].branches)):
        gathered = torch.zeros_like(x)
        for i, (skip, block) in enumerate(zip(skips, unit, strict=False)):
            entered, here = tower == taken and i > min(blocks, default=9), tower == taken and i in blocks
            read = skip.detach() + gathered if entered else skip + gathered.detach()
            branch, kept = block.branches[tower](read), block.sc(gathered)
            gathered = (kept if entered and not here else kept.detach()) + (branch if here else branch.detach())
        total = total + gathered
    return total


@pytest.mark.parametrize(("depth", "branches", "merge"), [(14, 2, 3), pytest.param(14, 2, 2, marks=pytest.mark.slow)])
def test_paths_by_brute_force_over_all_ways_through_towers(depth: int, branches: int, merge: int) -> None:
    (model, net), images = towers(depth, branches, merge), IMAGES.double()
    slots = {tuple(map(int, name.split(".")[1::2])): i for i, name in enumerate(net.blocks.names)}
    some = [blocks for size in range(1, merge + 1) for blocks in combinations(range(merge), size)]
    ways: list[Way] = [(0, ()), *product(range(branches), some)]
    starts = range(0, len(model.blocks), merge)
    paths: dict[frozenset[int], list[Tensor]] = {}
    for route in product(ways, repeat=len(starts)):
        given = images.clone().requires_grad_()
        x = model.stem(given)
        for start, way in zip(starts, route, strict=True):
            x = along(model.blocks[start : start + merge], x, way)
        loss = F.cross_entropy(model.fc(F.relu(model.bn(x)).mean((2, 3))), TARGETS, reduction="sum")
        taken = frozenset(slots[start + i, t] for start, (t, part) in zip(starts, route, strict=True) for i in part)
        paths.setdefault(taken, []).append(torch.autograd.grad(loss, given)[0])
    assert all(len(gradients) == 1 for gradients in paths.values())
    check_against_routes(net, images, paths, signs=False)


def test_towers_that_cannot_be_are_refused() -> None:
    with pytest.raises(SpecError, match=r"`merge` must divide the 6 blocks of depth 14, .* got 4 with 2"):
        load_model("resect:resnet14-b2-s4")
    with pytest.raises(SpecError, match="which have two branches or more, got 2 with 1"):
        load_model("resect:resnet14-b1-s2")
    with pytest.raises(SpecError, match=r"unknown model spec 'resect:resnet14-b2'. Close: .*resect:resnet"):
        load_model("resect:resnet14-b2")


class Accumulator(nn.Module):
    """Sums from zero on whose terms do not read them, and a block around them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for expert in self.experts:
            total = total + expert(x)
        return x + total


def test_sums_that_start_from_zero_but_are_not_read_are_no_blocks_of_their_own() -> None:
    net = resect.unravel(nn.Sequential(Accumulator(), nn.Linear(4, 2)).eval(), torch.zeros(1, 4))
    assert sum(net.routes().counts.paths) in (2, 4)
    assert all("0.experts" in block.name or block.name == "0" for block in net.blocks)


def test_hidden_width_leaves_the_stream_and_the_budget_of_blocks_times_width() -> None:
    sizes = [("resnet8-w4-h6-b2-s3", 3, 6), ("resnet20-w4-h2-b2-s9", 9, 2)]
    for name, blocks, hidden in sizes:
        model = load_model(f"resect:{name}").module
        branches = [branch for block in model.blocks for branch in block.branches]
        assert len(branches) == 2 * blocks
        for branch, stage in zip(branches, (i for i in range(3) for _ in range(2 * blocks // 3)), strict=True):
            assert branch.c1.out_channels == branch.bn2.num_features == branch.c2.in_channels == hidden * 2**stage
            assert branch.c2.out_channels == 4 * 2**stage
    one = load_model("resect:resnet8-w4-h6").module.blocks[2]
    assert (one.c1.out_channels, one.c2.out_channels) == (24, 16)
    assert torch.equal(*(load_model(f"resect:resnet8-w4{h}").module.fc.weight for h in ("", "-h4")))
    for wrong in ("resect:resnet8-h0-b2-s3", "resect:resnet8-h4-original", "resect:highway9-h4"):
        with pytest.raises(SpecError):
            load_model(wrong)


def test_with_last_layers_at_zero_all_merges_begin_as_one_function_and_one_gradient() -> None:
    models = [CifarResNet(14, width=3, branches=2, merge=merge, zero_init_last=True).double() for merge in (1, 3, 6)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    images, outputs = torch.randn(4, 3, 8, 8).double(), []
    for model in models:
        outputs.append(model(images))
        outputs[-1].square().sum().backward()
    past = models[0].stem(images)
    for block in models[0].blocks:
        past = block.sc(past)
    assert torch.allclose(outputs[0], models[0].fc(F.relu(models[0].bn(past)).mean((2, 3))))
    for model, output in zip(models[1:], outputs[1:], strict=True):
        assert torch.allclose(output, outputs[0])
        for own, first in zip(model.parameters(), models[0].parameters(), strict=True):
            assert torch.allclose(own.grad, first.grad)
    assert models[0].blocks[0].branches[0].c2.weight.grad.abs().max() > 0
