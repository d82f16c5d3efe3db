"""What a new user may get wrong: each error names the thing, what was expected, what was found and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import resect
from resect.models.resnet import CifarResNet

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
TARGETS = torch.randint(0, 10, (6,), generator=torch.Generator().manual_seed(4))
DATA = [(IMAGES, TARGETS)]
IGNORED = torch.full((6,), -100)
BATCHES = r"`data` must give \(inputs, targets\) batches"


@pytest.fixture(scope="module")
def small() -> resect.Unraveled:
    torch.manual_seed(1)
    return resect.unravel(CifarResNet(8, width=4, channels=1).eval(), IMAGES[:1])


WRONG_DATA = {
    "arrays": (
        ([IMAGES.numpy(), TARGETS.numpy()],),
        BATCHES + r", whose targets are a torch.Tensor, got ndarray \(6,\)",
    ),
    "an array": ([(IMAGES.numpy(), TARGETS)], r"input 0 of shape .* float32 as the example has, got ndarray"),
    "a pair": ((IMAGES, TARGETS), BATCHES + r", got Tensor \(6, 1, 8, 8\)\. A single batch goes into a list"),
    "a tensor": (IMAGES, BATCHES + r", got Tensor \(1, 8, 8\)"),
    "three": (
        [(IMAGES, TARGETS, TARGETS)],
        BATCHES + r", got tuple of 3\. Several inputs go into one tuple: \(\(a, b\)",
    ),
    "a dataset": (TensorDataset(IMAGES, TARGETS), r"got a single sample with the target \d\. .*DataLoader\(dataset"),
    "a sample": ([(IMAGES[0], 3)], r"got a single sample with the target 3"),
    "an empty batch": ([(IMAGES[:0], TARGETS[:0])], "at least one sample, got an empty one"),
    "no labels": (
        [{"input_ids": IMAGES}],
        r"its targets under 'labels', got 'input_ids'\. Or give \(inputs, targets\)",
    ),
    "many labels": (
        [{"x": IMAGES, "labels": torch.zeros(6, 4)}],
        r"one label a sample, got labels \(6, 4\)\. .*moved by",
    ),
    "other inputs": ([{"x": IMAGES, "labels": TARGETS}], r"structure of the example, \(\.\), got \(x=\.\)"),
    "nothing that counts": ([(IMAGES, IGNORED), (IMAGES, IGNORED)], "a target that counts, but all are -100"),
    "one-hot": ([(IMAGES, torch.eye(10)[TARGETS])], r"\(6,\), got \(6, 10\)\. .* take targets\.argmax\(-1\)"),
    "None": (None, "`data` must be batches, a DataLoader, a spec such as 'digits', or resect.Samples, got NoneType"),
}


@pytest.mark.parametrize("name", WRONG_DATA)
def test_data_that_are_no_batches(small, name: str) -> None:
    data, message = WRONG_DATA[name]
    with pytest.raises(resect.InputError, match=message):
        resect.lesion(small, data, resect.plans.single(small))


def test_targets_that_are_ignored_count_for_nothing(small) -> None:
    both, one = [(IMAGES, IGNORED), (IMAGES, TARGETS)], DATA
    lesions = [resect.lesion(small, data, resect.plans.single(small)) for data in (both, one)]
    assert lesions[0].table.equals(lesions[1].table)
    for measure in (resect.path_spectrum, resect.strongest_paths, resect.participation):
        with pytest.raises(resect.DataError, match="all are -100"):
            measure(small, [(IMAGES, IGNORED)])


class Named(nn.Module):
    """Takes named inputs, one of which masks the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.out = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        x = self.stem(input_ids) * attention_mask[..., None]
        return {"logits": self.out((x + torch.tanh(self.branch(x))).mean(1))}


class Encoding(dict):
    """A mapping that torch does not know as one, as tokenizers return them."""


def test_batches_of_named_inputs_with_labels() -> None:
    ids = torch.randint(0, 20, (6, 5), generator=torch.Generator().manual_seed(5))
    inputs = {"input_ids": ids, "attention_mask": (ids > 3).float()}
    net = resect.unravel(Named(), Encoding(inputs))
    plan = resect.plans.single(net)
    expected = resect.lesion(net, [(inputs, TARGETS)], plan).table
    turned = {"labels": TARGETS, **dict(reversed(inputs.items()))}
    for batch in ({**inputs, "labels": TARGETS}, Encoding(turned), (Encoding(inputs), TARGETS)):
        assert resect.lesion(net, [batch], plan).table.equals(expected)
        assert resect.path_spectrum(net, [batch]).sum_error < 1e-5
    loader = DataLoader([{name: value[i] for name, value in turned.items()} for i in range(6)], batch_size=6)
    assert resect.lesion(net, loader, plan).table.equals(expected)
    with pytest.raises(resect.InputError, match=r"input_ids=\., attention_mask=\.\), got \(input_ids=\.\)\. Give both"):
        resect.lesion(net, [{"input_ids": ids, "labels": TARGETS}], plan)
    labelled = resect.unravel(Named(), {**inputs, "labels": TARGETS})
    with pytest.raises(resect.InputError, match="Leave `labels` out of the example: they are the targets"):
        resect.lesion(labelled, [{**inputs, "labels": TARGETS}], resect.plans.single(labelled))


