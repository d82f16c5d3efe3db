"""What a model says of its inputs: how images become pixels, and text tokens; of files, which fit any model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.data.images import Preparation, scaled
from resect.data.normalization import Normalization
from resect.data.offline import hub_or_cache
from resect.data.text import Reading
from resect.models.names import Value, is_shipped, parts_of
from resect.models.specs import IMAGES, card_beside, load_model

if TYPE_CHECKING:
    from PIL.Image import Image

_NO_MEAN, _NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_CANNOT = (ImportError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)
_WINDOWS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of a model, by its spec; it is loaded only where nothing else says what they are."""

    spec: str
    checkpoint: Path | None = None
    model_args: Mapping[str, Value] = field(default_factory=dict)

    def preparation(self) -> Preparation | None:
        """The transforms of the model's own configuration, else to the size of its example; None if it takes any."""
        kind, _, name = self.spec.partition(":")
        readers = {"torchvision": _torchvision, "timm": self._timm, "hf": _hugging_face}
        if kind in readers:
            try:
                with hub_or_cache(name) if kind == "hf" else nullcontext():
                    return readers[kind](name)
            except _CANNOT:
                return None  # whoever loads the model says what is wrong with it
        shape = self._trained_on() if kind == "resect" else self._example_shape()
        return scaled(shape[1], shape[2], shape[0]) if shape else None

    def reading(self) -> Reading:
        """Its tokenizer, its longest sequence, and whether it predicts hidden tokens or the next ones."""
        kind, _, name = self.spec.partition(":")
        if kind != "hf":
            example = self._example() if kind == "py" else None
            if isinstance(example, Tensor) and example.ndim == 2 and not example.is_floating_point():
                return Reading(window=example.shape[1])
            return Reading()
        transformers: Any = import_module("transformers")
        try:
            with hub_or_cache(name):
                config = transformers.AutoConfig.from_pretrained(name)
        except _CANNOT:
            return Reading()
        window = next((int(value) for key in _WINDOWS if (value := getattr(config, key, None))), None)
        masked = any("MaskedLM" in made for made in config.architectures or ())
        tokenizer = name if not Path(name).is_dir() or _has_tokenizer(Path(name)) else None
        return Reading(tokenizer, window, masked, getattr(config, "vocab_size", None))

    def _trained_on(self) -> tuple[int, ...] | None:
        """The shape of the images that weights of resect: were trained on."""
        if is_shipped(self.spec):
            return IMAGES[parts_of(self.spec)["data"]]
        card = None if self.checkpoint is None else card_beside(self.checkpoint)
        shape = None if card is None else card.found.get("sample_shape")
        return tuple(shape) if shape else None

    def _example(self) -> Any:
        return load_model(self.spec, model_args=self.model_args).example

    def _example_shape(self) -> tuple[int, ...] | None:
        leaves = [leaf for leaf in pytree.tree_leaves(self._example()) if isinstance(leaf, Tensor)]
        return tuple(leaves[0].shape[1:]) if leaves and leaves[0].ndim == 4 else None

    def _timm(self, name: str) -> Preparation:
        timm: Any = import_module("timm")
        asked = {key: self.model_args[key] for key in ("img_size", "in_chans") if key in self.model_args}
        settings = timm.data.resolve_data_config(asked, pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
        channels, height, width = settings["input_size"]
        channels = int(asked.get("in_chans", channels))
        none = {"mean": _NO_MEAN[:1] * channels, "std": _NO_STD[:1] * channels}
        plain = timm.data.create_transform(**{**settings, **none})
        said = (
            f"to {width}x{height} by timm's configuration ({settings['interpolation']}, crop_pct "
            f"{settings['crop_pct']:g}, {settings['crop_mode']})"
        )
        return _made(said, plain, settings["mean"], settings["std"], channels)


def _torchvision(name: str) -> Preparation:
    models: Any = import_module("torchvision.models")
    presets: Any = import_module("torchvision.transforms._presets")
    weights = models.get_model_weights(name).DEFAULT
    maker = getattr(weights.transforms, "func", None)
    if maker is presets.ImageClassification:
        plain, known, whose = weights.transforms(mean=_NO_MEAN, std=_NO_STD), weights.transforms(), str(weights)
    else:
        plain = presets.ImageClassification(crop_size=224, mean=_NO_MEAN, std=_NO_STD)
        known, whose = presets.ImageClassification(crop_size=224), "the usual transforms"
    said = (
        f"resized to {plain.resize_size[0]} ({plain.interpolation.value}), centre-cropped to {plain.crop_size[0]}x"
        f"{plain.crop_size[0]}, by {whose}"
    )
    return _made(said, plain, known.mean, known.std)


def _hugging_face(name: str) -> Preparation | None:
    transformers: Any = import_module("transformers")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except _CANNOT:
        config = transformers.AutoConfig.from_pretrained(name)
        size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
        if size is None:
            return None
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return scaled(height, width, channels)

    def plain(image: Image) -> Tensor:
        made = processor(images=image.convert("RGB"), do_normalize=False, return_tensors="pt")
        return torch.as_tensor(made["pixel_values"][0])

    sizes = [f"{word} {_words(getattr(processor, word))}" for word in ("size", "crop_size") if _words(
        getattr(processor, word, None))]  # fmt: skip
    said = f"by {type(processor).__name__} ({', '.join(sizes)})"
    normal = getattr(processor, "do_normalize", True)
    mean, std = (processor.image_mean, processor.image_std) if normal else (_NO_MEAN, _NO_STD)
    return _made(said, plain, mean, std)


def _words(size: Any) -> str:
    """A size of an image processor: "224x224", "shortest_edge 256"."""
    if not size:
        return ""
    known = {key: value for key, value in dict(size).items() if value}
    if known.keys() == {"height", "width"}:
        return f"{known['width']}x{known['height']}"
    return " ".join(f"{key} {value}" for key, value in known.items())


def _made(said: str, make: Any, mean: Any, std: Any, channels: int = 3) -> Preparation:
    """A preparation with its normalisation; of grey images, that of all channels together."""
    sides = [tuple(map(float, side)) for side in (mean, std)]
    if channels == 1:
        sides = [(sum(side) / len(side),) for side in sides]
    return Preparation(said, make, channels, Normalization(sides[0], sides[1], "of the model's configuration"))


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
    return any((folder / name).is_file() for name in names)
