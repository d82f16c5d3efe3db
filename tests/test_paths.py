"""Everything about paths against brute force over all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from by_hand import CHAINS, IMAGES, TARGETS, chain, check_against_routes, mean_share, slot_of
from conftest import randomise_norms
from networks import Frame, Parallel, TwoStreams
from resect.graph.routes import Routes
from resect.models.resnet import CifarResNet
from resect.paths.participation import participation
from resect.paths.sampled import path_norms
from resect.paths.settings import Traces
from resect.paths.strongest import strongest_paths
from resect.paths.target import resolve_target
from resect.paths.trace import Trace


@pytest.mark.parametrize("name", CHAINS)
def test_all_paths_by_brute_force(name: str) -> None:
    made = chain(name)
    net, paths, n = made.net, made.paths, made.blocks
    data = [(IMAGES.double(), TARGETS)]
    spectrum = resect.path_spectrum(net, data)
    truth = sum(paths.values())
    by_length = [sum(g for taken, g in paths.items() if sum(taken) == k) for k in range(n + 1)]
    assert spectrum.count == tuple(comb(n, k) for k in range(n + 1))
    assert spectrum.at == "input"
    for k, total in enumerate(by_length):
        norms = total.flatten(1).norm(dim=1)
        np.testing.assert_allclose(spectrum.norms[:, k], norms, rtol=1e-9)
        assert spectrum.share[k] == pytest.approx(mean_share(total, truth), rel=1e-8, abs=1e-13)
        pooled = (total * truth).sum() / truth.square().sum()
        assert spectrum.pooled_share[k] == pytest.approx(pooled.item(), rel=1e-8, abs=1e-14)
    assert spectrum.share.sum() == pytest.approx(1.0, abs=1e-12)
    assert spectrum.sum_error < 1e-12
    trace = Trace(net, *data[0], resolve_target(net, "input"))
    routes = [{i: (i if through else None, i - 1) for i, through in enumerate(taken)} for taken in paths]
    norms = path_norms(trace, Routes(net.sliced), routes)
    for found, gradient in zip(norms, paths.values(), strict=True):
        np.testing.assert_allclose(found, gradient.flatten(1).norm(dim=1), rtol=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_blocks_pairs_and_strongest_paths_by_brute_force(name: str) -> None:
    made = chain(name)
    net, paths, n = made.net, made.paths, made.blocks
    data = [(IMAGES.double(), TARGETS)]
    truth = sum(paths.values())
    shares = {taken: mean_share(g, truth) for taken, g in paths.items()}
    pooled = {taken: ((g * truth).sum() / truth.square().sum()).item() for taken, g in paths.items()}
    found = participation(net, data, pairs=True)
    for i in range(n):
        through = sum(share for taken, share in shares.items() if taken[i])
        assert found.share[i] == pytest.approx(through, rel=1e-8, abs=1e-12)
        through = sum(share for taken, share in pooled.items() if taken[i])
        assert found.pooled_share[i] == pytest.approx(through, rel=1e-8, abs=1e-12)
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
        assert row.share == pytest.approx(pooled[taken], rel=1e-8, abs=1e-12)
    every = strongest_paths(net, data, count=2**n, limit=10**6)
    assert (len(every.table), every.open, every.proven) == (2**n, 0, 2**n)
    assert "Every path was looked at" in every.summary()


def test_what_a_search_holds_of_all_squares_is_what_brute_force_finds() -> None:
    made = chain("encoder of 8 blocks")
    squares = sorted((g.square().sum().item() for g in made.paths.values()), reverse=True)
    data = [(IMAGES.double(), TARGETS)]
    every = strongest_paths(made.net, data, count=10)
    assert every.held == pytest.approx((sum(squares[:10]) / sum(squares),) * 3, rel=1e-9)
    assert (every.expanded, every.proven) == (2**8 - 1, 10)
    some = strongest_paths(made.net, data, count=10, limit=60)
    assert some.expanded == 60
    assert some.open > 0
    part, low, high = some.held
    own = (some.table["norm"] ** 2).sum() * 4 / sum(squares)
    assert 0.9 * low <= own <= 1.1 * high
    assert part == pytest.approx(own, rel=0.2)
    assert "by random signs" in some.summary()
    proven, none = replace(some, bound=0.0), replace(some, bound=float("inf"))
    assert "The first 10 are proven to be the strongest, if the operator norms" in proven.summary()
    assert "None is proven to be so" in none.summary() and "the operator norms" in none.summary()


def test_what_a_full_memory_forgets_is_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    made = chain("encoder of 8 blocks")
    monkeypatch.setattr(Traces, "lanes_for", lambda traces, trace: 5)
    some = strongest_paths(made.net, [(IMAGES.double(), TARGETS)], count=2**8)
    norms = {tuple(np.flatnonzero(taken)): (g.square().sum() / 4).sqrt() for taken, g in made.paths.items()}
    assert 0 < len(some.table) < len(norms) and some.open > 5
    for blocks, norm in zip(some.table["blocks"], some.table["norm"], strict=True):
        assert norm == pytest.approx(norms.pop(blocks).item(), rel=1e-9)
    assert max(norms.values()) <= some.bound * (1 + 1e-9)


def along(model: CifarResNet, images: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """A pre-activation ResNet in which image i keeps the gradient of the branches where taken (N, blocks) is 1."""
    x = model.stem(images)
    for gate, block in zip(taken.T[..., None, None, None], model.blocks, strict=True):
        branch, skip = block.c2(torch.relu(block.bn2(block.c1(torch.relu(block.bn1(x)))))), block.sc(x)
        x = gate * branch + (1 - gate) * branch.detach() + gate * skip.detach() + (1 - gate) * skip
    return model.fc(torch.relu(model.bn(x)).mean((2, 3)))


def test_the_twenty_strongest_paths_of_twelve_blocks_are_those_of_brute_force() -> None:
    """With the default limit all are looked at; with a fifth of the nodes what is found is right, as is the bound."""
    model, n = randomise_norms(CifarResNet(26, width=3, channels=1)).double(), 12
    net = resect.unravel(model, IMAGES.double())
    norms = []
    for some in torch.tensor(list(product([0.0, 1.0], repeat=n)), dtype=torch.float64).split(256):
        images = IMAGES.double().repeat(len(some), 1, 1, 1).requires_grad_()
        outputs = along(model, images, some.repeat_interleave(4, 0))
        loss = nn.functional.cross_entropy(outputs, TARGETS.repeat(len(some)), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        norms.append((gradient.square().reshape(len(some), -1).sum(1) / 4).sqrt())
    best = torch.cat(norms).sort(descending=True)
    expected = [tuple(i for i in range(n) if code >> (n - 1 - i) & 1) for code in best.indices.tolist()]
    strong = strongest_paths(net, [(IMAGES.double(), TARGETS)])
    assert strong.table["blocks"].tolist() == expected[:20]
    np.testing.assert_allclose(strong.table["norm"], best.values[:20], rtol=1e-9)
    assert (strong.proven, strong.open) == (20, 0)
    assert strong.held[0] == pytest.approx((best.values[:20].square().sum() / best.values.square().sum()).item())
    guided = strongest_paths(net, [(IMAGES.double(), TARGETS)], limit=2**n // 5)
    assert guided.expanded == 2**n // 5
    all_norms = dict(zip(expected, best.values.tolist(), strict=True))
    missed = set(expected)
    for blocks, norm in zip(guided.table["blocks"], guided.table["norm"], strict=True):
        assert norm == pytest.approx(all_norms[blocks], rel=1e-9)
        missed.remove(blocks)
    assert max(all_norms[blocks] for blocks in missed) <= guided.bound


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
