"""How the images were normalised that a model's weights were trained on, as its card or configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from resect.data.normalization import Normalization
from resect.data.offline import hub_or_cache
from resect.models.names import SHIPPED, Value
from resect.models.specs import card_beside, load_card


def normalization_of(
    spec: str, checkpoint: Path | None = None, model_args: Mapping[str, Value] | None = None
) -> Normalization | None:
    """Mean and deviation, from the card of weights or the configuration that they came with.

    Configurations are those of torchvision and timm where their own weights are taken (pretrained=true), and the
    preprocessor_config.json of transformers. A checkpoint without a card may have been trained on anything.

    Returns:
        None if nothing says so, or something that cannot be.
    """
    kind, _, name = spec.partition(":")
    if checkpoint is not None or (kind == "resect" and name in SHIPPED):
        card = load_card(name) if checkpoint is None else card_beside(checkpoint)
        kept = card and card.found.get("normalization")
        if not kept:
            return None
        return Normalization.parse(kept["mean_std"], "of the model's card", floats=kept.get("floats", False))
    readers = {"torchvision": _torchvision, "timm": _timm} if (model_args or {}).get("pretrained") else {}
    reader = (readers | {"hf": _hugging_face}).get(kind)
    try:
        known = None if reader is None else reader(name)
        if known is None:
            return None
        mean, std = (tuple(map(float, np.atleast_1d(side))) for side in known)
        return Normalization(mean, std, "of the model's card")
    except (ImportError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None  # whoever loads the model says what is wrong with it


def _torchvision(name: str) -> tuple[Any, Any] | None:
    preset = import_module("torchvision.models").get_model_weights(name).DEFAULT.transforms()
    return (preset.mean, preset.std) if hasattr(preset, "mean") else None  # detectors normalise by themselves


def _timm(name: str) -> tuple[Any, Any]:
    settings: Any = import_module("timm").models.get_pretrained_cfg(name)
    return settings.mean, settings.std


def _hugging_face(name: str) -> tuple[Any, Any] | None:
    reader = import_module("transformers.image_processing_base").ImageProcessingMixin
    with hub_or_cache(name):
        settings, _ = reader.get_image_processor_dict(name)
    if not settings.get("do_normalize", True):
        return (0.0,), (1.0,)
    return (settings["image_mean"], settings["image_std"]) if "image_mean" in settings else None
