"""`resect lesion` against the library: every plan, its run folder, resuming, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import resect
from resect.cli import main
from resect.cli._options import BatchSize, Bytes, Numbers
from resect.data import load_samples
from resect.models.specs import load_model
from resect.sweep import outcomes
from resect.sweep.settings import PLANS

COMMON = ["resect:resnet20", "digits", "--model-arg", "width=4", "--limit", "60", "--quiet"]
FAST = {
    "random": ["--counts", "1,3", "--repeats", "2"],
    "windows": ["--counts", "1,3"],
    "shuffled": ["--counts", "1,3", "--repeats", "2"],
    "reversed": ["--counts", "2-3", "--unit", "layer"],
    "parallel": ["--middle", "--combine", "sum"],
    "random-repeated": ["--counts", "1,3", "--repeats", "2"],
    "shapley": ["--orders", "2"],
    "ensemble": ["--members", "4"],
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["lesion", *COMMON, *(str(argument) for argument in arguments)])


def refused(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def network() -> resect.Unraveled:
    samples = load_samples("digits", limit=60)
    return resect.unravel(
        load_model("resect:resnet20", model_args={"width": 4}, samples=samples).module, samples.inputs[:1]
    )


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_writes_its_tables_and_figures(plan: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(
        "--plan",
        plan,
        *FAST.get(plan, []),
        "--batch-size",
        "30",
        "--memory-format",
        "contiguous",
        "--out",
        out,
        "--format",
        "json",
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == resect.Record.read(out).json()
    record = json.loads(result.stdout)
    ran = record["found"]["ran"]
    assert (ran["batch_size"], ran["channels_last"], ran["compile"]) == (30, False, False)
    name = "ensembles" if plan == "ensemble" else "shapley" if plan == "shapley" else "lesions"
    table = pd.read_parquet(out / f"{name}.parquet")
    assert [row["error"] for row in record["tables"][name]] == list(table["error"])
    names = {"single", "skips", "repeated", "bypassed"} & {plan}
    expected = {plan, *({"flips", "classes"} if names else ())}
    assert {file.stem for file in (out / "figures").iterdir()} == expected
    assert (out / "interaction.parquet").exists() == (plan == "pairs")
    assert (out / "saturated.parquet").exists() == (plan == "pairs")
    assert (out / "flips.parquet").exists() == (plan not in ("shapley", "ensemble"))


def test_what_has_no_interval_is_shown_without_one() -> None:
    result = run("--plan", "shapley", "--orders", "1", "--memory-format", "contiguous")
    assert result.exit_code == 0
    assert "nan" not in result.stdout and "[" not in result.stdout.split("Shapley values")[0]


def test_the_numbers_are_those_of_the_library(network: resect.Unraveled) -> None:
    options = ["--plan", "pairs", "--removal", "mean", "--metric", "loss", "--metric", "kl", "--batch-size", "30"]
    record = json.loads(run(*options, "--memory-format", "contiguous", "--format", "json").stdout)
    lesions, interaction = record["tables"]["lesions"], record["tables"]["interaction"]
    data = list(load_samples("digits", limit=60).batches(30))
    plan = resect.plans.pairs(network).removing("mean")
    expected = resect.lesion(network, data, plan, resect.LesionSettings(metrics=("loss", "kl")))
    assert [row["loss"] for row in lesions] == list(expected.table["loss"])
    assert [row["kl_high"] for row in lesions] == list(expected.table["kl_high"])
    assert interaction[0]["1"] == expected.interaction("loss").iloc[0, 1]
    assert interaction[0]["0"] is None
    assert record["found"]["ran"]["slices_run"] > len(plan)


@pytest.mark.slow
def test_a_killed_sweep_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--plan", "windows", "--batch-size", "20", "--memory-format", "contiguous", "--format", "json"]

    def results(*arguments: str | Path) -> dict[str, Any]:
        record = json.loads(run(*arguments).stdout)
        return {name: record[name] for name in ("asked", "made_of", "found", "tables")}

    whole = results(*options, "--out", tmp_path / "whole")
    measure, done = outcomes.measure, []

    def killed(*args):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append("batch")
        return measure(*args)

    monkeypatch.setattr(outcomes, "measure", killed)
    stopped = run(*options, "--out", tmp_path / "broken")
    assert stopped.exit_code == 130
    assert "the same command goes on from there; only the piece at hand is lost" in stopped.stderr
    monkeypatch.setattr(outcomes, "measure", lambda *args: done.append("batch") or measure(*args))
    resumed = results(*options, "--out", tmp_path / "broken")
    assert done == ["batch"] * 3  # one before, the two that were missing after
    assert resumed == whole
    assert results(*options, "--out", tmp_path / "broken") == whole
    assert len(done) == 3
    assert "another configuration" in refused(*options, "--precision", "5", "--out", tmp_path / "broken")


def test_a_batch_size_is_chosen_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--plan", "pairs", "--out", out, "--format", "json"]
    first = json.loads(run(*options).stdout)
    trials = pd.read_parquet(out / "trials.parquet")
    assert first["found"]["ran"]["batch_size"] == trials["batch_size"][0]
    assert trials["batch_size"][0] in (60, 32, 16, 8)
    assert json.loads(run(*options).stdout) == first


def test_the_table_shows_intervals_and_how_it_ran() -> None:
    shown = run("--precision", "30", "--batch-size", "30").stdout
    assert "damage" in shown
    assert "[" in shown
    assert "9 lesions (single) on" in shown
    assert "Batches of 30" in shown


def test_bad_options() -> None:
    assert "one of the 9 blocks, 0 to 8, got 12" in refused("--without", "12")
    assert "whole numbers and ranges with commas between" in refused("--without", "3-1")
    assert "must be whole numbers and ranges" in refused("--plan", "random", "--counts", "1-9999999999")
    assert "must be whole numbers and ranges" in refused("--without", "0-9999999999")
    assert "between 0 and 100 percentage points, got -1" in refused("--precision", "-1")
    assert "must hold 'error'" in refused("--precision", "1", "--metric", "loss")
    assert "from 0 to 9, got [10]" in refused("--plan", "random", "--counts", "10")
    assert "1 to 8 of the blocks, got 9" in refused("--plan", "ensemble", "--removed", "9")
    assert "`--removal` is an option of the plans single, pairs, random" in refused(
        "--plan", "ensemble", "--removal", "mean"
    )
    assert "`--memory` must hold a batch of" in refused("--memory", "1k")
    assert "no amount of memory" in refused("--memory", "much")
    assert "neither a whole number" in refused("--batch-size", "0")
    assert "a plain network has none" in refused("--plain", "--plan", "skips")
    assert "each once" in refused("--metric", "loss", "--metric", "loss")


def test_numbers_and_sizes_are_parsed() -> None:
    assert Numbers().convert("1-3,7", None, None) == (1, 2, 3, 7)
    assert Bytes().convert("4GiB", None, None) == 4 * 2**30
    assert Bytes().convert("1.5 mb", None, None) == 3 * 2**19
    assert Bytes().convert("100", None, None) == 100
    assert BatchSize().convert("auto", None, None) is None
    assert BatchSize().convert("7", None, None) == 7
    with pytest.raises(click.BadParameter, match="neither a whole number"):
        BatchSize().convert("-3", None, None)
