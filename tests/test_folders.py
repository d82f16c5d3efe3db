"""Folders of images: classes, splits, transforms, and that they are read when they are needed."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder

import resect
from files import digit_folder
from resect.cli import main
from resect.data import load_samples
from resect.data.streams import Images
from resect.jobs.source import Source
from resect.models.inputs import ModelInputs
from resect.models.specs import load_model


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 digits as images."""
    return digit_folder(tmp_path_factory.mktemp("digits"), range(200))


def load(spec: str, **options: object) -> Images:
    samples = load_samples(spec, **options)
    assert isinstance(samples, Images)
    return samples


def test_classes_and_files_are_those_of_image_folder(digits: Path) -> None:
    samples, theirs = load(f"folder:{digits}"), ImageFolder(str(digits))
    assert list(samples.labels) == theirs.classes
    assert sorted(samples.places) == [file for file, _ in theirs.samples]
    classes = dict(theirs.samples)
    assert samples.targets_only().tolist() == [classes[place] for place in samples.places]
    assert (len(samples), samples.shape, samples.classes) == (200, (1, 8, 8), 10)
    inputs, targets = samples.first(200)
    known = load_digits()
    for place, image, target in zip(samples.places, inputs, targets, strict=True):
        number = int(Path(place).stem)
        assert torch.equal(image[0], torch.from_numpy(np.round(known.images[number] * 255 / 16)).float() / 255)
        assert target == known.target[number]


def test_the_first_samples_are_of_all_classes_and_always_the_same(digits: Path) -> None:
    samples = load(f"folder:{digits}")
    few = load(f"folder:{digits}", limit=40)
    assert few.places == samples.places[:40]
    assert len(set(few.targets_only().tolist())) > 7
    assert [len(targets) for _, targets in few.batches(16)] == [16, 16, 8]
    together = torch.cat([inputs for inputs, _ in few.batches(7)])
    assert torch.equal(together, samples.first(40)[0])
    assert len(few.limited(3)) == 3
    with pytest.raises(resect.DataError, match="`limit` must be at least 1, got 0"):
        few.limited(0)


@pytest.mark.parametrize(("name", "split"), [("val", "test"), ("valid", "test"), ("test", "test"), ("train", "train")])
def test_splits(digits: Path, tmp_path: Path, name: str, split: str) -> None:
    shutil.copytree(digits, tmp_path / name)
    other = "train" if split == "test" else "val"
    shutil.copytree(digits / "3", tmp_path / other / "3")
    assert len(load(f"folder:{tmp_path}", split=split)) == 200
    beside = load(f"folder:{tmp_path},split={other}")
    assert beside.classes == 10  # a class that one split lacks shifts no number
    assert set(beside.targets_only().tolist()) == {3}


def test_a_split_that_is_missing_is_named(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits / "3", tmp_path / "train" / "3")
    with pytest.raises(resect.DataError, match=r"has train/, but no folder test or val\. .*,split=train"):
        load(f"folder:{tmp_path}")
    with pytest.raises(resect.DataError, match="must have the split 'vall', a folder, but has train"):
        load(f"folder:{tmp_path},split=vall")


def test_what_is_no_folder_of_classes_is_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(resect.DataError, match=r"there is no folder .*none"):
        load(f"folder:{tmp_path}/none")
    with pytest.raises(resect.DataError, match=r"must have a folder of images for each class, got an empty folder"):
        load(f"folder:{tmp_path}")
    with pytest.raises(resect.DataError, match=r"got 21 files and no folder"):
        load(f"folder:{digits / '3'}")
    shutil.copytree(digits, tmp_path / "x")
    (tmp_path / "x" / "empty").mkdir()
    with pytest.raises(resect.DataError, match=r"class folder .*empty must hold at least one image"):
        load(f"folder:{tmp_path}/x")