def calls(net: resect.Unraveled) -> dict[str, tuple[Any, str]]:
    """Wrong calls, and what is said."""
    model, plan, plans, settings = net.model, resect.plans.single(net), resect.plans, resect.LesionSettings
    return {
        "a module": (lambda: resect.lesion(model, DATA, plan), r"`net` must come from resect.unravel.*got CifarResNet"),
        "a module's paths": (lambda: resect.path_spectrum(model, DATA), r"must come from resect.unravel"),
        "a module's ensemble": (lambda: resect.ensemble(model, DATA, 1), r"must come from resect.unravel"),
        "a function": (lambda: resect.lesion(net, DATA, plans.single), r"`plan` must be made by .*, got function"),
        "a list": (lambda: resect.lesion(net, DATA, [net.intact]), r"plans.explicit\(net.*, got list"),
        "a dict": (lambda: resect.lesion(net, DATA, plan, {}), r"`settings` must be resect.LesionSettings.*dict"),
        "others": (lambda: resect.path_spectrum(net, DATA, settings()), r"resect.PathSettings.*got LesionSettings"),
        "a setting": (lambda: resect.lesion(net, DATA, plan, metrics="error"), r"`metrics` is a setting: give resect"),
        "no metric": (lambda: settings(metrics=None), r"`metrics` must name some of error.*got \[None\]"),
        "a word": (lambda: settings(precision="high"), "between 0 and 100 percentage points, got 'high'"),
        "memory": (lambda: resect.PathSettings(memory="4GiB"), "`memory` must be a whole number .*'4GiB'"),
        "a number": (lambda: net(IMAGES, 3), r"one entry for each of the 3 slots, got 3\. net.intact.without"),
        "a plan": (lambda: net.arrangement(plan), r"for each of the 3 slots, got <Plan single: 3 arrangements>"),
        "a half": (lambda: plans.random(net, 1.5), r"`counts` must hold numbers of blocks from 0 to 3, got \[1.5\]"),
        "text": (lambda: plans.windows(net, "2"), r"`lengths` must hold .* from 1 to 3, got \['2'\]"),
        "half a repeat": (lambda: plans.random(net, 1, repeats=1.5), "`repeats` must be a whole number"),
        "half an order": (lambda: resect.shapley(net, DATA, orders=1.5), "`orders` must be a whole number"),
        "half a member": (lambda: resect.ensemble(net, DATA, 1, members=2.5), "`members` must be a whole number"),
        "removed": (lambda: resect.ensemble(net, DATA, "1"), "`removed` must be 1 to 2 of the blocks, got '1'"),
        "scores": (lambda: resect.scores(net, DATA, ["damage"]), r"`names` must be of damage.*got \['damage'\]"),
        "no example": (lambda: resect.unravel(model), "`example` must be one batch of the inputs of CifarResNet"),
        "a loader": (lambda: resect.unravel(model, DataLoader(IMAGES)), "at least one tensor, got none in DataLoader"),
        "not inputs": (lambda: net.check("digits"), r"input 0 of shape \(B, 1, 8, 8\) float32 .* got str"),
        "not a spec": (lambda: resect.load_model(model), "must be text such as 'resect:resnet110', got Ci"),
        "a study": (lambda: resect.study(model, "digits"), "must be text .*'py:pkg.mod:function'"),
        "an evaluation": (lambda: resect.evaluate("digits", model), "must be text such as 'resect:resnet110'"),
        "data": (lambda: resect.load_samples(DATA), "must be text such as 'digits', got list"),
        "arrays": (lambda: resect.Samples("some", IMAGES.numpy(), TARGETS, 10), "inputs of some must be a torch"),
        "a probability": (lambda: resect.schedules.StochasticDepth("0.5"), "must be a probability .* got '0.5'"),
        "no list": (lambda: resect.LesionResult.joined(resect.lesion(net, DATA, plan)), "`parts` must be a list"),
        "a row": (lambda: resect.lesion(net, DATA, plan).flips("blocks.1"), "a row of the table, 0 to 2, got .*1'"),
        "a file": (lambda: resect.lesion(net, DATA, plan).plot("a.png"), r"`ax` must be matplotlib axes, .*savefig"),
    }  # fmt: skip


def test_calls_that_are_wrong(small) -> None:
    for call, message in calls(small).values():
        with pytest.raises(resect.InputError, match=message):
            call()


def test_one_stands_for_a_list_of_one(small) -> None:
    plans = resect.plans
    assert plans.random(small, 2).arrangements == plans.random(small, [2]).arrangements
    assert plans.random(small, np.int64(2)).arrangements == plans.random(small, [2]).arrangements
    assert plans.windows(small, 2).arrangements == plans.windows(small, [2]).arrangements
    lesioned = small.intact.without(1)
    assert plans.explicit(small, lesioned).arrangements == plans.explicit(small, ["0,-,2"]).arrangements == (lesioned,)
    for metrics in ("error", ["error"], {"error"}):
        assert resect.LesionSettings(metrics).metrics == ("error",)
    assert resect.LesionSettings(metrics=torch.nn.functional.cross_entropy).names == ("cross_entropy",)
    assert (
        resect.lesion(small, DATA, plans.single(small))
        .flips(-1)
        .equals(resect.lesion(small, DATA, plans.single(small)).flips(2))
    )


def test_what_load_model_returns_is_unravelled_on_its_example() -> None:
    loaded = resect.load_model("resect:resnet8", model_args={"width": 4}, checkpoint=None)
    net = resect.unravel(loaded)
    assert net.model is loaded.module and net.inputs[0].shape == (None, 3, 32, 32)
    assert resect.unravel(loaded, torch.zeros(1, 3, 16, 16)).inputs[0].shape == (None, 3, 16, 16)
