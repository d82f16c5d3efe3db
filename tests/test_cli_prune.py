"""`resect prune` and `resect scores`: their run folders, resuming, plans, and what they refuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result

import resect
from resect.cli import main
from resect.jobs.asked_pruning import PruneAsked, ScoresAsked
from resect.jobs.source import Source
from resect.models.resnet import CifarResNet
from resect.pruning.settings import PruneSettings
from resect.sweep import outcomes

COMMON = ["resect:resnet8", "digits", "--model-arg", "width=4", "--limit", "80", "--quiet"]


def run(verb: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [verb, *COMMON, *(str(argument) for argument in arguments)])


def refused(verb: str, *arguments: str | Path) -> str:
    result = run(verb, *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_search_writes_a_page_and_a_plan_that_removes_the_same_blocks(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run("prune", "--remove", "2", "--sweep", "--no-timed", "--out", out)
    assert result.exit_code == 0, result.output
    record = resect.Record.read(out)
    found, front = record.found, record.tables["front"]
    assert found["what"] == "2 of 3 blocks"
    assert found["verdict"] in result.stdout
    assert (found["calibration_samples"], found["samples"]) == (20, 60)  # batches of a quarter
    assert front["removed"].tolist() == [1, 2]
    assert record.command.endswith("--remove 2 --sweep --no-timed")
    assert {file.name for file in (out / "figures").iterdir()} == {"front.png", "units.png"}
    page = (out / "report.html").read_text()
    assert "Without 2 of 3 blocks" in page
    assert record.command in page
    shown = CliRunner().invoke(main, ["show", str(out)])
    assert shown.stdout == result.stdout
    plan = yaml.safe_load((out / "plan.yaml").read_text())
    assert plan["arrangement"] == found["arrangement"]
    again = run("prune", "--plan", out / "plan.yaml", "--no-timed", "--format", "json", "--tolerance", "100")
    other = json.loads(again.stdout)
    assert other["found"]["arrangement"] == found["arrangement"]
    assert other["tables"]["front"][0]["error"] == front["error"][1]
    assert "there is no loss of more than" in other["found"]["verdict"]  # than 100 points


@pytest.mark.slow
def test_the_result_is_exported_and_runs_elsewhere(tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "small.pt2"
    result = run("prune", "--remove", "2", "--no-timed", "--out", out, "--export", f"torch:{file}")
    assert result.exit_code == 0, result.output
    loaded = resect.load_model(COMMON[0], model_args={"width": 4}, samples=resect.load_samples("digits"))
    net = resect.unravel(loaded.module, loaded.example)
    images = torch.rand_like(net.example)
    pruned = net.arrangement(resect.Record.read(out).found["arrangement"])
    assert torch.equal(torch.export.load(file).module()(images), net(images, pruned))


def test_an_export_needs_a_run_folder_and_a_known_kind(tmp_path: Path) -> None:
    assert "Add --out RUN" in refused("prune", "--remove", "1", "--export", f"torch:{tmp_path / 'a.pt2'}")
    out = tmp_path / "run"
    export = ("prune", "--remove", "1", "--out", out, "--export")
    assert "'foo:a'" in refused(*export, "foo:a")
    assert "timm can only write models of timm:, but resect:resnet8 is none." in refused(
        *export, f"timm:{tmp_path / 'a'}"
    )
    (tmp_path / "b").touch()
    assert "b must be new, but is a file already" in refused(*export, f"torch:{tmp_path / 'b'}")
    assert not out.exists()


def test_exports_have_places_of_their_own_that_can_be_written(tmp_path: Path) -> None:
    out, small = tmp_path / "run", tmp_path / "small.pt2"
    export = ("prune", "--remove", "1", "--out", out, "--export")
    assert f"got {small} twice" in refused(*export, f"torch:{small}", "--export", f"torch:{small}")
    assert "must have another path than the run folder" in refused(*export, f"torch:{out}")
    (tmp_path / "file").touch()
    assert f"but {tmp_path / 'file'} is a file. Choose" in refused(*export, f"torch:{tmp_path / 'file' / 'small.pt2'}")
    assert not out.exists()


def test_a_run_that_is_over_is_not_one_that_was_kept_to_a_format(tmp_path: Path) -> None:
    options = ("prune", "--remove", "1", "--no-timed", "--search", "one-shot", "--out", tmp_path / "run")
    assert run(*options).exit_code == 0
    assert "(fits: [] there, ['resect'] here)" in refused(*options, "--fits", "resect")
    said = refused(*options, "--export", f"resect:{tmp_path / 'a'}")  # a ResNet-8 has one block a stage
    assert "resect cannot express this network: " in said
    assert f"{tmp_path / 'run'} keeps what was found" in said


def test_the_removal_of_all_blocks_by_hand_is_a_lesion_that_is_warned_of() -> None:
    result = run("prune", "--without", "0-2", "--no-timed", "--format", "json")
    assert result.exit_code == 0, result.output
    assert "No block is left: what remains is what lies around them." in json.loads(result.stdout)["found"]["warnings"]
    assert "every stage must keep a block, but stage 2 of 3 has none left" in str(_shortened(1))


def _shortened(block: int) -> Exception:
    with pytest.raises(resect.SpecError) as error:
        CifarResNet((1, 1, 1)).shortened({f"blocks.{block}"})
    return error.value


@pytest.mark.parametrize("way", [("--remove", "1", "--group", "1"), ("--without", "0,1")])
def test_what_a_format_can_never_hold_is_refused_before_a_search(
    way: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lesion(*_: Any, **__: Any) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr("resect.pruning.bench.lesion", lesion)
    said = refused("prune", *way, "--out", tmp_path / "run", "--export", f"resect:{tmp_path / 'a'}")
    assert "it still reads blocks.1.sc.weight" in said


def test_the_page_says_how_to_remove_the_same_blocks_of_the_same_network(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run("prune", "--remove", "1", "--search", "one-shot", "--no-timed", "--out", out).exit_code == 0
    page = (out / "report.html").read_text()
    effort = resect.Record.read(out).found["effort"]
    assert "Chosen by one-shot search for the least score (kl) on" in page.replace("\N{NO-BREAK SPACE}", " ")
    assert effort == "scored in 4 passes, 1 set of blocks measured"
    assert effort in page.replace("\N{NO-BREAK SPACE}", " ")
    assert effort in CliRunner().invoke(main, ["show", str(out)]).stdout
    command = f"resect prune resect:resnet8 digits --model-arg width=4 --limit 80 --no-timed --plan {out / 'plan.yaml'}"
    assert command in page
    again = CliRunner().invoke(main, [*shlex.split(command)[1:], "--quiet"])
    assert again.exit_code == 0, again.output
    assert f"Chosen by the plan {out / 'plan.yaml'}, judged on 60 samples." in again.stdout


def test_a_killed_search_goes_on_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--remove", "2", "--search", "beam", "--no-timed"]
    whole = json.loads(run("prune", *options, "--format", "json").stdout)
    measure, calls = outcomes.measure, 0

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(outcomes, "measure", dying)
    out = tmp_path / "run"
    killed = run("prune", *options, "--out", out)
    assert killed.exit_code == 130
    assert f"{out} keeps" in killed.stderr
    assert not (out / "record.json").exists()
    before, calls = len(list((out / "parts").iterdir())), 10
    again = run("prune", *options, "--out", out)
    assert again.exit_code == 0, again.output
    record = resect.Record.read(out)
    assert record.found == whole["found"]
    assert record.tables["front"]["error"].tolist() == [row["error"] for row in whole["tables"]["front"]]
    assert before >= 2
    finished, calls = calls, 10
    assert run("prune", *options, "--out", out).exit_code == 0
    assert calls == 10 < finished  # nothing was done again


def test_other_samples_choose(tmp_path: Path) -> None:
    result = run("prune", "--params", "0.7", "--calibration", "digits,size=8", "--no-timed")
    assert result.exit_code == 2  # digits has no options
    result = run("prune", "--flops", "0.7", "--calibration", "digits", "--no-timed", "--format", "json")
    record = json.loads(result.stdout)
    assert (record["found"]["calibration_samples"], record["found"]["samples"]) == (500, 80)
    assert record["found"]["kept"]["flops"] <= 0.7
    assert "calibration" in record["made_of"]


def test_a_latency_budget_says_how_far_its_prices_were_off() -> None:
    options = ["--latency", "0.8", "--search", "one-shot", "--timing-batch", "8"]
    result = run("prune", *options)
    assert result.exit_code == 0, result.output
    assert "A pass of 8 samples takes" in result.stdout
    assert "what was measured end to end" in result.stdout


def test_scores_stand_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run("scores", "--score", "kl", "--score", "angular", "--out", out)
    assert result.exit_code == 0, result.output
    record = resect.Record.read(out)
    assert list(record.tables) == ["scores", "correlations", "windows"]
    assert record.tables["scores"].columns.tolist() == [
        *("block", "name", "kl", "kl_low", "kl_high", "angular", "angular_low", "angular_high")
    ]
    assert {file.stem for file in (out / "figures").iterdir()} == {"ranks", "correlations", "windows", "kl", "angular"}
    assert "Divergence of the output distribution" in result.stdout
    assert "rank correlation" in result.stdout


def test_what_means_nothing_is_refused(tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.yaml", tmp_path / "other.yaml"
    broken.write_text("[1, 2")
    other.write_text("without: 3")
    for options, said in (
        (
            [],
            "one of `--remove`, `--params`, `--flops`, `--latency`, `--without`, `--plan` must say what goes, got none",
        ),
        (["--remove", "1", "--latency", "0.5"], "got `--remove` and `--latency`"),
        (["--remove", "1", "--score", "kl"], "`--score` is an option of the search one-shot, but here it is exchange"),
        (["--without", "1", "--search", "greedy"], "`--search` is an option of a search, but what goes is given"),
        (["--remove", "1", "--no-timed", "--timing-batch", "2"], "of timing, but `--timed` is off"),
        (["--remove", "1", "--group", "0", "--unit", "layer"], "`--unit` is an option without groups of one's own"),
        (["--remove", "1", "--calibration", "tea"], "tea"),
        (["--remove", "1", "--calibration", "digits", "--module", "fc"], "for whole models whose inputs"),
        (["--plan", tmp_path / "none.yaml"], "cannot be read: No such file"),
        (["--plan", broken], "must be a file in YAML with an `arrangement:`"),
        (["--plan", other], "must name an `arrangement:` such as"),
    ):
        assert said in refused("prune", *options), options


@pytest.mark.slow
def test_a_budget_beyond_the_network_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    assert "`--remove` must be at most 2 of the 3 blocks, so that one stays, got 4" in refused(
        "prune", "--remove", "4", "--out", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


def test_what_was_refused_can_be_asked_for_in_another_way_in_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    data = np.random.default_rng(0).normal(size=(12, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "few.npz", inputs=data, targets=np.arange(12) % 10)
    heal = ["--remove", "1", "--search", "one-shot", "--no-timed", "--refit", "--out", out]
    common = [f"npz:{tmp_path}/few.npz" if word == "digits" else word for word in COMMON]
    refusal = CliRunner().invoke(main, ["prune", *common, *map(str, heal), "--heal-data", common[1]])
    assert (refusal.exit_code, (out / "run.yaml").exists()) == (2, False), refusal.output
    assert "must have training samples beside those that choose and judge, but they are the same" in refusal.stderr
    (out / "parts").mkdir(parents=True, exist_ok=True)  # of what was done before
    again = CliRunner().invoke(main, ["prune", *common, *map(str, heal), "--heal-data", "digits"])
    assert again.exit_code == 0, again.output
    assert resect.Record.read(out).asked["heal_data"] == "digits"


def test_defaults_are_those_of_the_library() -> None:
    asked = PruneAsked(Source("resect:resnet8", "digits"), remove=1)
    assert asked.settings() == PruneSettings()
    groups = PruneAsked(Source("resect:resnet8", "digits"), remove=1, groups=((0, 1), ("blocks.2",)))
    assert groups.command() == "resect prune resect:resnet8 digits --remove 1 --group 0,1 --group blocks.2"
    scores = ScoresAsked(Source("resect:resnet8", "digits"), scores=("kl", "share"))
    assert scores.command() == "resect scores resect:resnet8 digits --score kl --score share"
