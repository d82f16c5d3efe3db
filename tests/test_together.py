"""All lesions of a sweep read at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import resect
from conftest import randomise_norms
from made import made_study
from resect.measuring.many import holm
from resect.measuring.statistics import mcnemar
from resect.models.resnet import CifarResNet
from resect.report.study import captions
from resect.report.study.answers import answers
from resect.report.study.verdicts import verdicts
from resect.report.together import together as told
from resect.sweep.together import together


@pytest.fixture(scope="module")
def result() -> resect.LesionResult:
    """Nine deletions, by the intact network's own answers for nine in ten samples."""
    torch.manual_seed(3)
    model = randomise_norms(CifarResNet(20, width=4, channels=1))
    images = torch.randn(200, 1, 8, 8)
    with torch.no_grad():
        targets = model(images).argmax(1)
    targets[::10] = (targets[::10] + 1) % 10
    net = resect.unravel(model, images[:1])
    return resect.lesion(net, [(images, targets)], resect.plans.single(net))


def test_what_is_needed_is_what_holms_test_rejects(result: resect.LesionResult) -> None:
    changes = result.errors - result.intact["error"]
    p_values = mcnemar((changes > 0).sum(1), (changes < 0).sum(1))
    np.testing.assert_allclose(result.table["p_holm"], holm(p_values))
    every = together(result)
    assert every.needed.tolist() == [p < 0.05 and c > 0 for p, c in zip(holm(p_values), changes.mean(1), strict=True)]
    assert every.needed.any() and not every.harmful.any()
    assert every.worst[result.errors.mean(1).argmax()]
    assert (every.limits["damage_low"] < result.table["damage_low"]).all()
    assert (every.limits["damage_high"] > result.table["damage_high"]).all()
    assert (every.limits["loss_change_low"] < result.table["loss_change"]).all()
    lesion, damage, low, high = every.held_out
    assert damage == pytest.approx(changes[lesion, 1::2].mean()) and low < damage < high


def test_the_sentences_say_what_the_numbers_are(result: resect.LesionResult) -> None:
    every = together(result)
    text = told(every.as_dict(), [f"blocks.{i}" for i in range(9)])
    needed = [f"blocks.{i}" for i in np.flatnonzero(every.needed)]
    assert (
        f"{len(needed)} of 9 blocks {'is' if len(needed) == 1 else 'are'} needed (Holm, 5 %): {', '.join(needed[:6])}"
        in text
    )
    assert ("The worst is one of" in text) == (every.worst.sum() > 1)
    assert ("no damage could be shown" in text) == (len(needed) < 9)
    assert "No deletion helps detectably." in text
    none = {"of": 3, "needed": [], "harmful": [1], "worst": [0, 1, 2], "held_out": None, "least": 0.05, "level": 0.95}
    assert told(none, ["a", "b", "c"]) == (
        "All 3 tests together: 0 of 3 blocks are needed (Holm, 5 %). For 3 no damage could be shown; damages below 5.0 "
        "points could not have been. Deleting lowers the error detectably: b."
    )


def test_a_tie_for_the_worst_is_said_and_no_help_that_is_not_shown() -> None:
    study = made_study()
    lower = study.deletions.assign(damage_low=-0.02, damage_high=-0.01)  # single intervals of many tests

    def says(together: dict[str, Any] | None) -> list[str]:
        answered = replace(study.answers, ensemble=replace(study.answers.ensemble, together=together))
        own = replace(study, answers=answered, deletions=lower)
        measures = " ".join(measure.here for measure in answers(own)[0].measures)
        return [verdicts(own)[0], measures, captions.deletions_caption(own)[1]]

    every = {"of": 9, "needed": [0], "harmful": [], "worst": [0, 3, 4], "held_out": None, "least": 0.01, "level": 0.95}
    assert all("; one of 3 that may be the worst)" in text for text in says(every))
    for clear in (every | {"worst": [0]}, every | {"needed": []}, None):
        assert not any("may be the worst" in text for text in says(clear))
        assert not any("the error falls" in text for text in says(clear))
    assert "No deletion helps detectably." in says(every)[2]


def test_what_cannot_be_read_together_is_refused(result: resect.LesionResult, net, batch) -> None:
    empty = resect.lesion(net, [batch], resect.plans.explicit(net, []))
    with pytest.raises(resect.InputError, match="at least one lesion, and an error that is a rate"):
        together(empty)
    quick = resect.lesion(
        net, [batch] * 40, resect.plans.single(net), resect.LesionSettings(precision=0.2, metrics=("error",))
    )
    if quick.cut_short:
        with pytest.raises(resect.InputError, match="all lesions on the same samples"):
            together(quick)
