"""`resect compare`, and the runs that it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from finished import chain, sampled, write
from resect import cli
from resect.errors import InputError, RunError
from resect.jobs.compare import CompareJob, Summary, compare
from resect.runs.record import Record


def runs(folders: Any, labels: Any = ()) -> Record:
    """The comparison of some folders."""
    return CompareJob(tuple(folders), tuple(labels)).run()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A chain of 9 blocks, and one of 54 with weaker branches."""
    shallow = write(tmp_path / "shallow", sampled(9, 0.5, 1.0))
    return shallow, write(tmp_path / "deep", sampled(54, 0.125, 0.25), "resect:resnet110")


def test_names_are_labels_or_models_made_distinct(tmp_path: Path) -> None:
    a, b, c = (write(tmp_path / place, chain(3, 1.0)) for place in ("x/run", "y/run", "z/other"))
    d = write(tmp_path / "d", chain(3, 1.0), "hf:gpt2")

    def names(*folders: Path, labels: tuple[str, ...] = ()) -> list[str]:
        return [row["run"] for row in runs(folders, labels).found["runs"]]

    assert names(a, d) == ["resect:resnet20", "hf:gpt2"]
    assert names(a, c, d) == ["resect:resnet20 (run)", "resect:resnet20 (other)", "hf:gpt2"]
    assert names(a, b, c) == [f"resect:resnet20 ({a})", f"resect:resnet20 ({b})", "resect:resnet20 (other)"]
    assert names(a, b, labels=("trained", "untrained")) == ["trained", "untrained"]


def test_the_wrong_folders_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    with pytest.raises(InputError, match=r"`runs` must name 2 to 8 folders of finished runs, got 1\."):
        runs([a])
    with pytest.raises(InputError, match=r"`runs` must name 2 to 8 folders of finished runs, got 9\."):
        runs([a] * 9)
    with pytest.raises(InputError, match=r"`runs` must name different folders, got .*shallow/\.\./shallow twice\."):
        runs([a, b, a / ".." / "shallow"])
    with pytest.raises(InputError, match=r"`labels` must be given once a run, 2 times, .* got 'one'\."):
        runs([a, b], ["one"])
    with pytest.raises(InputError, match=r"with names that differ, got 'one', 'one'\."):
        runs([a, b], ["one", "one"])
    with pytest.raises(InputError, match=r"with names that differ, got 'one', ''\."):
        runs([a, b], ["one", ""])
    with pytest.raises(RunError, match=r"the folder of a finished run, or a model card, but .*none does not exist\."):
        runs([a, tmp_path / "none"])
    with pytest.raises(RunError, match=r"of a finished run, or a model card, but .*lengths\.parquet is a file\."):
        runs([a, b / "lengths.parquet"])
    with pytest.raises(RunError, match=r"must hold record\.json, but does not: no run has finished there"):
        runs([a, tmp_path])
    Record("lesion", {}, {}, {}, "", {}).write(tmp_path / "lesion")
    with pytest.raises(
        RunError, match=r"holds a run of `resect lesion`, which measures no paths\. Compare runs of `resect study`"
    ):
        runs([a, tmp_path / "lesion"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(columns="share"), "numbers in a column `share`, but has none"),
        (lambda table: table.assign(norm="large"), "numbers in a column `norm`, but has none"),
        (lambda table: table.iloc[1:], "one row for each length 0, 1, ..."),
        (lambda table: table.iloc[:0], "one row for each length 0, 1, ..."),
        (lambda table: table.assign(share=np.nan), "shares of the gradient up to some length"),
        (lambda table: table.assign(share=table["share"].where(table["length"] != 2)), "shares of the gradient up to"),
        (lambda table: table.assign(share=table["share"].replace(table["share"][9], np.inf)), "shares of the gradient"),
        (lambda table: table.assign(log2_paths=-np.inf), "one row for each length"),
    ],
)
def test_tables_that_are_no_lengths_are_refused(pair: tuple[Path, Path], change: Any, said: str) -> None:
    file = pair[0] / "lengths.parquet"
    change(chain(9, 0.5)).to_parquet(file, index=False)
    with pytest.raises(RunError, match=r"Make the run again\.") as caught:
        runs(pair)
    assert str(caught.value).startswith(f"{file} must have ")
    assert said in str(caught.value)


