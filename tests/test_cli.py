"""The command line against the real thing, and what it says about bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import resect
from resect.cli import _explained, main
from resect.data import load_samples
from resect.errors import InputError
from resect.jobs.lesion import LesionJob
from resect.jobs.source import Source
from resect.models.resnet import CifarResNet
from resect.models.specs import load_model
from resect.sweep.settings import PLANS
from resect.weights import save_weights

SAMPLES = load_samples("digits")
SMALL = ["--model-arg", "width=4", "--limit", "40", "--quiet"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> str:
    """What a command says that exits with status 2: one message, no traceback, nothing on standard output."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.lstrip().startswith("error: ")  # a progress bar may have been cleared before
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model without joins, at py:plain_factory:build."""
    (tmp_path / "plain_factory.py").write_text(
        "import torch\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    return "py:plain_factory:build"


def test_blocks() -> None:
    table = run("blocks", "resect:resnet20", "--model-arg", "width=4")
    assert table.exit_code == 0, table.output
    assert "9 blocks, 18 layers" in table.stdout
    found = json.loads(run("blocks", "resect:resnet20", "--format", "json").stdout)
    assert [block["name"] for block in found["blocks"]] == [f"blocks.{i}" for i in range(9)]
    assert found["blocks"][3]["kind"] == "projection"
    layers = json.loads(run("blocks", "resect:vgg15", "--plain", "--format", "json").stdout)
    assert (len(layers["blocks"]), len(layers["rejected"])) == (10, 5)


def test_lesion() -> None:
    result = run("lesion", "resect:resnet20", "digits", *SMALL, "--format", "json")
    record = json.loads(result.stdout)
    lesions = record["tables"]["lesions"]
    assert [row["block"] for row in lesions] == list(range(9))
    assert record["found"]["samples"] == 40
    one = json.loads(run("lesion", "resect:resnet20", "digits", *SMALL, "--without", "3", "--format", "json").stdout)
    assert one["tables"]["lesions"][0]["error"] == lesions[3]["error"]
    table = run("lesion", "resect:resnet20", "digits", *SMALL, "--plan", "random")
    assert "20 lesions (random) on 40 samples" in table.stdout
    assert "left" in run("lesion", "resect:resnet20", "digits", *SMALL[:-1]).stderr  # a bar with the time left


def test_paths(tmp_path: Path) -> None:
    out = tmp_path / "lengths.parquet"
    result = run("paths", "resect:resnet20", "digits", *SMALL, "--draws", "2", "--out", out, "--format", "json")
    record = json.loads(result.stdout)
    found, lengths = record["found"], record["tables"]["lengths"]
    assert found["sum_of_shares"] == pytest.approx(1.0, abs=1e-5)
    assert [row["length"] for row in lengths] == list(range(10))
    assert found["multiplicity"]["log2_paths"] == 9
    assert out.exists()
    assert "Effective lengths" in run("paths", "resect:resnet20", "digits", *SMALL, "--draws", "0").stdout


def test_study_and_train(tmp_path: Path) -> None:
    weights = tmp_path / "r14.safetensors"
    trained = run("train", "digits", "--model", "resnet14", "--model-arg", "width=4", "--epochs", "1", "--out", weights)
    assert trained.exit_code == 0, trained.output
    assert "test error" in trained.stderr
    assert resect.Record.read(weights.with_suffix(".json")).asked["model"] == "resect:resnet14"
    options = [*SMALL, "--checkpoint", weights, "--repeats", "2", "--draws", "2", "--gradient-samples", "8"]
    options += ["--control", "resect:vgg15-digits", "--out", tmp_path / "run"]
    first = run("study", "resect:resnet14", "digits", *options)
    assert first.exit_code == 0, first.output
    for question in ("ensemble at test time", "effective members", "very short members", "multiplicity"):
        assert question in first.stdout
    assert "could go" in first.stdout
    assert (tmp_path / "run" / "report.html").exists()
    again = run("study", "resect:resnet14", "digits", *options, "--format", "json")
    assert again.stdout == resect.Record.read(tmp_path / "run").json()
    assert json.loads(again.stdout)["found"]["subject"]["blocks"] == 6
    assert run("show", tmp_path / "run").stdout == first.stdout
    assert "resect:resnet14" in run("ls", tmp_path).stdout
    other = [*options[:-2], "--seed", "3", "--out", tmp_path / "run"]
    assert "another configuration" in refused("study", "resect:resnet14", "digits", *other)


SHORT = ["--repeats", "1", "--draws", "1", "--gradient-samples", "4"]


@pytest.mark.slow
def test_a_finished_study_of_other_weights_under_the_same_name_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "r8.safetensors"
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_weights(CifarResNet(8, width=4, channels=1), weights)
        command = [
            "study",
            "resect:resnet8",
            "digits",
            *SMALL,
            *SHORT,
            "--checkpoint",
            weights,
            "--out",
            tmp_path / "run",
        ]
        if not seed:
            assert run(*command).exit_code == 0
    assert "holds the study of other networks under the same names" in refused(*command)


@pytest.mark.slow
def test_beside_trains_what_has_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resect.jobs import networks
    from resect.training.recipe import Recipe

    monkeypatch.setattr(networks, "Recipe", lambda **settings: Recipe(**settings | {"epochs": 1}))
    command = ["study", "resect:resnet8", "digits", *SMALL, *SHORT, "--out", tmp_path / "run", "--format", "json"]
    assert "6m+2, got 9" in refused(*command, "--beside", "resect:resnet9")
    assert "no residual joins" in refused(*command, "--beside", "resect:vgg15-digits")
    assert not (tmp_path / "run" / "parts").exists()
    result = run(*command, "--beside", "resect:resnet8-w4", "--control", "resect:vgg15")
    assert result.exit_code == 0, result.output
    assert sorted(f.name for f in (tmp_path / "run" / "networks").glob("*.safetensors")) == [
        "resnet8-w4.safetensors",
        "vgg15.safetensors",
    ]
    rows = json.loads(result.stdout)["found"]["answers"]["multiplicity"]
    assert [row["model"] for row in rows] == ["resect:resnet8", "resect:resnet8-w4"]
    assert "leave out --checkpoint, --model-arg and --normalize" in refused("study", *SMALL, "--retrain")


@pytest.mark.slow
def test_beside_loads_weights_that_are_given(tmp_path: Path) -> None:
    weights = tmp_path / "r8.safetensors"
    save_weights(CifarResNet(8, channels=1), weights)
    result = run(
        "study", "resect:resnet14", "digits", *SMALL, *SHORT,
        "--beside", f"resect:resnet8@{weights}", "--no-untrained", "--out", tmp_path / "run", "--format", "json",
    )  # fmt: skip
    record = json.loads(result.stdout)
    assert record["found"]["untrained"] is None and "--no-untrained" in record["command"]
    rows = json.loads(result.stdout)["found"]["answers"]["multiplicity"]
    assert [(row["model"], row["blocks"]) for row in rows] == [("resect:resnet14", 6), ("resect:resnet8", 3)]


@pytest.mark.slow
def test_networks_without_joins(factory: str, tmp_path: Path) -> None:
    for verb in (["blocks", factory], ["lesion", factory, "digits"], ["paths", factory, "digits"]):
        if verb[0] == "blocks":
            assert "does not say what its inputs look like" in refused(*verb)
        else:
            assert "no residual joins" in refused(*verb)
    assert "10 layers that can be deleted and 5 that change the shape" in refused("blocks", "resect:vgg15")
    assert "no residual joins" in refused("study", factory, "digits", "--out", tmp_path / "run", "--quiet")
    plain = run("lesion", factory, "digits", "--plain", "--quiet")
    assert plain.exit_code == 0, plain.output


def test_bad_input(tmp_path: Path) -> None:
    model = CifarResNet(8, width=4, channels=1)
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    save_weights(model, tmp_path / "nan.safetensors")
    assert "`fc.weight` holds 1 NaN" in refused(
        "study", "resect:resnet8", *SMALL[:2], "--checkpoint", tmp_path / "nan.safetensors", "--out", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()
    save_weights(CifarResNet(14, width=4, channels=1), tmp_path / "other.safetensors")
    assert "belongs to another network" in refused(
        "lesion", "resect:resnet8", "digits", *SMALL, "--checkpoint", tmp_path / "other.safetensors"
    )
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:999])
    assert "damaged, truncated" in refused("blocks", "resect:resnet14", "--checkpoint", tmp_path / "half.safetensors")
    np.savez(tmp_path / "none.npz", inputs=np.zeros((0, 1, 8, 8)), targets=np.zeros(0, dtype=int))
    assert "at least one sample" in refused("lesion", "resect:resnet8", f"npz:{tmp_path}/none.npz")
    np.savez(tmp_path / "wide.npz", inputs=np.zeros((4, 5)), targets=np.zeros(4, dtype=int))
    assert "take images (N, C, H, W)" in refused("lesion", "resect:resnet8", f"npz:{tmp_path}/wide.npz")
    assert "digits must fit the network, but on inputs (2, 1, 8, 8)" in refused(
        "lesion", "torchvision:resnet18", "digits"
    )
    assert "unknown model spec" in refused("blocks", "resnet110")
    assert "unknown data spec" in refused("paths", "resect:resnet8", "digit")
    assert "one of the 3 blocks, 0 to 2, got 7" in refused("lesion", "resect:resnet8", "digits", "--without", "7")
    assert "K=V" in refused("blocks", "resect:resnet8", "--model-arg", "width")
    assert "`--device` must be" in refused("lesion", "resect:resnet8", "digits", "--device", "tpu9")
    assert "`--device` must be" in refused("lesion", "resect:resnet8", "digits", "--device", "meta")
    assert "must be a run folder or an empty one" in refused("paths", "resect:resnet8", "digits", "--out", tmp_path)
    assert "`--at` must be" in refused("paths", "resect:resnet8", "digits", *SMALL, "--at", "blocks.7")
    assert "a class below 10" in refused("paths", "resect:resnet8", "digits", *SMALL, "--of", "10")
    (tmp_path / "empty").mkdir()
    weights = tmp_path / "empty"
    assert "must hold checkpoints" in refused("paths", "resect:resnet8", "digits", "--checkpoints", weights)


@pytest.mark.slow
def test_json_keeps_small_numbers() -> None:
    few = ["--draws", "1", "--sweeps", "0", "--strongest", "0"]
    record = json.loads(run("paths", "resect:resnet20", "digits", *SMALL, *few, "--format", "json").stdout)
    lengths = record["tables"]["lengths"]
    table = resect.path_spectrum(
        resect.unravel(
            load_model("resect:resnet20", model_args={"width": 4}, samples=SAMPLES).module, SAMPLES.inputs[:1]
        ),
        SAMPLES.limited(40).batches(32),
    ).table
    assert [row["share"] for row in lengths] == pytest.approx(list(table["share"]), rel=1e-9)
    assert lengths[9]["norm"] != round(lengths[9]["norm"], 10)


def test_another_path_is_advised_only_where_a_path_is_at_fault() -> None:
    assert _explained(OSError("no connection")) == "no connection."
    assert str(_explained(PermissionError(13, "denied", "a/b"))) == "a/b cannot be used: denied. Choose another path."


def test_bad_options_are_clicks() -> None:
    assert "`--layout` is now `--memory-format`" in refused("lesion", "resect:resnet8", "digits", "--layout", "auto")
    assert "`--samples` is now `--draws`" in refused("paths", "resect:resnet8", "digits", "--samples", "2")
    assert "`--paths` is now `--draws`" in refused("study", "resect:resnet8", "digits", "--paths", "2")
    result = run("lesion", "resect:resnet8", "digits", "--plan", "pears")
    assert result.exit_code == 2
    assert "'pears' is not one of" in result.stderr


VERBS = (
    "study", "blocks", "lesion", "paths", "compare", "train", "reproduce", "multiplicity", "export", "evaluate", "ls",
    "show", "report",
)  # fmt: skip


def without_torch(*commands: list[str]) -> str:
    """What commands print in a process of their own, which must not import torch, nor what is slow beside it."""
    code = (
        "import sys\nfrom resect.cli import main\n"
        f"for command in {commands!r}:\n"
        "    try: main(command)\n    except SystemExit as ended: print('status', ended.code)\n"
        "slow = {'torch', 'pandas', 'pyarrow', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_no_help_waits_for_torch() -> None:
    said = without_torch(["--help"], *([verb, "--help"] for verb in VERBS))
    for verb in VERBS:
        assert f"  {verb}" in said
        assert f" {verb} [OPTIONS]" in said
    assert said.count("status 0") == 1 + len(VERBS)


def test_what_the_text_of_a_command_shows_is_refused_without_torch() -> None:
    said = without_torch(
        ["blocks", "resct:resnet110"],
        ["lesion", "resect:resnet110-digit", "digits"],
        ["paths", "resect:resnet20", "imgs"],
        ["evaluate", "digits", "resect:resnet20", "tim:resnet18"],
        ["study", "--beside", "resect:resnet20-cifar10"],
        ["lesion", "resect:resnet20", "digits", "--counts", "3"],
    )
    assert said.count("status 2") == 6
    for expected in (
        "unknown model spec 'resct:resnet110'. Did you mean resect:?",
        "unknown model spec 'resect:resnet110-digit'. Close: resect:resnet110-digits,",
        "unknown data spec 'imgs'. Known are",  # too far from any to suggest one
        "unknown model spec 'tim:resnet18'. Did you mean timm:?",
        "no weights are shipped for resect:resnet20-cifar10",
        "`--counts` is an option of the plans random, windows, shuffled, reversed, parallel, random-repeated, "
        "but here the plan is",
    ):
        assert expected in said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "lesion M D --repeats 5",
            "`--repeats` is an option of the plans random, shuffled, random-repeated, but here the plan is single",
        ),
        (
            "lesion M D --plan random --orders 3",
            "`--orders` is an option of the plan shapley, but here the plan is random",
        ),
        ("lesion M D --plan pairs --removed 2", "`--removed` is an option of the plan ensemble, but"),
        ("lesion M D --plan shapley --members 32", "`--members` is an option of the plan ensemble, but"),
        (
            "lesion M D --plan skips --removal mean",
            "`--removal` is an option of the plans single, pairs, random, windows",
        ),
        (
            "lesion M D --plan random --unit layer",
            "`--unit` is an option of the plans windows, reversed, parallel, but",
        ),
        ("lesion M D --middle", "`--middle` is an option of the plans windows, reversed, parallel, but"),
        ("lesion M D --plan reversed --combine sum", "`--combine` is an option of the plan parallel, but"),
        ("lesion M D --plan ensemble --removal mean", "but here the plan is ensemble"),
        ("lesion M D --plan ensemble --precision 1", "`--precision` is an option of the plans single, pairs"),
        ("lesion M D --plan ensemble --metric loss", "`--metric` is an option of the plans single, pairs"),
        ("lesion M D --without 3 --counts 1", "but here `--without` stands in the place of a plan"),
        ("paths M D --max-length 2 --sweeps 4", "`--sweeps` is an option of measuring all lengths"),
        ("study M D --plain --draws 20", "`--draws` is an option of networks with residual joins"),
        ("study M D --plain --gradient-samples 8", "`--gradient-samples` is an option of networks with residual joins"),
        ("study M npz:x --retrain", "`--retrain` is an option for shipped networks, but none is named here"),
        ("train digits --model resnet20 --keep 3", "`--keep` belongs to the schedules fixed-count, progressive, but"),
        ("train digits --model resnet20 --survival 0.5", "`--survival` belongs to the schedule stochastic-depth, but"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(command: str, said: str) -> None:
    """Those that have the value of their default, too."""
    names = {"M": "resect:resnet20", "D": "digits"}
    assert said in refused(*(names.get(word, word) for word in command.split()))


def test_options_of_another_plan_are_refused_in_the_library_but_not_their_defaults() -> None:
    source = Source("resect:resnet20", "digits")
    with pytest.raises(InputError, match="`counts` is an option of the plans random, windows, shuffled"):
        LesionJob(source, counts=(3,))
    with pytest.raises(InputError, match="`repeats` is an option of"):
        LesionJob.from_options("resect:resnet20", "digits", {"repeats": 5})
    with pytest.raises(InputError, match="`draws` is an option of networks with residual joins"):
        resect.study("resect:resnet20", "digits", plain=True, draws=3)
    for plan in PLANS:
        job = LesionJob(source, plan=plan)
        again = LesionJob(source, **{name: value for name, value in job.asked().items() if name not in vars(source)})
        assert again == job
    assert LesionJob(source, metrics="error").metrics == ("error",)
    assert LesionJob(source, plan="random", repeats=5, counts=(1,)).command().endswith("--plan random --counts 1")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("blocks hf:/nosuch", "there is no folder /nosuch. hf:FOLDER needs one that `save_pretrained` wrote."),
        ("blocks hf:./no/such", "there is no folder ./no/such"),
        ("blocks M --checkpoint .", ". is a folder. Give the path of a safetensors file"),
        ("blocks py:bare_factory:build", "Let the factory return (model, example), where example is a batch of its"),
        ("lesion M D --without 1,99", "a block must be one of the 3 blocks, 0 to 2, got 99."),
        ("lesion M D --limit 20 --memory 1k --quiet", "`--memory` must hold a batch of 8, about "),
        ("evaluate M D", "evaluate takes the data first and then networks, got resect:resnet8 first."),
        ("evaluate D M@", "SPEC@FILE must name a file of weights, got 'resect:resnet8@'."),
        ("train digits --model resnt20", "unknown model spec 'resect:resnt20'. Close: resect:resnet20"),
        ("train digts", "unknown recipe 'digts'"),
        ("show nosuch", "the run must be the folder of a finished run, or a model card, but nosuch does not exist."),
        ("compare nosuch other", "the run must be the folder of a finished run, or a model card, but nosuch does not"),
        ("compare runs/evaluated runs/other", "holds a run of `resect evaluate`, which measures no paths. Compare"),
    ],
)
def test_errors_name_the_cause(command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bare_factory.py").write_text("import torch\ndef build(): return torch.nn.Linear(3, 3)\n")
    monkeypatch.chdir(tmp_path)
    if "evaluated" in command:
        assert run("evaluate", "digits", "resect:resnet8", *SMALL[2:], "--out", "runs/evaluated").exit_code == 0
    names = {"M": "resect:resnet8", "D": "digits", "M@": "resect:resnet8@"}
    message = refused(*(names.get(word, word) for word in command.split()))
    assert said in message
    assert "0 MiB" not in message
