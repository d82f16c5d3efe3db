"""Messages name what is wrong as it was typed: options on the command line, parameters in the library."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import resect
from resect.cli import main
from resect.cli._names import as_typed
from resect.errors import said_of
from resect.pruning.export.formats import require_target

PRUNE = ["prune", "resect:resnet8", "digits", "--model-arg", "width=4", "--limit", "80", "--remove", "1"]
HEAL = [*PRUNE, "--heal", "1", "--heal-setting"]


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*PRUNE, "--params", "0.5"], "got `--remove` and `--params`."),
        ([*HEAL, "epochs=3"], "`--heal-setting` must be one of batch_size, learning_rate,"),
        ([*HEAL, "batch_size=0"], "`--heal-setting`: batch_size must be a whole number of at least 2, got 0."),
        ([*PRUNE, "--export", "foo:a", "--out", "new"], "`--export` must be one of hf:PATH,"),
        (["export", "resect:resnet8", "--without", "1", "foo:a"], "`KIND:PATH` must be one of hf:PATH,"),
        ([*PRUNE, "--group", "0,1", "--group", "1"], "groups of blocks must share none, but two hold block 1."),
        (["evaluate", "text:book.txt,window=x", "resect:resnet8"], "`window=` of text: must be a whole number"),
        (["evaluate", "text:book.txt,task=x", "resect:resnet8"], "`task=` of text: must be one of next-token,"),
        (["compare", "a", "a", "--out", "new"], "`RUN` must name different folders, got a twice."),
        (["train", "digits", "--model", "resnet8", "--nesterov", "--momentum", "0"], "`--momentum` must be above 0"),
        (
            ["multiplicity", "digits", "--setting", "momentum=3", "--out", "new"],
            "`--setting`: momentum must be between",
        ),
    ],
)
def test_the_command_line_names_what_was_typed(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(*arguments)
    assert not list(tmp_path.iterdir())


def test_names_that_are_none_of_the_command_stay_as_they_are() -> None:
    prune = main.get_command(None, "prune")  # type: ignore[arg-type]  # it needs none
    said = "`model` and `data`, `model_args`, the arrays `inputs` and `targets`, `resect show`, not `seeds`; `timed`"
    assert as_typed(said, prune) == (
        "`MODEL` and `DATA`, `--model-arg`, the arrays `inputs` and `targets`, `resect show`, not `seeds`; `--timed`"
    )
    assert as_typed(said, None) == said


def test_the_library_names_its_parameters(tmp_path: Path) -> None:
    with pytest.raises(resect.InputError, match=r"^`recipe`: batch_size must be a whole number of at least 2, got 0"):
        resect.HealSettings(recipe={"batch_size": 0})
    with pytest.raises(resect.InputError, match=r"^`recipe` must be one of batch_size"):
        resect.HealSettings(recipe={"epochs": 3})
    with pytest.raises(resect.ExportError, match=r"^`target` must be one of hf:PATH"):
        require_target("foo:a")
    with pytest.raises(resect.DataError, match=r"^`recipe`: shift must be off"), said_of("recipe"):
        raise resect.DataError("`shift` must be off")
