"""Data specs, and what is wrong with data."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import resect
from resect.data import Samples, load_samples


def test_digits_are_split_by_seed() -> None:
    train, test = load_samples("digits", split="train"), load_samples("digits")
    assert (len(train), len(test)) == (1297, 500)
    assert test.inputs.shape == (500, 1, 8, 8)
    assert test.inputs.min() == -1.0
    assert test.inputs.max() == 1.0
    together = torch.cat([train.inputs, test.inputs])
    pixels = torch.from_numpy(load_digits().images).float().unsqueeze(1)
    assert torch.equal(together.sum((1, 2, 3)).sort().values, (pixels / 8 - 1).sum((1, 2, 3)).sort().values)
    assert load_samples("digits").digest() == test.digest()
    assert load_samples("digits", seed=1).digest() != test.digest()


def test_batches_and_limits() -> None:
    samples = load_samples("digits", limit=7)
    assert [len(targets) for _, targets in samples.batches(3)] == [3, 3, 1]
    assert torch.equal(torch.cat([inputs for inputs, _ in samples.batches(2)]), samples.inputs)
    with pytest.raises(resect.DataError, match="`limit` must be at least 1, got 0"):
        load_samples("digits", limit=0)


def test_npz(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, inputs=np.zeros((4, 2)), targets=np.array([0, 1, 2, 1]))
    samples = load_samples(f"npz:{file}")
    assert samples.inputs.dtype == torch.float32
    assert samples.classes == 3
    np.savez(file, inputs=np.zeros((0, 2)), targets=np.zeros(0, dtype=int))
    with pytest.raises(resect.DataError, match="at least one sample, got none"):
        load_samples(f"npz:{file}")
    np.savez(file, inputs=np.full((1, 2), np.nan), targets=np.zeros(1, dtype=int))
    with pytest.raises(resect.DataError, match="hold NaN or infinity"):
        load_samples(f"npz:{file}")
    np.savez(file, images=np.zeros(3))
    with pytest.raises(resect.DataError, match="with the arrays `inputs` and `targets`"):
        load_samples(f"npz:{file}")
    np.savez(file, inputs=np.float32(1), targets=np.int64(1))
    with pytest.raises(resect.DataError, match="must have a dimension of samples"):
        load_samples(f"npz:{file}")
    np.savez_compressed(file, inputs=np.random.default_rng(0).random((50, 8)), targets=np.zeros(50, dtype=int))
    content = bytearray(file.read_bytes())
    for position in (200, len(content) // 2):
        content[position] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(resect.DataError, match="must be an npz file"):
        load_samples(f"npz:{file}")
    file.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(resect.DataError, match="must be an npz file"):
        load_samples(f"npz:{file}")


def test_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(
        "import torch\ndef good():\n    return torch.zeros(2, 3), torch.tensor([0, 4])\ndef bad():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_samples("py:own_data:good").classes == 5
    with pytest.raises(resect.DataError, match=r"must return .* got int"):
        load_samples("py:own_data:bad")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", r"Did you mean digits\?"),
        ("digits:", r"unknown data spec 'digits:'\. Did you mean digits\?"),
        ("digits:3", r"Did you mean digits\?"),
        ("CIFAR-10:some/folder", r"Did you mean cifar10:some/folder\?"),
        ("some/images.npz", r"Did you mean npz:some/images.npz\?"),
        ("tests", r"Did you mean folder:tests\?"),
        ("notes.txt", r"Did you mean text:notes.txt\?"),
        ("foldr:x", r"Did you mean folder:x\?"),
        ("pkg.mod:factory", r"Did you mean py:pkg.mod:factory\?"),
        ("mnist", "unknown data spec 'mnist'. Known are"),
        ("", "unknown data spec ''. Known are"),
        ("x" * 5000, "x'. Known are"),
        ("a\0b", "Known are"),
        ("npz", "unknown data spec 'npz'"),
        ("cifar10", "must name the folder"),
        ("py:nothing", "unknown data spec"),
        (
            "digits,channels=3",
            r"digits takes no options, got 'channels=3' in 'digits,channels=3': its samples are images of one channel, "
            r"\(N, 1, 8, 8\)\. Give digits\. How pixels are normalised, `normalize` says; folder:, hf: and text: take",
        ),
        ("cifar10:no/folder,size=64", "cifar10 takes no options, got 'size=64' .*Give cifar10:no/folder"),
        ("npz:x.npz,size=3,b=1", "npz takes no options, got 'size=3,b=1' .*Give npz:x.npz"),
    ],
)
def test_unknown_specs(spec: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESECT_CIFAR10", raising=False)
    monkeypatch.chdir(Path(__file__).parents[1])
    with pytest.raises(resect.SpecError, match=message):
        load_samples(spec)


def test_a_path_may_look_like_options(tmp_path: Path) -> None:
    file = tmp_path / "some,size=8.npz"
    np.savez(file, inputs=np.zeros((2, 3), np.float32), targets=np.zeros(2, np.int64))
    assert len(load_samples(f"npz:{file}")) == 2


def test_missing_files(tmp_path: Path) -> None:
    for spec in (f"cifar10:{tmp_path}", f"npz:{tmp_path}/none.npz"):
        with pytest.raises(resect.DataError, match="there is no file"):
            load_samples(spec)
    with pytest.raises(
        resect.DataError, match=r"there is no folder .*none\. cifar10:DIR needs a folder with the parquet"
    ):
        load_samples(f"cifar10:{tmp_path}/none")


def test_what_can_only_be_a_mistake_is_named(tmp_path: Path) -> None:
    spec = f"npz:{tmp_path}/x.npz"
    np.savez(tmp_path / "x.npz", inputs=np.zeros((4, 2)), targets=np.full(4, -100))
    with pytest.raises(resect.DataError, match=r"x\.npz must have a target that counts, but all are -100"):
        load_samples(spec)
    np.savez(tmp_path / "x.npz", inputs=np.zeros((4, 8, 8, 3)), targets=np.zeros(4, dtype=int))
    with pytest.raises(resect.DataError, match=r"\(4, 8, 8, 3\) looks like \(N, H, W, C\)"):
        load_samples(spec)


def test_lengths_and_types_are_checked() -> None:
    with pytest.raises(resect.DataError, match="got 3 inputs and 2 targets"):
        Samples("x", torch.zeros(3, 1), torch.zeros(2, dtype=torch.long), None)
    assert Samples("x", torch.zeros(3, 1), torch.zeros(3).double(), None).targets.dtype == torch.float32  # of values
    with pytest.raises(resect.DataError, match=r"targets of x must be finite, but hold NaN"):
        Samples("x", torch.zeros(3, 1), torch.tensor([0.0, 1.0, float("nan")]), None)


def test_targets_may_be_any_integers() -> None:
    for dtype in (torch.int32, torch.uint8, torch.bool):
        assert Samples("x", torch.zeros(2, 3), torch.tensor([0, 1]).to(dtype), None).targets.dtype == torch.int64
    with pytest.raises(resect.DataError, match=r"must be integers or floats, got torch.complex64"):
        Samples("x", torch.zeros(2, 3), torch.zeros(2, dtype=torch.complex64), None)


def test_factories_that_fail_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text("def build():\n    return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(resect.SpecError, match=r"ZeroDivisionError came from failing.py:2: division by zero"):
        load_samples("py:failing:build")


def test_every_dtype_has_a_digest() -> None:
    targets = torch.zeros(2, dtype=torch.long)
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.long, torch.bool)
    digests = {Samples("x", torch.zeros(2, 3).to(dtype), targets, None).digest() for dtype in dtypes}
    assert len(digests) == len(dtypes)


def _image(colour: tuple[int, int, int]) -> dict[str, object]:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(content, format="PNG")
    return {"bytes": content.getvalue(), "path": None}


def test_cifar10_in_the_column_layout_of_the_hub(tmp_path: Path) -> None:
    file = tmp_path / "test-00000-of-00001.parquet"
    pd.DataFrame({"img": [_image((255, 0, 0)), _image((0, 255, 0))], "label": [3, 5]}).to_parquet(file)
    samples = load_samples(f"cifar10:{tmp_path}")
    assert samples.inputs.shape == (2, 3, 32, 32)
    assert samples.targets.tolist() == [3, 5]
    assert samples.inputs[0, :, 7, 9].tolist() == pytest.approx(
        [(1 - 0.4914) / 0.2470, -0.4822 / 0.2435, -0.4465 / 0.2616]
    )
    assert torch.equal(load_samples(f"cifar10:{tmp_path}", limit=1).inputs, samples.inputs[:1])
    with pytest.raises(resect.DataError, match="`limit` must be at least 1, got 0"):
        load_samples(f"cifar10:{tmp_path}", limit=0)
    with pytest.raises(resect.DataError, match=r"there is no file .*train-00000"):
        load_samples(f"cifar10:{tmp_path}", split="train")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(resect.DataError, match="must be whole and have the columns"):
        load_samples(f"cifar10:{tmp_path}")
    pd.DataFrame({"img": [{"bytes": b"no image", "path": None}], "label": [3]}).to_parquet(file)
    with pytest.raises(resect.DataError, match="must be whole and have the columns"):
        load_samples(f"cifar10:{tmp_path}")


@pytest.mark.skipif("RESECT_CIFAR10" not in os.environ, reason="RESECT_CIFAR10 names no folder with CIFAR-10")
def test_cifar10_from_its_parquet_files() -> None:
    samples = load_samples(f"cifar10:{os.environ['RESECT_CIFAR10']}", limit=1000)
    assert samples.inputs.shape == (1000, 3, 32, 32)
    assert samples.classes == 10
    assert samples.inputs.mean().abs() < 0.1  # normalised with the training set's statistics
    assert samples.inputs.std() == pytest.approx(1.0, abs=0.1)
