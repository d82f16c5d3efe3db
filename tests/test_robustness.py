"""The check that trains nothing: what predicts how networks bear lesions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

import resect
from resect.cli import main
from resect.jobs.robustness import RobustnessJob
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


def test_two_networks_cannot_tell(record: tuple[resect.Record, Path]) -> None:
    between = record[0].tables["between"].dropna(subset="spearman")
    assert (between["p_value"] == 1).all()
    assert "Between 2 networks the data cannot tell" in record[0].found["summary"]


def test_networks_at_chance_are_warned_of_and_nothing_is_said_between_them() -> None:
    options = {"repeats": 1, "gradient_samples": 2, "limit": 20}
    record = resect.robustness("digits", "resect:resnet8-w2-b2-s1", "resect:resnet8-w2-b2-s3", **options)
    assert record.tables["networks"]["robustness"].isna().all()
    assert record.found["summary"].endswith("Between networks nothing can be said: that takes two that are better than "
                                            "chance.")  # fmt: skip
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
