"""`resect paths` and `resect train --history`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

import resect
from resect.cli import main
from resect.data import load_samples
from resect.models.specs import load_model
from resect.paths.settings import PathSettings

SMALL = ["--model-arg", "width=4", "--limit", "20", "--quiet"]
FEW = ["--draws", "2", "--sweeps", "2", "--strongest", "3", "--batch-size", "10"]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result


def test_the_run_folder_holds_what_the_library_finds_and_is_not_made_twice(tmp_path: Path) -> None:
    command = ["paths", "resect:resnet20", "digits", *SMALL, *FEW, "--pairs", "--out", tmp_path / "run"]
    said = run(*command).stdout
    assert "Effective lengths (at least 95 % of the gradient, here 9" in said
    assert "Shares of the gradient through single blocks, the largest first: blocks." in said
    assert "The strongest path has" in said
    assert "these 3 are the strongest. They hold" in said
    samples = load_samples("digits", limit=20)
    net = resect.unravel(
        load_model("resect:resnet20", model_args={"width": 4}, samples=samples).module, samples.inputs[:1]
    )
    spectrum = resect.path_spectrum(net, samples.batches(10))
    lengths = pd.read_parquet(tmp_path / "run" / "lengths.parquet")
    np.testing.assert_array_equal(lengths["share"], spectrum.share)
    np.testing.assert_array_equal(lengths[["share_low", "share_high"]].T, spectrum.share_interval())
    assert {"path_norm_low", "magnitude", "path_norm_rms", "path_norm_rms_high", "log2_paths_within"} <= set(lengths)
    blocks = pd.read_parquet(tmp_path / "run" / "blocks.parquet")
    through = resect.participation(net, samples.batches(10), pairs=True)
    np.testing.assert_array_equal(blocks["share"], through.share)
    pairs = pd.read_parquet(tmp_path / "run" / "pairs.parquet")
    np.testing.assert_allclose(pairs, through.pairs, rtol=1e-12)
    figures = {file.stem for file in (tmp_path / "run" / "figures").glob("*.png")}
    assert figures == {"counts", "shares", "norms", "blocks", "pairs", "strongest"}
    parts = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "parts").iterdir()}
    measures = ("shares", "participation", "fair shares", "first order", "samples", "signs", "energy")
    assert len(parts) == 2 * len(measures) + 1  # of two batches each; and the search
    next(iter(parts)).unlink()
    (tmp_path / "run" / "record.json").unlink()  # a finished run does nothing again
    run(*command)
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "parts").iterdir()}
    assert again.keys() == parts.keys()
    assert sum(again[file] != parts[file] for file in parts) == 1
    pd.testing.assert_frame_equal(lengths, pd.read_parquet(tmp_path / "run" / "lengths.parquet"))


def test_places_scalars_and_lengths_are_passed_on(tmp_path: Path) -> None:
    command = ["paths", "resect:resnet20", "digits", *SMALL, *FEW, "--sweeps", "0", "--format", "json"]
    record = json.loads(run(*command, "--at", "blocks.3", "--of", "target", "--max-length", "2").stdout)
    found, lengths = record["found"], record["tables"]["lengths"]
    samples = load_samples("digits", limit=20)
    net = resect.unravel(
        load_model("resect:resnet20", model_args={"width": 4}, samples=samples).module, samples.inputs[:1]
    )
    spectrum = resect.path_spectrum(net, samples.batches(10), PathSettings(at=3, of="target"), max_length=2)
    assert found["at"] == "input of blocks.3"
    assert [row["share"] for row in lengths][:3] == spectrum.share[:3].tolist()
    assert lengths[3]["share"] is None
    assert found["rest"] == spectrum.rest_share
    assert found["sum_of_shares"] + found["rest"] == pytest.approx(1, abs=1e-6)
    assert found["effective_by_rms"] is None  # signs need all lengths


@pytest.mark.slow
def test_paths_over_training(tmp_path: Path) -> None:
    history = tmp_path / "history"
    weights = tmp_path / "w.safetensors"
    run("train", "digits", "--model", "resnet8", "--model-arg", "width=4", "--epochs", "2", "--out", weights,
        "--history", history, "--quiet")  # fmt: skip
    assert sorted(file.name for file in history.iterdir()) == [f"epoch-{i}.safetensors" for i in range(3)]
    command = ["paths", "resect:resnet8", "digits", *SMALL, *FEW, "--checkpoint", weights, "--checkpoints", history]
    record = json.loads(run(*command, "--format", "json", "--out", tmp_path / "run").stdout)
    found, training = record["found"], record["tables"]["training"]
    assert [row["checkpoint"] for row in training] == ["epoch-0", "epoch-1", "epoch-2"]
    last, whole = training[2], found["multiplicity"]
    assert last["effective_depth"] == pytest.approx(whole["effective_depth"], rel=1e-6)  # the same weights
    assert training[0]["effective_depth"] != pytest.approx(last["effective_depth"], rel=1e-3)
    assert (tmp_path / "run" / "figures" / "training.png").exists()
    assert all(row["low"] <= row["effective_depth"] <= row["high"] for row in training)
    short = ["--max-length", "0", "--sweeps", "0", "--draws", "0", "--strongest", "0"]
    record = json.loads(run(*command, *short, "--format", "json", "--out", tmp_path / "short").stdout)
    assert [(row["low"], row["high"]) for row in record["tables"]["training"]] == [(None, None)] * 3
    assert (tmp_path / "short" / "figures" / "training.png").exists()


@pytest.mark.slow
def test_two_runs_are_compared(tmp_path: Path) -> None:
    for depth in (8, 14):
        run("paths", f"resect:resnet{depth}", "digits", *SMALL, *FEW, "--out", tmp_path / str(depth))
    said = run("compare", tmp_path / "8", tmp_path / "14", "--out", tmp_path / "both").stdout
    assert "resect:resnet8" in said
    assert (tmp_path / "both" / "shares.png").exists() or list((tmp_path / "both").rglob("shares.png"))


def test_a_gradient_in_half_precision_says_that_it_cannot_be_taken_apart() -> None:
    result = CliRunner().invoke(main, ["paths", "resect:resnet20", "digits", *SMALL, "--dtype", "bfloat16"])
    assert result.exit_code == 2
    assert "In half precision, use float32" in result.stderr
    assert torch.get_default_dtype() == torch.float32
