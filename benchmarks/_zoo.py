"""Every model of the coverage benchmark: how it is built with random weights, and one small batch of its inputs."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from _configs import ARCHITECTURES, small_transformer
from torch import nn
from torchvision.models import detection, list_models, optical_flow, segmentation, video

Built = tuple[nn.Module, Any]
_SIZES = (64, 96, 112, 128, 160, 192, 224, 240, 256, 299, 320, 384, 448, 512)


def names() -> list[str]:
    """The names of all models, `library:model`; for timm, of all modules."""
    vision = [name for kind in (None, segmentation, detection, video, optical_flow) for name in _listed(kind)]
    return [
        *(f"torchvision:{name}" for name in vision),
        *(f"timm:{module}" for module in timm.list_modules() if timm.list_models(module=module)),
        *(f"transformers:{name}" for name in ARCHITECTURES),
    ]


def build(name: str, cache: Path) -> tuple[str, Built]:
    """A model in eval mode with random weights, and a batch of two samples: (variant, (model, example))."""
    library, _, rest = name.partition(":")
    torch.manual_seed(0)
    if library == "torchvision":
        return rest, _torchvision(rest)
    if library == "timm":
        variant = smallest_variant(rest, cache)
        return variant, _timm(variant)
    return small_transformer(rest)


def _listed(module: Any) -> list[str]:
    return list_models(torchvision.models) if module is None else list_models(module)  # type: ignore[no-any-return]


def _torchvision(name: str) -> Built:
    given: dict[str, Any] = {}
    if name.startswith("vit_"):
        given = {"image_size": 56 if name == "vit_h_14" else 64}
    if name in _listed(detection) + _listed(segmentation):
        given = {"weights_backbone": None}
    if name in _listed(detection):
        model = torchvision.models.get_model(name, weights=None, **given, min_size=64, max_size=64)
        return model.eval(), ([torch.rand(3, 64, 64), torch.rand(3, 64, 64)],)
    model = torchvision.models.get_model(name, weights=None, **given)
    if name in _listed(video):
        return _that_runs(model, lambda size: torch.randn(2, 3, 16 if name.startswith("mvit") else 8, size, size))
    if name in _listed(optical_flow):
        return _that_runs(model, lambda size: (torch.rand(2, 3, size, size), torch.rand(2, 3, size, size)))
    sizes = [given["image_size"]] if "image_size" in given else _SIZES
    return _that_runs(model, lambda size: torch.randn(2, 3, size, size), sizes)


def _timm(name: str) -> Built:
    model = timm.create_model(name)
    size = model.pretrained_cfg["input_size"][-1]
    fixed = model.pretrained_cfg.get("fixed_input_size", False)
    return _that_runs(model, lambda size: torch.randn(2, 3, size, size), [size] if fixed else (*_SIZES, size))


def _that_runs(model: nn.Module, example: Callable[[int], Any], sizes: Iterable[int] = _SIZES) -> Built:
    """The model and the smallest batch that it runs."""
    model.eval()
    for size in sizes:
        inputs = example(size)
        with suppress(Exception), torch.no_grad():  # it says in its own words that the image is too small
            model(*inputs) if isinstance(inputs, tuple) else model(inputs)
            return model, inputs
    raise RuntimeError("the model runs at no size that was tried")


_SMALL_WORDS = (
    "test zepto atto femto pico nano micro xxsmall xxs xsmall xs tiny ti t mini lite small s 0 b0 18 26 50 mid medium m"
).split()


def smallest_variant(module: str, cache: Path) -> str:
    """The variant of a timm module with the fewest parameters, of the three whose names promise least.

    To build all thousand variants takes longer than to measure one of each module. It is kept in the file `cache`.
    """
    known: dict[str, str] = json.loads(cache.read_text()) if cache.exists() else {}
    if module not in known:
        promising = sorted(timm.list_models(module=module), key=_promised)[:3]
        sizes: dict[str, float] = defaultdict(lambda: float("inf"))
        for name in promising:
            with suppress(Exception), torch.device("meta"):
                sizes[name] = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        known[module] = min(promising, key=lambda name: sizes[name])
        cache.write_text(json.dumps(known, indent=1))
    return known[module]


def _promised(name: str) -> tuple[int, list[int]]:
    """A rank of size by the words and numbers of a name."""
    words = re.split(r"[_.]|(?<=[a-z]{3})(?=\d)", name)
    ranks = [_SMALL_WORDS.index(word) for word in words if word in _SMALL_WORDS]
    return min(ranks, default=len(_SMALL_WORDS)), [int(number) for number in re.findall(r"\d+", name)]
