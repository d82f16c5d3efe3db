"""The recipes of `resect train`: files, options, and the commands on the cards of shipped weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from resect.cli import main
from resect.data import load_samples
from resect.jobs.train import TrainJob
from resect.jobs.training import splits
from resect.models.names import SHIPPED
from resect.models.specs import load_card
from resect.runs.record import Record
from resect.training.recipe import Recipe
from resect.training.recipes import NAMES as RECIPES
from resect.training.recipes import load_recipe_file
from trainings import NETWORK, SMALL, refused, run


def test_every_part_of_the_recipe_is_an_option() -> None:
    command = main.get_command(click.Context(main), "train")
    assert command is not None
    assert set(Recipe.names()) <= {parameter.name for parameter in command.params}


def test_a_recipe_file_and_options_that_go_before_it(tmp_path: Path) -> None:
    recipe, out = tmp_path / "own.yaml", tmp_path / "x.safetensors"
    recipe.write_text(
        "model: resnet8\ndata: digits\nmodel_args: {width: 4}\nepochs: 2\nschedule: fixed-count\nkeep: 2\nflip: true\n"
    )
    result = run(recipe, "--epochs", "1", "--no-flip", "--quiet", "--out", out)
    assert result.exit_code == 0, result.output
    card = Record.read(out.with_suffix(".json"))
    assert card.asked["recipe"] == Recipe(epochs=1, schedule="fixed-count", keep=2).as_dict()
    assert card.asked["model"] == "resect:resnet8"
    assert card.asked["arguments"] == {"width": 4}
    assert card.command == f"resect train {recipe} --epochs 1 --no-flip --out x.safetensors"
    assert card.found["test_error_uncorrected"] != card.found["test_error"]
    first = load_file(out)
    again = [*card.command.split()[2:-1], str(out), "--quiet"]  # the card's command, to another folder
    assert run(*again).exit_code == 0
    assert all(torch.equal(value, first[name]) for name, value in load_file(out).items())


def test_a_network_is_loaded_as_its_card_says(tmp_path: Path) -> None:
    out = tmp_path / "[b]:fire:.safetensors"  # neither markup nor emoji
    digits = load_samples("digits", limit=200)
    chosen = digits.targets < 3
    arrays = {"inputs": digits.inputs[chosen].numpy(), "targets": digits.targets[chosen].numpy()}
    np.savez(tmp_path / "three.npz", **arrays)
    np.savez(tmp_path / "two.npz", **{name: values[arrays["targets"] < 2] for name, values in arrays.items()})
    data = ["--data", f"npz:{tmp_path}/three.npz", "--test-data", f"npz:{tmp_path}/two.npz"]
    trained = run(*NETWORK, *data, "--epochs", "1", "--out", out)
    assert trained.exit_code == 0, trained.output
    assert f"{out}: test error " in trained.stderr
    spec = f"resect:resnet8@{out}"
    found = CliRunner().invoke(main, ["evaluate", data[-1], spec, "--format", "json", "--quiet"])
    assert found.exit_code == 0, found.output
    card = Record.read(out.with_suffix(".json"))
    assert json.loads(found.stdout)["tables"]["networks"][0]["error"] == card.found["test_error"]
    assert (card.found["classes"], card.found["sample_shape"]) == (3, [1, 8, 8])
    blocks = CliRunner().invoke(main, ["blocks", "resect:resnet8", "--checkpoint", str(out), "--format", "json"])
    assert [block["entry_shape"][1:] for block in json.loads(blocks.stdout)["blocks"]] == [[4, 8, 8]] * 2 + [[8, 4, 4]]


def test_files_of_ones_own_are_trained_and_tested_on(tmp_path: Path) -> None:
    samples, test = load_samples("digits", split="train", limit=64), load_samples("digits", limit=32)
    for name, part in (("train", samples), ("test", test)):
        np.savez(tmp_path / f"{name}.npz", inputs=part.inputs.numpy(), targets=part.targets.numpy())
    out = tmp_path / "x.safetensors"
    data = ["--data", f"npz:{tmp_path}/train.npz", "--test-data", f"npz:{tmp_path}/test.npz"]
    result = run(*SMALL, *data, "--out", out)
    assert result.exit_code == 0, result.output
    card = Record.read(out.with_suffix(".json"))
    assert (card.found["train_samples"], card.found["test_samples"]) == (64, 32)
    assert card.asked["test_data"] == data[3]
    assert " ".join(data) in card.command


def test_held_out_samples_are_tested_on_and_no_test_sample(tmp_path: Path) -> None:
    samples, out = load_samples("digits", split="train", limit=64), tmp_path / "x.safetensors"
    np.savez(tmp_path / "train.npz", inputs=samples.inputs.numpy(), targets=samples.targets.numpy())
    data = ["--data", f"npz:{tmp_path}/train.npz", "--held-out", "20"]  # which has no test samples
    assert run(*SMALL, *data, "--out", out).exit_code == 0
    card = Record.read(out.with_suffix(".json"))
    assert (card.found["train_samples"], card.found["test_samples"], card.asked["held_out"]) == (44, 20, 20)
    assert "--held-out 20" in card.command
    shown = " ".join(CliRunner().invoke(main, ["show", str(out.with_suffix(".json"))]).output.split())
    assert "train.npz that were held out of training" in shown
    for seed in ("0", "1"):
        job = TrainJob.from_options(
            SMALL[0], out, {"data": data[1], "held_out": 20, "model": "resnet8", "seed": int(seed)}
        )
        trained_on, left = splits(job)
        assert (left.digest(), trained_on.digest()) == tuple(reversed(card.made_of["samples"]))
    rows = torch.cat([trained_on.inputs, left.inputs]).flatten(1)
    assert sorted(rows.tolist()) == sorted(samples.inputs.flatten(1).tolist())
    again = run(*SMALL, "--data", data[1], "--out", out)
    assert "must be a new file" in again.stderr
    assert "must leave two samples to train on, but" in refused(
        *SMALL, *data[:2], "--held-out", "64", "--out", tmp_path / "y.safetensors"
    )
    both = refused(*SMALL, *data, "--test-data", data[1], "--out", tmp_path / "y.safetensors")
    assert "`--held-out` and `--test-data` both say what to test on" in both


def test_an_option_for_the_schedule_replaces_the_recipes(tmp_path: Path) -> None:
    recipe, out = tmp_path / "own.yaml", tmp_path / "x.safetensors"
    recipe.write_text(
        "{model: resnet8, data: digits, model_args: {width: 4}, epochs: 1, schedule: fixed-count, keep: 2}"
    )
    assert run(recipe, "--schedule", "stochastic-depth", "--quiet", "--out", out).exit_code == 0
    card = Record.read(out.with_suffix(".json"))
    assert card.asked["recipe"] == Recipe(epochs=1, schedule="stochastic-depth").as_dict()
    assert card.command == f"resect train {recipe} --schedule stochastic-depth --out x.safetensors"
    file = load_recipe_file(str(recipe))
    progressive = Recipe(epochs=1, schedule="progressive", keep=2)
    job = TrainJob("resnet8", "digits", out, progressive, file.model_args, recipe_file=file)
    assert job.command() == f"resect train {recipe} --schedule progressive --keep 2 --out x.safetensors"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must hold settings, one a line"),
        ("epoch: 3", "has unknown settings: epoch. Known are"),
        ("learning_rate: fast", "`learning_rate:` of"),
        ("flip: 1", "`flip:` of"),
        ("model: 5", "`model:` of"),
        ("model_args: 3", "`model_args:` of"),
        ("arguments: {width: 4}", "is now `model_args:`"),
        ("epochs: null", "`epochs:` of"),
        ("weight_decay: 5e-4x", "`weight_decay:` of"),
        ("{schedule: stochastic-depth, survival: abc}", "`survival:` of"),
        ("seed: 99999999999999999999", "seed must be a whole number of at least 0, below 2^63"),
        ("data: 2020-13-45", "must be YAML"),
        ("a: [", "must be YAML"),
        ("epochs: 0", "epochs must be a whole number of at least 1, got 0"),
    ],
)
def test_recipe_files_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(text)
    assert message in refused(recipe, "--model", "resnet8", "--data", "digits", "--out", tmp_path / "x.safetensors")
    assert "there is no file" in refused(tmp_path / "none.yaml", "--model", "resnet8")


@pytest.mark.parametrize("name", RECIPES)
def test_the_reference_has_the_recipes_as_they_are(name: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / "reference.md").read_text(encoding="utf-8").replace("`", "")
    columns, recipe, seen = sorted(RECIPES, key=len), Recipe(**load_recipe_file(name).settings), set[str]()
    table = text.partition(f"| setting | {' | '.join(columns)} | what |\n")[2].partition("\n\n")[0]
    for line in table.splitlines()[1:]:
        settings, *cells, _ = (cell.split(", ") for cell in line.strip("| ").split(" | ", 4))
        for setting, said in zip(settings, cells[columns.index(name)], strict=False):  # what is left out is the default
            if setting in Recipe.names() and setting != "drops":  # which the reference has as fractions
                kind = type(getattr(recipe, setting))
                assert getattr(recipe, setting) == (said == "true" if kind is bool else kind(said)), setting
                seen.add(setting)
    assert {"epochs", "weight_decay", "precision", "seed"} <= seen


def commands() -> list[list[str]]:
    """The words of the commands on the cards of shipped weights."""
    return [load_card(name).command.split() for name in SHIPPED]


def trained(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a card's command on the processor for one epoch, on a few images of CIFAR-10: by the card's recipe."""
    if words[2].startswith("cifar10"):
        if "RESECT_CIFAR10" not in os.environ:
            pytest.skip("RESECT_CIFAR10 names no folder with CIFAR-10")
        for split in ("train", "test"):  # its first 128 images
            file = f"{split}-00000-of-00001.parquet"
            pd.read_parquet(Path(os.environ["RESECT_CIFAR10"]) / file).head(128).to_parquet(folder / file)
        monkeypatch.setenv("RESECT_CIFAR10", str(folder))
    monkeypatch.chdir(folder)
    result = run(*words[2:], "--epochs", "1", "--device", "cpu", "--quiet")
    assert result.exit_code == 0, result.output
    assert (folder / words[-1]).is_file()
    own = Record.read((folder / words[-1]).with_suffix(".json")).asked["recipe"]
    known = load_card(words[-1].removesuffix(".safetensors")).asked["recipe"]
    assert Recipe(**{**own, "epochs": known["epochs"]}) == Recipe(**known)


def each_command() -> list[object]:
    """The commands, by the names of their weights; of ResNet-110s one in every run of the tests."""
    slow = {name for name in SHIPPED if name.startswith("resnet110-cifar10-")}
    pairs = zip(commands(), SHIPPED, strict=True)
    return [pytest.param(words, id=name, marks=pytest.mark.slow if name in slow else ()) for words, name in pairs]


@pytest.mark.parametrize("words", each_command())
def test_the_commands_on_the_cards_train(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the depth of ResNet-50, the first that has 23 blocks to keep; see the next test."""
    trained(["resnet50" if word == "resnet110" else word for word in words], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("words", commands(), ids=SHIPPED)
def test_the_very_commands_on_the_cards_train(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(words, tmp_path, monkeypatch)
