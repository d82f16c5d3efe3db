"""An experiment on multiplicity: its design, its plan, its trainings, and what they come to."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable
from math import log2
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner, Result

import resect
from resect.cli import main
from resect.jobs.design import DESIGNS, Arm, MultiplicityAsked
from resect.jobs.multiplicity import MultiplicityJob
from resect.models.specs import load_model
from resect.report import faces

ARMS = ("resnet8-w2-b2-s1", "resnet8-w2-b2-s3")
OPTIONS = {"seeds": 2, "settings": {"epochs": 1, "batch_size": 256}, "limit": 60}
COMMAND = ["--seeds", "2", "--setting", "epochs=1", "--setting", "batch_size=256", "--limit", "60"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["multiplicity", "digits", *arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which one training of four is over, and then all."""
    out = tmp_path_factory.mktemp("multiplicity") / "run"
    first = resect.multiplicity("digits", *ARMS, out=out, trainings=1, **OPTIONS)
    assert (first.found["trained"], first.found["planned"], first.found["seeds"]) == (1, 4, [])
    assert first.found["summary"] == "Nothing can be said yet: 0 of 2 seeds are trained in all arms."
    plan = (out / "plan.yaml").read_bytes()
    resect.multiplicity("digits", *ARMS, out=out, **OPTIONS)
    assert (out / "plan.yaml").read_bytes() == plan
    return out


def test_arms_are_of_equal_parameters_norms_and_nearly_operations(folder: Path) -> None:
    design = resect.Record.read(folder).tables["design"]
    assert list(design["log2_paths"]) == pytest.approx([3 * log2(3), log2(15)])
    assert design["parameters"].nunique() == design["norms"].nunique() == 1
    assert design["operations"].pct_change().abs().max() < 0.1
    assert design["length_at_birth"].abs().max() == 0 < design["length_without_start"].min()


def test_contrasts_are_those_of_the_networks_that_are_kept(folder: Path) -> None:
    record, samples = resect.Record.read(folder), resect.load_samples("digits", split="test", limit=60)
    errors = {}
    for arm in ARMS:
        for seed in (0, 1):
            file = folder / "networks" / f"{arm}-seed{seed}.safetensors"
            module = load_model(f"resect:{arm}", checkpoint=file, samples=samples).module
            with torch.no_grad():
                wrong = module(samples.inputs).argmax(1) != samples.targets
            errors[arm, seed] = float(wrong.float().mean())
    trained = record.tables["trainings"].set_index(["arm", "seed"])["error"]
    assert trained.to_dict() == pytest.approx(errors)
    assert list(zip(record.tables["trainings"]["seed"], record.tables["trainings"]["arm"], strict=True)) == [
        (seed, arm) for seed in (0, 1) for arm in ARMS
    ]
    difference = np.mean([errors[ARMS[1], seed] - errors[ARMS[0], seed] for seed in (0, 1)])
    contrast = record.tables["contrasts"].iloc[0]
    assert (contrast["fewer"], contrast["more"]) == (ARMS[1], ARMS[0])
    assert contrast["difference"] == pytest.approx(difference)
    assert list(record.tables["slopes"]["value"].isna()) == [True, True, False]


def test_trainings_side_by_side_are_those_one_after_another(folder: Path, tmp_path: Path) -> None:
    record = resect.multiplicity("digits", *ARMS, out=tmp_path / "run", at_once=2, trainings=2, **OPTIONS)
    alone = resect.Record.read(folder).tables["trainings"]
    columns = ["arm", "seed", "error", "training_loss"]
    pd.testing.assert_frame_equal(record.tables["trainings"][columns], alone[columns].head(2))
    with pytest.raises(resect.InputError, match="`at_once` must be"):
        resect.multiplicity("digits", *ARMS, out=tmp_path / "run", at_once=0, **OPTIONS)


def test_a_page_and_figures_say_what_was_found(folder: Path) -> None:
    record = resect.Record.read(folder)
    page = faces.draw(record, folder).read_text(encoding="utf-8")
    for said in (
        *ARMS,
        "<td>4.8</td>",
        "resnet8-w2-b2: s3 − s1",
        "not identified",
        "two one-sided tests",
        "4 of 4 trainings",
    ):
        assert said in page, said
    assert {file.stem for file in (folder / "figures").glob("*.png")} == {"errors", "differences"}
    shown = CliRunner().invoke(main, ["show", str(folder)])
    assert shown.exit_code == 0
    assert record.found["summary"] in shown.output


