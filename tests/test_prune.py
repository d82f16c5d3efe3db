"""`resect.prune` from data to verdict: parts of the data, budgets, costs and times of the network that it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import resect
from networks import Frame, Residual
from resect.engines.local import LOCAL
from resect.measuring.batches import Read
from resect.measuring.meaning import CLASSIFIED, Meaning
from resect.pruning.costs import flops, parameters
from resect.pruning.groups import groups_of
from resect.pruning.held_out import held_out
from resect.pruning.latency import Timer, least_absolute, ratio_of_quartiles, undisturbed
from resect.pruning.prune import remove
from resect.pruning.verdict import tolerated, verdict

GENERATOR = torch.Generator().manual_seed(9)
BATCHES = [
    (torch.randn(6, 1, 8, 8, generator=GENERATOR), torch.randint(0, 10, (6,), generator=GENERATOR)) for _ in range(6)
]
QUICK = {"timed": False}


def test_what_chooses_does_not_judge(net):
    calibration, others = held_out(net, Read(BATCHES, net), 512)
    assert [batch.number for batch in calibration] == [0, 4]
    assert [batch.number for batch in others] == [1, 2, 3, 5]
    assert [batch.number for batch in others] == [1, 2, 3, 5]  # they can be read again
    few, rest = held_out(net, Read(BATCHES, net), 3)
    assert [batch.number for batch in few] == [0]
    assert len(list(rest)) == 5
    (one,), (other,) = held_out(net, Read(BATCHES[:1], net), 512)
    assert torch.equal(torch.cat([*one.inputs, *other.inputs]), BATCHES[0][0])
    assert torch.equal(torch.cat([one.targets, other.targets]), BATCHES[0][1])
    single = [(BATCHES[0][0][:1], BATCHES[0][1][:1])]
    with pytest.raises(resect.DataError, match="two batches or more, as what chooses the blocks must not judge"):
        held_out(net, Read(single, net), 512)


def test_the_choice_is_judged_as_a_lesion_on_the_other_samples(net):
    result = resect.prune(net, BATCHES, resect.Budget(remove=2), resect.PruneSettings(**QUICK))
    judges = [batch for i, batch in enumerate(BATCHES) if i % 4]
    alone = resect.lesion(net, judges, resect.plans.explicit(net, [result.arrangement])).table
    for column in ("error", "damage", "damage_low", "damage_high", "loss"):
        assert result.table[column][0] == alone[column][0]
    assert (result.calibration, result.outcomes.samples) == (12, 24)
    assert result.arrangement.count(None) == 2
    assert result.table["without"][0] == ", ".join(result.removed)
    assert "2 of 9 blocks" in result.summary()
    own = resect.prune(net, BATCHES, resect.Budget(remove=2), resect.PruneSettings(**QUICK), calibration=BATCHES[:1])
    assert (own.calibration, own.outcomes.samples) == (6, 36)


def test_costs_are_those_of_the_stand_alone_network(net):
    whole = sum(p.numel() for p in net.model.parameters())
    assert parameters(net, net.intact) == whole
    for what in ("params", "flops"):
        options = resect.PruneSettings(search="one-shot", score="norm_ratio", **QUICK)
        result = resect.prune(net, BATCHES, resect.Budget(**{what: 0.6}), options)
        small = net.standalone(result.arrangement)
        left = sum(p.numel() for p in small.parameters())
        assert result.costs["params"][0] == left / whole
        assert result.costs[what][0] <= 0.6
    conv = 2 * 8 * 8 * (9 * 1 * 4)  # of the stem: multiplications and additions
    first = BATCHES[0][0][:1]
    assert flops(net, net.intact.without(range(9)), first) < flops(net, net.intact, first)
    assert flops(net, net.intact.without(range(9)), first) >= conv
    assert flops(net, net.intact, BATCHES[0][0]) == 6 * flops(net, net.intact, first)


def test_blocks_inside_each_other_are_not_counted_twice():
    """What the inner blocks save, the outer one saves, too: prices promise more than there is."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Sequential(Residual(), Residual()), nn.Conv2d(6, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.last(self.inner(x))

    torch.manual_seed(0)
    net = resect.unravel(Frame(Residual(), Outer()).eval(), BATCHES[0][0][:2])
    assert any(block.parent is not None for block in net.blocks)
    result = resect.prune(net, BATCHES, resect.Budget(params=0.55), resect.PruneSettings(**QUICK))
    whole, left = parameters(net, net.intact), parameters(net, result.arrangement)
    assert left / whole == result.costs["params"][0] <= 0.55