def test_an_image_that_cannot_be_read_is_named(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "x")
    (tmp_path / "x" / "3" / "broken.png").write_bytes(b"no image")
    with pytest.raises(
        resect.DataError, match=r"3/broken\.png must be an image that can be read, but: cannot identify"
    ):
        load(f"folder:{tmp_path}/x").first(201)
    whole = next((digits / "4").iterdir()).read_bytes()
    (tmp_path / "x" / "3" / "broken.png").write_bytes(whole[:60])
    result = CliRunner().invoke(main, ["evaluate", f"folder:{tmp_path}/x", "resect:vgg15-digits", "--quiet"])
    assert result.exit_code == 2
    assert "3/broken.png must be an image that can be read" in " ".join(result.stderr.split())


def test_images_of_several_shapes_need_a_size(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "x")
    digit_folder(tmp_path / "x", [300, 301], size=9)
    spec = f"folder:{tmp_path}/x"
    with pytest.raises(resect.DataError, match=r"must have one shape, .*\(1, 9, 9\).*,size=224"):
        load(spec).first(202)
    assert load(f"{spec},size=6").first(202)[0].shape == (202, 1, 6, 6)


def test_classes_in_the_order_of_the_outputs_of_a_model(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(map(str, [*range(9, -1, -1), "ten"])))
    samples = load(f"folder:{digits},classes={tmp_path}/classes.txt")
    assert samples.classes == 11
    plain = load(f"folder:{digits}")
    ours = dict(zip(samples.places, samples.targets_only().tolist(), strict=True))
    assert all(ours[place] == 9 - c for place, c in zip(plain.places, plain.targets_only().tolist(), strict=True))
    (tmp_path / "classes.txt").write_text("0\n1\n")
    with pytest.raises(resect.DataError, match="has the class '2', which is not one of 0, 1"):
        load(f"folder:{digits},classes={tmp_path}/classes.txt")


def test_transforms_are_those_of_timm_and_torchvision(tmp_path: Path) -> None:
    root = digit_folder(tmp_path / "x", range(4), size=300, colour=True)
    theirs = ImageFolder(str(root))
    settings = timm.data.resolve_data_config(
        {}, pretrained_cfg=timm.get_pretrained_cfg("vit_tiny_patch16_224").to_dict()
    )
    expected = {
        "timm:vit_tiny_patch16_224": timm.data.create_transform(**settings),
        "torchvision:resnet50": torchvision.models.ResNet50_Weights.DEFAULT.transforms(),
    }
    for spec, transform in expected.items():
        samples = Source(spec, f"folder:{root}").samples()
        inputs, _ = samples.first(4)
        for place, ours in zip(samples.places, inputs, strict=True):
            assert torch.equal(ours, transform(theirs.loader(place)))  # to the bit
        assert samples.normalization.origin == "of the model's configuration"
    assert "resized to 232 (bilinear), centre-cropped to 224x224, by ResNet50_Weights" in samples.prepared
    other = ModelInputs("timm:resnet18", model_args={"img_size": 64, "in_chans": 1}).preparation()
    assert load_samples(f"folder:{root}", model=ModelInputs("timm:resnet18", model_args={"in_chans": 1})).shape[0] == 1
    assert (other.channels, other.make(theirs.loader(samples.places[0]).convert("L")).shape) == (1, (1, 64, 64))


