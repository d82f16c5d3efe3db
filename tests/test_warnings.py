"""What runs warn of: weights that nobody gave, and networks at chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

import resect
from finished import chain, write
from made import made_study
from resect.cli import main
from resect.data import Samples
from resect.jobs.compare import compare
from resect.jobs.job import silent
from resect.jobs.lesion import LesionJob
from resect.jobs.source import Source
from resect.jobs.warn import at_chance, random_weights
from resect.models.resnet import CifarResNet
from resect.models.specs import load_model
from resect.report.study.page import _html
from resect.weights import save_weights

SMALL = ["--model-arg", "width=4", "--limit", "60", "--without", "1"]


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def sample_of(targets: torch.Tensor) -> Samples:
    return Samples("made", torch.zeros(len(targets), 1), targets, None)


def test_weights_are_random_where_nobody_gave_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec, said in (
        ("resect:resnet8", "`resect train`"),
        ("torchvision:resnet18", "--model-arg pretrained=true"),
        ("timm:resnet10t", "--model-arg pretrained=true"),
    ):
        (warning,) = random_weights(load_model(spec))
        assert warning.startswith(
            f"{spec} has random weights: nobody gave any. Give --checkpoint FILE (or {spec}@FILE)"
        )
        assert said in warning
    save_weights(CifarResNet(8), tmp_path / "w.safetensors")
    (tmp_path / "own.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    given_ones = [load_model(spec) for spec in ("resect:vgg15-digits", "py:own:build")]
    given_ones.append(load_model("resect:resnet8", checkpoint=tmp_path / "w.safetensors"))
    assert [random_weights(loaded) for loaded in given_ones] == [()] * 3


def test_a_head_that_the_files_of_a_model_lack_is_random(tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9, bos_token_id=0, eos_token_id=0)
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    assert random_weights(load_model(f"hf:{tmp_path}")) == ()
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["architectures"] = ["GPT2ForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (warning,) = random_weights(load_model(f"hf:{tmp_path}"))
    assert "has random weights in 1 of 17 places (score.weight): nobody gave any" in warning


@given(st.integers(2, 400), st.integers(2, 12), st.data())
def test_at_chance_is_what_wilsons_interval_says(count: int, classes: int, data: st.DataObject) -> None:
    targets = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)))
    wrong = data.draw(st.integers(0, count))
    chance = 1 - max(targets.tolist().count(c) for c in range(classes)) / count
    high = binomtest(wrong, count).proportion_ci(0.95, method="wilson").high
    said = at_chance("a:model", wrong / count, sample_of(targets))
    assert bool(said) == (wrong > 0 and high >= chance)
    if said:
        assert f"of {count} samples of made, no better than always naming the commonest class" in said[0]


def test_chance_of_tokens_counts_those_that_are_not_ignored() -> None:
    targets = torch.tensor([[3, 3, 3, 1], [3, 3, 2, -100], [-100] * 4]).repeat(40, 1)
    assert at_chance("a:model", 0.1, sample_of(targets)) == ()  # chance is 2 of 7 tokens
    (said,) = at_chance("a:model", 2 / 7, sample_of(targets))
    assert "errs on 28.6 % of 280 targets of made, no better than always naming the commonest class (28.6 %)" in said
    assert at_chance("a:model", None, sample_of(targets)) == ()


def test_the_terminal_the_record_and_the_run_shown_again_warn(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["lesion", "resect:resnet8", "digits", *SMALL, "--out", out, "--quiet"]
    first = run(*command)
    random, norms, chance = resect.Record.read(out).warnings
    assert random.startswith("resect:resnet8 has random weights")
    assert chance.startswith("resect:resnet8 errs on ") and "normalised" not in chance
    assert norms.startswith("Its batch norms have no statistics and do nothing")
    assert first.stderr == f"warning: {random}\nwarning: {norms}\nwarning: {chance}\n"
    assert "warning" not in first.stdout
    assert run(*command).stderr == run("show", out).stderr == first.stderr
    printed = run("show", out, "--format", "json")
    assert json.loads(printed.stdout)["found"]["warnings"] == [random, norms, chance]
    assert printed.stderr == first.stderr


def test_networks_know_whether_their_weights_are_random() -> None:
    for spec, random in (("resect:resnet8", True), ("resect:vgg15-digits", False)):
        job = LesionJob(Source(spec, "digits", limit=4), plain=spec.startswith("resect:vgg"))
        assert job.prepare(job.open(None, silent)).random == random


def test_a_trained_network_is_warned_of_where_its_inputs_are_normalised_otherwise() -> None:
    network = ["resect:resnet110-digits", "digits", "--limit", "100"]
    assert run("evaluate", network[1], network[0], *network[2:], "--quiet").stderr == ""
    wrong = run("evaluate", network[1], network[0], *network[2:], "--quiet", "--normalize", "none")
    assert wrong.stderr.startswith("warning: resect:resnet110-digits errs on ")
    assert (
        "were its inputs normalised by none in training, too (that is as asked; --normalize sets it)?" in wrong.stderr
    )


def test_paths_and_comparisons_pass_on_what_was_warned_of(tmp_path: Path) -> None:
    few = ["--model-arg", "width=4", "--limit", "4", "--draws", "0", "--sweeps", "0", "--strongest", "0", "--quiet"]
    run("paths", "resect:resnet8", "digits", *few, "--out", tmp_path / "random")
    warnings = resect.Record.read(tmp_path / "random").warnings
    assert len(warnings) == 2  # random weights, and batch norms without statistics
    older = write(tmp_path / "older", chain(3, 1.0))
    assert resect.Record.read(older).warnings == ()  # of before there were any
    assert compare(tmp_path / "random", older, labels=("a", "b")).warnings == tuple(f"a: {w}" for w in warnings)


def test_the_page_of_a_study_begins_with_its_warnings() -> None:
    study = made_study(n=3, control=False)
    assert 'class="warning"' not in _html(study, [])
    page = _html(replace(study, warnings=("<b>random</b> weights",)), [])
    assert '<p class="warning"><b>Warning</b> &lt;b&gt;random&lt;/b&gt; weights</p>' in page
    assert page.index('class="warning"') < page.index('class="tiles"')


def test_the_summary_of_a_sweep_says_that_it_is_chance(net: resect.Unraveled) -> None:
    images = torch.randn(40, 1, 8, 8)
    predicted = net.model(images).argmax(1)
    plan = resect.plans.explicit(net, [net.intact.without(1)])
    assert "intact error 0.00 %, damage" in resect.lesion(net, [(images, predicted)], plan).summary()
    shifted = (predicted + 1) % 10
    assert "intact error 100.00 % (chance), damage" in resect.lesion(net, [(images, shifted)], plan).summary()
