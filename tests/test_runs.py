"""Runs as values and as folders: written, read back, interrupted, damaged, and of older layouts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import resect
from resect.engines import local
from resect.errors import InputError, ResectWarning
from resect.jobs.lesion import LesionJob
from resect.jobs.paths import PathsJob
from resect.jobs.source import Source
from resect.jobs.study import StudyJob
from resect.report.faces import draw
from resect.runs.folder import RunFolder
from resect.runs.record import Record

TABLE = pd.DataFrame(
    {"a": [1.5, np.nan], "name": ["x", "y"], "blocks": [(1, 2), ()], "n": [1, 2], "down": [True, False]}
)


def a_record(**changes: Any) -> Record:
    parts = {
        "kind": "lesion",
        "asked": {"model": "m", "limit": None, "counts": (1, 2), "checkpoint": Path("a/b")},
        "made_of": {"samples": "1234"},
        "environment": {"seconds": 0.1 + 0.2},
        "command": "resect lesion m d",
        "found": {"error": np.float64(1 / 3), "nothing": float("nan"), "rows": np.arange(2)},
        "tables": {"lesions": TABLE},
    }
    return Record(**parts | changes)


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    record = a_record()
    assert record.found == {"error": 1 / 3, "nothing": None, "rows": [0, 1]}
    assert record.asked == {"model": "m", "limit": None, "counts": [1, 2], "checkpoint": "a/b"}
    record.write(tmp_path / "run")
    again = Record.read(tmp_path / "run")
    assert [getattr(again, name) for name in ("kind", "asked", "made_of", "environment", "command", "found")] == [
        getattr(record, name) for name in ("kind", "asked", "made_of", "environment", "command", "found")
    ]
    assert again.tables["lesions"].to_dict("list").keys() == TABLE.to_dict("list").keys()
    assert again.tables["lesions"]["blocks"].tolist() == [(1, 2), ()]
    assert again.json() == record.json()
    content = json.loads((tmp_path / "run" / "record.json").read_text())
    assert list(content) == ["schema", "kind", "asked", "made_of", "environment", "command", "found", "tables"]
    assert content["schema"] == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(resect.RunError, match="none does not exist"):
        Record.read(tmp_path / "none")
    with pytest.raises(resect.RunError, match=r"must hold record\.json, but does not: no run has finished there"):
        Record.read(tmp_path)
    a_record().write(tmp_path / "run")
    file = tmp_path / "run" / "record.json"
    whole = file.read_text()
    for text, said in [
        (whole[:40], "is damaged"),
        ("[]", "is damaged"),
        (whole.replace('"schema": 1', '"schema": 9'), "must have the schema 1, got 9"),
        (whole.replace('"found"', '"lost"'), "`found` is missing"),
    ]:
        file.write_text(text)
        with pytest.raises(resect.RunError, match=said):
            Record.read(tmp_path / "run")
    file.write_text(whole)
    table = tmp_path / "run" / "lesions.parquet"
    table.write_bytes(table.read_bytes()[:50])
    with pytest.raises(resect.RunError, match=r"lesions\.parquet is damaged"):
        Record.read(tmp_path / "run")
    table.unlink()
    with pytest.raises(resect.RunError, match=r"there is no file .*lesions\.parquet"):
        Record.read(tmp_path / "run")


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (["answers.json"], "resect study resect:resnet20 digits --control resect:vgg15 --limit 40 --draws 3"),
        (["summary.json"], "resect lesion resect:resnet20 digits --control resect:vgg15 --limit 40 --draws 3"),
        (
            ["summary.json", "lengths.parquet"],
            "resect paths resect:resnet20 digits --control resect:vgg15 --limit 40",
        ),
        (["comparison.json"], "resect compare RUN RUN"),
    ],
)
def test_folders_of_the_older_layout_are_refused_with_the_command(
    files: list[str], command: str, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).write_text("{}")
    asked = {"model": "resect:resnet20", "data": "digits", "checkpoint": None, "limit": 40, "control": "resect:vgg15"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**asked, "samples": 3, "plain": False}))
    with pytest.raises(resect.RunError, match="of an older version of resect") as caught:
        Record.read(tmp_path)
    assert command in str(caught.value)
    with pytest.raises(resect.RunError, match="of an older version of resect"):
        RunFolder(tmp_path, "lesion", asked)


def test_the_command_for_an_older_sweep_has_no_options_of_other_plans(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    asked = {"model": "resect:resnet20", "data": "digits", "plan": "random", "repeats": 5, "orders": 20, "members": 32}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(asked))
    with pytest.raises(resect.RunError, match="resect lesion resect:resnet20 digits --plan random --repeats 5 --out"):
        Record.read(tmp_path)


def test_a_piece_is_kept_once_and_done_again_if_it_is_damaged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "lesion", {"model": "x"})
    arrays = {"a": np.array([1.5, np.nan]), "n": np.array(3)}
    assert folder.get({"k": 1}) is None
    assert not (tmp_path / "run").exists()  # nothing is written before there is something to keep
    folder.put({"k": 1}, arrays)
    again = RunFolder(tmp_path / "run", "lesion", {"model": "x"}).get({"k": 1})
    assert again is not None
    assert {name: value.tolist() for name, value in again.items()}.keys() == arrays.keys()
    np.testing.assert_array_equal(again["a"], arrays["a"])
    (file,) = (tmp_path / "run" / "parts").iterdir()
    whole = file.read_bytes()
    place = whole.index(np.array([1.5]).tobytes())
    for broken in (whole[:20], whole[: len(whole) // 2], whole[:place] + b"\x07" + whole[place + 1 :], b""):
        file.write_bytes(broken)
        with pytest.warns(ResectWarning, match=f"{file.name} is damaged"):
            assert folder.get({"k": 1}) is None
    folder.put({"k": 1}, arrays)
    assert folder.get({"k": 1}) is not None


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", "lesion", {"model": "x", "seed": 0}).open()
    with pytest.raises(resect.RunError, match=r"another configuration .*seed: 0 there, 1 here"):
        RunFolder(tmp_path / "run", "lesion", {"model": "x", "seed": 1})
    with pytest.raises(resect.RunError, match=r"another configuration .*kind: 'lesion' there, 'paths' here"):
        RunFolder(tmp_path / "run", "paths", {"model": "x", "seed": 0})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(resect.RunError, match="must be a run folder or an empty one"):
        RunFolder(tmp_path / "mine", "lesion", {})
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "run" / "run.yaml").write_text("a: [1")
    with pytest.raises(resect.RunError, match=r"is damaged. Delete the folder"):
        RunFolder(tmp_path / "run", "lesion", {})


SOURCE = Source("resect:resnet14", "digits", model_args={"width": 4}, limit=40)
STUDY = StudyJob(
    SOURCE, repeats=3, gradient_samples=8, gradient_batch=8, draws=2, sweeps=2, path_samples=8, path_batch=8
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A finished study with its page."""
    folder = tmp_path_factory.mktemp("study") / "run"
    record = STUDY.run(folder)
    draw(record, folder)
    return folder, record


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The keys of all pieces that are kept from now on; after the first `count` comes one interruption."""
    put, pieces, kills = RunFolder.put, [], [count]

    def counted(self: RunFolder, key: Any, arrays: Any) -> None:
        if len(pieces) in kills:
            kills.clear()
            raise KeyboardInterrupt
        pieces.append(key)
        put(self, key, arrays)

    monkeypatch.setattr(RunFolder, "put", counted)
    return pieces


@pytest.mark.slow
def test_a_killed_study_does_only_what_is_missing(
    study: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = study
    pieces = killed_after(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        STUDY.run(tmp_path / "broken")
    assert not (tmp_path / "broken" / "record.json").exists()
    resumed = STUDY.run(tmp_path / "broken")
    assert len(pieces) == len({json.dumps(key, sort_keys=True) for key in pieces})  # none twice
    assert resumed.found == whole.found
    for name, table in whole.tables.items():
        pd.testing.assert_frame_equal(resumed.tables[name], table)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "broken").rglob("*") if file.is_file()}
    monkeypatch.setattr(local.Local, "run", lambda *_: pytest.fail("a finished run was run again"))
    again = STUDY.run(tmp_path / "broken")
    assert again.json() == resumed.json()
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "broken").rglob("*") if file.is_file()}


def test_a_run_is_read_by_its_record_and_figures_appear_all_at_once(study: tuple[Path, Record], tmp_path: Path) -> None:
    folder, record = study
    assert Record.read(folder / "record.json").json() == record.json()
    job = LesionJob(SOURCE, batch_size=40, memory_format="contiguous")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml.1.tmp").touch()  # of a run that was killed while it wrote its first file
    run = job.run(tmp_path / "run")
    (tmp_path / "run" / "figures.tmp").mkdir()  # and of drawing
    assert draw(run, tmp_path / "run", again=False) == tmp_path / "run" / "figures"
    assert not (tmp_path / "run" / "figures.tmp").exists()
    assert list((tmp_path / "run" / "figures").glob("*.png"))


def test_options_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InputError, match="`without` stands in the place of a plan, but `plan` is 'shapley'"):
        LesionJob(SOURCE, plan="shapley", without=(3,))
    with pytest.raises(InputError, match="`dtype` must be one of float32, float64, bfloat16, float16, got 'half'"):
        Source("resect:resnet14", "digits", dtype="half")
    with pytest.raises(InputError, match="`beside` must be a tuple of networks"):
        StudyJob(SOURCE, beside="resect:resnet20")


def test_a_report_is_made_again_without_torch_byte_for_byte(study: tuple[Path, Record]) -> None:
    folder, _ = study
    files = sorted([folder / "report.html", *(folder / "figures").iterdir()])
    before = {file: file.read_bytes() for file in files}
    for file in files:
        file.unlink()
    code = (
        "import sys\nfrom resect.cli import main\n"
        f"try: main(['report', {str(folder)!r}])\n"
        "finally: assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {file: file.read_bytes() for file in files} == before


def test_a_killed_sweep_keeps_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pairs sweep of one batch in many pieces: what was done before the kill is not done again."""
    monkeypatch.setattr("resect.sweep.lesion._PIECE_SECONDS", 1e-9)
    job = LesionJob(SOURCE, plan="pairs", batch_size=40, memory_format="contiguous")
    whole = job.run()
    pieces = killed_after(10, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        job.run(tmp_path / "run")
    resumed = job.run(tmp_path / "run")
    assert len(pieces) == 2 + 15 + 6 + 1  # the batch size, the seconds of a pass, pairs, single deletions, intact
    pd.testing.assert_frame_equal(resumed.tables["lesions"], whole.tables["lesions"])
    assert resumed.found == whole.found


def test_found_has_the_same_types_whatever_was_asked() -> None:
    """`samples`, `pairs` and `strongest` were once what was asked or what was found, depending on the options."""
    few = {"draws": 1, "sweeps": 1, "batch_size": 20}
    plain, full = (
        PathsJob(SOURCE, **few, strongest=strongest, pairs=pairs).run() for strongest, pairs in ((0, False), (2, True))
    )
    for record, strongest in ((plain, 0), (full, 2)):
        content = json.loads(record.json())
        assert list(content)[:4] == ["schema", "kind", "asked", "made_of"]
        assert content["asked"]["draws"] == 1
        assert content["asked"]["strongest"] == strongest
        assert content["found"]["samples"] == 40
    assert {name: type(value) for name, value in plain.found.items()} == {
        name: type(full.found[name]) for name in plain.found
    }
    assert set(full.found) - set(plain.found) == {"strongest"}
    assert {"pairs", "strongest"} == set(full.tables) - set(plain.tables)


def test_the_command_of_a_record_makes_it_again(tmp_path: Path) -> None:
    job = LesionJob(SOURCE, plan="random", counts=(1, 2), repeats=2, metrics=("loss",), batch_size=40)
    assert job.run().command == (
        "resect lesion resect:resnet14 digits --model-arg width=4 --limit 40 --plan random --counts 1,2 --repeats 2 "
        "--metric loss --batch-size 40"
    )
    with pytest.raises(resect.InputError, match=r"`repeat` must be an option of lesion, one of .*repeats"):
        LesionJob.from_options("resect:resnet14", "digits", {"repeat": 3})
