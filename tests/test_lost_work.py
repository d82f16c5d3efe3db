"""What happens to work that is interrupted, damaged, done twice at once, or finds no room on the disk."""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

import resect
from resect.cli import main
from resect.errors import ResectWarning
from resect.files import whole, write_bytes
from resect.jobs.lesion import LesionJob
from resect.jobs.source import Source
from resect.report.faces import draw
from resect.runs.folder import RunFolder
from resect.runs.lock import locked
from resect.runs.record import Record
from resect.training.checkpoint import Checkpoint, Progress
from resect.weights import save_weights

COMMAND = ["evaluate", "digits", "resect:resnet8-w4", "--limit", "40", "--batch-size", "20"]
JOB = LesionJob(Source("resect:resnet8", "digits", model_args={"width": 4}, limit=40), batch_size=20)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    folder = tmp_path_factory.mktemp("lost") / "run"
    return folder, JOB.run(folder)


def _empty_zip() -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w"):
        pass
    return file.getvalue()


def _array() -> bytes:
    np.save(file := io.BytesIO(), np.arange(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: whole[:60] + bytes(reversed(whole[60:120])) + whole[120:],
        lambda whole: b"\x93NUMPY" + whole[6:],
        lambda whole: b"PK\x03\x04" + bytes(200),
        lambda whole: b"lost",
        lambda whole: _array(),
        lambda whole: _empty_zip(),
    ],
)
def test_a_damaged_piece_counts_as_not_done(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "lesion", {})
    folder.put({"k": 1}, {"a": np.arange(50.0)})
    (part,) = (tmp_path / "run" / "parts").iterdir()
    part.write_bytes(damage(part.read_bytes()))
    with pytest.warns(ResectWarning, match=rf"{part} is damaged: its piece of work is done again\.$"):
        assert folder.get({"k": 1}) is None


def test_only_the_damaged_piece_is_done_again(finished: tuple[Path, Record], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, record = finished
    part = max((folder / "parts").iterdir(), key=lambda file: file.stat().st_size)
    whole = part.read_bytes()
    part.write_bytes(whole[:-9])
    (folder / "record.json").unlink()
    done, put = [], RunFolder.put
    monkeypatch.setattr(RunFolder, "put", lambda self, key, arrays: (done.append(key), put(self, key, arrays)))
    with pytest.warns(ResectWarning, match=rf"{part.name} is damaged: its piece of work is done again") as warned:
        again = JOB.run(folder)
    assert len(done) == len(warned) == 1
    assert part.read_bytes() == whole
    assert again.found == record.found
    pd.testing.assert_frame_equal(again.tables["lesions"], record.tables["lesions"])


def test_the_command_line_names_a_damaged_piece_and_goes_on(tmp_path: Path) -> None:
    assert run(*COMMAND, "--quiet", "--out", tmp_path / "run").exit_code == 0
    part = next((tmp_path / "run" / "parts").iterdir())
    part.write_bytes(b"")
    (tmp_path / "run" / "record.json").unlink()
    again = run(*COMMAND, "--quiet", "--out", tmp_path / "run")
    assert again.exit_code == 0
    assert again.stderr.splitlines()[0] == f"warning: {part} is damaged: its piece of work is done again."


@pytest.mark.parametrize(
    ("file", "content"),
    [("record.json", b'{"schema": 1'), ("flips.parquet", None)],
)
def test_a_damaged_record_is_put_together_again(
    file: str, content: bytes | None, finished: tuple[Path, Record]
) -> None:
    folder, record = finished
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(resect.RunError, match="The command that made the run makes it anew"):
        Record.read(folder)
    with pytest.warns(ResectWarning, match=f"{file}.* It does so now"):
        again = JOB.run(folder)
    assert again.found == record.found
    assert Record.read(folder).json() == again.json()


def holding(folder: Path) -> subprocess.Popen[str]:
    """Another process at work in a folder, in the middle of writing a file."""
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from resect.files import whole\nfrom resect.runs.lock import locked\n"
        f"folder = Path({str(folder)!r})\n"
        "with locked(folder), whole(folder / 'record.json') as temporary:\n"
        "    temporary.write_text('{')\n    print('at work', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process


def test_a_folder_has_one_process_and_a_killed_one_is_followed(finished: tuple[Path, Record], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = holding(folder)
    try:
        refused = run(*COMMAND, "--out", folder)
        assert refused.exit_code == 2
        assert f"{folder} must be free, but process {process.pid} on " in refused.stderr
        with pytest.raises(resect.RunError, match="is at work on it"):
            JOB.run(folder)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert [file.suffix for file in sorted(folder.iterdir())] == [".tmp", ".lock"]
    assert JOB.run(folder).found == finished[1].found
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "run.lock").exists()


def test_a_lock_is_given_back_and_leaves_nothing(finished: tuple[Path, Record], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "run", "lesion", {})
    with folder.locked():
        with pytest.raises(resect.RunError, match=f"process {os.getpid()} on .* is at work on it"):
            RunFolder(tmp_path / "a" / "run", "lesion", {}).locked().__enter__()
        assert (tmp_path / "a" / "run" / "run.lock").exists()
    assert not (tmp_path / "a").exists()
    job = LesionJob(JOB.source, batch_size=20, plan="repeated", removal="zero", without=None, memory=1)
    with pytest.raises(resect.InputError, match="`memory` must hold"):
        job.run(tmp_path / "a" / "run")
    assert not (tmp_path / "a").exists()


def test_where_the_disk_knows_no_locks_files_of_others_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "run"), whole(tmp_path / "run" / "record.json") as written:
        written.write_text("{")
        with locked(tmp_path / "run"):
            assert written.read_text() == "{"
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["record.json"]


