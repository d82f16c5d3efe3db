"""Run folders, and studies that were interrupted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import resect
from resect.data import load_samples
from resect.jobs import measure_paths
from resect.jobs.study import Settings, Subjects, run_study
from resect.models.specs import load_model
from resect.runs.folder import RunFolder
from resect.sweep import lesion as lesion_module

SETTINGS = Settings(repeats=3, gradient_samples=8, gradient_batch=8, paths=2, path_samples=8, path_batch=8)


def test_a_piece_is_computed_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {"model": "x"})
    table = pd.DataFrame({"a": [1.5, 2.5]})
    assert folder.piece({"k": 1}, lambda: table)[1] is False
    again = RunFolder(tmp_path / "run", {"model": "x"})
    found, was_there = again.piece({"k": 1}, lambda: pytest.fail("computed twice"))
    assert was_there
    pd.testing.assert_frame_equal(found, table)
    assert folder.piece({"k": 2}, lambda: table)[1] is False
    assert not list(tmp_path.rglob("*.tmp"))


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", {"model": "x", "seed": 0}).open()
    with pytest.raises(resect.RunError, match=r"another configuration .*seed: 0 there, 1 here"):
        RunFolder(tmp_path / "run", {"model": "x", "seed": 1})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(resect.RunError, match="must be a run folder or an empty one"):
        RunFolder(tmp_path / "mine", {})
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_damage_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    folder.piece({"k": 1}, lambda: pd.DataFrame({"a": [1]}))
    (file,) = (tmp_path / "run" / "parts").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(resect.RunError, match=r"is damaged. Delete it"):
        folder.piece({"k": 1}, lambda: pd.DataFrame())
    (tmp_path / "run" / "run.yaml").write_text("a: [1")
    with pytest.raises(resect.RunError, match=r"is damaged. Delete the folder"):
        RunFolder(tmp_path / "run", {})


def test_a_killed_study_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = load_samples("digits", limit=40)
    subjects = Subjects(load_model("resect:resnet14", samples=samples, arguments={"width": 4}), None, ())
    done: list[str] = []

    def go(folder: str):
        run = RunFolder(tmp_path / folder, {})
        return run_study(subjects, samples, SETTINGS, run, lambda what, total: lambda amount: None)

    whole, _ = go("whole")
    compute = measure_paths.path_spectrum

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure_paths, "path_spectrum", killed)
    with pytest.raises(KeyboardInterrupt):
        go("broken")
    monkeypatch.setattr(measure_paths, "path_spectrum", compute)
    monkeypatch.setattr(lesion_module, "measure_batch", lambda *args: done.append("lesion"))
    resumed, finished_before = go("broken")
    assert not finished_before
    assert done == []
    assert resumed.answers.as_dict() == whole.answers.as_dict()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "broken").rglob("*") if file.is_file()}
    again, finished_before = go("broken")
    assert finished_before
    assert again.answers.as_dict() == whole.answers.as_dict()
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "broken").rglob("*") if file.is_file()}
    assert {f.name for f in (tmp_path / "whole").iterdir()} >= {
        "run.yaml",
        "environment.json",
        "results.parquet",
        "lengths.parquet",
        "answers.json",
        "parts",
    }
