"""Single paths: how they are drawn, sampled norms, random signs, the search."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from by_hand import IMAGES, TARGETS, chain
from networks import Frame, Parallel, Residual
from resect.cli._terminal import progress_bars
from resect.engines.local import Local, Memory
from resect.graph.routes import Routes
from resect.paths.polynomial import at_target, decompose
from resect.paths.sampled import path_norms
from resect.paths.sampler import PathDraw
from resect.paths.settings import PathSettings, Traces, passing
from resect.paths.signs import Signs
from resect.paths.squares import path_squares
from resect.paths.strongest import strongest_paths
from resect.paths.target import resolve_target
from resect.paths.trace import Trace


@pytest.mark.parametrize("name", ["CNN of 3 blocks", "CNN of 6 blocks"])
def test_random_signs_give_the_sum_of_squares_of_all_paths(name: str) -> None:
    """The expectation over all 2^n sign vectors, enumerated."""
    made = chain(name)
    paths, n = made.paths, made.blocks
    trace = Trace(made.net, IMAGES.double(), TARGETS, resolve_target(made.net, "input"))
    total = torch.zeros(n + 1, 4, dtype=torch.float64)
    for signs in product([-1.0, 1.0], repeat=n):
        degrees = decompose(trace, n, rest=False, signs=Signs(dict(enumerate(signs)), {}, made.net.routes()))
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
    made = chain("CNN of 6 blocks")
    paths, n = made.paths, made.blocks
    data = [(IMAGES.double(), TARGETS)]
    found = path_squares(made.net, data, sweeps=60)
    low, high = found.rms_interval()
    for k in range(n + 1):
        mean = sum(g.square().sum() for taken, g in paths.items() if sum(taken) == k) / 4 / comb(n, k)
        assert found.rms[k] == pytest.approx(mean.sqrt().item(), rel=0.35)
        assert low[k] * 0.8 <= mean.sqrt() <= high[k] * 1.25  # 7 intervals of 95 %, widened: all hold
    for k in (0, n):  # one path: every sign gives the same
        assert low[k] == high[k] == pytest.approx(found.rms[k])
    assert (low[1:n] < high[1:n]).all()
    assert found.magnitude.sum() == pytest.approx(1.0)


def test_only_lengths_of_one_path_have_intervals_without_width(net, batch) -> None:
    for batches in ([batch], [(batch[0][:4], batch[1][:4]), (batch[0][4:], batch[1][4:])]):
        draws = resect.sample_paths(net, batches, draws=3)
        low, high = draws.mean_interval()
        for k in (0, 9):
            assert low[k] == high[k] == pytest.approx(draws.mean[k])
        assert not (low[1:9] == high[1:9]).any()
    alike = resect.sample_paths(net, [batch], draws=1)
    twice = replace(alike, norms=np.repeat(alike.norms, 2, axis=1)).mean_interval()  # the same paths drawn twice
    assert np.isnan(twice).any(0).tolist() == [0 < k < 9 for k in range(10)]


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
    samples = resect.sample_paths(net, [batch], draws=2)
    assert samples.mean[0] == pytest.approx(spectrum.norm[0], rel=1e-5)  # one path of length 0, one of length n
    assert samples.mean[9] == pytest.approx(spectrum.norm[9], rel=1e-4)
    assert samples.norms.shape == (6, 2, 10)
    assert np.array_equal(samples.norms, resect.sample_paths(net, [batch], draws=2).norms)


def test_sampled_parallel_branches_exclude_each_other() -> None:
    net = resect.unravel(Frame(Parallel(), Residual()), IMAGES)
    samples = resect.sample_paths(net, [(IMAGES, TARGETS)], draws=3)
    assert np.isfinite(samples.norms).all((0, 1)).tolist() == [True, True, True, False]
    assert not np.isnan(samples.magnitude).any()


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


def test_little_memory_is_enough_for_every_path_and_less_is_no_error(net, batch) -> None:
    full, traces = strongest_paths(net, [batch]), Traces(net, None)
    for lanes, left in ((10, False), (4, True)):  # one more than joins, or fewer
        memory = 6 * (traces._fixed + lanes * traces._lane)
        some = strongest_paths(net, [batch], PathSettings(memory=memory))
        assert (some.samples, some.open > 0) == (6, left)
        assert (some.table["blocks"].tolist() == full.table["blocks"].tolist()) or left
        assert some.bound >= full.table["norm"][20 - 1] * (1 - 1e-5) or not left


@pytest.mark.parametrize("limit", [100, 5000])
def test_the_progress_of_a_search_ends_full_when_it_is_resumed_too(net, batch, limit: int, capfd) -> None:
    engine = Local(Memory())
    for _ in range(2):  # the second finds it in the store
        steps: list[float] = []
        strongest_paths(net, [batch], limit=limit, progress=steps.append, engine=engine)
        assert sum(steps) == pytest.approx(passing(net), rel=1e-9)
        with progress_bars(quiet=False) as track:
            advance = track("strongest paths", passing(net))
            for step in steps:
                advance(step)
        assert "9/9" in capfd.readouterr().err


def test_a_bar_that_is_full_up_to_rounding_says_so(capfd) -> None:
    with progress_bars(quiet=False) as track:
        advance = track("tenths", 1)
        for _ in range(10):
            advance(0.1)
    assert "1/1" in capfd.readouterr().err
