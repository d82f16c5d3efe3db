"""The runs that claims stand on: shared, gathered in a folder, of networks of one's own, of depths that are trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn

import resect
from resect.cli import main
from resect.jobs.claims.check import DEPTHS, NOT_RUN, UNKNOWN
from resect.jobs.lesion import lesion_answer
from resect.jobs.source import Source
from resect.models import minilm
from resect.report import faces
from resect.report import lesion as face


def reproduced(out: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(main, ["reproduce", *arguments, "--out", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were captured."""
    seen, unravel = [], Source.unravel

    def counting(source: Source, *like: object, **options: bool) -> object:
        seen.append(source.model)
        return unravel(source, *like, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Source, "unravel", counting)
    return seen


def test_claims_join_those_of_the_folder_and_share_a_captured_network(tmp_path: Path, captures: list[str]) -> None:
    run, small = tmp_path / "run", ("--model", "resect:resnet8", "--limit", "30")
    assert "5. Blocks can run twice" in reproduced(run, "5", *small).output
    page = (run / "report.html").read_text()
    captures.clear()
    both = reproduced(run, "12b", "2", *small).output
    assert captures == ["resect:resnet8"]  # for deletions, skips, and what was there
    assert [both.index(f"\n{number}. ") for number in ("2", "5", "12b")] == sorted(
        both.index(f"\n{number}. ") for number in ("2", "5", "12b")
    )
    record = resect.Record.read(run)
    assert list(record.found["runs"]) == ["twice", "several-twice", "deletions", "skips"]
    assert record.command == "resect reproduce 2 5 12b --model resect:resnet8 --limit 30"
    assert 'id="claim-12b"' in (run / "report.html").read_text() and 'id="claim-12b"' not in page
    captures.clear()
    assert reproduced(run, "5", *small).output == both
    assert captures == []
    other = CliRunner().invoke(main, ["reproduce", "5", "--limit", "29", *small[:2], "--out", str(run)])
    assert other.exit_code == 2 and "holds a run with another configuration (limit: 30 there, 29 here)" in other.output


def test_pixels_are_normalised_as_asked_and_it_is_said(tmp_path: Path) -> None:
    asked = ("1", "--model", "resect:resnet8", "--limit", "30", "--calibrate", "16", "--normalize")
    as_they_are, scaled = (
        (tmp_path / name, " ".join(reproduced(tmp_path / name, *asked, how).output.split()))
        for name, how in (("first", "none"), ("second", "0.5/0.25"))
    )
    said = "Pixels, scaled to [0, 1], were normalised by mean/std 0.5/0.25"
    assert "normalised by mean/std none, as asked" in as_they_are[1] and said in scaled[1]
    assert said in (scaled[0] / "report.html").read_text(encoding="utf-8")
    one, other = (resect.Record.read(folder / "deletions") for folder, _ in (as_they_are, scaled))
    assert (one.asked["normalize"], one.asked["calibrate"]) == ("none", 16)
    assert one.found["intact"]["loss"] != other.found["intact"]["loss"]
    record = resect.Record.read(scaled[0])
    del record.found["normalization"]  # as those of before
    assert said not in faces.draw(record, scaled[0]).read_text(encoding="utf-8")
    control = resect.Record.read(scaled[0] / "control")  # as its own card says
    assert control.asked["model"] == "resect:vgg15-digits" and control.found["intact"]["error"] < 0.1


def test_claims_of_lesions_do_without_a_study_and_say_the_same(tmp_path: Path) -> None:
    options = {"model": "resect:resnet14-w2", "limit": 30, "repeats": 2}
    alone = resect.reproduce("1", "3", "4", out=tmp_path / "alone", **options)
    assert list(alone.found["runs"]) == ["deletions", "control", "random", "shuffled"]
    assert not (tmp_path / "alone" / "study").exists()
    page = faces.draw(alone, tmp_path / "alone").read_text(encoding="utf-8")
    for title in ("One layer of the plain network deleted", "Random deletions", "Reorderings"):
        assert f"<h3>{title}</h3>" in page
    whole = resect.reproduce("1", "3", "4", "6", out=tmp_path / "whole", **options)
    assert list(whole.found["runs"]) == ["study"]
    joined = resect.reproduce("6", out=tmp_path / "alone", **options)  # which needs the study
    assert list(joined.found["runs"]) == ["study"]
    records = [{claim["number"]: claim for claim in record.found["claims"]} for record in (alone, whole, joined)]
    said = [[(of[number]["here"], of[number]["verdict"]) for number in ("1", "3", "4")] for of in records]
    assert said[0] == said[1] == said[2]
    assert [records[0][number]["command"] for number in ("3", "4")] == [
        f"resect lesion resect:resnet14-w2 digits --limit 30 --plan {plan} --repeats 2 --batch-size 500"
        for plan in ("random", "shuffled")
    ]


