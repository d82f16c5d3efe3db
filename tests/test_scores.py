"""Importance scores: each says what its own measure says, and a new one is one function."""

from __future__ import annotations

from io import StringIO

import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

import resect
from resect.cli import main
from resect.pruning import scores as importance
from resect.report import scores as face


def test_every_score_is_its_own_measure(net, batch):
    result = resect.scores(net, [batch])
    deletions, through = (
        resect.lesion(net, [batch], resect.plans.single(net)).table,
        resect.participation(net, [batch]).table,
    )
    values = resect.shapley(net, [batch]).table
    table = result.table
    for here, there in (("damage", "damage"), ("loss_change", "loss_change")):
        for end in ("", "_low", "_high"):
            assert table[here + end].tolist() == deletions[there + end].tolist()
    assert table["share"].tolist() == through["share"].tolist()
    assert table["shapley"].tolist() == values["error"].tolist()
    assert table["name"].tolist() == [block.name for block in net.blocks]
    assert result.correlations["share"]["loss_change"] == pytest.approx(
        table["share"].corr(table["loss_change"], method="spearman")
    )
    assert result.names[int(table["share"].argmin())] in result.summary()
    assert [*result.values] == [*importance.SCORES]


def test_a_new_score_is_one_function(net, batch, monkeypatch):
    monkeypatch.setattr(importance, "SCORES", dict(importance.SCORES))

    @importance.score
    def parameters(net, data, engine):
        """Parameters of the block."""
        numbers = [float(block.parameters) for block in net.blocks]
        return pd.DataFrame({"value": numbers, "low": numbers, "high": numbers})

    result = resect.scores(net, [batch], "parameters", "share")
    assert result.table["parameters"].tolist() == [block.parameters for block in net.blocks]
    assert "by parameters" in result.summary()
    assert [label.get_text() for label in result.plot().get_yticklabels()] == ["parameters", "share"]


def test_scores_join_and_refuse_what_they_do_not_know(net, batch):
    whole = resect.scores(net, [batch], "damage", "share")
    joined = resect.Scores.joined([resect.scores(net, [batch], name) for name in ("damage", "share")])
    pd.testing.assert_frame_equal(joined.table, whole.table)
    with pytest.raises(resect.InputError, match=r"be of damage, loss_change, shapley, .*, norm_ratio, got 'beauty'"):
        resect.scores(net, [batch], "beauty")


def test_page_and_terminal_show_scores_with_their_intervals(tmp_path):
    arguments = ["resect:resnet8-w4", "digits", "--limit", "30", "--score", "damage", "--score", "share"]
    shown = CliRunner().invoke(main, ["scores", *arguments, "--out", str(tmp_path / "run"), "--quiet"])
    assert shown.exit_code == 0, shown.output
    record = resect.Record.read(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    for row in record.tables["scores"].to_dict("records"):
        value, low, high = (f"{row[f'share{end}']:.{digits}g}" for end, digits in (("", 3), ("_low", 2), ("_high", 2)))
        cell = f"{value} [{low}, {high}]".replace("-", "−")
        assert cell in shown.output
        assert f'<td class="right">{cell}</td>' in page
    assert "In brackets: 95 % intervals over samples." in shown.output
    assert record.found["summary"] in page
    for title in ("Blocks ranked by every score", "How far the scores agree", "Damage", "Share"):
        assert f"</span>{title}</h3>" in page
    assert {file.stem for file in (tmp_path / "run" / "figures").glob("*.png")} == {
        "ranks", "correlations", "damage", "share"
    }  # fmt: skip


@pytest.mark.parametrize(("columns", "tables"), [("60", 2), ("200", 1)])
def test_tables_are_as_wide_as_the_terminal(columns, tables):
    names = ["damage", "loss_change", "share"]
    ends = {
        f"{name}{end}": [value] * 2 for name in names for end, value in (("", 0.123), ("_low", 0.1), ("_high", 0.2))
    }
    table = pd.DataFrame({"block": [0, 1], "name": ["blocks.0", "blocks.1"], **ends})
    matrix = pd.DataFrame({"score": names, **{name: [1.0] * 3 for name in names}})
    found = {"meaning": dict.fromkeys(names, "It says something."), "summary": "All."}
    record = resect.Record("scores", {}, {}, {}, "resect scores", found, {"scores": table, "correlations": matrix})
    console = Console(file=StringIO(), width=int(columns))
    face.show(record, console)
    text = console.file.getvalue()
    assert text.count("block  name") == tables
    assert text.count("0.123 [0.1, 0.2]") == 6
    assert max(map(len, text.splitlines())) <= int(columns)
