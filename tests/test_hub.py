"""Data sets of Hugging Face's `datasets`, on disk."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

import resect
from files import DIGITS, TOKENIZER, digit, digit_folder, prose
from resect.data import load_samples
from resect.data.streams import Images
from resect.jobs.lesion import LesionJob
from resect.jobs.source import Source

CLASSES = datasets.ClassLabel(names=[f"digit {i}" for i in range(10)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 digits as images, and 40 of them as the test split, saved on disk; files read here are cached there, too."""
    folder = tmp_path_factory.mktemp("saved")
    parts = {}
    for split, numbers in (("train", range(80)), ("test", range(80, 120))):
        rows = {"picture": [digit(i) for i in numbers], "kind": [int(DIGITS.target[i]) for i in numbers]}
        parts[split] = datasets.Dataset.from_dict(
            rows, features=datasets.Features({"picture": datasets.Image(), "kind": CLASSES})
        )
    datasets.DatasetDict(parts).save_to_disk(folder / "both")
    parts["train"].save_to_disk(folder / "one")
    parts["train"].to_parquet(folder / "digits.parquet")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", saved / "cache")


def expected(numbers: list[int]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(digit(i))).float()[None] / 255 for i in numbers])


def test_a_saved_data_set_has_splits_classes_and_images(saved: Path) -> None:
    samples = load_samples(f"hf:{saved}/both")
    assert isinstance(samples, Images)
    assert (len(samples), samples.shape, samples.labels) == (40, (1, 8, 8), tuple(CLASSES.names))
    inputs, targets = samples.first(40)
    numbers = [80 + int(place.split()[1]) for place in samples.places]
    assert torch.equal(inputs, expected(numbers))
    assert targets.tolist() == DIGITS.target[numbers].tolist()
    assert len(load_samples(f"hf:{saved}/both", split="train")) == 80
    assert len(load_samples(f"hf:{saved}/both,split=train", limit=7)) == 7
    assert load_samples(f"hf:{saved}/both,size=6").shape == (1, 6, 6)
    assert len(load_samples(f"hf:{saved}/one")) == 80
    table = resect.evaluate(f"hf:{saved}/both", "resect:vgg15-digits").tables["networks"]
    assert table["error"][0] < 0.06


def test_files_that_datasets_reads(saved: Path, tmp_path: Path) -> None:
    whole = load_samples(f"hf:{saved}/one")
    assert load_samples(f"hf:{saved}/digits.parquet").digest() == whole.digest()
    assert load_samples(f"hf:{digit_folder(tmp_path / 'x', range(30))}").classes == 10


def test_columns_are_found_by_what_they_hold_or_named(saved: Path, tmp_path: Path) -> None:
    rows = {"a": [digit(0), digit(1)], "b": [digit(2), digit(3)], "left": [0, 1], "right": [1, 0]}
    kinds = {"a": datasets.Image(), "b": datasets.Image(), "left": CLASSES, "right": CLASSES}
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).save_to_disk(tmp_path / "two")
    spec = f"hf:{tmp_path}/two"
    with pytest.raises(
        resect.DataError, match=r"must have one column for `image=`, but has several: a, b\..*,image=NAME"
    ):
        load_samples(spec)
    with pytest.raises(resect.DataError, match=r"must have one column for `label=`, but has several: left, right"):
        load_samples(f"{spec},image=b")
    with pytest.raises(resect.DataError, match=r"`label=` must name a column of .*, one of a \(.*, got 'middle'"):
        load_samples(f"{spec},image=b,label=middle")
    samples = load_samples(f"{spec},image=b,label=right")
    order = [int(place.split()[1]) for place in samples.places]
    assert torch.equal(samples.first(2)[0], expected([2 + i for i in order]))
    assert samples.targets_only().tolist() == [1 - i for i in order]


