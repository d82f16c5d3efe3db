"""What a network could do without, from the deletions of a study."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import resect
from resect.cli._options import Blocks
from resect.pruning.spared import Spared, ranges, spared
from resect.sweep.plans import Plan
from resect.sweep.result import LesionResult

INPUTS = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(4))


def outcomes(net: resect.Unraveled, plan: Plan, targets: torch.Tensor) -> LesionResult:
    return resect.lesion(net, [(INPUTS, targets)], plan)


def test_outcomes_on_some_samples_are_those_of_a_run_on_them(net):
    targets, plan = torch.arange(40) % 10, resect.plans.pairs(net)
    part = outcomes(net, plan, targets).on(slice(1, None, 2))
    alone = resect.lesion(net, [(INPUTS[1::2], targets[1::2])], plan)
    assert part.samples == 20
    np.testing.assert_array_equal(part.errors, alone.errors)
    np.testing.assert_array_equal(part.targets, alone.targets)
    np.testing.assert_allclose(part.reference_means("loss"), alone.reference_means("loss"), rtol=1e-6)


@pytest.mark.parametrize("right", [True, False])
def test_those_go_that_cost_nothing_on_one_half_and_nothing_measurable_on_the_other(net, right):
    with torch.no_grad():
        logits = net(INPUTS)
    # The network is always right, so that what changes a prediction breaks it; or always wrong, so that nothing does.
    targets = logits.argmax(-1) if right else logits.argmin(-1)
    seen: list[Plan] = []

    def run(plan: Plan) -> LesionResult:
        seen.append(plan)
        return outcomes(net, plan, targets)

    singles = outcomes(net, resect.plans.single(net), targets)
    what = spared(net, singles, run)
    order = np.argsort(singles.losses[:, ::2].mean(1))
    for arrangement in seen[0].arrangements:
        gone = {i for i, decision in enumerate(arrangement) if decision is None}
        assert gone == set(order[: len(gone)].tolist())
        assert 0 < len(gone) < 9
    assert (what.of, what.samples) == (9, 20)
    if what.blocks:
        change = outcomes(net, resect.plans.explicit(net, [net.intact.without(what.blocks)]), targets)
        assert change.errors[0, ::2].mean() <= singles.intact["error"][::2].mean()
        assert what.change[0] == pytest.approx(float((change.errors[0] - change.intact["error"])[1::2].mean()))
        assert what.change[1] <= 0
        assert f"{len(what.blocks)} of 9 blocks could go at no measurable loss" in what.said()


def test_nothing_can_be_spared():
    assert Spared((), 9, (0.0, 0.0, 0.0), 20).said() == "No blocks were found that could go without a measurable loss."


def test_ranges_are_read_as_they_are_written():
    blocks = (0, 3, 4, 5, 9, 11, 12)
    assert ranges(blocks) == ("0", "3-5", "9", "11-12")
    assert Blocks().convert(",".join(ranges(blocks)), None, None) == blocks
