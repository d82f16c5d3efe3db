"""What a change can break, and which of those tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import affected

ROOT = Path(__file__).parents[1]


def commit(folder: Path, *files: str, hours_ago: int = 0) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"# {hours_ago}\n")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    for name in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{name}_NAME": "someone", f"GIT_{name}_EMAIL": "someone@example.org"}
        environment[f"GIT_{name}_DATE"] = f"{time.time() - 3600 * hours_ago:.0f} +0000"
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "some files"]):
        subprocess.run(["git", *command], cwd=folder, env=environment, check=True)


def test_changed_is_what_the_last_hour_committed_and_what_is_not_committed(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match="needs a git repository with a commit"):
        affected.changed_files(tmp_path)
    commit(tmp_path, "old.py", "edited.py", "tests/test_old.py", hours_ago=3)
    assert affected.changed_files(tmp_path) == set()
    commit(tmp_path, "tests/test_new.py")
    (tmp_path / "edited.py").write_text("x = 1\n")
    (tmp_path / "tests/untracked.py").touch()
    assert affected.changed_files(tmp_path) == {"tests/test_new.py", "edited.py", "tests/untracked.py"}
    assert "old.py" in affected.changed_files(tmp_path, since="4 hours ago")


@pytest.mark.slow
def test_tests_are_as_far_from_a_change_as_their_chain_of_imports_is_long() -> None:
    def far(*changed: str) -> dict[str, int]:
        return {name: steps for name, steps in affected.distances(ROOT, changed).items() if name.startswith("test_")}

    assert far("tests/test_plans.py") == {"test_plans": 0}
    assert far("Makefile", "docs/theory.md", "tests/no_such_file.py") == {}
    plans = far("src/resect/sweep/plans.py", "tests/test_data.py")
    assert (plans["test_data"], plans["test_plans"]) == (0, 1)
    assert plans["test_ensemble"] == 1  # resect.plans, as users write it
    assert plans["test_runs"] == 2  # through the jobs that make plans
    assert not {"test_spectrum", "test_statistics"} & plans.keys()  # resect.path_spectrum is that of paths
    verbs = far("src/resect/cli/train.py")
    assert verbs["test_cli_train"] == 3  # through what its tests share
    assert "test_network" not in verbs
    assert far("src/resect/report/templates/report.html")["test_report"] == 1  # read by the modules beside it
    helpers = far("tests/networks.py")
    assert (helpers["test_discovery"], helpers["test_samples"]) == (1, 1)
    assert set(far("tests/conftest.py")) == {file.stem for file in (ROOT / "tests").glob("test_*.py")}


def test_near_and_quick_tests_are_chosen_until_the_time_is_up() -> None:
    tests = {"far": 2, "near": 1, "nearer": 0, "slow and near": 1, "new": 1}
    seconds = {"far": 1.0, "near": 2.0, "nearer": 3.0, "slow and near": 9.0}  # "new" is taken for 2 s
    assert affected.chosen(tests, seconds, 100) == ["nearer", "near", "new", "slow and near", "far"]
    assert affected.chosen(tests, seconds, 7.5) == ["nearer", "near", "new"]
    assert affected.chosen(tests, seconds, 0.1) == []
    assert affected.chosen({}, {}, 10) == []


@pytest.mark.slow
def test_pytest_runs_what_can_break_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    commit(tmp_path, "tests/test_old.py", hours_ago=3)
    shutil.copy(affected.__file__, tmp_path / "tests")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntestpaths = ['tests']\n")
    (tmp_path / "tests/conftest.py").write_text('pytest_plugins = ["affected"]\n')
    commit(tmp_path, ".gitignore", hours_ago=2)
    (tmp_path / ".gitignore").write_text("*cache*\n")

    def run(limit: float, processes: int = 0) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), "--affected", str(limit)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert run(60)[0] == 0  # nothing to run is no failure
    tests = "import time\n\ndef test_slow():\n    time.sleep(1)\n\ndef test_quick():\n    pass\n"
    (tmp_path / "tests/test_new.py").write_text(tests)
    status, said = run(60)
    assert (status, "2 of 2 tests that the last hour's changes can break.\n" in said) == (0, True)
    status, said = run(0.9, processes=2)  # it knows by now which takes a second
    assert status == 0
    assert "1 of 2 tests" in said
    assert "Left out, for 0.9 s: 1 of tests/test_new.py." in said
    (tmp_path / "tests/test_new.py").write_text("def test_quick():\n    assert False\n")
    assert run(60)[0] == 1
