"""What a new user may get wrong: each error names the thing, what was expected, what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import resect
from resect import LesionSettings, plans
from resect.digest import key_digest
from resect.models.resnet import CifarResNet
from resect.training.recipe import Recipe

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
        [(IMAGES, TARGETS, torch.ones(6))],
        BATCHES + r", got tuple of 3, among them Tensor \(6,\) as a third\. .* one tuple: \(\(a, b\)",
    ),
    "a dataset": (TensorDataset(IMAGES, TARGETS), r"got a single sample with the target \d\. .*DataLoader\(dataset"),
    "a sample": ([(IMAGES[0], 3)], r"got a single sample with the target 3"),
    "an empty batch": ([(IMAGES[:0], TARGETS[:0])], "at least one sample, got an empty one"),
    "no labels": (
        [{"input_ids": IMAGES}],
        r"its targets under 'labels', got 'input_ids'\. Or give \(inputs, targets\)",
    ),
    "many labels": (
        [{"x": IMAGES, "labels": torch.zeros(6, 4, dtype=torch.long)}],
        r"one label a sample, got labels \(6, 4\)\. .*moved by",
    ),
    "other inputs": (
        [{"x": IMAGES, "mask": IMAGES, "labels": TARGETS}],
        r"structure of the example, \(\.\), got \(x=\., mask=\.\)",
    ),
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


def singles(net: resect.Unraveled) -> resect.plans.Plan:
    return plans.single(net)


def lesioned(net: resect.Unraveled) -> resect.LesionResult:
    return resect.lesion(net, DATA, singles(net))


WRONG: dict[str, tuple[Callable[[resect.Unraveled], Any], str]] = {
    "a module": (lambda net: resect.lesion(net.model, DATA, singles(net)), r"`net` must come from .*got CifarResNet"),
    "a module's paths": (lambda net: resect.path_spectrum(net.model, DATA), r"must come from resect.unravel"),
    "a module's ensemble": (lambda net: resect.ensemble(net.model, DATA, 1), r"must come from resect.unravel"),
    "a function": (lambda net: resect.lesion(net, DATA, plans.single), r"`plan` must be made by .*, got function"),
    "a list": (lambda net: resect.lesion(net, DATA, [net.intact]), r"plans.explicit\(net.*, got list"),
    "a dict": (lambda net: resect.lesion(net, DATA, singles(net), {}), r"must be resect.LesionSettings.*dict"),
    "others": (lambda net: resect.path_spectrum(net, DATA, LesionSettings()), "PathSettings.*got LesionSettings"),
    "a setting": (lambda net: resect.lesion(net, DATA, singles(net), metrics="error"), "`metrics` is a setting: give"),
    "no metric": (lambda net: LesionSettings(metrics=None), r"`metrics` must name some of error.*got \[None\]"),
    "a word": (lambda net: LesionSettings(precision="high"), "between 0 and 100 percentage points, got 'high'"),
    "memory": (lambda net: resect.PathSettings(memory="4GiB"), "`memory` must be a whole number .*'4GiB'"),
    "a number": (lambda net: net(IMAGES, 3), r"one entry for each of the 3 slots, got 3\. net.intact.without"),
    "a plan": (lambda net: net.arrangement(singles(net)), "each of the 3 slots, got <Plan single: 3 arrangements>"),
    "a half": (lambda net: plans.random(net, 1.5), r"`counts` must hold numbers of blocks from 0 to 3, got \[1.5\]"),
    "text": (lambda net: plans.windows(net, "2"), r"`lengths` must hold .* from 1 to 3, got \['2'\]"),
    "half a repeat": (lambda net: plans.random(net, 1, repeats=1.5), "`repeats` must be a whole number"),
    "half an order": (lambda net: resect.shapley(net, DATA, orders=1.5), "`orders` must be a whole number"),
    "half a member": (lambda net: resect.ensemble(net, DATA, 1, members=2.5), "`members` must be a whole number"),
    "removed": (lambda net: resect.ensemble(net, DATA, "1"), "`removed` must be 1 to 2 of the blocks, got '1'"),
    "scores": (lambda net: resect.scores(net, DATA, ["damage"]), r"`names` must be of damage.*got \['damage'\]"),
    "no example": (lambda net: resect.unravel(net.model), "`example` must be one batch of the inputs of CifarResNet"),
    "a loader": (lambda net: resect.unravel(net.model, DataLoader(IMAGES)), "one tensor, got none in DataLoader"),
    "not inputs": (lambda net: net.check("digits"), r"input 0 of shape \(B, 1, H, W\) float32 .* got str"),
    "not a spec": (lambda net: resect.load_model(net.model), "must be text such as 'resect:resnet110', got Ci"),
    "a study": (lambda net: resect.study(net.model, "digits"), "must be text .*'py:pkg.mod:function'"),
    "an evaluation": (lambda net: resect.evaluate("digits", net.model), "must be text such as 'resect:resnet110'"),
    "a tensor's evaluation": (lambda net: resect.evaluate(IMAGES, "resect:resnet20"), "'digits', got Tensor"),
    "data": (lambda net: resect.load_samples(DATA), "must be text such as 'digits', got list"),
    "arrays": (lambda net: resect.Samples("some", IMAGES.numpy(), TARGETS, 10), "inputs of some must be a torch"),
    "a probability": (lambda net: resect.schedules.StochasticDepth("0.5"), "must be a probability .* got '0.5'"),
    "no list": (lambda net: resect.LesionResult.joined(lesioned(net)), "`parts` must be a list"),
    "a row": (lambda net: lesioned(net).flips("blocks.1"), "a row of the table, 0 to 2, got .*1'"),
    "a file": (lambda net: lesioned(net).plot("a.png"), r"`ax` must be matplotlib axes, .*savefig"),
    "true": (lambda net: plans.random(net, [True]), r"`counts` must hold .*, got \[True\]"),
    "a true length": (lambda net: resect.path_spectrum(net, DATA, max_length=True), "`max_length` must be a whole"),
    "a true repeat": (lambda net: plans.random(net, 1, repeats=True), "`repeats` must be a whole number"),
    "a true member": (lambda net: resect.ensemble(net, DATA, True), "`removed` must be 1 to 2 of the blocks, got True"),
    "a true block": (lambda net: net.arrangement([0, True, 2]), "must name blocks 0 to 2.* got True in slot 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_calls_that_are_wrong(small: resect.Unraveled, name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(resect.InputError, match=message):
        call(small)


def test_whole_numbers_may_be_numpys(small: resect.Unraveled) -> None:
    two = np.int64(2)
    assert plans.random(small, 1, repeats=two) == plans.random(small, 1, repeats=2)
    assert {type(branch) for branch in small.arrangement(np.arange(3))} == {int}
    assert resect.sample_paths(small, DATA, draws=two).table.equals(resect.sample_paths(small, DATA, draws=2).table)
    first, second = (resect.path_spectrum(small, DATA, resect.PathSettings(of=n), max_length=n) for n in (two, 2))
    np.testing.assert_array_equal(first.share, second.share)
    assert key_digest({"draws": two}) == key_digest({"draws": 2})
    recipe = Recipe(epochs=two, batch_size=two)
    assert recipe.as_dict() == Recipe(epochs=2, batch_size=2).as_dict() and type(recipe.as_dict()["epochs"]) is int


def test_one_stands_for_a_list_of_one(small) -> None:
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
    assert net.model is loaded.module and net.inputs[0].shape == (None, 3, None, None)
    assert net.blocks[0].entry_shape == ("B", 4, 32, 32)
    assert resect.unravel(loaded, torch.zeros(1, 3, 16, 16)).blocks[0].entry_shape == ("B", 4, 16, 16)


UNKNOWN: dict[str, tuple[Callable[[resect.Unraveled], Any], str]] = {
    "a lesion setting": (lambda net: LesionSettings(precison=1), "`precison` is no argument of LesionSettings"),  # type: ignore[call-arg]
    "a path setting": (lambda net: resect.PathSettings(gate="frozen"), "Close: gates"),  # type: ignore[call-arg]
    "a plan": (lambda net: plans.windows(net, lenghts=[3]), "`lenghts` is no argument of windows. Close: lengths"),  # type: ignore[call-arg]
    "a schedule": (lambda net: resect.schedules.FixedCount(kept=3), "Close: keep"),  # type: ignore[call-arg]
    "a measure": (lambda net: resect.shapley(net, DATA, order=3), "`order` is no argument of shapley. Close: orders"),  # type: ignore[call-arg]
    "no like": (lambda net: resect.path_spectrum(net, DATA, zzz=1), "It has net, data, "),  # type: ignore[call-arg]
    "a capture": (lambda net: resect.unravel(net.model, IMAGES, batchdim=1), "Close: batch_dim"),  # type: ignore[call-arg]
    "a verb": (lambda net: resect.study(repeat=3), "Close: repeats"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_name_is_refused_with_the_nearest(small, name: str) -> None:
    call, message = UNKNOWN[name]
    with pytest.raises(resect.InputError, match=message):
        call(small)
