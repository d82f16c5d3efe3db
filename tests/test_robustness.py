"""The check that trains nothing: what predicts how networks bear lesions."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

import resect
from resect.cli import main
from resect.jobs import authors
from resect.jobs.additivity import deleted_by_authors
from resect.jobs.robustness import RobustnessJob
from resect.models.specs import load_model
from resect.paths.participation import Participation
from resect.report import faces


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[resect.Record, Path]:
    """Two small networks of one family, and their run folder."""
    place = tmp_path_factory.mktemp("robustness")
    files = []
    for merge in (1, 3):
        file = place / f"{merge}.safetensors"
        resect.train("digits", model=f"resnet8-w3-b2-s{merge}", epochs=2, batch_size=32, out=file)
        files.append(f"resect:resnet8-w3-b2-s{merge}@{file}")
    options = {"repeats": 2, "gradient_samples": 8, "limit": 64}
    return resect.robustness("digits", *files, out=place / "run", **options), place / "run"


def test_correlations_are_those_of_the_measures_themselves(record: tuple[resect.Record, Path]) -> None:
    tables = record[0].tables
    assert list(tables["networks"]["blocks"]) == [6, 6]
    assert list(tables["networks"]["log2_paths"]) == pytest.approx([3 * np.log2(3), np.log2(15)])
    for model, own in tables["blocks"].groupby("model"):
        within = tables["within"].set_index(["model", "measure"])["spearman"]
        for name in ("share", "first_order_size", "first_order"):
            assert within[model, name] == pytest.approx(spearmanr(own[name], own["loss_change"]).statistic)


def test_several_deletions_are_set_beside_sums_over_their_blocks(record: tuple[resect.Record, Path]) -> None:
    tables = record[0].tables
    model = str(tables["networks"]["model"][0])
    spec, _, file = model.partition("@")
    samples = resect.load_samples("digits", split="test", limit=64)
    net = resect.unravel(load_model(spec, checkpoint=file, samples=samples))
    data = samples.batches(500)
    alone = resect.lesion(net, data, resect.plans.single(net)).table["loss_change"]
    plan = resect.plans.random(net, 2, 2, 0)
    cost = resect.lesion(net, data, plan).table["loss_change"]
    shares = resect.participation(net, samples.limited(8).batches(32), pairs=True)
    own = tables["several"][tables["several"]["model"] == model]
    chosen = [[i for i, run in enumerate(each) if run is None] for each in plan.arrangements]
    sums = [alone[pair].sum() for pair in chosen]
    assert list(own["count"]) == [2, 2]  # a tenth of three blocks is none, and one alone no sum
    assert list(own["cost"]) == pytest.approx(list(cost), rel=1e-5, abs=1e-7)
    assert list(own["alone"]) == pytest.approx(sums, rel=1e-5, abs=1e-7)
    assert list(own["excess"]) == pytest.approx(list(cost - sums), rel=1e-4, abs=1e-6)
    assert list(own["shares"]) == pytest.approx([shares.share[pair].sum() for pair in chosen], rel=1e-5)
    assert list(own["ties"]) == pytest.approx([shares.interaction[i, j] for i, j in chosen], rel=1e-4)
    assert set(tables["added"]["measure"]) == {"alone", "shares", "ties"}


def test_deletions_of_the_authors_are_ranked_by_sums_among_those_of_as_many_blocks() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(54, 54))
    shares = Participation(tuple(map(str, range(54))), rng.random((3, 54)), np.ones(3), pairs + pairs.T, "input")
    blocks = pd.DataFrame({"downsampling": [i in (18, 36) for i in range(54)]})
    table = deleted_by_authors("resect:resnet110-cifar10", blocks, shares)
    assert table is not None
    assert len(table) == 1232
    row = table.iloc[int(table["count"].argmin())]
    assert row["ties"] == 0  # of one block
    singles = authors.measured("preresnet110", "delete").set_index("block")["error"] - authors.intact("preresnet110")
    both = authors.measured("preresnet110", "delete several")
    chosen = json.loads(both["blocks"][0])
    assert table["alone"][0] == pytest.approx(sum(singles[i] for i in chosen))
    assert table["ties"][0] == pytest.approx(sum(shares.interaction[i, j] for i, j in combinations(chosen, 2)))
    assert table["excess"][0] == pytest.approx(both["error"][0] - authors.intact("preresnet110") - table["alone"][0])
    medians = table.groupby("count")[["cost", "alone"]].median()
    assert (medians.loc[20, "cost"] > 3 * medians.loc[20, "alone"]) and medians.loc[1, "cost"] < 0.01
    assert deleted_by_authors("resect:resnet8", blocks[:3], shares) is None


def test_two_networks_cannot_tell(record: tuple[resect.Record, Path]) -> None:
    between = record[0].tables["between"].dropna(subset="spearman")
    assert (between["p_value"] == 1).all()
    assert "nothing can be said: 2 networks with others of their kind are too few" in record[0].found["summary"]


def test_networks_at_chance_are_warned_of_and_nothing_is_said_between_them() -> None:
    options = {"repeats": 1, "gradient_samples": 2, "limit": 20}
    record = resect.robustness("digits", "resect:resnet8-w2-b2-s1", "resect:resnet8-w2-b2-s3", **options)
    assert record.tables["networks"]["robustness"].isna().all()
    assert record.found["summary"].endswith("Between networks nothing can be said: that takes two of one kind that are "
                                            "better than chance.")  # fmt: skip
    assert sum("has random weights" in warning for warning in record.warnings) == 2
    assert sum("no better than always naming" in warning for warning in record.warnings) == 2


def test_they_are_shown_and_drawn(record: tuple[resect.Record, Path]) -> None:
    made, folder = record
    shown = CliRunner().invoke(main, ["show", str(folder)])
    assert shown.exit_code == 0
    assert made.found["summary"] in shown.output
    place = faces.draw(made, folder)
    assert place is not None
    assert {file.stem for file in place.glob("*.png")} == {"within", "between"}


def test_shipped_networks_are_taken_where_none_is_named() -> None:
    assert RobustnessJob.of("digits", (), {}).networks == ("resect:resnet110-digits",)
    assert len(RobustnessJob.of("cifar10", (), {}).networks) == 4
    assert RobustnessJob.of("digits", (), {"repeats": 3}).command() == (
        "resect multiplicity digits resect:resnet110-digits --training-free --repeats 3"
    )
    with pytest.raises(resect.SpecError, match="none is shipped"):
        RobustnessJob.of("folder:x", (), {})
