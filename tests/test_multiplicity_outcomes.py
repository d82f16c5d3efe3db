"""What finished trainings of an experiment answered: kept beside their cards, it takes the place of their weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from pandas.testing import assert_frame_equal

import resect
from resect.cli import main
from resect.errors import DamagedError, ResectWarning
from resect.figures import multiplicity as figures
from resect.jobs import multiplicity as job
from resect.jobs.outcomes import SUFFIX, ImageOutcomes
from resect.models.specs import load_model
from resect.report.multiplicity import tables

ARMS = ("resnet8-w2-b2-s1", "resnet8-w2-b2-s3")
OPTIONS = {"seeds": 2, "settings": {"epochs": 2, "batch_size": 64}, "limit": 61}
COMMAND = ["--seeds", "2", "--setting", "epochs=2", "--setting", "batch_size=64", "--limit", "61", "--trainings", "0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which both arms are trained with one seed of two."""
    out = tmp_path_factory.mktemp("outcomes") / "run"
    resect.multiplicity("digits", *ARMS, out=out, trainings=2, **OPTIONS)
    return out


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The networks that are tested from now on."""
    seen, outcomes_of = [], job.outcomes_of

    def counting(network: object, *rest: object) -> object:
        seen.append(network.spec)  # type: ignore[attr-defined]
        return outcomes_of(network, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "outcomes_of", counting)
    return seen


def compared(folder: Path) -> resect.Record:
    """What is over, compared anew."""
    for file in (*folder.glob("*.parquet"), *folder.glob("record.json")):
        file.unlink()
    return resect.multiplicity("digits", *ARMS, out=folder, trainings=0, **OPTIONS)


def refused(folder: Path) -> Result:
    (folder / "record.json").unlink(missing_ok=True)
    result = CliRunner().invoke(main, ["multiplicity", "digits", *ARMS, *COMMAND, "--out", str(folder)])
    assert result.exit_code == 2, result.output
    return result


def outcomes(folder: Path, arm: int = 0, seed: int = 0) -> Path:
    return folder / "networks" / f"{ARMS[arm]}-seed{seed}{SUFFIX}"


def without_weights(folder: Path) -> Path:
    for file in folder.glob("networks/*.safetensors"):
        file.unlink()
    return folder


def same(one: resect.Record, other: resect.Record) -> bool:
    for name, table in one.tables.items():
        assert_frame_equal(table, other.tables[name], check_exact=True)
    return (one.asked, one.made_of, one.found) == (other.asked, other.made_of, other.found)


def test_they_are_those_of_the_weights_and_small(finished: Path) -> None:
    samples = resect.load_samples("digits", split="test", limit=61)
    for arm in (0, 1):
        weights = finished / "networks" / f"{ARMS[arm]}-seed0.safetensors"
        module = load_model(f"resect:{ARMS[arm]}", checkpoint=weights, samples=samples).module
        with torch.no_grad():
            wrong = (module(samples.inputs).argmax(1) != samples.targets).numpy()
        kept = ImageOutcomes.read(outcomes(finished, arm))
        assert np.array_equal(kept.wrong, wrong)
        assert kept.samples == samples.digest()
        assert outcomes(finished, arm).stat().st_size < 1000


def test_finished_trainings_without_weights_give_the_same_record(folder: Path, tested: list[str]) -> None:
    before = resect.Record.read(folder)
    assert same(before, compared(without_weights(folder)))
    assert tested == []


def test_plan_cards_and_outcomes_alone_are_a_run_that_goes_on(folder: Path, tmp_path: Path, tested: list[str]) -> None:
    copy = tmp_path / "copy"
    (copy / "networks").mkdir(parents=True)
    shutil.copy(folder / "plan.yaml", copy)
    for file in folder.glob("networks/*.json"):
        shutil.copy(file, copy / "networks")
    assert same(compared(folder), compared(copy))
    card = (copy / "networks" / f"{ARMS[0]}-seed0.json").read_bytes()
    record = resect.multiplicity("digits", *ARMS, out=copy, **OPTIONS)
    assert (record.found["trained"], record.found["seeds"]) == (4, [0, 1])
    assert tested == [f"resect:{arm}" for arm in ARMS]  # with the second seed
    assert {file.stem for file in copy.glob("networks/*.safetensors")} == {f"{arm}-seed1" for arm in ARMS}
    assert (copy / "networks" / f"{ARMS[0]}-seed0.json").read_bytes() == card


def test_a_run_without_outcomes_is_taken_over(folder: Path, tested: list[str]) -> None:
    before = {file.name: file.read_bytes() for file in folder.glob(f"networks/*{SUFFIX}")}
    for name in before:
        (folder / "networks" / name).unlink()
    compared(folder)
    assert len(tested) == 2
    assert {file.name: file.read_bytes() for file in folder.glob(f"networks/*{SUFFIX}")} == before


def test_outcomes_of_other_images_weights_or_trainings_are_made_anew(folder: Path, tested: list[str]) -> None:
    before, file = resect.Record.read(folder), outcomes(folder)
    kept = ImageOutcomes.read(file)
    for other in (("other", kept.samples, kept.weights), (kept.training, "other", kept.weights),
                  (kept.training, kept.samples, "other")):  # fmt: skip
        ImageOutcomes(~kept.wrong, *other).write(file)
        assert same(before, compared(folder))
    file.write_text(file.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    with pytest.warns(ResectWarning, match=r"s1-seed0.outcomes.json is damaged. The network is tested again."):
        assert same(before, compared(folder))
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"schema": 2}), encoding="utf-8")
    with pytest.warns(ResectWarning, match=r"another version of resect wrote it. The network is tested again."):
        assert same(before, compared(folder))
    assert tested == [f"resect:{ARMS[0]}"] * 5


def test_without_weights_what_cannot_be_used_is_refused(folder: Path) -> None:
    file = outcomes(without_weights(folder))
    kept, text = ImageOutcomes.read(file), file.read_text(encoding="utf-8")
    ways = f"bring back {ARMS[0]}-seed0.safetensors to have it tested again, or delete {file.name}"
    ImageOutcomes(kept.wrong, kept.training, "other", kept.weights).write(file)
    assert (
        f"{file} is of other images than the images of digits that are here. Use those, {ways}"
        in refused(folder).stderr
    )
    ImageOutcomes(kept.wrong, "other", kept.samples, kept.weights).write(file)
    assert f"{file} is of another training than the card beside it." in refused(folder).stderr
    changed = json.loads(text) | {"errors": 0}
    for damaged in (
        "",
        "[]",
        "{",
        json.dumps(changed),
        text.replace('"wrong": "', '"wrong": "A'),
        text[: len(text) // 2],
    ):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(DamagedError):
            ImageOutcomes.read(file)
        assert f"{file} is damaged. Take it from a copy, {ways}" in refused(folder).stderr
    file.write_text(json.dumps(json.loads(text) | {"schema": 2, "digest": "of another kind"}), encoding="utf-8")
    assert (
        f"{file} must have the schema 1, got 2: another version of resect wrote it. Go on with that version, {ways}"
        in refused(folder).stderr
    )
    file.write_text(text, encoding="utf-8")
    card = folder / "networks" / f"{ARMS[0]}-seed0.json"
    shutil.copy(folder / "networks" / f"{ARMS[1]}-seed0.json", card)
    assert f"{card} must be the card of this training" in refused(folder).stderr
    card.unlink()
    assert "but is missing or damaged" in refused(folder).stderr


def test_networks_at_chance_are_warned_of(folder: Path) -> None:
    for arm in (0, 1):
        kept = ImageOutcomes.read(outcomes(without_weights(folder), arm))
        ImageOutcomes(np.full(61, arm == 0), kept.training, kept.samples, kept.weights).write(outcomes(folder, arm))
    record = compared(folder)
    (warning,) = record.warnings
    assert warning.startswith(f"{ARMS[0]}, seed 0 errs on 100.0 % of 61 samples of digits, no better than")
    assert warning.endswith("Train the arms longer, with --setting epochs=N.")
    assert record.tables["design"]["error"].tolist() == [1.0, 0.0]


def test_figures_have_the_ends_of_the_tables(folder: Path) -> None:
    record = compared(folder)
    design = record.tables["design"].assign(error=0.2, error_low=0.0, error_high=0.9)  # cut at 0: of two seeds
    (bars,) = figures.errors(design, record.tables["trainings"]).containers
    for (low, high), x in zip((segment[:, 1] for segment in bars.lines[2][0].get_segments()), (0, 1), strict=True):
        assert (low, high) == pytest.approx((0, 90)), x
    rows = record.tables["contrasts"].assign(difference=0.0, low=-0.003, high=0.003, low_90=-0.002, high_90=0.002)
    outer, inner = figures.differences(rows, 0.25).containers
    assert outer.lines[2][0].get_segments()[0][:, 0] == pytest.approx([-0.3, 0.3])
    assert inner.lines[2][0].get_segments()[0][:, 0] == pytest.approx([-0.2, 0.2])
    figures.differences(rows.drop(columns=["low_90", "high_90"]), 0.25)  # of a record of before


def test_a_record_without_what_came_later_is_shown(folder: Path) -> None:
    record = compared(folder)
    before = {**record.tables, "design": record.tables["design"].drop(columns="training_error")}
    titles = [title for title, *_ in tables(replace(record, tables=before))]
    assert titles == [title for title, *_ in tables(record)] and "Errors" in titles
    assert "Exploratory, from 3 seeds on" in titles[-1]
    assert all(row[4:6] == ("", "") for row in tables(record)[-1][2])  # of two seeds
