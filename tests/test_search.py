"""Searches for removable units, against plain loops over the network, and the budgets that they must keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

import resect
from resect.engines.local import LOCAL, Local, Memory
from resect.measuring.batches import batches_of
from resect.pruning import scores as importance
from resect.pruning import settings as names
from resect.pruning.groups import groups_of
from resect.pruning.objective import Objective
from resect.pruning.options import OPTIONS_OF
from resect.pruning.problem import Choice, Problem
from resect.pruning.prune import SEARCHES
from resect.pruning.scores import angular_windows

GENERATOR = torch.Generator().manual_seed(5)
DATA = [
    (torch.randn(8, 1, 8, 8, generator=GENERATOR), torch.randint(0, 10, (8,), generator=GENERATOR)) for _ in range(2)
]


def harm(net: resect.Unraveled, removed: Iterable[int]) -> float:
    """The mean cross-entropy without some blocks, by one run of the network a batch."""
    arrangement, losses = net.intact.without(list(removed)), []
    with torch.no_grad():
        for inputs, targets in DATA:
            losses.append(nn.functional.cross_entropy(net(inputs, arrangement), targets, reduction="none"))
    return float(torch.cat(losses).double().mean())


def problem(net: resect.Unraveled, levels: Sequence[float], prices: np.ndarray | None = None, **options) -> Problem:
    objective = Objective(net, groups_of(net, "block"), list(batches_of(DATA, net)), "loss", LOCAL)
    prices = np.ones(len(net.blocks)) if prices is None else prices
    return Problem(objective, prices, tuple(levels), resect.PruneSettings(**options))


def searched(net: resect.Unraveled, name: str, levels: Sequence[float], **options) -> list[Choice]:
    return SEARCHES[name](problem(net, levels, **options))


def test_what_is_named_is_what_there_is():
    assert set(names.SEARCHES) == set(SEARCHES)
    assert tuple(importance.SCORES) == names.SCORES
    for name, searches in OPTIONS_OF.items():
        assert hasattr(resect.PruneSettings(), name)
        assert set(searches) <= set(SEARCHES)


@pytest.mark.parametrize(
    ("score", "passes"), [("kl", 10), ("damage", 10), ("block_influence", 1), ("first_order", 1), ("share", 2)]
)
def test_the_passes_that_a_score_takes_are_counted_once(net, score, passes):
    """Nine deletions and the intact network; one pass; back; back and forward."""
    engine, few = Local(Memory()), resect.PruneSettings(search="one-shot", score=score, timed=False, generation=None)
    said = set()
    for one in (LOCAL, engine, engine):  # what lies in a store counts, too
        result = resect.prune(net, DATA, resect.Budget(remove=2), few, calibration=DATA, engine=one)
        assert (result.passes, result.measured) == (passes, 1)
        said.add(result.effort)
    assert said == {f"scored in {passes} pass{'es' if passes > 1 else ''}, 1 set of blocks measured"}
    assert (
        resect.prune(net, DATA, resect.Budget(remove=1), resect.PruneSettings(search="greedy", timed=False)).passes == 0
    )


def test_greedy_is_the_plain_loop(net):
    removed: set[int] = set()
    for size, choice in enumerate(searched(net, "greedy", [1, 2, 3, 4]), start=1):
        left = [i for i in range(len(net.blocks)) if i not in removed]
        removed.add(min(left, key=lambda i: harm(net, {*removed, i})))
        assert choice.removed == removed
        assert choice.value == pytest.approx(harm(net, removed), rel=1e-6)
        assert len(choice.removed) == size


def test_exhaustive_finds_the_best_of_all_sets(net):
    best = min(combinations(range(9), 2), key=lambda removed: harm(net, removed))
    (choice,) = searched(net, "exhaustive", [2])
    assert choice.removed == set(best)
    with pytest.raises(resect.InputError, match="must not be exhaustive where more than 30 sets"):
        searched(net, "exhaustive", [2], most_sets=30)


def test_only_sets_of_the_sizes_that_may_do_are_looked_at(net):
    case = problem(net, [2], np.ones(60))  # of 2^60
    assert len(list(case.minimal(2))) == 60 * 59 // 2
    assert case.fewer_than(2, 1770)
    assert not case.fewer_than(2, 1769)


def test_a_beam_of_all_sets_is_exhaustive(net):
    assert searched(net, "beam", [1, 2], width=100) == searched(net, "exhaustive", [1, 2])


def test_pairs_are_exact_for_two_units_and_measured_for_more(net):
    assert searched(net, "pairwise", [2]) == searched(net, "exhaustive", [2])
    exact, beamed = searched(net, "pairwise", [4]), searched(net, "pairwise", [4], most_sets=1)
    assert exact == beamed  # 126 sets, of which a beam of 256 leaves none out
    assert exact[0].value == pytest.approx(harm(net, exact[0].removed), rel=1e-6)
    least = sorted(range(9), key=lambda i: harm(net, [i]))[:4]
    assert exact[0].value <= harm(net, least) + 1e-6


def test_one_shot_takes_what_matters_least_by_its_score(net):
    values = resect.scores(net, DATA, "first_order").table["first_order"]
    choices = searched(net, "one-shot", [1, 3], score="first_order")
    order = np.argsort(values.to_numpy())
    assert [choice.removed for choice in choices] == [set(order[:1].tolist()), set(order[:3].tolist())]


def test_a_window_turns_the_state_least(net):
    (choice,) = searched(net, "window", [2])
    table = angular_windows(net, DATA)
    row = table[table["length"] == 2].sort_values("angular").iloc[0]
    assert choice.removed == {int(row["start"]), int(row["start"]) + 1}
    with pytest.raises(resect.InputError, match="no run of consecutive units keeps the shape"):
        searched(net, "window", [5])  # every stage has three blocks


def test_evolution_keeps_the_number_and_never_loses_what_it_began_with(net):
    options = {"generations": 4, "offspring": 8}
    choices = searched(net, "evolution", [2, 4], **options)
    assert [len(choice.removed) for choice in choices] == [2, 4]
    alone = sorted(range(9), key=lambda i: harm(net, [i]))
    for choice, level in zip(choices, (2, 4), strict=True):
        assert choice.value <= harm(net, alone[:level]) + 1e-6
        assert choice.value == pytest.approx(harm(net, choice.removed), rel=1e-6)
    assert searched(net, "evolution", [2, 4], **options) == choices


def test_exchanges_do_less_harm_than_the_beam_until_none_does(net):
    case = problem(net, [3, 5], width=1)
    for choice, start in zip(SEARCHES["exchange"](case), searched(net, "greedy", [3, 5]), strict=True):
        assert len(choice.removed) == len(start.removed)
        assert choice.value <= start.value
        assert choice.value == pytest.approx(harm(net, choice.removed), rel=1e-6)
        gone, others = sorted(choice.removed), set(range(9)) - choice.removed
        near = [harm(net, choice.removed - {i} | {j}) for i in gone for j in others]  # fewer than it tries
        assert choice.value <= min(near) + 1e-6
    assert searched(net, "exchange", [9])[0].removed == set(range(9))


@pytest.mark.parametrize("name", ["greedy", "one-shot", "beam", "evolution", "pairwise", "exchange", "exhaustive"])
def test_what_saves_nothing_stays_and_enough_is_saved(net, name):
    prices = np.array([0.1, 0.2, 0.0, 0.05, 0.3, 0.05, -0.1, 0.1, 0.2])
    case = problem(net, [0.25, 0.5], prices, generations=3, offspring=4)
    for choice, level in zip(SEARCHES[name](case), case.levels, strict=True):
        assert case.saved(choice.removed) >= level - 1e-9
        assert not choice.removed & {2, 6}
        if name not in ("greedy", "one-shot", "beam", "exchange"):  # which never put anything back
            assert all(case.saved(choice.removed - {i}) < level for i in choice.removed)


def test_every_set_is_measured_once_and_a_killed_search_goes_on(net):
    class Counting(Memory):
        reads = 0

        def get(self, key):
            kept = super().get(key)
            Counting.reads += kept is not None
            return kept

    store = Counting()
    groups = groups_of(net, "block")

    def objective() -> Objective:
        return Objective(net, groups, list(batches_of(DATA, net)), "kl", Local(store))

    first = objective()
    values = first([(0,), (1, 2), (0,), ()])
    assert (first.measured, values[0], values[3]) == (3, values[2], 0)
    few = first([(0,)], few=True)
    assert few != values[:1]
    assert first.measured == 3
    before = len(store.kept)
    again = objective()([(0,), (1, 2), ()])
    assert again.tolist() == values[[0, 1, 3]].tolist()
    assert len(store.kept) == before
    assert Counting.reads >= len(DATA)
    with pytest.raises(resect.InputError, match="must be of kl, loss, error, got 'beauty'"):
        Objective(net, groups, list(batches_of(DATA, net)), "beauty", LOCAL)


def test_units_are_blocks_layers_or_groups_of_the_users(encoder):
    net = encoder
    assert [group.blocks for group in groups_of(net, "block")] == [(0,), (1,), (2,), (3,)]
    assert [group.blocks for group in groups_of(net, "layer")] == [
        (first, *range(first + 1, last + 1)) for first, last in net.intact.units("layer")
    ]
    own = groups_of(net, [[0, -1], ["mlp.0"]])
    assert [group.blocks for group in own] == [(0, 3), (net.blocks["mlp.0"].index,)]
    for wrong, said in (
        ("pair", "`unit` must be block, layer, or groups of blocks, got 'pair'"),
        ([[0, 1], [1]], "two hold block 1"),
        ([], "at least one group"),
        ([[]], "got an empty one"),
    ):
        with pytest.raises(resect.InputError, match=said):
            groups_of(net, wrong)
