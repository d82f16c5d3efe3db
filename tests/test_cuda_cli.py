"""The command line on a GPU, against the CPU. With RESECT_TEST_DEVICE=cpu all of these pass, too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from safetensors.torch import load_file

import resect
from on_device import DEVICE, alike, close, float32_means_float32, needs_device
from resect.cli import main
from resect.models.specs import load_model
from resect.training.checkpoint import Checkpoint

__all__ = ["float32_means_float32"]  # a fixture of all tests here
pytestmark = [needs_device, pytest.mark.usefixtures("own_accelerate")]
SMALL = ("resect:resnet14", "digits", "--model-arg", "width=4", "--calibrate", "64", "--limit", "40")
NETWORK = ("digits", "--model", "resnet14", "--model-arg", "width=4", "--epochs", "2")
SHIPPED = ("resect:resnet110-digits", "digits")
TIMED = ("latency", "latency_low", "latency_high", "milliseconds", "intact_milliseconds", "processor", "seconds")


def logits(outputs: Any) -> Any:
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def run(*words: Any, device: str | None = DEVICE) -> str:
    chosen = [] if device is None else ["--device", device]
    result = CliRunner().invoke(main, [*map(str, words), *chosen])
    assert result.exit_code == 0, result.output
    return result.output


def both(out: Path, *words: Any) -> tuple[resect.Record, resect.Record]:
    """The records of one command on the device and on the CPU."""
    for device, name in ((DEVICE, "here"), ("cpu", "there")):
        run(*words, "--quiet", "--out", out / name, device=device)
    return resect.Record.read(out / "here"), resect.Record.read(out / "there")


def same(got: resect.Record, wanted: resect.Record, relative: float = 1e-3, but: Sequence[str] = ()) -> None:
    """Fail unless all tables of two records say the same."""
    assert got.tables.keys() == wanted.tables.keys()
    for name, table in wanted.tables.items():
        alike(got.tables[name], table, relative, (*TIMED, *but))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--plan", "single", "--metric", "loss", "--metric", "kl"), id="single"),
        pytest.param(("--plan", "random", "--repeats", "2", "--removal", "mean"), id="random by means"),
        pytest.param(("--plan", "shuffled", "--repeats", "2"), id="shuffled"),
        pytest.param(("--plan", "parallel", "--combine", "sum"), id="parallel"),
        pytest.param(("--plan", "shapley", "--orders", "2"), id="shapley"),
        pytest.param(("--plan", "ensemble", "--removed", "1", "--members", "4"), id="ensemble"),
        pytest.param(("--without", "0,-1"), id="without"),
    ],
)
def test_lesions(words: tuple[str, ...], tmp_path: Path) -> None:
    same(*both(tmp_path, "lesion", *SMALL, "--batch-size", "20", *words))


def test_batches_and_layout_are_chosen_on_the_device(tmp_path: Path) -> None:
    run(
        "lesion",
        *SMALL,
        "--plan",
        "single",
        "--batch-size",
        "auto",
        "--memory-format",
        "auto",
        "--out",
        tmp_path / "run",
    )
    assert len(resect.Record.read(tmp_path / "run").tables["lesions"]) == 6


def test_fused_sweeps_and_half_precision(tmp_path: Path) -> None:
    run("lesion", *SMALL, "--batch-size", "10", "--compile", "--out", tmp_path / "fused")
    run("lesion", *SMALL, "--batch-size", "10", "--dtype", "bfloat16", "--out", tmp_path / "half")
    run("lesion", *SMALL, "--batch-size", "10", "--out", tmp_path / "plain")
    fused, half, plain = (
        resect.Record.read(tmp_path / n).tables["lesions"]["loss"] for n in ("fused", "half", "plain")
    )
    close(fused, plain, 1e-3)
    close(half, plain, 5e-2)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = run("lesion", "--quiet", *SMALL, "--batch-size", "20", "--plan", "pairs", "--out", tmp_path / "run")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.suffix == ".npz"}
    assert files
    again = run("lesion", "--quiet", *SMALL, "--batch-size", "20", "--plan", "pairs", "--out", tmp_path / "run")
    assert again.splitlines()[:-1] == first.splitlines()[:-1]
    assert {file: file.stat().st_mtime_ns for file in files} == files


@pytest.mark.parametrize("words", [(), ("--at", "stem", "--of", "target", "--max-length", "2")], ids=["loss", "target"])
def test_paths(words: tuple[str, ...], tmp_path: Path) -> None:
    got, wanted = both(
        tmp_path, "paths", *SMALL, "--batch-size", "20", "--draws", "3", "--pairs", "--strongest", "3", *words
    )
    same(got, wanted, 5e-3)


def test_paths_compared(tmp_path: Path) -> None:
    both(tmp_path, "paths", *SMALL, "--batch-size", "20", "--draws", "3")
    said = run(
        "compare",
        tmp_path / "here",
        tmp_path / "there",
        "--label",
        "here",
        "--label",
        "there",
        "--out",
        tmp_path / "compared",
        device=None,
    )
    assert "here" in said and "there" in said


def test_scores(tmp_path: Path) -> None:
    same(*both(tmp_path, "scores", *SMALL, "--batch-size", "20"), but=("rank",))


def test_a_study(tmp_path: Path) -> None:
    words = ("--repeats", "2", "--gradient-samples", "8", "--path-samples", "4", "--draws", "2", "--sweeps", "2")
    got, wanted = both(tmp_path, "study", *SMALL, *words, "--control", "resect:vgg15-digits")
    assert (tmp_path / "here" / "report.html").is_file()
    same(got, wanted, 1e-2)
    assert got.found["answers"].keys() == wanted.found["answers"].keys()


def test_errors_side_by_side(tmp_path: Path) -> None:
    words = ("evaluate", "digits", SHIPPED[0], "resect:vgg15-digits", "--limit", "200")
    same(*both(tmp_path, *words))


def test_prune_chooses_and_times(tmp_path: Path) -> None:
    words = ("prune", *SMALL, "--limit", "80", "--batch-size", "20", "--remove", "1", "--sweep")
    got, wanted = both(tmp_path, *words)
    same(got, wanted, 1e-2)
    assert got.found["arrangement"] == wanted.found["arrangement"]
    assert got.tables["front"]["milliseconds"].iloc[-1] > 0


def test_prune_by_latency(tmp_path: Path) -> None:
    run("prune", *SMALL, "--limit", "80", "--batch-size", "20", "--latency", "0.9", "--out", tmp_path / "run")
    assert resect.Record.read(tmp_path / "run").tables["front"]["latency"].iloc[-1] < 1


def test_prune_heals_and_exports(tmp_path: Path) -> None:
    heal = (
        "--heal",
        "1",
        "--heal-setting",
        "learning_rate=0.1",
        "--recalibrate",
        "--distill",
        "0.5",
    )
    targets = ("--export", f"resect:{tmp_path}/small.safetensors", "--export", f"torch:{tmp_path}/small.pt2")
    words = ("prune", *SMALL, "--limit", "80", "--batch-size", "20", "--without", "1,3,5", "--no-timed", *heal)
    run(*words, "--out", tmp_path / "run", *targets)
    record = resect.Record.read(tmp_path / "run")
    assert len(record.tables["healing"]) == 1
    assert {value.device.type for value in load_file(tmp_path / "run" / "healed.safetensors").values()} == {"cpu"}
    samples = resect.load_samples("digits", limit=4)
    small = load_model("resect:resnet8-w4", checkpoint=tmp_path / "small.safetensors", samples=samples)
    program = torch.export.load(tmp_path / "small.pt2").module()
    with torch.no_grad():
        close(program(samples.inputs.to(DEVICE)), small.module(samples.inputs), 1e-3)
    for where in (DEVICE, "cpu"):
        run(
            "evaluate",
            "digits",
            f"resect:resnet8-w4@{tmp_path}/small.safetensors",
            "--limit",
            "20",
            "--quiet",
            device=where,
        )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small GPT-2 with a tokenizer of words, and a text."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("gpt2")
    words = [f"w{number}" for number in range(40)]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(["[UNK]", *words])}, "[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(place)
    config = transformers.GPT2Config(
        n_layer=3, n_embd=16, n_head=2, vocab_size=41, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(place)
    book = place / "book.txt"
    drawn = np.random.default_rng(0).integers(0, 40, 1000)
    book.write_text(" ".join(words[i] for i in drawn), encoding="utf-8")
    return place, book


def test_a_language_model_is_pruned_and_exported(text: tuple[Path, Path], tmp_path: Path) -> None:
    place, book = text
    words = ("prune", f"hf:{place}", f"text:{book},window=24", "--limit", "16", "--remove", "1", "--unit", "layer")
    outputs = [tmp_path / name for name in ("hf", "small.pt2")]
    targets = ("--export", f"hf:{outputs[0]}", "--export", f"torch:{outputs[1]}")
    run(*words, *targets, "--prompts", "4", "--new-tokens", "4", "--quiet", "--out", tmp_path / "run")
    import transformers

    small = transformers.GPT2LMHeadModel.from_pretrained(outputs[0]).eval()
    assert small.config.n_layer == 2
    ids = torch.arange(48).reshape(2, 24) % 41
    program = torch.export.load(outputs[1]).module()
    with torch.no_grad():
        close(logits(program(ids.to(DEVICE))), small(ids).logits, 1e-3)
    assert resect.Record.read(tmp_path / "run").tables["generation"] is not None


def test_a_language_model_is_lesioned_and_its_paths_told(text: tuple[Path, Path], tmp_path: Path) -> None:
    place, book = text
    data = (f"hf:{place}", f"text:{book},window=16", "--limit", "8", "--batch-size", "4")
    same(*both(tmp_path / "lesion", "lesion", *data))
    same(*both(tmp_path / "paths", "paths", *data, "--draws", "2", "--max-length", "3"), 5e-3)


def test_a_part_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import torch\nfrom torch import nn\nfrom networks import Frame, Residual\n"
        "class Whole(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = Frame(Residual(), Residual())\n"
        "    def forward(self, x):\n        return self.net(x) if float(x.sum()) < 1e9 else None\n"
        "def build():\n    torch.manual_seed(0)\n    return Whole().eval()\n"
    )
    (tmp_path / "own_whole.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = ("lesion", "py:own_whole:build", "digits", "--module", "net", "--limit", "20", "--batch-size", "20")
    same(*both(tmp_path, *words))


TRAININGS = {
    "full": (),
    "on 2 blocks": ("--schedule", "fixed-count", "--keep", "2"),
    "stochastic depth": ("--schedule", "stochastic-depth"),
    "progressive": ("--schedule", "progressive", "--keep", "1"),
    "bfloat16": ("--precision", "bfloat16"),
    "channels last": ("--channels-last", "--flip", "--shift", "1"),
    "fused": ("--compile", "--batch-size", "256"),
}


def trained(out: Path, device: str, *words: str) -> resect.Record:
    """The card of one training, in an Accelerate of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    run("train", *NETWORK, *words, "--quiet", "--out", out, device=device)
    assert all(bool(value.isfinite().all()) for value in load_file(out).values())
    return resect.Record.read(out.with_suffix(".json"))


