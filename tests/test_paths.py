"""The path decomposition against brute force over all paths, closed forms and autograd."""

from __future__ import annotations

from itertools import product
from math import comb, log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import resect
from conftest import randomise_norms
from networks import CUSTOM, Encoder, Frame, Parallel, Residual, TwoStreams
from resect.graph.routes import Counts, Routes
from resect.models.resnet import CifarResNet
from resect.paths.backward import Trace
from resect.paths.degrees import at_target, decompose
from resect.paths.drawing import PathDraw
from resect.paths.measures import (
    effective_range,
    entropy_within,
    log2_effective,
    multiplicity,
    weighted_by_count,
)
from resect.paths.participation import participation
from resect.paths.samples import path_norms
from resect.paths.settings import PathSettings
from resect.paths.signs import path_squares
from resect.paths.strongest import strongest_paths
from resect.paths.target import resolve_target

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


@pytest.mark.parametrize("name", CHAINS)
def test_all_paths_by_brute_force(name: str) -> None:
    build, forward, n = CHAINS[name]
    model = randomise_norms(build()).double()
    paths = brute_force(model, forward, n)
    net = resect.unravel(model, IMAGES.double())
    data = [(IMAGES.double(), TARGETS)]
    spectrum = resect.path_spectrum(net, data)
    truth = sum(paths.values())
    by_length = [sum(g for taken, g in paths.items() if sum(taken) == k) for k in range(n + 1)]
    assert spectrum.count == tuple(comb(n, k) for k in range(n + 1))
    assert spectrum.at == "input"
    for k, total in enumerate(by_length):
        norms = total.flatten(1).norm(dim=1)
        np.testing.assert_allclose(spectrum.norms[:, k], norms, rtol=1e-9)
        share = (total * truth).sum() / truth.square().sum()
        assert spectrum.share[k] == pytest.approx(share.item(), rel=1e-8, abs=1e-14)
    assert spectrum.share.sum() == pytest.approx(1.0, abs=1e-12)
    assert spectrum.sum_error < 1e-12
    trace = Trace(net, *data[0], resolve_target(net, "input"))
    routes = [{i: (i if through else None, i - 1) for i, through in enumerate(taken)} for taken in paths]
    norms = path_norms(trace, Routes(net.sliced), routes)
    for found, gradient in zip(norms, paths.values(), strict=True):
        np.testing.assert_allclose(found, gradient.flatten(1).norm(dim=1), rtol=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_blocks_pairs_and_strongest_paths_by_brute_force(name: str) -> None:
    build, forward, n = CHAINS[name]
    model = randomise_norms(build()).double()
    paths = brute_force(model, forward, n)
    net = resect.unravel(model, IMAGES.double())
    data = [(IMAGES.double(), TARGETS)]
    truth = sum(paths.values())
    shares = {taken: ((g * truth).sum() / truth.square().sum()).item() for taken, g in paths.items()}
    found = participation(net, data, pairs=True)
    for i in range(n):
        through = sum(share for taken, share in shares.items() if taken[i])
        assert found.share[i] == pytest.approx(through, rel=1e-8, abs=1e-12)
        for j in range(n):
            both = sum(share for taken, share in shares.items() if taken[i] and taken[j])
            assert found.pairs[i, j] == pytest.approx(both, rel=1e-8, abs=1e-12)
        alone = [sum((g * truth)[b].sum() for taken, g in paths.items() if taken[i]) for b in range(4)]
        np.testing.assert_allclose(found.products[:, i], alone, rtol=1e-8, atol=1e-12)
    share = resect.path_spectrum(net, data).share
    assert found.effective_depth == pytest.approx((share * np.arange(n + 1)).sum(), rel=1e-9)
    norms = {taken: (g.square().sum() / 4).sqrt().item() for taken, g in paths.items()}
    best = sorted(norms, key=lambda taken: -norms[taken])
    strong = strongest_paths(net, data, count=10, limit=10**6)
    for row, taken in zip(strong.table.itertuples(), best[:10], strict=False):
        assert row.blocks == tuple(np.flatnonzero(taken))
        assert row.norm == pytest.approx(norms[taken], rel=1e-9)
        assert row.share == pytest.approx(shares[taken], rel=1e-8, abs=1e-12)
    every = strongest_paths(net, data, count=2**n, limit=10**6)
    assert (len(every.table), every.open, every.proven) == (2**n, 0, 2**n)
    assert "Every path was looked at" in every.summary()


@pytest.mark.parametrize("name", ["CNN of 3 blocks", "CNN of 6 blocks"])
def test_random_signs_give_the_sum_of_squares_of_all_paths(name: str) -> None:
    """The expectation over all 2^n sign vectors, enumerated."""
    build, forward, n = CHAINS[name]
    model = randomise_norms(build()).double()
    paths = brute_force(model, forward, n)
    trace = Trace(net := resect.unravel(model, IMAGES.double()), IMAGES.double(), TARGETS, resolve_target(net, "input"))
    total = torch.zeros(n + 1, 4, dtype=torch.float64)
    for signs in product([-1.0, 1.0], repeat=n):
        degrees = decompose(trace, n, rest=False, signs=dict(enumerate(signs)))
        for some, arrived in at_target(trace, degrees.lanes, n + 1):
            (lanes,) = arrived.values()
            powers = torch.from_numpy(np.ldexp(1.0, degrees.exponents[some])).view(-1, 1)
            total[some] += (lanes.flatten(2).norm(dim=2) * powers).square() / 2**n
    for k in range(n + 1):
        expected = sum(g.flatten(1).square().sum(1) for taken, g in paths.items() if sum(taken) == k)
        torch.testing.assert_close(total[k], expected, rtol=1e-9, atol=1e-15)


def test_the_search_is_the_same_again_and_leaves_the_random_state_alone(net, batch) -> None:
    before = torch.get_rng_state()
    first, second = (strongest_paths(net, [batch], count=5, limit=60) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.table.equals(second.table)
    assert (first.bound, first.expanded, first.open) == (second.bound, second.expanded, second.open)


def test_random_signs_estimate_the_root_mean_square_of_single_paths() -> None:
    build, forward, n = CHAINS["CNN of 6 blocks"]
    model = randomise_norms(build()).double()
    paths = brute_force(model, forward, n)
    data = [(IMAGES.double(), TARGETS)]
    found = path_squares(resect.unravel(model, IMAGES.double()), data, sweeps=60)
    low, high = found.rms_interval()
    for k in range(n + 1):
        mean = sum(g.square().sum() for taken, g in paths.items() if sum(taken) == k) / 4 / comb(n, k)
        assert found.rms[k] == pytest.approx(mean.sqrt().item(), rel=0.35)
        assert low[k] * 0.8 <= mean.sqrt() <= high[k] * 1.25  # 7 intervals of 95 %, widened: all hold
    assert found.rms[0] == pytest.approx(high[0])  # one path: every sign gives the same
    assert found.magnitude.sum() == pytest.approx(1.0)


def test_coefficients_themselves_by_brute_force() -> None:
    build, forward, n = CHAINS["CNN of 6 blocks"]
    model = randomise_norms(build()).double()
    paths = brute_force(model, forward, n)
    net = resect.unravel(model, IMAGES.double())
    trace = Trace(net, IMAGES.double(), TARGETS, resolve_target(net, "input"))
    degrees = decompose(trace, n, rest=False)
    for some, arrived in at_target(trace, degrees.lanes, n + 1):
        (found,) = arrived.values()
        for k, lane in zip(range(n + 1)[some], found, strict=True):
            expected = sum(g for taken, g in paths.items() if sum(taken) == k)
            torch.testing.assert_close(lane * 2.0 ** int(degrees.exponents[k]), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("longest", [0, 2, 5, 6])
def test_truncated_spectra_keep_the_exact_rest(longest: int) -> None:
    build, forward, n = CHAINS["CNN of 6 blocks"]
    model = randomise_norms(build()).double()
    paths = brute_force(model, forward, n)
    data = [(IMAGES.double(), TARGETS)]
    net = resect.unravel(model, IMAGES.double())
    full, cut = resect.path_spectrum(net, data), resect.path_spectrum(net, data, max_length=longest)
    np.testing.assert_allclose(cut.share[: longest + 1], full.share[: longest + 1], rtol=1e-9)
    assert np.isnan(cut.share[longest + 1 :]).all()
    rest = sum((g for taken, g in paths.items() if sum(taken) > longest), torch.zeros(4, 1, 8, 8))
    np.testing.assert_allclose(cut.rest_norms, rest.flatten(1).norm(dim=1), rtol=1e-8, atol=1e-13)
    assert np.nansum(cut.share) + cut.rest_share == pytest.approx(1.0, abs=1e-12)
    assert cut.sum_error < 1e-12
    if longest == 0:
        with pytest.raises(resect.InputError, match="`max_length` must be longer for a range that holds 99%"):
            cut.effective(0.99)


# where, the first block that a path to it can take, and whether it must: a parameter of block 3 lies on its branch
PLACES = [
    ("stem", 0, False),
    (2, 2, False),
    ("blocks.4", 4, False),
    ("blocks.3.c1.weight", 3, True),
    ("blocks.0.bn2.bias", 0, True),
    ("stem.weight", 0, False),
    ("fc.weight", 6, False),
]


@pytest.mark.parametrize(("at", "first", "must"), PLACES)
@pytest.mark.parametrize("of", ["loss", "target", 3, lambda outputs, targets: outputs.square().sum(1)])
def test_gradients_at_other_places_and_of_other_scalars_by_brute_force(at, first: int, must: bool, of) -> None:
    build, forward, n = CHAINS["CNN of 6 blocks"]
    model, images = randomise_norms(build()).double(), IMAGES.double()
    by_length = [torch.zeros(1, dtype=torch.float64) for _ in range(n + 1)]
    for behind in product([False, True], repeat=n - first):
        if must and not behind[0]:
            continue
        states: list[Tensor] = []
        logits = forward(model, images, (False,) * first + behind, states)
        value = {"loss": nn.functional.cross_entropy(logits, TARGETS, reduction="sum"), 3: logits[:, 3].sum()}
        value["target"] = logits.gather(1, TARGETS[:, None]).sum()
        place = dict(model.named_parameters()).get(at, states[first])
        scalar = value[of] if of in value else of(logits, TARGETS).sum()
        by_length[sum(behind)] = by_length[sum(behind)] + torch.autograd.grad(scalar, place)[0]
    net, data = resect.unravel(model, images), [(images, TARGETS)]
    spectrum = resect.path_spectrum(net, data, PathSettings(at=at, of=of))
    for k, total in enumerate(by_length):
        rows = total.flatten(1) if len(spectrum.squares) == 4 and total.ndim > 1 else total.reshape(1, -1)
        expected = np.broadcast_to(rows.norm(dim=1), len(spectrum.squares))
        np.testing.assert_allclose(spectrum.norms[:, k], expected, rtol=1e-8, atol=1e-13)
    paths_behind = n - first - must
    assert spectrum.count == tuple(comb(paths_behind, k - must) if k >= must else 0 for k in range(n + 1))
    assert spectrum.share.sum() == pytest.approx(1.0, abs=1e-10)
    depth = participation(net, data, PathSettings(at=at, of=of)).effective_depth
    assert depth == pytest.approx((spectrum.share * np.arange(n + 1)).sum(), rel=1e-8, abs=1e-10)


def test_bad_places_and_scalars_are_named(net, batch) -> None:
    for own, message in [
        (PathSettings(at="blocks.1.c7.weight"), "`at` must be .* got 'blocks.1.c7.weight'. Close to it: blocks.1.c"),
        (PathSettings(at=9), "its index below 9.* got 9"),
        (PathSettings(of="logit"), "`of` must be 'loss', 'target', a class below 10"),
        (PathSettings(of=10), "a class below 10"),
        (PathSettings(of=lambda outputs, targets: outputs), r"one number a sample, \(6,\), got \(6, 10\)"),
        (PathSettings(memory=1000), "`memory` must hold one sample with 10 lanes"),
    ]:
        with pytest.raises(resect.InputError, match=message):
            resect.path_spectrum(net, [batch], own)
    with pytest.raises(resect.InputError, match="`max_length` must be a whole number of blocks"):
        resect.path_spectrum(net, [batch], max_length=-1)


def test_little_memory_splits_batches_and_changes_nothing_but_rounding(net, batch) -> None:
    whole = resect.path_spectrum(net, [batch])
    settings = PathSettings(memory=150_000)
    split = resect.path_spectrum(net, [batch], settings)
    np.testing.assert_allclose(split.share, whole.share, atol=1e-6)
    alone = participation(net, [batch], settings, pairs=True)
    np.testing.assert_allclose(alone.pairs, participation(net, [batch], pairs=True).pairs, atol=1e-6)
    samples = resect.sample_paths(net, [batch], settings, samples=2)
    assert len(np.unique(samples.batch)) > 1  # split batches draw paths of their own


def test_errors_of_the_sum_are_errors(net, batch) -> None:
    half = resect.unravel(net.model.bfloat16(), batch[0][:1].bfloat16())
    with pytest.raises(resect.AccuracyError, match="must sum to autograd's"):
        resect.path_spectrum(half, [(batch[0].bfloat16(), batch[1])])


def test_intervals_cover_and_tighten(net, batch) -> None:
    generator = torch.Generator().manual_seed(3)
    images, targets = torch.randn(80, 1, 8, 8, generator=generator), torch.randint(0, 10, (80,), generator=generator)
    few = resect.path_spectrum(net, [(images[:20], targets[:20])])
    many = resect.path_spectrum(net, [(images, targets)])
    (low, high), (lower, higher) = few.share_interval(), many.share_interval()
    assert np.all(low <= few.share) and np.all(few.share <= high)
    assert (higher - lower)[:4].sum() < (high - low)[:4].sum()
    assert np.isnan(resect.path_spectrum(net, [(images[:1], targets[:1])]).share_interval()[0]).all()


class ParallelGated(nn.Module):
    """The parallel network with gradients along one route; see test_parallel_paths_by_brute_force."""

    @staticmethod
    def forward_along(model: Frame, images: Tensor, route: tuple[str, ...]) -> Tensor:
        x = model.stem(images)
        for block, edge in zip(model.body, route, strict=True):
            parts = {"skip": x, "f": block.f(x), "g": block.g(x)}
            x = sum(value if name == edge else value.detach() for name, value in parts.items())
        return model.fc(x.mean((2, 3)))


@pytest.mark.parametrize("grouped", [True, False])
def test_parallel_paths_by_brute_force(grouped: bool) -> None:
    model = randomise_norms(Frame(Parallel(grouped), Parallel(grouped), Parallel(grouped))).double()
    by_length = [torch.zeros(4, 1, 8, 8, dtype=torch.float64) for _ in range(4)]
    for route in product(["skip", "f", "g"], repeat=3):
        images = IMAGES.double().requires_grad_()
        logits = ParallelGated.forward_along(model, images, route)
        loss = nn.functional.cross_entropy(logits, TARGETS, reduction="sum")
        by_length[sum(edge != "skip" for edge in route)] += torch.autograd.grad(loss, images)[0]
    net = resect.unravel(model, IMAGES.double())
    spectrum = resect.path_spectrum(net, [(IMAGES.double(), TARGETS)])
    assert spectrum.count == (1, 6, 12, 8, 0, 0, 0)  # (1 + 2z)^3: parallel branches exclude each other
    for k, total in enumerate(by_length):
        np.testing.assert_allclose(spectrum.norms[:, k], total.flatten(1).norm(dim=1), rtol=1e-9)
    assert np.all(spectrum.norms[:, 4:] == 0)


def slot_of(net: resect.Unraveled, prefix: str) -> int:
    """The slot whose branch holds the parameters under a prefix."""
    (slot,) = (s.index for s in net.sliced.slots if any(name.startswith(prefix) for name in s.parameters))
    return slot


def check_against_routes(net: resect.Unraveled, images: Tensor, paths: dict[frozenset[int], list[Tensor]]) -> None:
    """Everything against the gradients of all routes, by the blocks that they take."""
    data = [(images, TARGETS)]
    every = [(blocks, gradient) for blocks, found in paths.items() for gradient in found]
    truth = sum(gradient for _, gradient in every)
    shares = [(blocks, ((g * truth).sum() / truth.square().sum()).item()) for blocks, g in every]
    spectrum = resect.path_spectrum(net, data)
    for k in range(len(net.blocks) + 1):
        assert spectrum.count[k] == sum(len(blocks) == k for blocks, _ in every)
        expected = sum(share for blocks, share in shares if len(blocks) == k)
        assert spectrum.share[k] == pytest.approx(expected, rel=1e-8, abs=1e-12)
    found = participation(net, data, pairs=True)
    for i in range(len(net.blocks)):
        assert found.share[i] == pytest.approx(sum(s for b, s in shares if i in b), rel=1e-8, abs=1e-12)
        for j in range(len(net.blocks)):
            both = sum(share for blocks, share in shares if {i, j} <= blocks)
            assert found.pairs[i, j] == pytest.approx(both, rel=1e-8, abs=1e-12)
    norms = sorted((-(g.square().sum() / 4).sqrt().item(), tuple(sorted(blocks))) for blocks, g in every)
    strong = strongest_paths(net, data, count=len(every), limit=10**6)
    assert strong.table["blocks"].tolist() == [blocks for _, blocks in norms]
    np.testing.assert_allclose(strong.table["norm"], [-norm for norm, _ in norms], rtol=1e-8)
    squares = np.zeros(len(net.blocks) + 1)
    for signs in product([-1.0, 1.0], repeat=len(net.blocks)):
        trace = Trace(net, images, TARGETS, resolve_target(net, "input"))
        degrees = decompose(trace, spectrum.longest, rest=False, signs=dict(enumerate(signs)))
        for some, arrived in at_target(trace, degrees.lanes, spectrum.longest + 1):
            (lanes,) = arrived.values()
            powers = np.ldexp(1.0, degrees.exponents[some])
            squares[: spectrum.longest + 1][some] += np.square(lanes.flatten(1).norm(dim=1).numpy() * powers)
    for k in range(len(net.blocks) + 1):  # routes through the same blocks share their signs
        groups = [sum(g) for blocks, g in paths.items() if len(blocks) == k]
        expected = sum(group.square().sum().item() for group in groups)
        assert squares[k] / 2 ** len(net.blocks) == pytest.approx(expected, rel=1e-8, abs=1e-14)


def test_parallel_branches_by_brute_force_over_all_routes() -> None:
    model, images = randomise_norms(Frame(Parallel(), Parallel(), Parallel())).double(), IMAGES.double()
    net = resect.unravel(model, images)
    slots = {(i, edge): slot_of(net, f"body.{i}.{edge}.") for i in range(3) for edge in "fg"}
    paths: dict[frozenset[int], list[Tensor]] = {}
    for route in product(["skip", "f", "g"], repeat=3):
        given = images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(ParallelGated.forward_along(model, given, route), TARGETS, reduction="sum")
        blocks = frozenset(slots[i, edge] for i, edge in enumerate(route) if edge != "skip")
        paths.setdefault(blocks, []).append(torch.autograd.grad(loss, given)[0])
    check_against_routes(net, images, paths)


def test_two_streams_by_brute_force_over_all_routes() -> None:
    model, images = randomise_norms(Frame(TwoStreams())).double(), IMAGES.double()
    net = resect.unravel(model, images)
    slots = {name: slot_of(net, f"body.0.{name}.") for name in "abc"}
    streams = model.body[0]

    def forward(given: Tensor, stream: str, taken: frozenset[str]) -> Tensor:
        def block(name: str, x: Tensor) -> Tensor:
            branch = getattr(streams, name).f(x)
            return x.detach() + branch if name in taken else x + branch.detach()

        x = model.stem(given)
        one, two = block("c", block("a", x)), block("b", torch.relu(streams.split(x)))
        one, two = (one, two.detach()) if stream == "one" else (one.detach(), two)
        return model.fc(torch.relu(one * torch.sigmoid(streams.mix(two))).mean((2, 3)))

    paths: dict[frozenset[int], list[Tensor]] = {}
    for stream, names in (("one", "ac"), ("two", "b")):
        for chosen in product([False, True], repeat=len(names)):
            taken = frozenset(name for name, through in zip(names, chosen, strict=True) if through)
            given = images.clone().requires_grad_()
            loss = nn.functional.cross_entropy(forward(given, stream, taken), TARGETS, reduction="sum")
            blocks = frozenset(slots[name] for name in taken)
            paths.setdefault(blocks, []).append(torch.autograd.grad(loss, given)[0])
    check_against_routes(net, images, paths)


def test_paths_through_nested_blocks() -> None:
    net = resect.unravel(CUSTOM["restoration"][0](), IMAGES)
    spectrum = resect.path_spectrum(net, [(IMAGES, TARGETS)])
    assert spectrum.count == (1, 1, 3, 3, 1)  # 1 + z (1 + z)^3: the inner blocks count on routes through the outer
    assert spectrum.sum_error < 1e-6


@pytest.mark.parametrize("name", [name for name, (_, blocks) in CUSTOM.items() if blocks and name != "in-place"])
def test_shares_sum_to_the_gradient_of_autograd(name: str) -> None:
    """All but the in-place network, which autograd itself cannot differentiate; see the next test."""
    model = CUSTOM[name][0]().eval()
    net = resect.unravel(model, IMAGES)
    spectrum = resect.path_spectrum(net, [(IMAGES, TARGETS)])
    images = IMAGES.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(images), TARGETS, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    np.testing.assert_allclose(spectrum.squares, gradient.flatten(1).square().sum(1), rtol=1e-4)
    assert spectrum.share.sum() == pytest.approx(1.0, abs=1e-5)
    assert spectrum.sum_error < 1e-5


def test_in_place_operators_do_not_disturb_gradients() -> None:
    net = resect.unravel(CUSTOM["in-place"][0](), IMAGES)
    assert resect.path_spectrum(net, [(IMAGES, TARGETS)]).sum_error < 1e-5


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


@given(scales=st.lists(st.floats(0.01, 20), min_size=1, max_size=7), size=st.integers(2, 9), batch=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_linear_networks_have_the_elementary_symmetric_polynomials(scales: list[float], size: int, batch: int) -> None:
    model = Linear(scales, size).double()
    x = torch.randn(batch, size, dtype=torch.float64) * 1e-9  # else the softmax saturates, and the gradient is 0
    targets = torch.arange(batch) % size
    net = resect.unravel(model, x)
    spectrum = resect.path_spectrum(net, [(x, targets)])
    logits = model(x).detach().requires_grad_()
    (top,) = torch.autograd.grad(nn.functional.cross_entropy(logits, targets, reduction="sum"), logits)
    coefficients = [top]
    for matrix in reversed(list(model.matrices)):  # C(z) <- (1 + z A^T) C(z)
        kept, raised = [*coefficients, 0], [0, *(c @ matrix for c in coefficients)]
        coefficients = [a + b for a, b in zip(kept, raised, strict=True)]
    for k, expected in enumerate(coefficients):
        np.testing.assert_allclose(spectrum.norms[:, k], expected.detach().norm(dim=1), rtol=1e-8)


def test_long_networks_do_not_underflow_in_float32() -> None:
    scales = [1e-3] * 40
    x, targets = torch.randn(2, 5), torch.tensor([0, 1])
    single = resect.path_spectrum(resect.unravel(Linear(scales), x), [(x, targets)])
    double = resect.path_spectrum(resect.unravel(Linear(scales).double(), x.double()), [(x.double(), targets)])
    assert double.norm[40] < 1e-100
    np.testing.assert_allclose(single.norm, double.norm, rtol=1e-3)


def test_gradients_of_branches_are_measured_at_the_stem_for_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.f, self.out = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            x = x + torch.tanh(self.f(x))
            return self.out(x)

    ids = torch.randint(0, 9, (2, 4))
    net = resect.unravel(Tokens(), ids)
    spectrum = resect.path_spectrum(net, [(ids, ids)])
    assert spectrum.at == "stem"
    assert spectrum.share.sum() == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(resect.InputError, match="`at` must be 'stem'"):
        resect.path_spectrum(net, [(ids, ids)], PathSettings(at="input"))


def taken_blocks(route) -> frozenset[int]:
    return frozenset(slot for slot, _ in route.values() if slot is not None)


def test_sampled_routes_have_their_length_and_are_uniform(net) -> None:
    draw, random = PathDraw(Routes(net.sliced)), np.random.default_rng(0)
    assert len(draw.segments) == 2
    drawn = [[taken_blocks(route) for route in draw(range(10), random)] for _ in range(4000)]
    for each in drawn:
        assert [len(blocks) for blocks in each] == list(range(10))
    for length in (1, 2, 4, 7):
        often: dict[frozenset[int], int] = {}
        for each in drawn:
            often[each[length]] = often.get(each[length], 0) + 1
        paths = comb(9, length)
        assert len(often) == paths
        expected = 4000 / paths
        chi = sum((count - expected) ** 2 / expected for count in often.values())
        assert chi < paths - 1 + 5 * (2 * (paths - 1)) ** 0.5  # five standard deviations


def test_draws_share_their_way_from_the_output(net) -> None:
    """Fewer different beginnings than paths drawn by themselves would have: 1 + 9 * 4 / 9 for nested ones."""
    draw, random = PathDraw(Routes(net.sliced)), np.random.default_rng(0)
    beginnings = []
    for _ in range(300):
        routes = [taken_blocks(route) for route in draw(range(10), random)]
        beginnings.append(len({frozenset(block for block in route if block >= 5) for route in routes}))
    assert np.mean(beginnings) < 4


@pytest.mark.parametrize("at", ["input", 3, "blocks.3.c1.weight"])
def test_draws_to_other_places_keep_to_the_blocks_on_the_way(net, at: str | int) -> None:
    target = resolve_target(net, at)
    routes = Routes(net.sliced, target.start)
    draw, random = PathDraw(routes), np.random.default_rng(0)
    lengths = [k for k, count in enumerate(routes.counts.paths) if count]
    for _ in range(20):
        for length, route in zip(lengths, draw(lengths, random), strict=True):
            blocks = taken_blocks(route)
            assert len(blocks) == length
            assert at == "input" or all(block >= 3 for block in blocks)
            assert at != "blocks.3.c1.weight" or 3 in blocks


def test_sampled_norms_at_the_ends_are_those_of_the_spectrum(net, batch) -> None:
    spectrum = resect.path_spectrum(net, [batch])
    samples = resect.sample_paths(net, [batch], samples=2)
    assert samples.mean[0] == pytest.approx(spectrum.norm[0], rel=1e-5)  # one path of length 0, one of length n
    assert samples.mean[9] == pytest.approx(spectrum.norm[9], rel=1e-4)
    assert samples.norms.shape == (6, 2, 10)
    assert np.array_equal(samples.norms, resect.sample_paths(net, [batch], samples=2).norms)


def test_sampled_parallel_branches_exclude_each_other() -> None:
    net = resect.unravel(Frame(Parallel(), Residual()), IMAGES)
    samples = resect.sample_paths(net, [(IMAGES, TARGETS)], samples=3)
    assert np.isfinite(samples.norms).all((0, 1)).tolist() == [True, True, True, False]
    assert not np.isnan(samples.magnitude).any()


@given(n=st.integers(1, 60))
def test_counts_of_a_chain_are_binomial(n: int) -> None:
    counts = Counts(tuple(comb(n, k) for k in range(n + 1)), tuple(2 * k * comb(n, k) for k in range(n + 1)))
    grown = Counts((1,), (0,))
    for _ in range(n):
        grown = grown + grown.through(2)
    assert grown == counts


def test_effective_range_is_the_shortest() -> None:
    counts = Counts((1, 4, 6, 4, 1), (0, 8, 24, 24, 8))
    found = effective_range(np.array([0.02, 0.5, 0.46, 0.03, -0.01]), counts)
    assert (found.low, found.high, found.low_layers, found.high_layers) == (1, 2, 2.0, 4.0)
    assert found.held == pytest.approx(0.96)
    assert found.path_fraction == pytest.approx(10 / 16)
    with pytest.raises(resect.InputError, match="between 0 and 1, got 1"):
        effective_range(np.ones(5), counts, 1.0)


def test_multiplicity_of_equal_paths_is_their_number() -> None:
    counts = Counts((1, 3, 3, 1), (0, 6, 12, 6))
    size = multiplicity(np.array([1, 3, 3, 1]) / 8, counts)
    assert size.log2_paths == pytest.approx(3.0)
    assert size.log2_effective_paths == pytest.approx(3.0)
    assert size.effective_depth == pytest.approx(1.5)
    one = multiplicity(np.array([0, 0, 0, 1.0]), counts)
    assert one.log2_effective_paths == pytest.approx(0.0)
    assert multiplicity(np.array([0, 1.0, 0, 0]), counts).log2_effective_paths == pytest.approx(log2(3))


def test_entropy_within_a_length_is_that_of_the_squared_norms() -> None:
    counts = Counts((1, 4, 1), (0, 8, 4))
    weights = np.array([8, 4, 2, 2]) / 16  # all four paths of length 1, drawn once each: the entropy is 1.75 bits
    squares = np.stack([np.ones(4), weights, np.full(4, 3.0)], 1)
    within = entropy_within(squares, counts)
    np.testing.assert_allclose(within, [0, 1.75, 0])
    assert log2_effective(np.array([0.25, 0.5, 0.25]), within) == pytest.approx(1.5 + 0.5 * 1.75)
    assert log2_effective(np.array([0, 1.0, -0.1]), within) == pytest.approx(1.75)


def test_weights_by_count_survive_huge_counts() -> None:
    counts = Counts(tuple(comb(600, k) for k in range(601)), (0,) * 601)
    weights = weighted_by_count(np.full(601, 1e-30), counts)
    assert weights.sum() == pytest.approx(1.0)
    assert weights.argmax() == 300
    assert weights[300] == pytest.approx(comb(600, 300) / 2**600)


def test_plain_networks_have_no_paths() -> None:
    net = resect.unravel(nn.Sequential(nn.Flatten(), nn.Linear(64, 64)), IMAGES)
    with pytest.raises(resect.InputError, match="no residual joins"):
        resect.path_spectrum(net, [(IMAGES, TARGETS)])
    with pytest.raises(resect.DataError, match="at least one"):
        resect.path_spectrum(resect.unravel(Frame(Residual()), IMAGES), [])


def test_paths_end_in_the_logits_and_not_in_other_outputs() -> None:
    class Hidden(Frame):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            states = [self.stem(x)]
            for block in self.body:
                states.append(block(states[-1]))
            return {"hidden": states[2], "logits": self.fc(states[-1].mean((2, 3)))}

    model = Hidden(Residual(), Residual(), Residual()).eval()
    spectrum = resect.path_spectrum(resect.unravel(model, IMAGES), [(IMAGES, TARGETS)])
    assert spectrum.count == (1, 3, 3, 1)


class Injected(nn.Module):
    """y = x + f(x); y + g(y, x): the second branch reads the stem's value beside the state."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.f, self.g, self.out = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(16, 8), nn.Linear(8, 10)

    def forward(self, images: Tensor, route: str = "") -> Tensor:
        """The logits; with a route such as "f g.y", gradients take only that one."""
        x = torch.tanh(self.stem(images.flatten(1)))

        def on(value: Tensor, *edges: str) -> Tensor:
            return value if not route or route in edges else value.detach()

        y = on(x, "skip skip", "skip g.y") + on(torch.tanh(self.f(x)), "f skip", "f g.y")
        read = torch.cat([on(y, "skip g.y", "f g.y"), on(x, "g.x")], 1)
        total = on(y, "skip skip", "f skip") + on(torch.tanh(self.g(read)), "skip g.y", "f g.y", "g.x")
        return self.out(total)


def test_a_route_keeps_to_one_of_the_states_that_a_branch_reads() -> None:
    model, images = Injected().double().eval(), IMAGES.double()
    net = resect.unravel(model, images)
    routes = Routes(net.sliced)
    assert routes.counts.paths == (1, 3, 1)
    stem = -1
    named = {
        "skip skip": {1: (None, 0), 0: (None, stem)},
        "f skip": {1: (None, 0), 0: (0, stem)},
        "skip g.y": {1: (1, 0), 0: (None, stem)},
        "f g.y": {1: (1, 0), 0: (0, stem)},
        "g.x": {1: (1, stem)},
    }
    trace = Trace(net, images, TARGETS, resolve_target(net, "input"))
    norms = path_norms(trace, routes, [*named.values()])
    for found, route in zip(norms, named, strict=True):
        given = images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(given, route), TARGETS, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, given)
        np.testing.assert_allclose(found, gradient.flatten(1).norm(dim=1), rtol=1e-9, err_msg=route)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steep_falls_do_not_overflow_the_scales(dtype: torch.dtype) -> None:
    x, targets = torch.randn(2, 5, dtype=dtype), torch.tensor([0, 1])
    net = resect.unravel(Linear([1e-10] * 8).to(dtype), x)
    spectrum = resect.path_spectrum(net, [(x, targets)])
    samples = resect.sample_paths(net, [(x, targets)], samples=3)
    ratios = np.log10(spectrum.norm[:-1] / spectrum.norm[1:])
    assert ((ratios > 8) & (ratios < 12)).all()
    assert np.isfinite(samples.mean).all()
    assert samples.mean[8] == pytest.approx(spectrum.norm[8], rel=1e-3)