def test_arrays_of_numbers_and_text(tmp_path: Path) -> None:
    rows = {"pixels": DIGITS.data[:20].tolist(), "label": DIGITS.target[:20].tolist()}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "arrays")
    samples = load_samples(f"hf:{tmp_path}/arrays")
    assert torch.equal(samples.first(20)[0], torch.from_numpy(DIGITS.data[:20]).float())
    assert samples.targets_only().tolist() == DIGITS.target[:20].tolist()
    lines = prose(tmp_path, 600).read_text().splitlines()
    datasets.Dataset.from_dict({"text": lines}).save_to_disk(tmp_path / "text")
    (tmp_path / "joined.txt").write_text("\n\n".join(lines))
    options = f"tokenizer={TOKENIZER},window=16"
    ours, whole = load_samples(f"hf:{tmp_path}/text,{options}"), load_samples(f"text:{tmp_path}/joined.txt,{options}")
    assert torch.equal(ours.first(99)[0], whole.first(99)[0])


def test_texts_with_classes_go_to_a_classifier_with_their_mask(tmp_path: Path) -> None:
    texts = [line for line in prose(tmp_path, 1500).read_text().splitlines() if line][:12]
    rows = {"text": texts, "label": [i % 3 for i in range(len(texts))]}
    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / "texts")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(num_labels=3, **small)).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.save_pretrained(tmp_path / "bert")
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, truncation=True, max_length=9, return_tensors="pt")).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(rows["label"])).item()
    spec = f"hf:{tmp_path}/texts,window=9"
    table = resect.evaluate(spec, f"hf:{tmp_path}/bert").tables["networks"]
    assert table["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert table["prepared"][0].endswith("texts of up to 9")
    record = LesionJob(Source(f"hf:{tmp_path}/bert", spec, limit=6)).run()
    assert len(record.tables["lesions"]) == 2
    assert "windows of" in load_samples(f"{spec},task=next-token").prepared


def test_what_is_no_data_set(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(resect.DataError, match=r"there is no folder or file .*none"):
        load_samples(f"hf:{tmp_path}/none")
    with pytest.raises(
        resect.DataError, match=r"must have the split val, but has train, test\. Name one: .*,split=train"
    ):
        load_samples(f"hf:{saved}/both,split=val")
    with pytest.raises(resect.DataError, match="has one split, without a name: leave out split=test"):
        load_samples(f"hf:{saved}/one,split=test")
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(resect.DataError, match="must be a data set that `datasets` reads, but"):
        load_samples(f"hf:{tmp_path}/broken.parquet")
    with (tmp_path / "words.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["pixels", "label"], ["[1, 2]", "three"]])
    with pytest.raises(
        resect.DataError, match=r"one column for `label=`.*none among pixels \(large_string\), label \(large_string\)"
    ):
        load_samples(f"hf:{tmp_path}/words.csv,image=pixels")
    rows = {"picture": [digit(0), digit(1)], "label": [0, -1]}
    kinds = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / "hidden")
    with pytest.raises(resect.DataError, match=r"labels of .* must be whole numbers from 0, got -1"):
        load_samples(f"hf:{tmp_path}/hidden")


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    started = time.perf_counter()
    with pytest.raises(resect.DataError, match="no folder or file someone/digits, the Hub does not answer"):
        load_samples("hf:someone/digits")
    with pytest.raises(
        resect.SpecError, match="cannot be built: there is no folder someone/model, the Hub does not answer"
    ):
        resect.load_model("hf:someone/model")
    with pytest.raises(resect.DataError, match="someone/words must have a tokenizer that transformers reads"):
        load_samples(f"text:{__file__},tokenizer=someone/words")
    assert time.perf_counter() - started < 10
    assert not datasets.config.HF_HUB_OFFLINE


def test_rows_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    rows = {"picture": [{"bytes": b"no image", "path": None}], "label": [0]}
    kinds = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / "x")
    with pytest.raises(resect.DataError, match=r"row 0 of .* must be an image that can be read, but: cannot identify"):
        load_samples(f"hf:{tmp_path}/x")


def test_the_order_of_data_and_networks_is_told_from_kinds() -> None:
    with pytest.raises(resect.SpecError, match=r"unknown model spec 'text:x'\. That is a data spec"):
        resect.evaluate("hf:gpt2", "text:x")