@pytest.mark.parametrize("kind", TRAININGS)
def test_trainings(kind: str, tmp_path: Path) -> None:
    card, there = (trained(tmp_path / f"{n}.safetensors", d, *TRAININGS[kind]) for n, d in enumerate((DEVICE, "cpu")))
    if DEVICE != "cpu":
        assert f"--device {DEVICE}" in card.command
        assert card.environment["cuda"]
    for one, other in zip(card.found["curve"], there.found["curve"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.05)  # rounding grows from step to step
    assert card.found["test_loss"] == pytest.approx(there.found["test_loss"], rel=0.2)


def test_a_training_with_logs_and_history_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    more = ("--schedule", "fixed-count", "--keep", "2", "--history", str(tmp_path / "epochs"))
    trained(whole, DEVICE, *more[:4])
    save = Checkpoint.save

    def stop(checkpoint: Checkpoint, parts: Any, progress: Any) -> None:
        save(checkpoint, parts, progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", stop)
        words = ["train", *NETWORK, *more, "--device", DEVICE, "--out", str(out), "--quiet"]
        assert CliRunner().invoke(main, words).exit_code == 130
    assert out.with_suffix(".checkpoint").is_file()
    trained(out, DEVICE, *more)
    expected, found = load_file(whole), load_file(out)
    for name, value in expected.items():
        if value.is_floating_point():
            close(found[name].float(), value.float(), 0 if DEVICE == "cpu" else 0.02, name)
    words = ("paths", *SMALL[:4], "--checkpoint", out, "--checkpoints", tmp_path / "epochs", "--limit", "8")
    run(*words, "--draws", "2", "--out", tmp_path / "run", "--quiet")


def test_a_kind_of_device_is_wanted_for_trainings(tmp_path: Path) -> None:
    words = ["train", *NETWORK, "--device", f"{DEVICE}:0", "--out", str(tmp_path / "x.safetensors"), "--quiet"]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "`--device` must be a kind of device" in refused.stderr


def test_a_device_that_is_not_there_is_refused() -> None:
    refused = CliRunner().invoke(main, ["lesion", *SMALL, "--device", "cuda:77"])
    assert refused.exit_code == 2
    assert "`--device` must be one that this PyTorch can use, got 'cuda:77'" in refused.stderr


def test_multiplicity(tmp_path: Path) -> None:
    arms = ("resnet8-w2-b2-s1", "resnet8-w2-b2-s3")
    words = ("--seeds", "2", "--setting", "epochs=1", "--setting", "batch_size=256", "--limit", "60", "--quiet")
    run("multiplicity", "digits", *arms, *words, "--out", tmp_path / "run")
    files = [tmp_path / "run" / "networks" / f"{arm}-seed0.safetensors" for arm in arms]
    assert all(file.is_file() for file in files)
    named = [f"resect:{arm}@{file}" for arm, file in zip(arms, files, strict=True)]
    free = ("multiplicity", "digits", *named, "--training-free", "--repeats", "2", "--gradient-samples", "8")
    got, wanted = both(tmp_path, *free, "--limit", "64")
    assert got.tables.keys() == wanted.tables.keys()
    for name in ("loss_change", "share", "first_order"):
        close(got.tables["blocks"][name], wanted.tables["blocks"][name], 1e-2, name)


@pytest.mark.parametrize("claim", ["5", "12b"])
def test_a_claim(claim: str, tmp_path: Path) -> None:
    got, wanted = both(tmp_path, "reproduce", claim, "--model", "resect:resnet8", "--limit", "30")
    same(got, wanted, 1e-2, but=("command",))  # names the device
