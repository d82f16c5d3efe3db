"""What tests of `resect train` share: a small training, and the command that runs it."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from resect.cli import main

NETWORK = ["digits", "--model", "resnet8", "--model-arg", "width=4", "--quiet"]
SMALL = [*NETWORK, "--epochs", "6"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["train", *(str(argument) for argument in arguments)])


def refused(*arguments: str | Path) -> str:
    """What the command says that exits with status 2: one message and no traceback."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr
