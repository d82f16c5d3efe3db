"""Names of weights in the files that people have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from resect.models.resnet import CifarResNet
from resect.weights import CARD, load_checkpoint, read_tensors, save_weights


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_in_any_order(prefix: str, tmp_path: Path) -> None:
    source, path = CifarResNet(8, width=4), tmp_path / "weights.pt"
    torch.save({"model_ema": {f"{prefix}{name}": value for name, value in source.state_dict().items()}}, path)
    target = CifarResNet(8, width=4)
    load_checkpoint(target, path)
    assert torch.equal(target.stem.weight, source.stem.weight)


def test_a_child_named_module_and_averaged_weights(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = CifarResNet(8, width=4)

    path, source = tmp_path / "weights.pt", Wrapped()
    torch.save(source.state_dict(), path)
    target = Wrapped()
    load_checkpoint(target, path)
    assert torch.equal(target.module.stem.weight, source.module.stem.weight)
    torch.save(AveragedModel(source.module).state_dict(), path)
    averaged = CifarResNet(8, width=4)
    load_checkpoint(averaged, path)
    assert torch.equal(averaged.stem.weight, source.module.stem.weight)


def test_safetensors_are_known_whatever_the_length_of_their_header(tmp_path: Path) -> None:
    layer, seen = nn.Linear(2, 2), set()
    for length in range(0, 256, 8):  # a card of another length for every first byte that there is
        path = tmp_path / f"{length}.safetensors.tmp"  # as files are called until they are whole
        save_weights(layer, path, metadata={CARD: "x" * length})
        seen.add(path.read_bytes()[0])
        assert torch.equal(read_tensors(path)["weight"], layer.weight)
    assert 0x80 in seen  # with which a pickle begins