def test_two_that_draw_one_run_do_not_meet(finished: tuple[Path, Record]) -> None:
    """The second waits; what a killed one has left behind is taken over."""
    folder, record = finished
    (folder / "figures.tmp").mkdir()
    command = [sys.executable, "-m", "resect", "report", str(folder)]
    for process in [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]:
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert draw(record, folder, again=False) == folder / "figures"
    assert sorted(file.stem for file in (folder / "figures").iterdir()) == ["classes", "flips", "single"]
    assert not (folder / "figures.tmp").exists()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: write_bytes(file, bytes(9000)),
        lambda file: save_weights(torch.nn.Linear(50, 50), file),
        lambda file: Checkpoint(file, {}).save({"network": torch.nn.Linear(50, 50)}, Progress()),
    ],
)
def test_a_full_disk_is_named_with_the_file(write: Callable[[Path], Any], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("as before")
    with pytest.raises(OSError, match="File too large") as raised, room_for(4096):
        write(file)
    assert raised.value.filename == str(file)
    assert file.read_text() == "as before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_run_whose_disk_is_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    command = [*COMMAND, "--quiet", "--out", tmp_path / "run"]
    with room_for(1500):
        full = run(*command)
    table = tmp_path / "run" / "networks.parquet"
    assert full.stderr == (
        f"error: {table} cannot be used: File too large. Make room, and give the same command again.\n"
    )
    assert full.exit_code == 2
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["parts", "run.yaml"]
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "parts").iterdir()}
    assert len(kept) == 2
    assert run(*command).exit_code == 0
    assert kept == {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "parts").iterdir()}


def test_places_that_cannot_be_run_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, said in (("file", "must be a run folder, but is a file"), ("file/run", "file is a file")):
        refused = run(*COMMAND, "--out", tmp_path / out)
        assert refused.exit_code == 2
        assert said in refused.stderr


def interrupted_after(pieces: int, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> str:
    """What a command says to Ctrl-C after so many pieces of work."""
    put, done = RunFolder.put, []

    def counted(self: RunFolder, key: Any, arrays: Any) -> None:
        if len(done) == pieces:
            os.kill(os.getpid(), signal.SIGINT)
        done.append(key)
        put(self, key, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "put", counted)
        result = run(*arguments)
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_an_interruption_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*COMMAND, "--quiet", "--out", tmp_path / "run"]
    said = interrupted_after(0, monkeypatch, *command)
    expected = "Interrupted. No piece of work was finished, so nothing is kept: the same command starts anew."
    assert said == expected
    said = interrupted_after(1, monkeypatch, *command)
    assert said.startswith(f"Interrupted. {tmp_path / 'run'} keeps 1 finished piece of work: the same command goes on")
    assert run(*command).exit_code == 0


@pytest.fixture
def interrupting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model whose module is interrupted while it is imported, and makes of that what numpy and others make of it."""
    (tmp_path / "interrupted_import.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(9)\n"
        "except KeyboardInterrupt:\n    raise RecursionError('maximum recursion depth exceeded')\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "py:interrupted_import:build"
    sys.modules.pop("interrupted_import", None)


def test_an_interrupted_import_is_an_interruption(interrupting: str) -> None:
    result = run("lesion", interrupting, "digits", "--quiet")
    assert result.exit_code == 130
    assert result.output == (
        "Interrupted. Nothing is kept; in a run folder, --out RUN, the same command would go on where it stopped.\n"
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_quiet_silences_the_libraries_beneath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy_factory.py").write_text(
        "import logging, subprocess, sys, warnings, torch\n"
        "def build():\n"
        "    warnings.warn('old', FutureWarning)\n"
        "    logging.getLogger('transformers').warning('newly initialized')\n"
        "    subprocess.run([sys.executable, '-c', 'import tqdm; [*tqdm.tqdm(range(3))]'])\n"
        "    return torch.nn.Linear(6, 6), torch.zeros(1, 6)\n"
    )
    monkeypatch.chdir(tmp_path)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    libraries = logging.getLogger("transformers")
    monkeypatch.setattr(libraries, "handlers", [handler])
    libraries.setLevel(logging.WARNING)  # the library keeps the level of a quiet command that first imported it
    command = ["blocks", "py:noisy_factory:build", "--plain"]
    with pytest.warns(FutureWarning, match="old"):
        loud = run(*command)
    assert loud.exit_code == 0, loud.output
    assert [record.getMessage() for record in records] == ["newly initialized"]
    assert "3/3" in capfd.readouterr().err
    quiet = run(*command, "--quiet")
    said, again = (re.sub(r"Captured in .* s\.", "", result.stdout) for result in (loud, quiet))
    assert (again, quiet.stderr, len(records), capfd.readouterr().err) == (said, "", 1, "")
    assert not {"TQDM_DISABLE", "TRANSFORMERS_VERBOSITY"} & set(os.environ)
