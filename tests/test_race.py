"""Sets that cannot be the best are left before they ran on all samples, and the samples that tell most come first."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from resect.engines.local import LOCAL
from resect.measuring.batches import Batch, batches_of
from resect.pruning.groups import groups_of
from resect.pruning.hardest import hardest_first
from resect.pruning.objective import Objective

GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(23, 1, 8, 8, generator=GENERATOR)
TARGETS = torch.randint(0, 10, (23,), generator=GENERATOR)
DATA = [(INPUTS[i : i + 5], TARGETS[i : i + 5]) for i in range(0, 23, 5)]
SETS = [frozenset(pair) for pair in combinations(range(9), 2)]


def objective(net: resect.Unraveled, batches: list[Batch], metric: str) -> Objective:
    return Objective(net, groups_of(net, "block"), batches, metric, LOCAL)


def losses(net: resect.Unraveled, batches: list[Batch]) -> list[float]:
    """Of every sample, in the intact network."""
    with torch.no_grad():
        parts = [nn.functional.cross_entropy(net(b.inputs), b.targets, reduction="none") for b in batches]
    return torch.cat(parts).tolist()


@pytest.mark.parametrize("metric", ["loss", "kl", "error"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_least_are_those_of_measuring_all(net, metric, count):
    batches = list(batches_of(DATA, net))
    raced, whole = objective(net, batches, metric), objective(net, batches, metric)
    order = np.argsort(whole(SETS), kind="stable")[:count].tolist()
    assert raced.least(SETS, count) == order
    chosen = [SETS[i] for i in order]
    assert raced(chosen).tolist() == whole(chosen).tolist()  # to the bit
    assert count <= raced.measured <= whole.measured == len(SETS)


def test_few_sets_are_measured_to_the_end_and_none_twice(net):
    ordered = hardest_first(net, list(batches_of(DATA, net)), LOCAL)
    raced = objective(net, ordered, "kl")
    first = raced.least(SETS, 1)
    assert raced.measured < len(SETS) / 2
    before = raced.measured
    assert raced.least(SETS, 1) == first
    assert raced.measured == before
    assert raced.least(SETS, len(SETS)) == np.argsort(raced(SETS), kind="stable").tolist()


def test_sets_are_ranked_by_worth(net):
    batches = list(batches_of(DATA, net))

    def worth(harms: np.ndarray, sets: list[frozenset[int]]) -> np.ndarray:
        return harms / np.array([1 + sum(removed) for removed in sets])

    values = objective(net, batches, "loss")(SETS)
    expected = np.argsort(worth(values, SETS), kind="stable")[:2].tolist()
    assert objective(net, batches, "loss").least(SETS, 2, worth) == expected


def test_losses_that_may_be_negative_leave_no_set_early(net):
    def gain(logits: Tensor, targets: Tensor) -> Tensor:
        return -nn.functional.cross_entropy(logits, targets, reduction="none")

    raced = objective(net, list(batches_of(DATA, net, gain)), "loss")
    assert raced.least(SETS, 1) == [int(raced(SETS).argmin())]
    assert raced.measured == len(SETS)


def test_a_batch_without_targets_that_count_changes_nothing(net):
    ignored = [(INPUTS[:5], torch.full((5,), -100)), *DATA]
    with_it, without = (list(batches_of(data, net)) for data in (ignored, DATA))
    assert objective(net, with_it, "loss")(SETS).tolist() == objective(net, without, "loss")(SETS).tolist()


def test_the_hardest_samples_come_first_in_batches_of_the_same_sizes(net):
    batches = list(batches_of(DATA, net))
    ordered = hardest_first(net, batches, LOCAL)
    assert [len(batch) for batch in ordered] == [5, 5, 5, 5, 3]
    assert [batch.number for batch in ordered] == [0, 1, 2, 3, 4]
    before, after = losses(net, batches), losses(net, ordered)
    assert after == pytest.approx(sorted(before, reverse=True), abs=1e-5)


def test_batches_that_cannot_be_cut_anew_stay(net):
    other_sizes = [(torch.randn(2, 1, size, 8), torch.tensor([1, 2])) for size in (8, 16)]
    whole = resect.Task.named("contrastive")
    for kept in (
        list(batches_of(other_sizes, net)),
        [Batch(i, inputs, targets, whole) for i, (inputs, targets) in enumerate(DATA)],
        list(batches_of(DATA[:1], net)),
    ):
        assert hardest_first(net, kept, LOCAL) == kept