def test_values_are_pruned_by_their_loss(net):
    data = [(inputs, torch.randn(6, 10, generator=GENERATOR)) for inputs, _ in BATCHES]
    result = resect.prune(net, data, resect.Budget(remove=1), resect.PruneSettings(**QUICK))
    assert result.objective == "loss"
    assert result.outcomes.meaning.task == "regression"
    own = resect.prune(net, data, resect.Budget(remove=1), resect.PruneSettings(**QUICK), task=distance)
    assert own.outcomes.metrics == ("loss",)
    assert "distance" in own.verdict()
    assert own.plot().get_ylabel() == "distance"
    with pytest.raises(resect.InputError, match=r"`score` must be one of .*, which the task has, got 'kl'"):
        resect.prune(net, data, resect.Budget(remove=1), resect.PruneSettings(search="one-shot"), task="regression")
    with pytest.raises(resect.InputError, match="`objective` of the task regression must be of loss, error, got 'kl'"):
        resect.prune(net, data, resect.Budget(remove=1), resect.PruneSettings(objective="kl", **QUICK))


def distance(outputs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return (outputs - values).norm(dim=1)


def test_a_sweep_is_a_front_and_its_last_choice_is_what_was_asked_for(net):
    result = resect.prune(net, BATCHES, resect.Budget(remove=4), resect.PruneSettings(sweep=True, **QUICK))
    assert result.table["removed"].tolist() == [1, 2, 3, 4]
    once = resect.prune(net, BATCHES, resect.Budget(remove=4), resect.PruneSettings(**QUICK))
    assert result.arrangement == once.arrangement
    assert result.table["damage_high"].iloc[-1] == once.table["damage_high"][0]
    labels = [text.get_text() for text in result.plot().texts]
    assert any(label.startswith("intact") for label in labels)


def test_a_plan_is_run_without_a_search(net):
    arrangement = net.arrangement("0..2,-,4,-,6..8")
    result = remove(net, BATCHES, arrangement, resect.PruneSettings(**QUICK))
    assert result.removed == (net.blocks[3].name, net.blocks[5].name)
    assert result.arrangement == arrangement
    with pytest.raises(resect.InputError, match="must delete some blocks and leave all others in their place"):
        remove(net, BATCHES, net.intact.swapped(4, 5))
    with pytest.raises(resect.InputError, match="must delete some blocks"):
        remove(net, BATCHES, net.intact)


def test_budgets_that_cannot_be_are_refused(net):
    for wrong, said in (
        ({}, "one of `remove`, `params`, `flops` and `latency` must say how much goes, got none"),
        ({"remove": 2, "flops": 0.5}, "got `remove` and `flops`"),
        ({"params": 1.2}, "`params` must be the part that may stay, between 0 and 1, got 1.2"),
        ({"remove": 0}, "`remove` must be a whole number of at least 1"),
    ):
        with pytest.raises(resect.InputError, match=said):
            resect.Budget(**wrong)
    with pytest.raises(
        resect.InputError, match="`remove` must be at most 8 of the 9 blocks, so that one stays, got 10"
    ):
        resect.prune(net, BATCHES, resect.Budget(remove=10))
    with pytest.raises(
        resect.InputError, match=r"`params` must be at least 0\.\d\d, about what stays without 8 blocks"
    ):
        resect.prune(net, BATCHES, resect.Budget(params=0.001))
    with pytest.raises(resect.InputError, match=r"must be resect.Budget\(...\), got int"):
        resect.prune(net, BATCHES, 3)
    with pytest.raises(resect.InputError, match=r"`unit` is a setting: give resect\.PruneSettings"):
        resect.prune(net, BATCHES, resect.Budget(remove=1), unit="layer")


def test_a_network_without_any_block_is_not_what_was_asked_for(net):
    few = resect.PruneSettings(**QUICK, generation=None, search="one-shot", score="block_influence")
    with pytest.raises(resect.InputError, match="`remove` must be at most 8 of the 9 blocks, so that one stays, got 9"):
        resect.prune(net, BATCHES, resect.Budget(remove=9), few)
    assert resect.prune(net, BATCHES, resect.Budget(remove=8), few).arrangement.count(None) == 8
    with pytest.raises(resect.InputError, match="nothing can go: no group saves anything and leaves the network a"):
        resect.prune(net, BATCHES, resect.Budget(remove=1), resect.PruneSettings(unit=[range(9)], **QUICK))
    some = resect.PruneSettings(unit=[[0, 1], [2, 3]], **QUICK)
    assert resect.prune(net, BATCHES, resect.Budget(remove=2), some).arrangement.count(None) == 4  # five stay
    with pytest.raises(resect.InputError, match="`remove` must be at most 2 of the 2 groups, got 3"):
        resect.prune(net, BATCHES, resect.Budget(remove=3), some)


def test_the_least_that_is_said_to_be_possible_is(net):
    quick = resect.PruneSettings(**QUICK, search="one-shot", score="block_influence")
    with pytest.raises(resect.InputError, match="must be at least") as error:
        resect.prune(net, BATCHES, resect.Budget(params=0.001), quick)
    least = float(str(error.value).split("at least ")[1].split(",")[0])
    found = resect.prune(net, BATCHES, resect.Budget(params=least), resect.PruneSettings(**QUICK, search="exhaustive"))
    assert found.arrangement.count(None) == 8


def test_verdicts():
    said = verdict(CLASSIFIED, (-0.001, -0.01, 0.008), 0.01, 500, "2 of 9 blocks")
    assert said.startswith("Without 2 of 9 blocks there is no loss of more than 0.80 points of error, 95 %: −0.10")
    assert "the error grows by 3.00 points [1.00, 5.00]" in verdict(CLASSIFIED, (0.03, 0.01, 0.05), 0.01, 500, "x")
    unsure = verdict(CLASSIFIED, (0.0, -0.02, 0.02), 0.01, 100, "2 of 9 blocks")
    assert "by more than 1.00 points of error cannot be said with so few samples" in unsure
    assert "cannot be said" in verdict(CLASSIFIED, (0.0, float("nan"), float("nan")), 0.01, 1, "x")
    assert "Without x the error does not grow, 95 %: " in verdict(CLASSIFIED, (-0.05, -0.07, -0.03), 0.01, 500, "x")
    values = Meaning("regression", "absolute error", "squared error", rate=False, outcome="value")
    assert tolerated(values, 1.0, 3.0) == pytest.approx(0.03)
    assert tolerated(CLASSIFIED, 1.0, 3.0) == 0.01


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_prices_are_found_beside_passes_that_something_slowed_down(seed):
    draw = np.random.default_rng(seed)
    prices = draw.uniform(0.001, 0.05, 3)
    counts = draw.integers(0, 10, (60, 3))
    values = counts @ prices + draw.normal(0, 1e-3, 60)
    values[draw.permutation(60)[:12]] -= draw.uniform(0.5, 5, 12)
    np.testing.assert_allclose(least_absolute(counts, values), prices, atol=2e-3)


def test_a_ratio_is_that_of_quick_passes():
    draw = np.random.default_rng(1)
    slow = draw.exponential(1, (200, 2)) * (draw.random((200, 2)) < 0.4)
    pairs = np.array([1.0, 0.7]) * (1 + 0.01 * draw.random((200, 2))) + slow
    ratio, low, high = ratio_of_quartiles(pairs)
    assert low <= ratio <= high
    assert ratio == pytest.approx(0.7, rel=0.02)


def test_only_passes_that_had_the_processor_count_if_there_are_enough():
    processor = np.array([1.0, 0.3] * 15)
    assert undisturbed(processor).tolist() == [True, False] * 15
    assert undisturbed(processor[:28]).all()  # 14 are too few


def test_units_are_priced_and_finalists_timed_on_the_whole_network(net):
    timer = Timer.of(net, BATCHES[0][0], 4, None, LOCAL)
    assert timer.inputs[0].shape == (4, 1, 8, 8)
    nothing = timer.against_intact(net.intact.without(range(9)))
    assert 0 < nothing["latency"] < 0.9
    assert nothing["milliseconds"] < nothing["intact_milliseconds"]
    assert 0 < nothing["processor"] < 1.1
    assert timer.against_intact(net.intact.without(range(9))) is nothing  # timed once
    prices = timer.prices(groups_of(net, "block"))
    assert prices.shape == (9,)
    assert prices[1] == prices[2]  # alike
    assert 0.1 < prices.sum() < 1.5
    with pytest.raises(resect.InputError, match="`timing_length` must be left out"):
        Timer.of(net, BATCHES[0][0], 1, 12, LOCAL)


@pytest.mark.parametrize(("asked", "stays", "most"), [(0.95, [1, 1.003, 0.8], 3), (0.6, [1, 0.9, 0.85, 0.82], 5)])
def test_noisy_or_stubborn_timings_do_not_remove_the_network(net, monkeypatch, asked, stays, most):
    """The clock is written down: what stays by the number of blocks that are gone, the last for all more."""

    def timed(timer: Timer, arrangement: resect.Arrangement) -> dict[str, float]:
        latency = stays[min(arrangement.count(None), len(stays) - 1)]
        return dict.fromkeys(("latency", "latency_low", "latency_high"), latency)

    monkeypatch.setattr(Timer, "prices", lambda timer, groups: np.full(len(groups), 0.1))
    monkeypatch.setattr(Timer, "against_intact", timed)
    result = resect.prune(net, BATCHES, resect.Budget(latency=asked), resect.PruneSettings())
    assert result.arrangement.count(None) <= most
    assert (result.costs["latency"].iloc[-1] <= asked) == (asked == 0.95)
