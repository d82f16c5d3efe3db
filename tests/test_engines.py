"""Pieces of work: what one computes depends on its key, the network and the batch alone, wherever it is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import resect
from resect import LesionSettings, PathSettings
from resect.engines.local import Local, Memory
from resect.measuring.batches import Batch
from resect.runs.folder import RunFolder
from resect.sweep.outcomes import Outcomes, Sweep
from resect.sweep.walk import Tour

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(3))
TARGETS = torch.randint(0, 10, (12,), generator=torch.Generator().manual_seed(4))
DATA = [(IMAGES[:6], TARGETS[:6]), (IMAGES[6:], TARGETS[6:])]


def everything(net: resect.Unraveled, **how) -> dict[str, object]:
    """The numbers of every measure that engines run."""
    lesions = resect.lesion(net, DATA, resect.plans.pairs(net), **how)
    strong = resect.strongest_paths(net, DATA, count=4, **how)
    return {
        "lesions": lesions.losses,
        "agreement": lesions.values["agreement"],
        "shares": resect.path_spectrum(net, DATA, **how).share,
        "draws": resect.sample_paths(net, DATA, draws=2, **how).norms,
        "squares": resect.path_squares(net, DATA, sweeps=2, **how).norms,
        "participation": resect.participation(net, DATA, pairs=True, **how).pairs,
        "strongest": strong.table["norm"].to_numpy(),
        "blocks": np.array([sum(path) for path in strong.table["blocks"]]),
        "bound": np.array(strong.bound),
        "shapley": resect.shapley(net, DATA, orders=2, **how).marginals["loss"],
        "ensemble": resect.ensemble(net, DATA, removed=2, members=3, **how).values["loss"],
    }


class Cut(Local):
    """An engine that says that a forward pass takes long, so that every sweep is cut into many pieces."""

    def once(self, net, key, compute):
        return {"seconds": np.array(3.0)} if key["what"] == "seconds of a pass" else super().once(net, key, compute)


@pytest.mark.parametrize("kind", ["memory", "folder", "many pieces"])
def test_what_is_kept_is_what_is_computed(kind: str, net: resect.Unraveled, tmp_path: Path) -> None:
    plain = everything(net)
    store = RunFolder(tmp_path / "run", "test", {}) if kind == "folder" else Memory()
    engine = Cut(store) if kind == "many pieces" else Local(store)
    first, again = everything(net, engine=engine), everything(net, engine=engine)
    for name, values in plain.items():
        np.testing.assert_array_equal(first[name], values, err_msg=name)
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    if kind == "many pieces":
        keys = len(store.kept)
        assert keys > 20
        everything(net, engine=engine)
        assert len(store.kept) == keys  # nothing was computed anew


@pytest.mark.parametrize("engine", [Local(), Cut(Memory())])
def test_progress_adds_up_where_pieces_are_kept_cut_or_split_by_memory(net: resect.Unraveled, engine: Local) -> None:
    """Per measure what its bar is made for; memory for a single sample splits every batch into six parts."""
    joins, small = 9, resect.PathSettings(memory=200_000)
    cases = [
        (lambda advance: resect.lesion(net, DATA, resect.plans.pairs(net), progress=advance, engine=engine), 46 * 12),
        (lambda advance: resect.path_spectrum(net, DATA, small, progress=advance, engine=engine), 2 * joins),
        (lambda advance: resect.sample_paths(net, DATA, small, draws=2, progress=advance, engine=engine), 2 * joins),
        (lambda advance: resect.path_squares(net, DATA, small, sweeps=3, progress=advance, engine=engine), 6 * joins),
        (lambda advance: resect.participation(net, DATA, small, progress=advance, engine=engine), 4 * joins),
    ]
    for run, total in cases:
        for _ in range(2):  # the second time all of it is kept
            amounts: list[float] = []
            run(amounts.append)
            assert sum(amounts) == pytest.approx(total)


def test_free_memory_does_not_decide_what_is_drawn(net: resect.Unraveled) -> None:
    """The samples of a batch see the same paths and signs, in however many parts it runs."""
    small = resect.PathSettings(memory=200_000, seed=5)
    whole = resect.PathSettings(seed=5)
    for measure, how in ((resect.sample_paths, {"draws": 3}), (resect.path_squares, {"sweeps": 3})):
        one, other = (measure(net, DATA, settings, **how) for settings in (whole, small))
        np.testing.assert_allclose(one.norms, other.norms, rtol=1e-4)
        np.testing.assert_array_equal(one.batch, other.batch)
        np.testing.assert_allclose(
            one.interval(one.norms, 0.95, 200, 0), other.interval(other.norms, 0.95, 200, 0), rtol=1e-3
        )


def test_lengths_can_be_chosen(net: resect.Unraveled) -> None:
    draws = resect.sample_paths(net, DATA, draws=2, lengths=[0, 4])
    assert np.flatnonzero(np.isfinite(draws.norms).all((0, 1))).tolist() == [0, 4]
    with pytest.raises(resect.InputError, match=r"`lengths` must have paths, got \[12\]"):
        resect.sample_paths(net, DATA, lengths=[1, 12])


def test_pieces_are_parts_of_the_trie_that_hold_every_arrangement_once(net: resect.Unraveled) -> None:
    arrangements = [*resect.plans.pairs(net).arrangements, net.intact.without(0, 1), net.intact]
    tour = Tour.of(net.programs, arrangements)
    for most in (1, 25, 60, 10_000):
        parts = tour.cut(most)
        assert sorted(position for part in parts for position in part) == list(range(len(arrangements)))
        for part in parts:
            slices = len(Tour.of(net.programs, [arrangements[i] for i in part]).stops)
            alone = len({arrangements[i] for i in part}) == 1
            assert slices <= most or alone
    assert len(tour.cut(10_000)) == 1
    assert len(tour.cut(1)) == len(set(arrangements))


def test_the_key_of_a_piece_tells_weights_samples_metrics_and_arrangements_apart(net: resect.Unraveled) -> None:
    store = Memory()

    def ran(arrangements, settings=None, batch=DATA[0], number=0) -> bool:
        before = len(store.kept)
        work = Outcomes(Sweep(settings or resect.LesionSettings()), arrangements)
        list(Local(store).run(net, [(work, Batch(number, *batch))]))
        return len(store.kept) > before

    one, other = (net.intact.without(3),), (net.intact.without(3).swapped(1, 2),)
    assert ran(one)
    assert not ran(one)
    assert ran(other)
    assert ran(one, batch=DATA[1])
    assert ran(one, resect.LesionSettings(metrics=("loss",)))
    assert ran(one, resect.LesionSettings(channels_last=True))
    with torch.no_grad():
        net.model.fc.bias[0] += 1
    assert ran(one)
    assert not ran(one)


def test_results_are_joined_over_samples(net: resect.Unraveled) -> None:
    plan = resect.plans.single(net)
    measures = {
        "lesion": lambda data: resect.lesion(net, data, plan).table,
        "spectrum": lambda data: resect.path_spectrum(net, data),
        "participation": lambda data: resect.participation(net, data, pairs=True),
        "ensemble": lambda data: resect.ensemble(net, data, 2, 3),
    }
    whole, parts = resect.lesion(net, DATA, plan), [resect.lesion(net, [batch], plan) for batch in DATA]
    assert resect.LesionResult.joined(parts).table.equals(whole.table)
    for name in ("spectrum", "participation", "ensemble"):
        whole, parts = measures[name](DATA), [measures[name]([batch]) for batch in DATA]
        assert type(whole).joined(parts).table.round(9).equals(whole.table.round(9)), name
    pairs = [measures["participation"](data).pairs for data in (DATA, DATA[:1], DATA[1:])]
    joined = resect.Participation.joined([measures["participation"]([batch]) for batch in DATA])
    np.testing.assert_allclose(joined.pairs, pairs[0], rtol=1e-9)


def test_draws_and_orders_are_joined_as_independent_ones(net: resect.Unraveled) -> None:
    first, second = (
        resect.sample_paths(net, [batch], resect.PathSettings(seed=seed), draws=2) for seed, batch in enumerate(DATA)
    )
    joined = resect.PathDraws.joined([first, second])
    assert joined.batch.tolist() == [0] * 6 + [1] * 6
    np.testing.assert_array_equal(joined.norms, resect.sample_paths(net, DATA, draws=2).norms)  # batch b: seed + b
    shapley = [resect.shapley(net, DATA, 2, resect.LesionSettings(seed=seed)) for seed in (0, 1)]
    together = resect.ShapleyResult.joined(shapley)
    np.testing.assert_allclose(
        together.marginals["loss"].mean(0), sum(s.marginals["loss"].mean(0) for s in shapley) / 2
    )
    with pytest.raises(resect.InputError, match="must agree in"):
        resect.ShapleyResult.joined([shapley[0], resect.shapley(net, DATA[:1], 2)])
    with pytest.raises(resect.InputError, match="at least one result"):
        resect.PathDraws.joined([])


def test_searches_are_joined_by_the_paths_that_all_of_them_know(net: resect.Unraveled) -> None:
    """Two batches of the same size: the pooled norm of a path is that of the search on both, and the bound holds."""
    every = {"count": 512, "limit": 5000}
    parts = [resect.strongest_paths(net, [batch], **every) for batch in DATA]
    whole = resect.strongest_paths(net, [(IMAGES, TARGETS)], **every)
    joined = resect.StrongPaths.joined(parts)
    norms = dict(zip(whole.table["blocks"], whole.table["norm"], strict=True))
    shares = dict(zip(whole.table["blocks"], whole.table["share"], strict=True))
    known = [path for path in joined.table["blocks"] if path in norms]
    assert len(known) > 3
    for path, norm, share in zip(joined.table["blocks"], joined.table["norm"], joined.table["share"], strict=True):
        if path in norms:
            assert norm == pytest.approx(norms[path], rel=1e-4)
            assert share == pytest.approx(shares[path], rel=1e-3, abs=1e-6)
    assert all(
        norm <= joined.bound * (1 + 1e-4) for path, norm in norms.items() if path not in set(joined.table["blocks"])
    )


def test_functions_and_other_memory_are_not_mixed_up_in_a_store(net, batch) -> None:
    engine, plan = Local(Memory()), resect.plans.single(net)
    values = []
    for factor in (1.0, 2.0):  # a function has no key: its results are not kept
        settings = LesionSettings(metrics=("error", lambda outputs, targets, f=factor: f * outputs[:, 0]))
        values.append(resect.lesion(net, [batch], plan, settings, engine=engine).values)
    assert not engine.store.kept
    (first, second) = (next(value for name, value in result.items() if name != "error") for result in values)
    np.testing.assert_array_equal(second, 2 * first)
    for memory in (None, 10**9):  # which decides how far the search for the strongest paths goes
        resect.strongest_paths(net, [batch], PathSettings(memory=memory), count=2, engine=engine)
    assert len(engine.store.kept) == 2


def test_what_the_state_dict_lacks_tells_networks_apart() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.branch = nn.Linear(4, 4)
            self.register_buffer("factor", torch.tensor(factor), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.factor * self.branch(x)

    prints = set()
    for factor in (1.0, 2.0):
        torch.manual_seed(0)
        prints.add(resect.unravel(Scaled(factor), torch.zeros(2, 4)).fingerprint())
    assert len(prints) == 2
