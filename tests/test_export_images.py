"""Shorter networks of images as their own constructors make them: `resect:`, torchvision and timm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from torch import nn
from torchvision import models

import resect
from conftest import randomise_norms
from resect.cli import main
from resect.models.highway import CifarHighway
from resect.models.resnet import CifarResNet
from resect.models.specs import card_beside

Stage = models.convnext.CNBlockConfig
SIZE = (3, 32, 32)


def unraveled(model: nn.Module, channels: int = 3) -> resect.Unraveled:
    return resect.unravel(randomise_norms(model), torch.randn(1, channels, *SIZE[1:]))


def without(net: resect.Unraveled, *layers: str) -> resect.Arrangement:
    inside = tuple(f"{layer}." for layer in layers)
    return net.intact.without([b.index for b in net.blocks if b.name in layers or b.name.startswith(inside)])


def refused(net: resect.Unraveled, arrangement: resect.Arrangement, target: str) -> str:
    with pytest.raises(resect.ExportError) as error:
        resect.export(net, arrangement, target)
    return str(error.value)


def test_uneven_stages_have_a_spec_that_loads_the_file(net: resect.Unraveled, tmp_path: Path) -> None:
    file, arrangement = tmp_path / "small.safetensors", net.intact.without(1, 2, 5)
    done = resect.export(net, arrangement, f"resect:{file}")
    assert (done.difference, done.notes) == (
        0,
        ("It is resect:resnet1.2.3-w4, with this file as --checkpoint; `resect evaluate` takes SPEC@FILE.",),
    )
    loaded = resect.load_model("resect:resnet1.2.3-w4", checkpoint=file)
    images = torch.randn(3, *net.example.shape[1:])
    with torch.no_grad():
        assert torch.equal(loaded.module(images), net(images, arrangement))
    even = resect.export(net, net.intact.without(0, 4, 7), f"resect:{tmp_path / 'even.safetensors'}")
    assert even.notes[0].startswith("It is resect:resnet14-w4,")
    with pytest.raises(resect.CheckpointError, match="belongs to another network"):
        resect.load_model("resect:resnet14-w4", checkpoint=file)


def test_what_no_spec_says_is_refused(net: resect.Unraveled, tmp_path: Path) -> None:
    target = f"resect:{tmp_path / 'a.safetensors'}"
    said = refused(net, net.intact.without(3), target)
    assert "without the blocks of layer 3 of blocks it still reads blocks.3.sc.weight" in said
    assert said.endswith("`torch` writes the stand-alone network of any arrangement.")
    said = refused(net, net.intact.without(range(3)), target)
    assert "every stage must keep a block, but stage 1 of 3 has none left" in said
    said = refused(net, net.intact.without(1), f"timm:{tmp_path / 'a'}")
    assert said.startswith("timm can only write models that timm made, but CifarResNet is none.")
    said = refused(net, net.intact.without(1), f"torchvision:{tmp_path / 'a'}")
    assert "torchvision can only write its ResNet, VisionTransformer, ConvNeXt, SwinTransformer, but" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "gone", "spec"),
    [
        (CifarResNet(14, width=4, preactivation=False), ("blocks.1",), "resnet1.2.2-w4-original"),
        (CifarResNet(14, width=4, hidden=2, branches=2), ("blocks.5",), "resnet2.2.1-w4-h2-x2"),
        (CifarHighway(6, width=4), ("stages.1.2",), "highway2.1.2-w4"),
    ],
)
def test_every_form_of_a_spec_says_a_shorter_network(
    model: nn.Module, gone: tuple[str, ...], spec: str, tmp_path: Path
) -> None:
    net = unraveled(model)
    done = resect.export(net, without(net, *gone), f"resect:{tmp_path / 'a.safetensors'}")
    assert done.notes == (f"It is resect:{spec}, with this file as --checkpoint; `resect evaluate` takes SPEC@FILE.",)
    assert done.difference == 0


@pytest.mark.slow
def test_what_lesion_says_of_the_file_is_what_it_says_of_the_lesion(tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> str:
        done = CliRunner().invoke(main, [*map(str, arguments), "--quiet"])
        assert done.exit_code == 0, done.output
        return done.stdout

    file, spec = tmp_path / "small.safetensors", "resect:resnet17.16.17"
    run("export", "resect:resnet110-digits", "--without", "3,20,21,40", f"resect:{file}")
    card = card_beside(file)
    assert card is not None
    assert (card.asked["model"], card.found["sample_shape"], card.found["classes"]) == (spec, [1, 8, 8], 10)
    assert card.found["normalization"]["origin"] == "of the model's card"
    assert card.command == f"resect export resect:resnet110-digits resect:{file} --without 3,20,21,40"
    common = ("digits", "--limit", "100", "--format", "json")
    small = json.loads(run("lesion", spec, *common, "--checkpoint", file, "--without", "1"))
    whole = json.loads(run("lesion", "resect:resnet110-digits", *common, "--without", "1,3,20,21,40"))
    (one,), (other,) = small["tables"]["lesions"], whole["tables"]["lesions"]
    assert one["error"] == other["error"]
    assert small["found"]["normalization"] == whole["found"]["normalization"]


def _resnet() -> nn.Module:
    return models.resnet.ResNet(models.resnet.Bottleneck, [1, 2, 2, 1], num_classes=5, groups=2, width_per_group=32)


def _vit() -> nn.Module:
    return models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5)


def _convnext() -> nn.Module:
    return models.ConvNeXt([Stage(8, 16, 2), Stage(16, None, 3)], stochastic_depth_prob=0.2, num_classes=5)


def _swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 4], [2, 4], [2, 2], num_classes=5)


def _swin_v2() -> nn.Module:
    block, merging = models.swin_transformer.SwinTransformerBlockV2, models.swin_transformer.PatchMergingV2
    sizes: tuple[Any, ...] = ([4, 4], 16, [2, 2], [2, 4], [2, 2])
    return models.SwinTransformer(*sizes, num_classes=5, block=block, downsample_layer=merging)


SHORTER = [
    (_resnet, ("layer3.1",), {"layers": [1, 2, 1, 1]}),
    pytest.param(_vit, ("encoder.layers.encoder_layer_1",), {"num_layers": 2}, marks=pytest.mark.slow),
    pytest.param(_convnext, ("features.3.0", "features.3.2"), {"stochastic_depth_prob": 0.2}, marks=pytest.mark.slow),
    pytest.param(_swin, ("features.3.1", "features.3.2"), {"depths": [2, 2]}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("make", "gone", "argument"), SHORTER)
def test_the_constructor_of_torchvision_makes_the_shorter_network(
    make: Callable[[], nn.Module],
    gone: tuple[str, ...],
    argument: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = unraveled(make())
    arrangement = without(net, *gone)
    done = resect.export(net, arrangement, f"torchvision:{tmp_path / 'small'}")
    assert done.difference == 0
    made = json.loads((tmp_path / "small" / "config.json").read_text())
    assert argument.items() <= made["arguments"].items()
    lines = (tmp_path / "small" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path / "small")
    names: dict[str, Any] = {}
    exec(lines, names)
    images = torch.randn(3, *SIZE)
    with torch.no_grad():
        assert torch.equal(names["model"](images), net(images, arrangement))


@pytest.mark.slow
def test_a_constructor_that_would_make_other_layers_is_refused(tmp_path: Path) -> None:
    target = f"torchvision:{tmp_path / 'a'}"
    net = unraveled(_swin_v2())
    said = refused(net, without(net, "features.1.0"), target)
    assert "shift_size is [1, 1] in the network and [0, 0] where layer 1 becomes 0" in said
    net = unraveled(_resnet())
    assert "it still reads layer2.0.downsample" in refused(net, without(net, "layer2.0"), target)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_timm_keeps_to_the_branches_that_training_drops(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=3, img_size=32, drop_path_rate=0.1)
    net = unraveled(model)
    done = resect.export(net, without(net, "blocks.0"), f"timm:{tmp_path / 'small'}")
    assert done.difference == 0
    assert done.notes[-1].startswith("In training branches are dropped at the rates that the constructor gives")