def test_a_finished_experiment_is_only_read_and_a_changed_plan_refused(folder: Path) -> None:
    files = {file: file.stat().st_mtime_ns for file in folder.glob("networks/*")}
    result = run(*ARMS, *COMMAND, "--out", str(folder), "--quiet")
    assert result.exit_code == 0, result.output
    assert {file: file.stat().st_mtime_ns for file in folder.glob("networks/*")} == files
    other = run(*ARMS, *COMMAND, "--bound", "1", "--out", str(folder))
    assert other.exit_code == 2
    assert "holds a run with another configuration (bound: 0.25 there, 1.0 here)" in other.stderr
    plan = folder / "plan.yaml"
    text = plan.read_text(encoding="utf-8")
    plan.write_text(text.replace("bound: 0.25", "bound: 2.5"), encoding="utf-8")
    changed = run(*ARMS, *COMMAND, "--out", str(folder))
    plan.write_text("[", encoding="utf-8")
    damaged = run(*ARMS, *COMMAND, "--out", str(folder))
    plan.unlink()
    gone = run(*ARMS, *COMMAND, "--out", str(folder))
    plan.write_text(text, encoding="utf-8")
    assert changed.exit_code == damaged.exit_code == gone.exit_code == 2
    assert "must stay as it was before the first training, but has another bound" in changed.stderr
    assert "is damaged" in damaged.stderr
    assert "has trainings, but no plan.yaml" in gone.stderr


