"""The forms in which people have batches, and what they get wrong in them: a sentence each."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import resect
from resect import Task, plans
from resect.cli import main
from resect.errors import DoubtfulWarning
from resect.models.resnet import CifarResNet

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
TARGETS = torch.randint(0, 10, (6,), generator=torch.Generator().manual_seed(4))
IDS = torch.randint(3, 20, (6, 5), generator=torch.Generator().manual_seed(5))
MOVED = torch.cat([IDS[:, 1:], torch.full((6, 1), -100)], 1)


@pytest.fixture(scope="module")
def small() -> resect.Unraveled:
    torch.manual_seed(1)
    return resect.unravel(CifarResNet(8, width=4, channels=1).eval(), IMAGES[:1])


class Words(nn.Module):
    """A causal model of tokens, by name or place, with a mask that weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.out = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = (self.stem(input_ids) * attention_mask[..., None]).cumsum(1)
        return {"logits": self.out(x + torch.tanh(self.branch(x)))}


@pytest.fixture(scope="module")
def words() -> resect.Unraveled:
    torch.manual_seed(2)
    return resect.unravel(Words().eval(), {"input_ids": IDS[:2], "attention_mask": torch.ones(2, 5)})


def singles(net: resect.Unraveled, data: Any, **options: Any) -> resect.LesionResult:
    return resect.lesion(net, data, plans.single(net), **options)


@dataclass
class Record:
    x: Tensor
    label: Tensor


Named = namedtuple("Named", ["x", "targets"])  # as people write it


