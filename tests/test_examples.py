"""The examples run as they stand, and the documentation shows what they hold."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("own_accelerate")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def _each() -> list[object]:
    """All examples, one of them in every run of the tests: test_scheduled checks what the others show."""
    quick = "timm_loop"
    return [pytest.param(path, id=path.stem, marks=() if path.stem == quick else pytest.mark.slow) for path in EXAMPLES]


@pytest.mark.parametrize("path", _each())
def test_examples_run_and_learn(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = runpy.run_path(str(path))["main"]()
    assert error < 0.6  # 0.9 by chance
    assert f"test error {error:.1%}" in capsys.readouterr().out


def test_the_reference_shows_examples_as_they_are() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    shown = re.findall(r"\(\.\./(examples/\w+\.py)\):\n\n```python\n(.*?)```", text, re.DOTALL)
    assert {name for name, _ in shown} == {"examples/timm_loop.py", "examples/trainer.py"}
    assert set(re.findall(r"examples/\w+\.py", text)) == {f"examples/{path.name}" for path in EXAMPLES}
    for name, code in shown:
        whole = (ROOT / name).read_text()
        missing = [line for line in code.splitlines() if line.strip() and f"    {line}\n" not in whole]
        assert not missing, name
