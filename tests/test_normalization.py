"""How pixels become inputs: what data specs do, what is asked for, and what the cards of models say."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

import resect
from resect.cli import main
from resect.data import Samples, load_samples
from resect.data.normalization import Normalization
from resect.jobs.lesion import LesionJob
from resect.jobs.source import Source
from resect.models.names import SHIPPED
from resect.models.preprocessing import normalization_of
from resect.runs.folder import RunFolder

OWN = ("0.5/0.5", "0.4914,0.4822,0.4465/0.247,0.2435,0.2616")  # of digits and CIFAR-10


def run(*arguments: str | Path) -> tuple[dict, str]:
    """The record that a command prints, and what it says on standard error."""
    result = CliRunner().invoke(main, [*map(str, arguments), "--quiet", "--format", "json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_digits_are_normalised_as_asked() -> None:
    order = np.random.default_rng(0).permutation(1797)[:20]
    pixels = torch.from_numpy(load_digits().images[order]).float()[:, None] / 16
    for normalize, expected in (
        (None, (pixels - 0.5) / 0.5),
        ("auto", (pixels - 0.5) / 0.5),
        ("none", pixels),
        ("0.3/0.2", (pixels - 0.3) / 0.2),
    ):
        samples = load_samples("digits", limit=20, normalize=normalize)
        assert torch.equal(samples.inputs, expected)
    assert str(load_samples("digits", limit=2).normalization) == OWN[0]
    card = Normalization.parse("0.3/0.2", "of the model's card")
    for normalize in (None, "card"):
        samples = load_samples("digits", limit=20, normalize=normalize, card=card)
        assert torch.equal(samples.inputs, (pixels - 0.3) / 0.2)
        assert samples.normalization == card
    assert str(load_samples("digits", limit=2, normalize="none", card=card).normalization) == "none"


def test_channels_have_numbers_of_their_own(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), (255, 51, 0)).save(content, format="PNG")
    row = {"img": [{"bytes": content.getvalue(), "path": None}], "label": [3]}
    pd.DataFrame(row).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    spec = f"cifar10:{tmp_path}"
    assert str(load_samples(spec).normalization) == OWN[1]
    asked = load_samples(spec, normalize="1,0.2,0/0.5,0.1,0.25").inputs
    assert asked[0, :, 5, 5].tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert load_samples(spec, normalize="imagenet").inputs[0, 2, 0, 0].item() == pytest.approx(-0.406 / 0.225)
    one = load_samples(spec, normalize="0/2").inputs
    assert one[0, :, 0, 0].tolist() == pytest.approx([0.5, 0.1, 0])


NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4)


@given(NUMBERS, st.data())
def test_what_is_written_is_read_back_to_the_bit(mean: list[float], data: st.DataObject) -> None:
    std = data.draw(st.lists(st.floats(1e-6, 1e6), min_size=len(mean), max_size=len(mean)))
    chosen = Normalization(tuple(mean), tuple(std))
    read = Normalization.parse(str(chosen))
    assert str(chosen) == "none" or read == chosen
    pixels = torch.rand(2, len(mean), 3, 3)
    assert torch.equal(read(pixels), chosen(pixels))


@pytest.mark.parametrize(
    "text", ["", "0.5", "0.5/0", "0.5/-1", "a/b", "0.5/nan", "inf/1", "1,2/1,2,3", "1/2/3", "Card"]
)
def test_what_is_no_normalisation_is_refused(text: str) -> None:
    with pytest.raises(resect.SpecError, match="`normalize` must be MEAN/STD of pixels"):
        load_samples("digits", limit=2, normalize=text)
    result = CliRunner().invoke(main, ["lesion", "resect:resnet8", "digits", "--normalize", text])
    assert result.exit_code == 2
    assert "`--normalize` must be MEAN/STD" in result.stderr


def test_files_of_bytes_are_pixels_and_files_of_floats_are_left_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4), dtype=np.uint8)
    spec = f"npz:{tmp_path}/x.npz"
    card = Normalization.parse("0.3/0.2", "of the model's card")
    np.savez(tmp_path / "x.npz", inputs=pixels, targets=[0, 1, 0])
    scaled = torch.from_numpy(pixels).float() / 255
    assert torch.equal(load_samples(spec).inputs, scaled)
    assert torch.equal(load_samples(spec, card=card).inputs, (scaled - 0.3) / 0.2)
    np.savez(tmp_path / "x.npz", inputs=scaled.numpy(), targets=[0, 1, 0])
    assert torch.equal(load_samples(spec, card=card).inputs, scaled)
    assert load_samples(spec, card=card).normalization is None
    assert torch.equal(load_samples(spec, normalize="0.5/0.25").inputs, (scaled - 0.5) / 0.25)
    with pytest.raises(resect.DataError, match=r"but is 1,2,3/1,1,1, and npz:.* has 2 channels"):
        load_samples(spec, normalize="1,2,3/1,1,1")
    np.savez(tmp_path / "x.npz", inputs=np.zeros((3, 7), dtype=int), targets=[0, 1, 0])
    with pytest.raises(resect.DataError, match=r"is of images .* holds int64 \(3, 7\)"):
        load_samples(spec, normalize="none")
    with pytest.raises(resect.SpecError, match="is card, but the model has no card"):
        load_samples("digits", normalize="card")


def test_samples_are_not_normalised_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_digits.py").write_text(
        "import resect\ndef few():\n    return resect.load_samples('digits', limit=3)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert str(load_samples("py:own_digits:few").normalization) == OWN[0]
    with pytest.raises(resect.DataError, match=r"must give pixels to be normalised, but they are, by 0\.5/0\.5"):
        load_samples("py:own_digits:few", normalize="none")


def test_every_shipped_card_says_what_its_data_spec_does() -> None:
    for name in SHIPPED:
        known = normalization_of(f"resect:{name}")
        assert str(known) == OWN["cifar10" in name]
    assert normalization_of("resect:resnet20") is None


def test_configurations_of_other_libraries_are_read_where_their_weights_are_taken(tmp_path: Path) -> None:
    pretrained = {"pretrained": True}
    imagenet = Normalization.parse("imagenet", "of the model's card")
    assert normalization_of("torchvision:resnet18", None, pretrained) == imagenet
    assert normalization_of("timm:vit_base_patch16_224", None, pretrained) == Normalization(
        (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "of the model's card"
    )
    for spec in ("torchvision:resnet18", "timm:resnet18", "py:a:b"):
        assert normalization_of(spec) is None
    assert normalization_of("timm:no-such-model", None, pretrained) is None  # loading it says so
    assert normalization_of(f"hf:{tmp_path}") is None
    settings = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "image_processor_type": "ViTImageProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert str(normalization_of(f"hf:{tmp_path}")) == "0.1,0.2,0.3/0.4,0.5,0.6"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
    assert str(normalization_of(f"hf:{tmp_path}")) == "none"
    for wrong in (
        {"image_mean": None}, {"image_mean": [0.1, float("inf"), 0.3]}, {"image_mean": [0.1, 0.2]}, {"image_mean": []},
        {"image_std": None}, {"image_std": [0.4, 0, 0.6]}, {"image_std": [0.4, float("nan"), 0.6]}, {"image_std": "w"},
    ):  # fmt: skip
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, **wrong}))
        assert normalization_of(f"hf:{tmp_path}") is None
    del settings["image_std"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert normalization_of(f"hf:{tmp_path}") is None


@pytest.mark.parametrize(
    "sides", [((0.5,), (0.0,)), ((float("nan"),), (1.0,)), ((0.1, 0.2), (1.0, 1.0, 1.0)), ((), ())]
)
def test_a_normalisation_that_cannot_be_is_not_made(sides: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(resect.SpecError, match="means must be finite and deviations above 0"):
        Normalization(*sides)


def test_inputs_without_channels_fit_what_has_one_number() -> None:
    rows = resect.Samples("rows", torch.zeros(4), torch.zeros(4, dtype=torch.long), 2)
    assert Normalization((0.5,), (0.5,)).fits(rows)
    assert not Normalization((0.1, 0.2), (1.0,)).fits(rows)


def test_a_network_sees_what_it_was_trained_on(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    small = ["--model", "resnet8", "--model-arg", "width=4", "--epochs", "4"]
    done = CliRunner().invoke(
        main, ["train", "digits", *small, "--normalize", "none", "--out", str(weights), "--quiet"]
    )
    assert done.exit_code == 0, done.output
    card = resect.Record.read(tmp_path / "w.json")
    assert "--normalize none" in card.command
    assert card.found["normalization"] == {"mean_std": "none", "origin": "as asked"}
    models = [f"resect:resnet8@{weights}", "resect:vgg15-digits"]
    record, _ = run("evaluate", "digits", *models, "--out", tmp_path / "run")
    rows = record["tables"]["networks"]
    assert [row["normalization"] for row in rows] == ["none", OWN[0]]
    assert rows[0]["error"] == card.found["test_error"]
    assert rows[1]["error"] == resect.evaluate("digits", models[1]).tables["networks"]["error"][0] < 0.03
    assert len(record["made_of"]["samples"].split()) == 2
    bare = tmp_path / "bare.safetensors"  # a third party's weights: no card
    save_file(load_file(weights), bare)
    spec = f"resect:resnet8-w4@{bare}"
    auto, _ = run("evaluate", "digits", spec)
    asked, _ = run("evaluate", "digits", spec, "--normalize", "none")
    assert auto["tables"]["networks"][0]["error"] > asked["tables"]["networks"][0]["error"] == card.found["test_error"]
    one = ["lesion", "resect:resnet8", "digits", "--checkpoint", weights, "--without", "1", "--limit", "60"]
    assert run(*one)[0]["found"]["normalization"] == {"mean_std": "none", "origin": "of the model's card"}
    assert run(*one, "--normalize", "0.5/0.5")[0]["found"]["normalization"]["origin"] == "as asked"


def test_the_normalisation_is_part_of_what_was_asked(tmp_path: Path) -> None:
    source = Source("resect:vgg15-digits", "digits", limit=20)
    asked = LesionJob(source, plain=True).asked()
    assert asked["normalize"] is None
    assert Source("resect:vgg15-digits", "digits", normalize="auto") == Source("resect:vgg15-digits", "digits")
    older = {name: value for name, value in asked.items() if name != "normalize"}  # of before there was the option
    RunFolder(tmp_path, "lesion", older).open()
    RunFolder(tmp_path, "lesion", asked)
    other = LesionJob(Source("resect:vgg15-digits", "digits", limit=20, normalize="none"), plain=True)
    assert "--normalize none" in other.command()
    with pytest.raises(resect.RunError, match=r"another configuration \(normalize: None there, 'none' here\)"):
        RunFolder(tmp_path, "lesion", other.asked())


def test_floats_of_a_file_that_were_normalised_in_training_are_normalised_again(tmp_path: Path) -> None:
    weights, spec = tmp_path / "w.safetensors", f"npz:{tmp_path}/x.npz"
    for split, name in (("train", "train"), ("test", "x")):
        part = load_samples("digits", split=split, limit=40, normalize="none")
        np.savez(tmp_path / f"{name}.npz", inputs=part.inputs.numpy(), targets=part.targets.numpy())
    resect.train(
        "digits", model="resnet8", model_args={"width": 4}, epochs=1, data=f"npz:{tmp_path}/train.npz", test_data=spec,
        normalize="0.3/0.2", out=weights,
    )  # fmt: skip
    source = Source("resect:resnet8", spec, checkpoint=weights)
    trained_on = source.samples()
    assert str(trained_on.normalization) == "0.3/0.2"
    bare = replace(source, checkpoint=None)  # of no card: as they are
    assert bare.samples(trained_on).normalization is None
    assert source.samples(bare.samples()).normalization == trained_on.normalization
    asked = replace(bare, normalize="none")
    beside = asked.beside(f"resect:resnet8@{weights}").samples(asked.samples())
    assert torch.equal(beside.inputs, trained_on.inputs)


def test_networks_beside_take_their_own_card_before_what_was_asked() -> None:
    source = Source("resect:resnet8", "digits", normalize="0.3/0.2", limit=5)
    main = source.samples()
    assert str(source.beside("resect:vgg15-digits").samples(main).normalization) == OWN[0]
    assert source.beside("resect:resnet14").samples(main) is main
    plain = Source("resect:resnet8", "digits", limit=5)
    assert plain.beside("resect:vgg15-digits").normalize is None
    assert isinstance(plain.samples(), Samples)