def test_the_plan_is_there_before_the_first_training(tmp_path: Path) -> None:
    record = resect.multiplicity("digits", *ARMS, out=tmp_path / "run", trainings=0, **OPTIONS)
    plan = yaml.safe_load((tmp_path / "run" / "plan.yaml").read_text(encoding="utf-8"))
    assert not (tmp_path / "run" / "networks").exists()
    assert record.found["plan"] == plan
    assert plan["primary"] == "error of resnet8-w2-b2-s3 minus error of resnet8-w2-b2-s1"
    assert (plan["seeds"], plan["bound"], plan["recipe"]["epochs"]) == ([0, 1], 0.25, 1)
    assert len(record.tables["trainings"]) == len(record.tables["contrasts"]) == 0
    assert faces.draw(record, tmp_path / "run").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "`--out` must name a run folder"),
        (["resnet8-w2-b2-s1"], "`ARM` must hold two that differ in their merge alone"),
        (["resnet8-x2", "resnet8-b2-s3"], "does not vary multiplicity"),
        (["resnet8-b2-s1", "resnet8-h16-b2-s1", "resnet8-b2-s3"], "got resnet8-b2-s1 and resnet8-h16-b2-s1, which are"),
        (["resnet110-digits", "resnet8-b2-s3"], "an arm must be a resect:resnet without weights"),
        (["resnet8-b2-s1", "resnet8-b2-s3", "--setting", "epoch=3"], "`--setting` must be of epochs"),
        (["resnet8-b2-s1", "resnet8-b2-s3", "--setting", "seed=3"], "`--setting` must leave the seed out"),
        (["resnet8-b2-s1", "resnet8-b2-s3", "--setting", "epochs"], "`--setting` must have the form K=V"),
        (["resnet8-b2-s1", "resnet8-b2-s3", "--bound", "0"], "`--bound` must be above 0"),
        (["--training-free", "--seeds", "3"], "`--seeds` is of trainings, but the check trains nothing"),
        (["--training-free", "--trainings", "3"], "`--trainings` is of trainings"),
        (["--training-free", "--at-once", "3"], "`--at-once` is of trainings"),
        (["--repeats", "3"], "`--repeats` is of the check that trains nothing. Give --training-free"),
        (["--learning-rates", "0.1"], "`--learning-rates` must be two or more that differ, got 0.1. One for all arms"),
        (["--learning-rates", "0.1,0.1"], "`--learning-rates` must be two or more that differ, got 0.1, 0.1"),
        (["--learning-rates", "0.1,-1"], "`--learning-rates` must be finite and above 0, got 0.1, -1"),
        (["--learning-rates", "0.1,0.2", "--setting", "learning_rate=1"], "must leave the learning rate out"),
        (["--learning-rates", "0.1,0.2", "--pilots", "0"], "Invalid value for '--pilots'"),
        (
            ["--held-out", "9"],
            "`--held-out` is an option beside `--learning-rates`, which are not given.",
        ),
        (["--training-free", "--pilots", "2"], "`--pilots` is of trainings, but the check trains nothing"),
        (["foo"], "unknown arm 'foo'. Arms are resnetN-bB-sS, such as resnet38-b2-s18: of depth N, with B towers"),
        (["primry"], "unknown arm 'primry'. Close: primary. "),
        (["resnet20-digits"], "Designs are primary, grid; by default the arms are those of primary, resnet38-w8-b2-s1"),
    ],
)
def test_what_is_no_experiment_is_refused(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (("resnet9-b2-s1", "resnet9-b2-s3"), "`depth` of a CIFAR ResNet must be 6m+2, got 9"),
        (("resnet8-b2-s1", "resnet8-b2-s2"), "`merge` must divide the 3 blocks of depth 8"),
        (("resnet8-s1", "resnet8-b2-s2"), "unknown arm 'resnet8-s1'"),
    ],
)
def test_arms_that_cannot_be_built_are_refused_before_a_plan_is_written(
    arms: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    result = run(*arms, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "run").exists()


def test_designs_by_name_hold_depth_times_width_and_contrast_first_with_last() -> None:
    asked = MultiplicityAsked.of("digits", ["grid"], {})
    assert len(asked.contrasts) == 4
    assert all((first.merge, other.merge) == (1, first.size.blocks) for first, other in asked.contrasts)
    budgets = [arm.size.blocks * arm.size.towers * arm.size.hidden for arm in asked.design]
    assert budgets == [288] * 6 + [576] * 2
    design = np.column_stack([np.ones(8), pd.DataFrame([arm.regressors for arm in asked.design])])
    assert (np.linalg.matrix_rank(design), np.linalg.matrix_rank(design[:6])) == (4, 3)
    assert asked.command() == "resect multiplicity digits grid"
    merges = MultiplicityAsked.of("digits", ["resnet14-b2-s2", "resnet14-b2-s1", "resnet14-b2-s6"], {}).contrasts
    assert [(a.merge, b.merge) for a, b in merges] == [(1, 6), (1, 2)]
    assert [Arm.of(name).log2_paths for name in DESIGNS["primary"]] == pytest.approx([28.53, 19.0], abs=0.01)


def test_other_arguments_make_the_same_command(tmp_path: Path) -> None:
    job = MultiplicityJob.of("digits", ARMS, {**OPTIONS, "recipe": "digits", "bound": 0.5})
    words = job.command().split()
    assert words[:5] == ["resect", "multiplicity", "digits", *ARMS]
    assert " ".join(words[5:]) == (
        "--limit 60 --seeds 2 --recipe digits --setting epochs=1 --setting batch_size=256 --bound 0.5"
    )


RATES = {"learning_rates": (0.3, 0.001), "held_out": 1000}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose arms have rates of their own, and in which all is over."""
    out = tmp_path_factory.mktemp("rates") / "run"
    begun = resect.multiplicity("digits", *ARMS, out=out, trainings=3, **OPTIONS, **RATES)
    assert (begun.found["trained"], begun.found["learning_rates"], len(begun.tables["pilot"])) == (0, None, 3)
    assert begun.found["summary"].startswith("3 of 8 trainings that choose the learning rates are over. Nothing can")
    assert "<td>chosen</td>" not in faces.draw(begun, out).read_text(encoding="utf-8")
    some = resect.multiplicity("digits", *ARMS, out=out, trainings=6, **OPTIONS, **RATES)
    assert some.found["trained"] == 1
    resect.multiplicity("digits", *ARMS, out=out, at_once=2, **OPTIONS, **RATES)
    return out


def test_an_arm_is_trained_with_the_rate_that_is_best_on_held_out_images(tried: Path) -> None:
    record = resect.Record.read(tried)
    plan, pilot = record.found["plan"], record.tables["pilot"]
    assert (plan["learning_rates"], plan["held_out"], plan["pilot_seeds"]) == ([0.001, 0.3], 1000, [2, 3])
    assert "least loss on training images that were held out" in " ".join(plan["words"]["order"].split())
    means = pilot.groupby(["arm", "learning_rate"])["loss"].mean()
    best = {arm: means[arm].idxmin() for arm in ARMS}
    assert record.found["learning_rates"] == best
    for file in tried.glob("networks/*-s?-seed?.json"):
        card = resect.Record.read(file)
        assert card.asked["recipe"]["learning_rate"] == best[card.asked["model"].removeprefix("resect:")]
    ends = [warning for warning in record.warnings if "learning rate that was tried" in warning]
    assert len(ends) == 2  # of two rates, one is the lowest and one the highest
    page = faces.draw(record, tried).read_text(encoding="utf-8")
    assert page.count("<td>chosen</td>") == 2
    assert "learning_rate 0.1" not in page  # which no arm was trained with
    assert "--learning-rates 0.001,0.3 --held-out 1000" in record.command


def test_what_was_chosen_is_kept_when_its_trainings_are_not(tried: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tried, tmp_path / "run"))
    for file in out.glob("networks/*-rate*.safetensors"):  # which only chose
        file.unlink()
    gone = next(out.glob("networks/*-rate*.json"))
    gone.unlink()
    (out / "record.json").unlink()
    again = resect.multiplicity("digits", *ARMS, out=out, **OPTIONS, **RATES)
    pd.testing.assert_frame_equal(again.tables["contrasts"], resect.Record.read(tried).tables["contrasts"])
    assert len(again.tables["pilot"]) == 7
    card = next(out.glob("networks/*-rate*.json"))
    text = card.read_text(encoding="utf-8")
    for changed, said in ((text.replace('"seed": ', '"seed": 5'), "that of another"), ("{", "missing or damaged")):
        card.write_text(changed, encoding="utf-8")
        with pytest.raises(resect.RunError, match=f"must be the card of this training, .* but is {said}"):
            resect.multiplicity("digits", *ARMS, out=out, **OPTIONS, **RATES)
    card.unlink()
    (out / "learning_rates.json").write_text("{}", encoding="utf-8")
    with pytest.raises(resect.RunError, match=r"learning_rates.json is damaged or of another experiment"):
        resect.multiplicity("digits", *ARMS, out=out, **OPTIONS, **RATES)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_rate_that_diverges_is_not_chosen(at_once: int, tmp_path: Path) -> None:
    options = {**OPTIONS, "learning_rates": (0.01, 1e30), "held_out": 1000, "pilots": 1}
    bars: dict[str, float] = defaultdict(float)

    def track(what: str, total: float) -> Callable[[float], None]:
        return lambda amount: bars.__setitem__(what, bars[what] + amount / total)

    job = MultiplicityJob.of("digits", ARMS, options)
    record = job.run(tmp_path / "run", track, trainings=4, at_once=at_once)
    assert bars["trainings"] == pytest.approx(1)
    assert set(record.found["learning_rates"].values()) == {0.01}
    assert list(record.tables["pilot"].set_index("learning_rate")["loss"].isna()) == [False, False, True, True]
    assert faces.draw(record, tmp_path / "run").read_text(encoding="utf-8").count("<td>diverged</td>") == 2
    hopeless = {**options, "learning_rates": (1e29, 1e30)}
    with pytest.raises(resect.RunError, match=f"{ARMS[0]} and {ARMS[1]} diverged with every learning rate"):
        resect.multiplicity("digits", *ARMS, out=tmp_path / "other", trainings=4, at_once=at_once, **hopeless)
    said = resect.multiplicity("digits", *ARMS, out=tmp_path / "third", trainings=0, **options).found["summary"]
    assert said.startswith("0 of 4 trainings that choose the learning rates are over. Nothing can be said yet")


@pytest.mark.parametrize("at_once", [1, 2])
def test_trainings_that_diverge_are_said_and_not_tried_again(at_once: int, tmp_path: Path) -> None:
    settings = {**OPTIONS["settings"], "learning_rate": 1e30}
    job = MultiplicityJob.of("digits", ARMS, {**OPTIONS, "settings": settings})
    record = job.run(tmp_path / "run", trainings=2, at_once=at_once)
    said = [warning for warning in record.warnings if "diverged: without this seed in all arms no verdict" in warning]
    assert [warning.partition(", diverged")[0] for warning in said] == [f"{arm}, seed 0" for arm in ARMS]
    assert record.found["summary"].startswith("Nothing can be said yet: 0 of")
    marks = sorted(tmp_path.glob("run/networks/*.diverged.json"))
    before = [mark.stat().st_mtime_ns for mark in marks]
    assert len(job.run(tmp_path / "run", at_once=at_once).warnings) == len(job.trainings) > 2
    assert [mark.stat().st_mtime_ns for mark in marks] == before


def test_too_many_held_out_images_are_refused_before_a_plan_is_written(tmp_path: Path) -> None:
    with pytest.raises(resect.InputError, match="`held_out` must leave two samples to train on, but digits has 1,297"):
        resect.multiplicity("digits", *ARMS, out=tmp_path / "run", learning_rates=(0.1, 0.2), **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_before_rates_were_tried_is_gone_on_with(folder: Path) -> None:
    asked = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))["asked"]
    assert not {"learning_rates", "held_out", "pilots"} & asked.keys()


@pytest.mark.parametrize("rates", [0.1, ("0.1", "0.2"), (0.1, float("inf"))])
def test_rates_are_finite_numbers(rates: object) -> None:
    with pytest.raises(resect.InputError, match="`learning_rates` must be"):
        MultiplicityAsked.of("digits", ARMS, {"learning_rates": rates})
