"""Pruned networks as ONNX: run by onnxruntime here, on other sizes than the example's, and in the fresh process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import resect
from hf_families import FAMILIES
from resect.pruning.export import programs

CLOSE = 1e-4  # as large as the differences between two libraries' operators get, of the largest output


def run_onnx(file: Path, **inputs: Tensor) -> np.ndarray[Any, Any]:
    """The one output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return np.asarray(output)


def assert_close(got: np.ndarray[Any, Any], wanted: Tensor) -> None:
    assert got.shape == tuple(wanted.shape)
    assert np.abs(got - wanted.numpy()).max() <= CLOSE * max(1.0, float(wanted.abs().max()))


def test_onnxruntime_computes_the_pruned_network_for_any_batch(
    net: resect.Unraveled, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arrangement, file = net.intact.without(1, 4), tmp_path / "small.onnx"
    done = resect.export(net, arrangement, f"onnx:{file}")
    assert done.difference is not None
    assert done.difference <= CLOSE
    assert capfd.readouterr() == ("", "")
    images = torch.randn(5, *net.example.shape[1:])
    with torch.no_grad():
        assert_close(run_onnx(file, input=images), net(images, arrangement))
        assert np.abs(run_onnx(file, input=images) - net(images).numpy()).max() > CLOSE
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


def test_what_onnx_needs_is_said_before_anything_is_written(
    net: resect.Unraveled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as Python has it for what cannot be imported
    with pytest.raises(resect.ExportError, match=r"onnx needs onnxscript, .* pip install 'resect\[onnx\]'"):
        resect.export(net, net.intact.without(1), f"onnx:{tmp_path / 'x.onnx'}")
    monkeypatch.undo()
    monkeypatch.setattr(programs, "_MOST", 1000)
    with pytest.raises(resect.ExportError, match="less than 2 GiB in its file, but CifarResNet without what goes has"):
        resect.export(net, net.intact.without(1), f"onnx:{tmp_path / 'x.onnx'}")
    assert not list(tmp_path.iterdir())
    arrangement = net.intact.without(1)
    monkeypatch.setattr(programs, "_MOST", sum(p.nbytes for p in net.model.parameters()))
    programs.require_small(net, arrangement)  # what goes does not count


@pytest.mark.slow
def test_an_attention_alone_of_a_language_model_for_any_length(tmp_path: Path) -> None:
    family = FAMILIES["gpt2"]
    net = resect.unravel(family.make(), family.example())
    arrangement = net.intact.without(4)
    assert resect.export(net, arrangement, f"onnx:{tmp_path / 'gpt2.onnx'}").difference is not None
    ids = torch.randint(0, 99, (3, 7))
    with torch.no_grad():
        wanted = net({"input_ids": ids}, arrangement).logits
    assert_close(run_onnx(tmp_path / "gpt2.onnx", input_ids=ids), wanted)


@pytest.mark.slow
def test_a_vision_transformer(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=3, img_size=32).eval()
    images = torch.randn(4, 3, 32, 32)
    net = resect.unravel(model, images[:1])
    arrangement = net.intact.without(2, 5)
    resect.export(net, arrangement, f"onnx:{tmp_path / 'vit.onnx'}")
    with torch.no_grad():
        assert_close(run_onnx(tmp_path / "vit.onnx", input=images), net(images, arrangement))


@pytest.mark.slow
def test_trained_weights_of_minilm(tmp_path: Path) -> None:
    net = resect.unravel(resect.load_model("py:resect.models.minilm:encoder"))
    arrangement = net.intact.without(4, 5, 7)
    resect.export(net, arrangement, f"onnx:{tmp_path / 'minilm.onnx'}")
    ids, mask = torch.randint(1000, 2000, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    mask[0, 5:] = 0
    call = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        assert_close(run_onnx(tmp_path / "minilm.onnx", **call), net(call, arrangement))