def test_models_of_transformers_and_of_ones_own_say_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    root = digit_folder(tmp_path / "x", range(3), size=40)
    small = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    folder = tmp_path / "vit"
    ViTForImageClassification(small).save_pretrained(folder)
    spec = f"hf:{folder}"
    assert Source(spec, f"folder:{root}").samples().shape == (3, 32, 32)
    processor = ViTImageProcessor(size={"height": 24, "width": 24}, image_mean=[0.1] * 3, image_std=[0.2] * 3)
    processor.save_pretrained(folder)
    samples = Source(spec, f"folder:{root}").samples()
    theirs = processor(ImageFolder(str(root)).loader(samples.places[0]), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(samples.first()[0][0], theirs)
    assert str(samples.normalization) == "0.1,0.1,0.1/0.2,0.2,0.2"
    assert "24x24" in samples.prepared
    (tmp_path / "own_net.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 3)), "
        "torch.zeros(2, 3, 6, 6)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert Source("py:own_net:build", f"folder:{root}").samples().shape == (3, 6, 6)


def test_class_counts_that_differ_are_refused(digits: Path) -> None:
    source = Source("timm:resnet18", f"folder:{digits},size=32", limit=4)
    with pytest.raises(resect.DataError, match=r"has 10 classes \(0, 1, 2, ...\), but ResNet has 1,000 outputs"):
        source.unravel()


def test_a_network_errs_on_images_as_it_does_on_the_digits(digits: Path, tmp_path: Path) -> None:
    command = [
        "evaluate",
        f"folder:{digits}",
        "resect:vgg15-digits",
        "--out",
        str(tmp_path / "run"),
        "--format",
        "json",
    ]
    result = CliRunner().invoke(main, [*command, "--quiet", "--batch-size", "64"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["tables"]["networks"]
    assert row["error"] < 0.03
    assert row["prepared"] == "scaled and centre-cropped to 8x8 (bilinear)"
    assert len(list((tmp_path / "run" / "parts").iterdir())) == 4
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "run")])
    assert "Files became inputs of resect:vgg15-digits: scaled and centre-cropped to 8x8" in shown.stdout


def test_a_lesion_of_a_folder_holds_a_few_batches_only(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    known: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    between = Images._between

    def watched(self: Images, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = between(self, start, stop)
        known.add(inputs)
        alive.append(sum(map(len, known)))
        return inputs, targets

    monkeypatch.setattr(Images, "_between", watched)
    net = resect.unravel(load_model("resect:resnet8", model_args={"width": 4, "channels": 1}), torch.zeros(1, 1, 8, 8))
    samples = load(f"folder:{digits}")
    result = resect.lesion(net, samples.batches(10), resect.plans.explicit(net, []))
    assert result.samples == 200
    assert max(alive) <= 30
    assert len(alive) >= 20


def test_the_digest_is_of_contents_and_of_what_is_made_of_them(digits: Path, tmp_path: Path) -> None:
    spec = f"folder:{digits}"
    same = load(f"folder:{shutil.copytree(digits, tmp_path / 'copy')}")
    assert same.digest() == load(spec).digest()
    others = [
        load(spec, limit=5),
        load(spec, normalize="0.5/0.5"),
        load(f"{spec},size=9"),
        load(spec).to(torch.float64),
    ]
    assert len({load(spec).digest(), *(other.digest() for other in others)}) == 5
    file = next((tmp_path / "copy" / "4").iterdir())
    file.write_bytes(next((digits / "5").iterdir()).read_bytes())
    assert load(f"folder:{tmp_path}/copy").digest() != same.digest()


def test_a_training_on_folders_keeps_what_it_saw_on_its_card(digits: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    digit_folder(data / "train", range(120))
    digit_folder(data / "val", range(200, 240))
    weights = tmp_path / "w.safetensors"
    spec = f"folder:{data}"
    card = resect.train("digits", model="resnet8", model_args={"width": 4}, epochs=1, data=spec, out=weights)
    assert (card.found["train_samples"], card.found["test_samples"]) == (120, 40)
    assert card.found["prepared"] == "as they are"
    assert card.found["classes"] == 10
    found = resect.evaluate(f"folder:{data},size=20", f"resect:resnet8@{weights}").tables["networks"]
    assert found["prepared"][0].endswith("20x20 (bilinear)")
    again = resect.evaluate(spec, f"resect:resnet8@{weights}").tables["networks"]
    assert again["error"][0] == card.found["test_error"]


def test_functions_of_the_library_take_folders(digits: Path) -> None:
    net = resect.unravel(load_model("resect:resnet8", model_args={"width": 4, "channels": 1}))
    result = resect.lesion(net, f"folder:{digits}", resect.plans.explicit(net, []))
    assert result.samples == 200  # scaled to what the network takes
    assert resect.path_spectrum(net, load(f"folder:{digits},size=32", limit=4)).sum_error < 1e-3
