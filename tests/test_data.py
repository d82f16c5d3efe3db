"""Data specs, and what is wrong with data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
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
        ("digit", "Did you mean digits"),
        ("npz", "unknown data spec 'npz'"),
        ("cifar10", "must name the folder"),
        ("py:nothing", "unknown data spec"),
    ],
)
def test_unknown_specs(spec: str, message: str) -> None:
    with pytest.raises(resect.SpecError, match=message):
        load_samples(spec)


def test_missing_files(tmp_path: Path) -> None:
    for spec in (f"cifar10:{tmp_path}", f"npz:{tmp_path}/none.npz"):
        with pytest.raises(resect.DataError, match="there is no file"):
            load_samples(spec)


def test_lengths_and_types_are_checked() -> None:
    with pytest.raises(resect.DataError, match="got 3 inputs and 2 targets"):
        Samples("x", torch.zeros(3, 1), torch.zeros(2, dtype=torch.long), None)
    with pytest.raises(resect.DataError, match=r"integer classes, got torch.float32"):
        Samples("x", torch.zeros(3, 1), torch.zeros(3), None)


@pytest.mark.skipif("RESECT_CIFAR10" not in os.environ, reason="RESECT_CIFAR10 names no folder with CIFAR-10")
def test_cifar10_from_its_parquet_files() -> None:
    samples = load_samples(f"cifar10:{os.environ['RESECT_CIFAR10']}", limit=1000)
    assert samples.inputs.shape == (1000, 3, 32, 32)
    assert samples.classes == 10
    assert samples.inputs.mean().abs() < 0.1  # normalised with the training set's statistics
    assert samples.inputs.std() == pytest.approx(1.0, abs=0.1)