class Stream(IterableDataset):
    """Gives its samples once a pass, and has no length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(IMAGES, TARGETS, strict=True)


ONE = [(image, int(target)) for image, target in zip(IMAGES, TARGETS, strict=True)]
FORMS = {
    "a dict of labels": lambda: [{"x": IMAGES, "labels": TARGETS}],
    "a dict with identifiers": lambda: [{"pixels": IMAGES, "label": TARGETS, "file": ["a"] * 6, "n": torch.arange(6)}],
    "a dataclass": lambda: [Record(IMAGES, TARGETS)],
    "a named tuple": lambda: [Named(IMAGES, TARGETS)],
    "a user's dict": lambda: [UserDict({"x": IMAGES, "target": TARGETS})],
    "identifiers behind": lambda: [(IMAGES, TARGETS, torch.arange(6), ["a"] * 6)],
    "lists": lambda: [[IMAGES, TARGETS]],
    "a list of dicts": lambda: [[{"x": image, "labels": target} for image, target in ONE]],
    "a list of pairs": lambda: [ONE],
    "a loader": lambda: DataLoader(ONE, batch_size=6),
    "a loader of dicts": lambda: DataLoader([{"x": image, "labels": target} for image, target in ONE], batch_size=6),
    "a loader without collation": lambda: DataLoader(ONE, batch_size=6, collate_fn=lambda batch: batch),
    "a stream": lambda: DataLoader(Stream(), batch_size=6),
    "a generator": lambda: (batch for batch in [(IMAGES, TARGETS)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_come_in_many_forms(small: resect.Unraveled, form: str) -> None:
    wanted = singles(small, [(IMAGES, TARGETS)])
    assert singles(small, FORMS[form]()).table.equals(wanted.table)
    plan = plans.single(small).removing("mean")  # which reads the data twice
    wanted = resect.lesion(small, [(IMAGES, TARGETS)], plan)
    assert resect.lesion(small, FORMS[form](), plan).table.equals(wanted.table)


def test_inputs_of_several_may_stand_beside_each_other() -> None:
    torch.manual_seed(2)
    net, mask = resect.unravel(Words().eval(), (IDS[:2], torch.ones(2, 5))), (IDS > 5).float()
    wanted = singles(net, [((IDS, mask), MOVED)])
    for batch in ((IDS, mask, MOVED), (IDS, mask, MOVED, torch.arange(6))):
        assert singles(net, [batch]).table.equals(wanted.table)
    batch = {"attention_mask": mask, "input_ids": IDS, "labels": IDS}
    assert singles(net, [batch]).table.equals(wanted.table)


def test_shuffled_data_are_paired_within_a_call(small: resect.Unraveled) -> None:
    """Every lesion sees the batch that the intact network sees, so that only the order of samples is another."""
    data = DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=2, shuffle=True)
    whole, shuffled = singles(small, [(IMAGES, TARGETS)]), singles(small, data)
    np.testing.assert_allclose(shuffled.table["loss_change"], whole.table["loss_change"], rtol=1e-5)
    assert sorted(shuffled.intact["loss"]) == pytest.approx(sorted(whole.intact["loss"]), rel=1e-5)


def test_labels_of_causal_language_models_are_moved_by_one(words: resect.Unraveled) -> None:
    mask = torch.ones(6, 5)
    labels = IDS.clone()
    labels[0, :2] = -100  # a prompt
    result = singles(words, [{"input_ids": IDS, "attention_mask": mask, "labels": labels}])
    logits = words.model(IDS, mask)["logits"]
    wanted = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())  # as transformers computes it
    assert result.meaning.task == "next-token" and result.intact_loss == pytest.approx(wanted.item(), rel=1e-5)
    assert result.weights.tolist() == [3.0, *[4.0] * 5] and "perplexity" in result.table
    moved = singles(words, [{"input_ids": IDS, "attention_mask": mask, "labels": MOVED}])  # already
    given = singles(words, [({"input_ids": IDS, "attention_mask": mask}, MOVED)])
    assert moved.intact_loss == given.intact_loss and given.meaning.task == "classification"
    named = singles(words, [({"input_ids": IDS, "attention_mask": mask}, IDS)], task="next-token")
    assert named.intact_loss == moved.intact_loss
    with pytest.warns(DoubtfulWarning, match="every target is the very token at its place .*task='next-token'"):
        singles(words, [({"input_ids": IDS, "attention_mask": mask}, IDS)])


def test_masked_tokens_stay_where_they_are(words: resect.Unraveled) -> None:
    mask, hidden = torch.ones(6, 5), torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    batch = {"input_ids": IDS.masked_fill(hidden, 1), "attention_mask": mask, "labels": IDS.masked_fill(~hidden, -100)}
    result = singles(words, [batch])
    logits = words.model(batch["input_ids"], mask)["logits"]
    wanted = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    assert result.meaning.task == "masked-token" and result.intact_loss == pytest.approx(wanted.item(), rel=1e-5)
    half = {**batch, "input_ids": IDS, "labels": torch.where(torch.arange(5) < 3, IDS, IDS + 1 - IDS // 19 * 2)}
    with pytest.raises(resect.DataError, match=r"got labels \(6, 5\)\. They are not those .* task='masked-token' if"):
        singles(words, [half])
    assert singles(words, [half], task="masked-token").meaning.task == "masked-token"


class Once:
    """Gives its batches once, but is no iterator."""

    def __init__(self) -> None:
        self.batches = iter([(IMAGES, TARGETS)])

    def __iter__(self) -> Iterator[Any]:
        return self.batches


def read_before() -> Iterator[Any]:
    data = iter([(IMAGES, TARGETS)])
    list(data)
    return data


OWN = nn.CrossEntropyLoss(reduction="none")
SOFT = torch.softmax(torch.randn(6, 10, generator=torch.Generator().manual_seed(6)), 1)
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "an exhausted generator": (
        read_before(),
        {},
        "got none. It is an iterator, which gives its batches once: pass a",
    ),
    "one-hot integers": ([(IMAGES, torch.eye(10)[TARGETS].long())], {}, r"take targets\.argmax\(-1\)"),
    "probabilities": ([(IMAGES, SOFT)], {}, r"rows that sum to 1, as probabilities .*task='regression'"),
    "classes from 1": (
        [(torch.randn(10, 1, 8, 8), torch.arange(1, 11))],
        {},
        "values from 1 to 10. They seem to be numbered from 1: give targets - 1",
    ),
    "void": ([(IMAGES, torch.where(TARGETS > 5, 255, TARGETS))], {}, "If that marks what is ignored, give -100 there"),
    "minus one": ([(IMAGES, torch.where(TARGETS > 5, -1, TARGETS))], {}, "If that marks what is ignored, give -100 th"),
    "float classes": ([(IMAGES, TARGETS.float())], {}, r"must be integer classes, got float32\. .* targets\.long\(\)"),
    "complex": ([(IMAGES, IMAGES[:, 0, 0] + 0j)], {}, "integers or floating-point numbers, got complex ones"),
    "fewer targets": ([(IMAGES, TARGETS[:5])], {}, r"\(6,\), got \(5,\)"),
    "float64": ([(IMAGES.double(), TARGETS)], {}, r"float64\. Give inputs\.to\(torch\.float32\)"),
    "bytes": ([(IMAGES.byte(), TARGETS)], {}, r"uint8\. Give inputs\.to\(torch\.float32\)"),
    "channels last": ([(IMAGES.permute(0, 2, 3, 1), TARGETS)], {}, r"channels last: give inputs\.permute\(0, 3, 1, 2"),
    "a single image": ([(IMAGES[0], TARGETS[:1])], {}, r"That is a single sample: give inputs\[None\]"),
    "arrays": ([(IMAGES.numpy(), TARGETS)], {}, r"got ndarray\. Give torch\.as_tensor\(\.\.\., dtype=torch\.float32\)"),
    "NaN": ([(IMAGES * float("nan"), TARGETS)], {}, "its weights are finite, so look at the inputs, and at a loss of"),
    "samples of a stream": (Stream(), {}, r"a single sample with the target .*DataLoader\(dataset"),
    "samples that differ": (
        [[{"x": IMAGES[0], "labels": 1}, {"x": IMAGES[0, :, :4], "labels": 1}]],
        {},
        "samples that can be stacked: .* Pad them",
    ),
    "no labels": ([{"x": IMAGES, "y": TARGETS}], {}, "its targets under 'labels', got 'x', 'y'"),
    "weights": ([(IMAGES, TARGETS, torch.rand(6))], {}, r"tuple of 3, among them Tensor \(6,\) as a third"),
    "inputs alone": ([(IMAGES,)], {}, "got tuple of 1"),
    "no task": ([(IMAGES, TARGETS)], {"task": "regresion"}, "`task` must be one of classification, .* got 'regresion'"),
    "a number": ([(IMAGES, TARGETS)], {"task": 3}, r"or a function \(outputs, targets\) -> one loss a sample, got 3"),
    "classes as labels": ([(IMAGES, TARGETS)], {"task": "multi-label"}, "multi-label must lie from 0 to 1, got"),
    "classes as values": ([(IMAGES, TARGETS)], {"task": "regression"}, r"outputs, \(6, 10\), got \(6,\)"),
    "values that are NaN": ([(IMAGES, SOFT * float("nan"))], {"task": "regression"}, "the targets must be finite"),
    "pixels of classes": ([(IMAGES, IMAGES[:, 0].long() % 10)], {}, r"\(6,\), got \(6, 8, 8\)"),
    "alone in a group": ([(IMAGES, torch.arange(6))], {"task": "contrastive"}, "no other row has the target 0"),
    "floats of groups": ([(IMAGES, SOFT[:, 0])], {"task": "contrastive"}, r"for each of the 6 embeddings .* float32"),
    "pairs of two sizes": ([(IMAGES, IMAGES[..., :4])], {"task": "contrastive"}, "have one shape, .* Pad texts alike"),
    "an output": ([(IMAGES, TARGETS)], {"task": "classification:aux"}, r"'aux' must be .* returns one tensor \(B, 10"),
    "a mean": ([(IMAGES, TARGETS)], {"task": nn.CrossEntropyLoss()}, r"tensor \(6,\), got \(\)\. .*reduction='none'"),
    "a loss of others": (
        [(IMAGES, TARGETS)],
        {"task": nn.BCEWithLogitsLoss(reduction="none")},
        r"must run on the model's outputs, one tensor \(6, 10\), and targets \(6,\), but it says: Target size",
    ),
    "a list": ([(IMAGES, TARGETS)], {"task": lambda outputs, targets: [1.0] * 6}, r"a tensor \(6,\), got list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_data_and_tasks_that_do_not_fit(small: resect.Unraveled, name: str) -> None:
    data, options, message = WRONG[name]
    with pytest.raises(resect.InputError, match=message):
        singles(small, data, **options)


def test_data_that_are_gone_in_the_second_pass(small: resect.Unraveled) -> None:
    with pytest.raises(resect.DataError, match=r"no batches the second time .* pass a list or a DataLoader"):
        resect.lesion(small, Once(), plans.single(small).removing("mean"))


def test_tasks_that_are_wrong_in_themselves(small: resect.Unraveled) -> None:
    data = [(IMAGES, TARGETS)]
    for call, message in (
        (lambda: Task("x", "loss"), "a Task must have a name and functions"),
        (lambda: Task.named("contrastive", temperature=0), "`temperature` must be above 0, got 0"),
        (lambda: resect.scores(small, data, "damage", task=OWN), "scores that need no error, .* got 'damage'"),
        (lambda: resect.ensemble(small, data, 1, task=OWN), "logits of classes, but the task is CrossEntropyLoss"),
        (lambda: resect.path_spectrum(small, data, task=nn.CrossEntropyLoss()), r"got \(\)\. .*reduction='none'"),
        (lambda: resect.path_spectrum(small, data, task=lambda o, t: (o.argmax(1) != t).float()), "differentiable"),
    ):
        with pytest.raises(resect.InputError, match=message):
            call()


def test_what_is_doubtful_is_warned_of(small: resect.Unraveled) -> None:
    pixels = torch.randint(0, 256, (6, 1, 8, 8)).float()
    with pytest.warns(DoubtfulWarning, match="whole numbers from .*, as bytes have"):
        singles(small, [(pixels, TARGETS)])
    torch.manual_seed(1)
    net = resect.unravel(nn.Sequential(CifarResNet(8, width=4, channels=1), nn.Softmax(1)).eval(), IMAGES[:1])
    with pytest.warns(DoubtfulWarning, match="outputs come out of a softmax, but the loss of classification is of log"):
        singles(net, [(IMAGES, TARGETS)])
    log = resect.unravel(nn.Sequential(CifarResNet(8, width=4, channels=1), nn.LogSoftmax(1)).eval(), IMAGES[:1])
    loss = F.cross_entropy(log.model(IMAGES), TARGETS).item()  # that of logits, and no warning
    assert singles(log, [(IMAGES, TARGETS)]).intact_loss == pytest.approx(loss, rel=1e-5)


def test_a_model_in_train_mode_is_said_to_run_as_in_eval_mode() -> None:
    model = CifarResNet(8, width=4, channels=1)
    net = resect.unravel(model, IMAGES[:1])
    assert repr(net).endswith("; runs as in eval mode, the model itself is in train mode>")
    assert repr(resect.unravel(model.eval(), IMAGES[:1])).endswith("layers>")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, [*arguments, "--model-arg", "width=4", "--model-arg", "channels=1", "--quiet"])


def test_the_command_line_says_which_task_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    rng = np.random.default_rng(0)
    images, values = rng.standard_normal((20, 1, 8, 8)), rng.standard_normal((20, 10))
    np.savez("values.npz", inputs=images, targets=values)
    np.savez("classes.npz", inputs=images, targets=np.arange(20) % 10)
    done = run("lesion", "resect:resnet8", "npz:values.npz", "--out", "run")
    assert done.exit_code == 0, done.output
    assert "mean absolute error" in done.stdout and "regression: intact mean absolute error" in done.stdout
    record = resect.Record.read("run")
    assert record.found["task"]["task"] == "regression" and "agreement" not in record.tables["lesions"]
    assert "is off by" in record.warnings[-1] and "no better than always answering the median" in record.warnings[-1]
    assert (tmp_path / "run/figures/single.png").exists()
    done = run("lesion", "resect:resnet8", "npz:classes.npz", "--task", "regression")
    assert done.exit_code == 2 and "shape of the model's outputs, (20, 10), got (20,)" in done.stderr
    done = run("paths", "resect:resnet8", "npz:classes.npz", "--task", "regresion")
    assert done.exit_code == 2 and "`--task` must be one of" in done.stderr
    few = ["--draws", "0", "--sweeps", "0", "--strongest", "0"]
    assert run("paths", "resect:resnet8", "npz:values.npz", "--task", "regression", *few).exit_code == 0
    both = CliRunner().invoke(main, ["evaluate", "npz:values.npz", "resect:resnet8", "resect:resnet14", "--quiet"])
    assert both.exit_code == 0 and "Test mean absolute error on 20 samples" in both.stdout and "nan" not in both.stdout
    refused = CliRunner().invoke(
        main, ["study", "resect:resnet8", "npz:values.npz", "--model-arg", "width=4", "--quiet"]
    )
    assert refused.exit_code == 2 and "a study asks for errors of classes" in refused.stderr
