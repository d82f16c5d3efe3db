"""`resect evaluate`: test error of networks side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from scipy.stats import norm

from resect.cli import main
from resect.data import load_samples
from resect.errors import DataError
from resect.jobs.evaluate import EvaluateJob, evaluate_networks
from resect.measuring.statistics import mcnemar, paired_error_interval
from resect.models.resnet import CifarResNet
from resect.models.specs import load_model
from resect.weights import save_weights


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", *arguments, "--quiet"])


def test_errors_intervals_and_differences(tmp_path: Path) -> None:
    samples = load_samples("digits")
    trained = load_model("resect:vgg15-digits", samples=samples).module
    torch.manual_seed(3)
    other = CifarResNet(8, width=4, channels=1).eval()
    save_weights(other, tmp_path / "other.safetensors")
    arguments = ["resect:vgg15-digits", f"resect:resnet8-w4@{tmp_path}/other.safetensors", "--format", "json"]
    result = run("digits", *arguments)
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)["tables"]["networks"]
    with torch.no_grad():
        wrong = [module(samples.inputs).argmax(1) != samples.targets for module in (trained, other)]
    for row, expected in zip((first, second), wrong, strict=True):
        p, n, z = expected.double().mean().item(), 500, norm.ppf(0.975)
        middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5  # Wilson 1927
        assert row["error"] == pytest.approx(p)
        assert row["error_low"] == pytest.approx((middle - half) / (1 + z * z / n))
        assert row["error_high"] == pytest.approx((middle + half) / (1 + z * z / n))
    broken, repaired = int((wrong[1] & ~wrong[0]).sum()), int((wrong[0] & ~wrong[1]).sum())
    assert first["difference"] is None
    assert second["difference"] == pytest.approx((broken - repaired) / 500)
    low, high = paired_error_interval([broken], [repaired], 500)
    assert (second["difference_low"], second["difference_high"]) == (low[0], high[0])
    assert second["p_value"] == mcnemar([broken], [repaired])[0]
    assert "Test error on 500 samples of digits" in run("digits", *arguments[:2]).stdout


def test_a_killed_evaluation_goes_on_with_the_batches_that_are_left(tmp_path: Path) -> None:
    save_weights(CifarResNet(8, width=4, channels=1), tmp_path / "other.safetensors")
    arguments = ["digits", "resect:vgg15-digits", f"resect:resnet8-w4@{tmp_path}/other.safetensors"]
    options = ["--batch-size", "250", "--out", str(tmp_path / "run"), "--format", "json"]
    before = json.loads(run(*arguments, *options).stdout)
    parts = sorted((tmp_path / "run" / "parts").iterdir())
    assert len(parts) == 4  # two networks, two batches
    (tmp_path / "run" / "record.json").unlink()
    parts[0].unlink()
    kept = {part: part.stat().st_mtime_ns for part in parts[1:]}
    after = json.loads(run(*arguments, *options).stdout)
    assert after["tables"] == before["tables"]
    assert {part: part.stat().st_mtime_ns for part in parts[1:]} == kept
    assert parts[0].exists()


def test_ignored_targets_are_left_out() -> None:
    samples = load_samples("digits", limit=32)
    networks = [load_model(spec, samples=samples) for spec in ("resect:resnet8", "resect:resnet14")]
    targets = samples.targets.clone()
    targets[16:] = -100
    found = evaluate_networks(networks, replace(samples, targets=targets))
    expected = evaluate_networks(networks, load_samples("digits", limit=16))
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(DataError, match="must have a target that counts, but all are -100"):
        evaluate_networks(networks, replace(samples, targets=torch.full_like(targets, -100)))


def test_the_command_names_what_differs_from_the_defaults(tmp_path: Path) -> None:
    options = {"limit": 9, "normalize": "none", "dtype": "float64", "batch_size": 5}
    job = EvaluateJob.of("digits", [f"resect:resnet8@{tmp_path}/a", "resect:vgg15"], options)
    assert job.command() == (
        f"resect evaluate digits resect:resnet8@{tmp_path}/a resect:vgg15 --limit 9 --normalize none --dtype float64 "
        "--batch-size 5"
    )


def test_what_cannot_be_evaluated() -> None:
    result = run("digits", "resect:resnet9")
    assert result.exit_code == 2
    assert "6m+2, got 9" in result.stderr
    assert "there is no file none.safetensors" in run("digits", "resect:resnet8@none.safetensors").stderr