def test_damaged_files_are_refused(pair: tuple[Path, Path]) -> None:
    a, b = pair
    whole = (a / "lengths.parquet").read_bytes()
    (a / "lengths.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"lengths\.parquet is damaged\. The command that made the run makes it anew"):
        runs([a, b])
    (a / "lengths.parquet").write_bytes(whole)
    (a / "record.json").write_text("{")
    with pytest.raises(RunError, match=r"record\.json is damaged\. The command that made the run makes it anew"):
        runs([a, b])


@pytest.fixture
def resect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The command line, run in a folder of its own."""
    monkeypatch.setitem(cli._VERBS, "compare", "Overlay finished runs by path length.")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli.main, ["compare", *map(str, arguments)])

    return run


def test_the_command_prints_a_table_and_what_changed(resect: Any, pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = resect("shallow", "deep", "--label", "shallow", "--label", "deep")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    rule = next(i for i, line in enumerate(lines) if set(line) == {"─"})
    assert [line.split() for line in lines[rule + 1 :]] == [
        "shallow 9 18 1 to 6 2 to 7 3.0 (33 %) 2⁸·³ of 2⁹".split(),
        "deep 54 108 2 to 10 5 to 16 6.0 (11 %) 2²⁷·² of 2⁵⁴".split(),
        [],
        (
            "shallow against deep: effective range 1 to 6 against 2 to 10 blocks; effective depth 3.0 against 6.0 "
            "blocks (33 % against 11 % of the longest path); effective paths at most 2⁸·³ against 2²⁷·², fewer by "
            "a factor of 4.9 × 10⁵."
        ).split(),
    ]
    assert max(map(len, lines[: rule + 3])) <= 80
    assert result.stderr == "Wrote comparison/figures.\n"
    assert sorted(file.name for file in (tmp_path / "comparison").rglob("*.*")) == [
        "comparison.parquet", "magnitudes.png", "norms.png", "record.json", "shares.png",
    ]  # fmt: skip
    written = Record.read(tmp_path / "comparison")
    expected = compare(*pair, labels=["shallow", "deep"])
    pd.testing.assert_frame_equal(written.tables["comparison"], expected.tables["comparison"])
    assert written.found == expected.found
    assert written.tables["comparison"].groupby("run").size().to_dict() == {"shallow": 10, "deep": 55}
    for figure in (tmp_path / "comparison").rglob("*.png"):
        assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(figure.read_bytes()[16:20]) == 1380  # 9.2 inches at 150 dpi


def test_json_holds_the_numbers_that_are_written(resect: Any, pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = resect(*pair, "--format", "json", "--mass", "0.5", "--out", "a/b")
    content = json.loads(result.stdout)
    found = content["found"]
    assert content == json.loads(Record.read(tmp_path / "a" / "b").json())
    assert found["mass"] == content["asked"]["mass"] == 0.5
    summaries = [Summary.of("a", Record.read(folder), 0.5) for folder in pair]
    assert [list(row) for row in found["runs"]] == [list(Summary.__dataclass_fields__)] * 2
    assert [row["share_range"] for row in found["runs"]] == [list(summary.share_range or ()) for summary in summaries]
    assert found["changes"][0]["effective_depth"] == pytest.approx(3 - 6, rel=1e-12)


def test_an_earlier_comparison_is_replaced_and_nothing_else(
    resect: Any, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "comparison"
    assert resect(*pair).exit_code == 0
    (out / "comparison.parquet.7.tmp").touch()  # of a killed one
    write(tmp_path / "third", chain(9, 2.0))
    assert resect("shallow", "third").exit_code == 0
    assert not (out / "figures" / "magnitudes.png").exists()  # it showed other runs
    assert sorted({*pd.read_parquet(out / "comparison.parquet")["run"]}) == [
        "resect:resnet20 (shallow)", "resect:resnet20 (third)",
    ]  # fmt: skip
    (out / "notes.txt").touch()
    before = (out / "record.json").read_bytes()
    result = resect(*pair)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must be empty or hold an earlier comparison, but holds other files (notes.txt)." in result.stderr
    assert (out / "record.json").read_bytes() == before


def test_bad_input_is_one_sentence_and_status_2(resect: Any, pair: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments, said in [
        ((), "`RUN` must name 2 to 8 folders of finished runs, got 0."),
        ((pair[0],), "`RUN` must name 2 to 8 folders of finished runs, got 1."),
        ((pair[0], "nowhere"), "but nowhere does not exist."),
        ((*pair, "--label", "x"), "`--label` must be given once a run"),
        ((*pair, "--out", pair[0] / "record.json"), "must be a folder for the comparison, but is a file."),
        ((*pair, "--out", pair[0]), "but holds other files (lengths.parquet)."),
        ((*pair, "--mass", "nan"), "`--mass` must lie between 0 and 1, got nan."),
    ]:
        result = resect(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), said
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
    assert not (tmp_path / "comparison").exists()


def test_truncation_is_said(resect: Any, pair: tuple[Path, Path], tmp_path: Path) -> None:
    table = chain(9, 1.0)
    table.loc[table["length"] > 6, ["share", "norm"]] = np.nan
    write(tmp_path / "cut", table, "hf:gpt2")
    result = resect("shallow", "cut")
    assert (
        "hf:gpt2: lengths above 6 were not measured; those up to it hold 91.0 % of the gradient, and depth and "
        "effective paths are of them alone."
    ) in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("hf:gpt2 "))
    assert row.split() == "hf:gpt2 9 18 – – 4.2 (47 %) 2⁸·⁹ of 2⁹".split()  # log2(466) bits
