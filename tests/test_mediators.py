"""What trained arms' paths are like: kept beside their networks, and set beside their errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import stats

import resect
from resect.errors import ResectWarning
from resect.jobs.mediators import LOSS, MEASURES, TrainedPaths, mediation, paths_file, said_of_loss
from resect.jobs.outcomes import outcomes_file
from resect.models.specs import load_model
from resect.paths.settings import PathSettings
from resect.paths.spectrum import path_spectrum
from resect.report.multiplicity import tables

ARMS = ("resnet8-w2-b2-s1", "resnet8-w2-b2-s3")
OPTIONS = {"seeds": 3, "settings": {"epochs": 1, "batch_size": 256}, "limit": 40}
KEY = {"weights": "a", "samples": "b"}


def drawn(seeds: int, slope: float, noise: float, shift: float = 2.0) -> pd.DataFrame:
    """Errors that rise by `slope` a unit of a measure, of which one arm has `shift` more."""
    rng = np.random.default_rng(5)
    rows = []
    for arm, more in (("few", shift), ("many", 0.0)):
        values = 5 + more + rng.normal(size=seeds)
        errors = 0.1 + slope * values + noise * rng.normal(size=seeds)
        rows += [
            (arm, seed, error, *[value] * len((*MEASURES, LOSS)))
            for seed, (error, value) in enumerate(zip(errors, values, strict=True))
        ]
    return pd.DataFrame(rows, columns=["arm", "seed", "error", *MEASURES, LOSS])


def test_what_a_measure_carries_is_what_it_was_drawn_with() -> None:
    table = mediation(drawn(400, 0.03, 0.01), [("few", "many")], range(400))
    assert table["measure"].tolist() == [*MEASURES, LOSS]
    row = table.iloc[0]
    for name, true in (("difference", 2.0), ("slope", 0.03), ("carried", 0.06)):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"], name
        assert row[name] == pytest.approx(true, rel=0.1)


def test_slopes_are_those_of_a_regression_on_arms_and_the_measure() -> None:
    trainings = drawn(6, 0.02, 0.02)
    row = mediation(trainings, [("few", "many")], range(6)).iloc[0]
    arms = (trainings["arm"] == "few").to_numpy(float)
    values, errors = (trainings[name].to_numpy() for name in ("effective_depth", "error"))
    design = np.stack([np.ones(12), arms, values], 1)
    solved, (left,), *_ = np.linalg.lstsq(design, errors, rcond=None)
    error = np.sqrt(left / (12 - 3) * np.linalg.inv(design.T @ design)[2, 2])
    reach = stats.t.ppf(0.975, 9) * error
    np.testing.assert_allclose(
        [row["slope"], row["slope_low"], row["slope_high"]], solved[2] + np.array([0, -reach, reach])
    )
    apart = values[:6] - values[6:]
    low, high = stats.t.interval(0.95, 5, apart.mean(), stats.sem(apart))
    np.testing.assert_allclose([row["difference_low"], row["difference_high"]], [low, high])
    assert row["carried"] == pytest.approx(row["difference"] * row["slope"])


def test_few_seeds_and_what_was_not_measured_say_nothing() -> None:
    trainings = drawn(4, 0.02, 0.02)
    trainings.loc[trainings["seed"] > 1, "effective_depth"] = np.nan
    table = mediation(trainings, [("few", "many")], range(4)).set_index("measure")
    assert table.loc["effective_depth", "seeds"] == 2
    assert np.isnan(table.loc["effective_depth", "slope"])
    assert np.isfinite(table.loc["effective_depth", "mean_fewer"])
    assert np.isfinite(table.loc["energy_depth", "slope"])
    none = mediation(trainings, [("few", "many")], []).iloc[0]
    assert none["seeds"] == 0
    assert np.isnan(none["mean_fewer"])


def test_errors_that_go_with_the_fit_are_said() -> None:
    draw, seeds = np.random.default_rng(0), range(9)
    losses = {arm: 0.3 + 0.1 * i + 0.01 * draw.random(9) for i, arm in enumerate(ARMS)}
    rows = [(arm, s, losses[arm][s] / 2, losses[arm][s], *[np.nan] * 4) for arm in ARMS for s in seeds]
    trained = pd.DataFrame(rows, columns=["arm", "seed", "error", LOSS, *MEASURES])
    said = said_of_loss(mediation(trained, [(ARMS[1], ARMS[0])], seeds))
    gap = (losses[ARMS[1]] - losses[ARMS[0]]).mean()
    assert f"for {ARMS[1]}, with which {gap * 50:.2f} points of error go by the slope within arms" in said
    alike = trained.assign(**{LOSS: 0.3 + 0.01 * draw.random(18)})
    assert said_of_loss(mediation(alike, [(ARMS[1], ARMS[0])], seeds)) == said_of_loss(pd.DataFrame()) == ""


def test_a_network_without_a_gradient_does_not_stop_the_comparison(tmp_path: Path) -> None:
    out = tmp_path / "run"
    resect.multiplicity("digits", *ARMS, out=out, **{**OPTIONS, "seeds": 2})
    file = out / "networks" / f"{ARMS[0]}-seed1.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    state = {name: torch.zeros_like(value) for name, value in load_file(file).items()}  # whose gradient is zero
    save_file(state, file, metadata)
    for made in (paths_file(file), outcomes_file(file)):
        made.unlink()
    before = paths_file(out / "networks" / f"{ARMS[0]}-seed0.safetensors").read_text()
    with pytest.warns(ResectWarning, match="seed 1: its paths are left out"):
        record = resect.multiplicity("digits", *ARMS, out=out, trainings=0, **{**OPTIONS, "seeds": 2})
    assert record.tables["trainings"]["effective_depth"].isna().sum() == 1
    assert paths_file(out / "networks" / f"{ARMS[0]}-seed0.safetensors").read_text() == before


def test_a_record_of_before_is_shown(tmp_path: Path) -> None:
    record = resect.multiplicity("digits", *ARMS, out=tmp_path / "run", **{**OPTIONS, "seeds": 2, "limit": 30})
    old = replace(record, tables={name: table for name, table in record.tables.items() if name != "mediation"})
    titles = [title for title, *_ in tables(old)]
    assert titles
    assert not any(title.startswith("Exploratory") for title in titles)
    assert tables(record)[-1][0].startswith("Exploratory")


def test_numbers_are_read_back_for_their_network_alone(tmp_path: Path) -> None:
    file, paths = tmp_path / "one.paths.json", TrainedPaths(1.5, 2.5, 0.1 + 0.2, 4.5)
    assert TrainedPaths.read(file, KEY) is None
    paths.write(file, KEY)
    assert TrainedPaths.read(file, KEY) == paths
    assert TrainedPaths.read(file, {**KEY, "weights": "c"}) is None
    content = json.loads(file.read_text())
    for damaged in ({**content, "energy_depth": 9.0}, [], {}):
        file.write_text(json.dumps(damaged))
        assert TrainedPaths.read(file, KEY) is None


def test_an_experiment_keeps_them_and_goes_on_without_weights(tmp_path: Path) -> None:
    out = tmp_path / "run"
    record = resect.multiplicity("digits", *ARMS, out=out, **OPTIONS)
    trainings, table = record.tables["trainings"], record.tables["mediation"]
    assert np.isfinite(trainings[list(MEASURES)].to_numpy(float)).all()
    assert len(table) == len(MEASURES) + 1
    assert np.isfinite(table["carried"]).all()
    weights = out / "networks" / f"{ARMS[1]}-seed2.safetensors"
    samples = resect.load_samples("digits", split="test", limit=40)
    module = load_model(f"resect:{ARMS[1]}", checkpoint=weights, samples=samples).module
    spectrum = path_spectrum(
        resect.unravel(module, samples.first(2)[0]), samples.batches(40), PathSettings(precision=None)
    )
    own = trainings[(trainings["arm"] == ARMS[1]) & (trainings["seed"] == 2)].iloc[0]
    assert own["effective_depth"] == pytest.approx(spectrum.multiplicity().effective_depth)
    for file in out.glob("networks/*.safetensors"):
        file.unlink()
    again = resect.multiplicity("digits", *ARMS, out=out, trainings=0, **OPTIONS)
    pd.testing.assert_frame_equal(again.tables["mediation"], table)
    paths_file(weights).unlink()
    without = resect.multiplicity("digits", *ARMS, out=out, trainings=0, **OPTIONS).tables
    assert without["trainings"]["effective_depth"].isna().sum() == 1
    seeds = without["mediation"].set_index("measure")["seeds"]
    assert seeds[LOSS] == 3 and (seeds.drop(LOSS) == 2).all()
