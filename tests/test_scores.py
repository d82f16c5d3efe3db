"""Importance scores: each says what its own measure says, and a new one is one function."""

from __future__ import annotations

import pandas as pd
import pytest

import resect
from resect.pruning import scores as importance


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