def test_a_folder_of_images_and_a_network_of_torchvision(tmp_path: Path) -> None:
    draw, labels, classes = np.random.default_rng(0), [f"n{number:08}" for number in range(1000)], tmp_path / "classes"
    classes.write_text("\n".join(labels))
    for label in labels[::400]:
        place = tmp_path / "images" / "val" / label
        place.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(place / f"{number}.png")
    data, model = f"folder:{tmp_path / 'images'},split=val,size=32,classes={classes}", "torchvision:resnet18"
    record = resect.reproduce("2", "9", data=data, model=model, out=tmp_path / "run")
    imagenet, effective = record.found["claims"]
    assert imagenet["verdict"] == UNKNOWN  # with random weights
    assert "random weights" in " ".join(record.warnings)
    assert effective["verdict"] == NOT_RUN
    lesions = resect.Record.read(tmp_path / "run" / "imagenet")
    assert len(lesions.tables["lesions"]) == 8
    assert imagenet["here"].startswith("intact 100.0 %; ")
    inputs, targets = resect.load_samples(data, normalize=lesions.found["normalization"]["mean_std"]).first(12)
    assert targets.unique().tolist() == [0, 400, 800]
    with torch.no_grad():
        expected = nn.functional.cross_entropy(resect.load_model(model).module(inputs), targets)
    assert lesions.found["intact"]["loss"] == pytest.approx(float(expected), rel=1e-5)


class Twin(nn.Module):
    """Two residual layers on vectors: embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return x


def test_lesions_of_queries_are_drawn_without_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = resect.unravel(Twin(), torch.zeros(2, 4))
    targets = torch.tensor([0, 1, 2, -100, -100, -100])
    result = resect.lesion(net, [(torch.randn(6, 4), targets)], resect.plans.repeated(net), task="contrastive")
    answer = lesion_answer(result)
    record = resect.Record("lesion", {}, {}, {}, "resect lesion", answer.found, answer.tables)
    assert {file.stem for file in face.draw(record, tmp_path).glob("*.png")} == {"repeated", "flips"}


@pytest.mark.slow  # imports transformers
def test_texts_for_the_transformer_are_pairs() -> None:
    ((inputs, targets),) = minilm.functions()
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2 * minilm.PAIRS, 16)
    assert targets.tolist() == [*range(minilm.PAIRS), *[-100] * minilm.PAIRS]
    assert len({tuple(row) for row in inputs["input_ids"].tolist()}) > 1.9 * minilm.PAIRS


@pytest.mark.slow  # captures networks of four depths
def test_networks_of_other_depths_are_trained_and_taken_apart(tmp_path: Path) -> None:
    resect.reproduce("9", model="resect:resnet8", limit=20, out=tmp_path / "run")
    files = [tmp_path / "run" / "networks" / f"{name}.safetensors" for name in DEPTHS]
    for name, file in zip(DEPTHS, files, strict=True):  # what is there is taken, and not trained for long
        resect.train("digits", model=f"resect:{name}", epochs=1, batch_size=500, out=file)
    before = [file.read_bytes() for file in files]
    record = resect.reproduce("1b", model="resect:resnet8", train=True, limit=20, out=tmp_path / "run")
    claim = record.found["claims"][0]
    assert [file.read_bytes() for file in files] == before
    assert list(record.found["runs"]) == [*DEPTHS, "deletions"]
    counts = [len(resect.Record.read(tmp_path / "run" / name).tables["lesions"]) for name in record.found["runs"]]
    assert counts == [9, 15, 21, 27, 3]
    assert claim["here"].endswith("in the median at depth 20, 32, 44, 56 and 110")
    again = resect.reproduce("1b", model="resect:resnet8", limit=20, out=tmp_path / "run")  # trained it was
    assert again.found == record.found


@pytest.mark.slow  # a transformer with real weights, 23 lesions to 480 texts
def test_layers_of_a_transformer(tmp_path: Path) -> None:
    result = reproduced(tmp_path / "run", "13", "--limit", "5")
    assert "here, all-MiniLM-L6-v2, 240 pairs of texts: intact" in " ".join(result.output.split())
    skipped = resect.Record.read(tmp_path / "run" / "layers-skipped")
    ((inputs, targets),) = minilm.functions()
    model, _ = minilm.encoder()
    with torch.no_grad():
        intact = model(**inputs)
        layers = model.bert.encoder.layer
        del layers[2]
        without = model(**inputs)
    names, texts = (slice(minilm.PAIRS), slice(minilm.PAIRS, None))

    def error(embedded: Tensor) -> float:
        unit = nn.functional.normalize(embedded, dim=1)
        return float((unit[names] @ unit[texts].T).argmax(1).ne(targets[names]).float().mean())

    assert skipped.found["intact"]["error"] == pytest.approx(error(intact), abs=1e-6)
    assert skipped.found["samples"] == 480
    assert skipped.tables["lesions"]["name"][2] == "bert.encoder.layer.2"
    assert abs(skipped.tables["lesions"]["error"][2] - error(without)) < 0.2  # its norms stay here, and go there
    assert "Two layers swapped" in (tmp_path / "run" / "report.html").read_text()
