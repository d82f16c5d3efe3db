"""Healing what a cut leaves: candidates, what trains and what does not, choice, judgement, and going on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import resect
from resect.engines.local import Local, Memory
from resect.measuring.batches import Read
from resect.measuring.tasks import CLASSIFICATION
from resect.pruning.candidates import candidates
from resect.pruning.groups import groups_of
from resect.pruning.objective import Objective
from resect.pruning.problem import Problem
from resect.pruning.prune import SEARCHES, remove
from resect.pruning.treatment import Lesson
from resect.training.distill import Teacher

GENERATOR = torch.Generator().manual_seed(11)
Batches = list[tuple[Tensor, Tensor]]
QUICK = resect.PruneSettings(timed=False)
HEAL = resect.HealSettings(epochs=1, recipe={"batch_size": 8})


def drawn(batches: int) -> Batches:
    return [
        (torch.randn(6, 1, 8, 8, generator=GENERATOR), torch.randint(0, 10, (6,), generator=GENERATOR))
        for _ in range(batches)
    ]


BATCHES, TRAINING = drawn(6), drawn(4)


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def healed(net: resect.Unraveled, heal: resect.HealSettings = HEAL, **more: Any) -> resect.Healing:
    given = {"training": TRAINING, **more}
    result = resect.prune(net, BATCHES, resect.Budget(remove=3), QUICK, heal=heal, **given)
    assert result.healing is not None
    return result.healing


def test_candidates_are_healed_and_judged_and_the_network_stays_as_it_is(net: resect.Unraveled) -> None:
    before = state(net.model)
    result = resect.prune(net, BATCHES, resect.Budget(remove=3), QUICK, heal=HEAL, training=TRAINING)
    healing = result.healing
    assert healing is not None
    assert same(before, state(net.model))
    assert not net.model.training
    assert all(parameter.grad is None for parameter in net.model.parameters())
    table = healing.table
    assert len(table) == 3
    assert table["arrangement"].nunique() == 3
    assert table["rank_before"].tolist() == [1, 2, 3]
    assert sorted(table["rank_after"]) == [1, 2, 3]
    chosen = table[table["chosen"]].iloc[0]
    assert chosen["loss_after"] == table["loss_after"].min()
    assert chosen["rank_after"] == 1
    assert str(result.arrangement) == chosen["arrangement"] == result.table["arrangement"].iloc[-1]
    assert ", ".join(result.removed) == chosen["without"]
    assert healing.summary() in result.summary()
    judges = [batch for i, batch in enumerate(BATCHES) if i % 4]
    inputs, targets = (torch.cat(column) for column in zip(*judges, strict=True))
    cut = net.standalone(result.arrangement)
    for module, name in ((cut, "cut"), (healing.network, "healed")):
        with torch.no_grad():
            wrong = (module(inputs).argmax(1) != targets).float().mean()
        assert chosen[name] == pytest.approx(float(wrong))
    assert not same(state(cut), state(healing.network))
    lesions = resect.lesion(net, judges, resect.plans.explicit(net, [result.arrangement])).table
    assert [chosen[f"cut_change{end}"] for end in ("", "_low", "_high")] == [
        lesions[f"damage{end}"][0] for end in ("", "_low", "_high")
    ]
    assert chosen["gain"] == pytest.approx(chosen["healed"] - chosen["cut"])
    assert chosen["gain_low"] <= chosen["gain"] <= chosen["gain_high"]
    assert healing.plot().get_ylabel() == "error (%)"


def test_the_choice_is_that_of_the_samples_that_choose(net: resect.Unraveled) -> None:
    healing = healed(net)
    inputs, targets = (torch.cat(column) for column in zip(BATCHES[0], BATCHES[4], strict=True))
    with torch.no_grad():
        loss = F.cross_entropy(healing.network(inputs), targets)
    assert healing.table["loss_after"].min() == pytest.approx(float(loss), rel=1e-5)
    assert healing.turned == (healing.chosen != 0)
    judged = [batch if i % 4 == 0 else (batch[0], (batch[1] + 1) % 10) for i, batch in enumerate(BATCHES)]
    again = resect.prune(net, judged, resect.Budget(remove=3), QUICK, heal=HEAL, training=TRAINING).healing
    assert again is not None
    assert same(state(again.network), state(healing.network))
    assert again.table["loss_after"].equals(healing.table["loss_after"])
    assert not again.table["healed"].equals(healing.table["healed"])


def test_samples_that_choose_or_judge_never_train(net: resect.Unraveled) -> None:
    poisoned = [*TRAINING, BATCHES[0], (BATCHES[1][0], (BATCHES[1][1] + 1) % 10)]
    lesson = Lesson.of(net, poisoned, CLASSIFICATION, Read(BATCHES, net))
    assert (len(lesson), lesson.left_out) == (24, 12)
    assert torch.equal(lesson.inputs, torch.cat([inputs for inputs, _ in TRAINING]))
    clean, left = healed(net), healed(net, training=poisoned)
    assert same(state(clean.network), state(left.network))
    assert (clean.left_out, left.left_out, left.samples) == (0, 12, 24)
    with pytest.raises(resect.DataError, match=r"`training` must be other samples .*, but 36 of 36 are the same"):
        healed(net, training=BATCHES)


def test_a_teacher_stands_for_the_targets(net: resect.Unraveled) -> None:
    others = [(inputs, (targets + 3) % 10) for inputs, targets in TRAINING]
    plan = net.intact.without(3, 4)

    def weights(weight: float, data: Batches) -> dict[str, Tensor]:
        heal = resect.HealSettings(epochs=1, distill=weight, recipe={"batch_size": 8})
        result = remove(net, BATCHES, plan, QUICK, heal=heal, training=data)
        assert result.healing is not None
        return state(result.healing.network)

    assert same(weights(1, TRAINING), weights(1, others))
    assert not same(weights(0.5, TRAINING), weights(0.5, others))
    assert not same(weights(0.5, TRAINING), weights(0, TRAINING))


def test_distillation_is_that_of_the_paper() -> None:
    student, teacher = torch.randn(4, 3, 5, requires_grad=True), torch.randn(4, 3, 5)
    targets = torch.randint(0, 5, (4, 3))
    targets[0, 1] = -100
    own = torch.tensor(7.0)
    loss = Teacher(lambda inputs: teacher, 0.25, 3.0).loss(CLASSIFICATION, teacher, student, targets, own)
    soft = (teacher / 3).softmax(-1)
    each = (soft * (soft.log() - (student / 3).log_softmax(-1))).sum(-1)
    wanted = 0.25 * 9 * each[targets != -100].mean() + 0.75 * own
    torch.testing.assert_close(loss, wanted)
    broken = torch.tensor(float("nan"))
    alone = Teacher(lambda inputs: teacher, 1.0, 1.0).loss(CLASSIFICATION, teacher, student, targets, broken)
    assert torch.isfinite(alone)


def test_batch_norms_alone_are_measured_again(net: resect.Unraveled) -> None:
    heal = resect.HealSettings(epochs=0, recalibrate=True, candidates=1)
    healing = healed(net, heal)
    cut = net.standalone(healing.candidates[0].arrangement)
    before, after = state(cut), state(healing.network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)
    update_bn([torch.cat([inputs for inputs, _ in TRAINING])], cut)
    for name, value in state(cut).items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-4)
    assert "batch norms measured again" in healing.summary()
    assert healing.as_dict()["recipe"] is None


def test_an_interrupted_healing_goes_on_to_the_same_weights(net: resect.Unraveled, tmp_path: Path) -> None:
    heal = resect.HealSettings(epochs=3, candidates=2, recipe={"batch_size": 4})
    whole = healed(net, heal)
    store = Memory()

    epochs = 0

    def stopping(amount: float) -> None:
        nonlocal epochs
        epochs += amount == 3 * 24  # the passes that an epoch is worth
        if epochs == 5:  # the second candidate has a checkpoint of its first one
            raise KeyboardInterrupt

    more = {"engine": Local(store), "checkpoints": tmp_path / "networks"}
    with pytest.raises(KeyboardInterrupt):
        healed(net, heal, progress=stopping, **more)
    assert list((tmp_path / "networks").glob("healed-*.checkpoint"))
    resumed = healed(net, heal, **more)
    assert same(state(resumed.network), state(whole.network))
    assert resumed.table.equals(whole.table)
    assert not list((tmp_path / "networks").iterdir())
    made = len(store.kept)
    assert healed(net, heal, **more).table.equals(whole.table)
    assert len(store.kept) == made  # nothing was done again


def problem_of(net: resect.Unraveled, count: int, search: str, batches: int = 2) -> Problem:
    objective = Objective(net, groups_of(net, "block"), list(Read(BATCHES[:batches], net)), "kl", Local())
    return Problem(objective, np.ones(9), (float(count),), resect.PruneSettings(search=search))


@pytest.mark.parametrize("search", ["exhaustive", "exchange"])
def test_sets_that_a_search_leaves_early_are_candidates(net: resect.Unraveled, search: str) -> None:
    problem = problem_of(net, 2, search, batches=4)
    choice = SEARCHES[search](problem)[-1]
    looked_at = [removed for removed in problem.objective.seen if len(removed) == 2]
    harms = sorted(problem_of(net, 2, search, batches=4).objective(looked_at))
    assert [one.value for one in candidates(problem, choice, 4, lambda other: True)] == harms[:4]


@pytest.mark.parametrize("search", ["greedy", "one-shot", "pairwise"])
def test_candidates_are_the_best_sets_that_save_just_enough(net: resect.Unraveled, search: str) -> None:
    problem = problem_of(net, 2 if search != "pairwise" else 1, search)
    choice = SEARCHES[search](problem)[-1]
    found = candidates(problem, choice, 4, lambda other: True)
    assert len({one.removed for one in found}) == 4
    assert choice in found
    assert {len(one.removed) for one in found} == {len(choice.removed)}  # pairwise measures pairs, too
    assert [one.value for one in found] == sorted(one.value for one in found)
    assert candidates(problem, choice, 1, lambda other: True) == [choice]
    assert candidates(problem, choice, 3, lambda other: False) == [choice]
    last = problem_of(net, 9, search="greedy")
    every = SEARCHES["greedy"](last)[-1]
    assert candidates(last, every, 3, lambda other: True) == [every]  # there is no other


def test_a_plan_has_one_candidate_and_values_heal_too(net: resect.Unraveled) -> None:
    result = remove(net, BATCHES, net.intact.without(3), QUICK, heal=HEAL, training=TRAINING)
    assert result.healing is not None
    assert len(result.healing.table) == 1
    assert "candidates" not in result.healing.summary()
    data, training = ([(x, torch.randn(6, 10, generator=GENERATOR)) for x, _ in some] for some in (BATCHES, TRAINING))
    values = resect.prune(net, data, resect.Budget(remove=2), QUICK, heal=HEAL, training=training).healing
    assert values is not None
    assert np.isfinite(values.table["healed_change_high"]).all()
    assert "mean absolute error" in values.summary()
    heal = resect.HealSettings(distill=0.5)
    with pytest.raises(resect.InputError, match="`distill` needs outputs that are logits of classes"):
        resect.prune(net, data, resect.Budget(remove=2), QUICK, heal=heal, training=training)


def test_specs_say_what_trains(net: resect.Unraveled) -> None:
    heal = resect.HealSettings(epochs=1, candidates=1, recipe={"batch_size": 400})
    small = resect.load_samples("digits", limit=48)
    result = resect.prune(net, small, resect.Budget(remove=1), QUICK, heal=heal, training="digits").healing
    assert result is not None
    assert (result.samples, result.left_out) == (1297, 0)


def test_what_cannot_be_healed_is_refused(net: resect.Unraveled, encoder: resect.Unraveled) -> None:
    wide = [(torch.randn(6, 3, 8, 8), torch.zeros(6, dtype=torch.long))]
    with pytest.raises(resect.DataError, match=r"`training` must be samples that the network takes: .* got .*3, 8, 8"):
        resect.prune(net, BATCHES, resect.Budget(remove=1), QUICK, heal=HEAL, training=wide)
    other = [(BATCHES[0][0] + 1, torch.full_like(BATCHES[0][1], 17))]
    with pytest.raises(resect.DataError, match=r"`training` must be samples of the network's task: .* values from 17"):
        resect.prune(net, BATCHES, resect.Budget(remove=1), QUICK, heal=HEAL, training=other)
    with pytest.raises(resect.DataError, match="`training` must be samples to heal on"):
        healed(net, training=None)
    with pytest.raises(resect.InputError, match="`training` is for healing: give `heal`, too"):
        resect.prune(net, BATCHES, resect.Budget(remove=1), QUICK, training=TRAINING)
    with pytest.raises(resect.InputError, match="`recalibrate` measures the statistics of batch norms, but the net"):
        healed(encoder, resect.HealSettings(recalibrate=True))
    for wrong, said in (
        ({"epochs": 0}, "`epochs` must be at least 1 unless `refit` or `recalibrate`"),
        ({"distill": 2}, "`distill` must be a weight between 0 and 1, got 2"),
        ({"temperature": 0}, "`temperature` must be above 0"),
        ({"refit": "yes"}, "`refit` must be True or False, got 'yes'"),
        ({"candidates": 0}, "`candidates` must be a whole number of at least 1"),
        ({"recipe": {"schedule": "full"}}, "`recipe` must be one of"),
        ({"recipe": {"learning_rate": -1}}, "`recipe`: learning_rate must be above 0"),
        ({"epoch": 3}, "`epoch` is no argument of HealSettings. Close: epochs"),
    ):
        with pytest.raises(resect.InputError, match=said):
            resect.HealSettings(**wrong)
    net.model.requires_grad_(False)
    with pytest.raises(resect.InputError, match="all of them are frozen"):
        healed(net)
