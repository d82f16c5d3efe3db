"""What the paper's authors measured, and that it is drawn behind what is measured here."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from made import made_blocks, made_study
from resect.jobs import authors
from resect.report.study.gallery import drawings


def test_their_results_are_those_of_their_paper() -> None:
    assert len(authors.lesions()) == 5261
    single = authors.measured("preresnet110", "delete")
    assert authors.intact("preresnet110") == pytest.approx(0.0603, abs=1e-4)
    assert single["error"].median() == pytest.approx(0.0646, abs=1e-4)
    assert single["block"].tolist() == list(range(54))
    assert single["error"].nlargest(3).index.tolist() == [0, 18, 36]  # where Figure 3 has its peaks
    several = authors.measured("preresnet110", "delete several")
    medians = several.groupby("count")["error"].median()[[1, 5, 10, 15, 20]]
    np.testing.assert_allclose(medians, [0.065, 0.096, 0.251, 0.578, 0.739], atol=1e-3)
    swapped = authors.measured("preresnet110", "swap several")
    assert spearmanr(swapped["kendall_tau"], swapped["error"]).statistic == pytest.approx(-0.80, abs=0.005)
    damage = [
        authors.measured(f"preresnet{depth}", "delete")["error"].median() - authors.intact(f"preresnet{depth}")
        for depth in (20, 32, 44, 56, 110)
    ]
    assert all(shallow > deep for shallow, deep in pairwise(damage))


def test_the_order_that_is_left_follows_from_the_swaps() -> None:
    for row in authors.measured("preresnet110", "swap several").iloc[::97].itertuples():
        order = list(range(54))
        for one, other in json.loads(row.blocks):
            order[one], order[other] = order[other], order[one]
        assert row.kendall_tau == pytest.approx(kendalltau(range(54), order).statistic, abs=1e-5)
        assert row.count == len(json.loads(row.blocks))


@pytest.mark.parametrize(
    ("model", "blocks", "network"),
    [
        ("py:own:net", made_blocks(54), "preresnet110"),
        ("resect:resnet110-cifar10-stochastic-depth", made_blocks(54), "stochdepth110"),
        ("a.stochastic-depth", made_blocks(21), None),  # of depth 44 they trained none so
        ("resect:resnet20", made_blocks(9), "preresnet20"),
        ("resect:resnet26", made_blocks(12), None),
        ("timm:vit", made_blocks(54).assign(downsampling=False), None),
    ],
)
def test_networks_are_set_beside_theirs_of_the_same_build(model: str, blocks, network: str | None) -> None:
    assert authors.counterpart(model, blocks) == network


def test_their_lesions_are_drawn_behind_those_of_a_study_and_named() -> None:
    study = made_study(54)
    kinds = {"deletions": "delete", "random": "delete several", "reorderings": "swap several"}
    for drawing in drawings(study):
        if drawing.name not in kinds:
            continue
        theirs = authors.measured("preresnet110", kinds[drawing.name])
        lines = [line.get_ydata() for line in drawing.figure().axes[0].lines]
        known = {round(value, 4) for value in theirs["error"] * 100}
        assert any(len(line) > 40 and {round(float(value), 4) for value in line} <= known for line in lines)
        assert f"the {len(theirs):,} that its authors made" in drawing.caption(study)[0]
    shallow = [drawing.caption(made_study(12))[0] for drawing in drawings(made_study(12))]
    assert not any("its authors made" in text for text in shallow)
