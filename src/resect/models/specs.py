"""Model specs: `resect:`, `torchvision:`, `timm:`, `hf:` and `py:`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module, resources
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resect.data.offline import UNREACHABLE, hub_or_cache
from resect.data.samples import Samples, SampleSet
from resect.data.specs import call_factory
from resect.errors import InputError, RunError, SpecError, closest, suggesting
from resect.models.highway import CifarHighway
from resect.models.names import (
    WEIGHTS,
    Value,
    depth_of,
    parts_of,
    require_model_spec,
)
from resect.models.resnet import CifarResNet
from resect.models.vgg import Vgg15
from resect.runs.record import Record
from resect.seeds import seeded
from resect.weights import CARD, check_finite, load_checkpoint, read_metadata

IMAGES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}
_DIGITS_WIDTH = {"vgg15": 16}


def load_card(shipped: str) -> Record:
    """The model card of shipped weights, by their name: the record of their training."""
    with resources.as_file(WEIGHTS / f"{shipped}.json") as file:
        return Record.read(file)


def card_beside(weights: Path) -> Record | None:
    """The model card that `resect train` wrote beside a weights file, or `resect export` into it.

    Returns:
        None if there is none, or a damaged one.
    """
    if not weights.name:  # a folder, such as "."
        return None
    try:
        return Record.read(weights.with_suffix(".json"))
    except RunError:
        return _card_inside(weights)


def _card_inside(weights: Path) -> Record | None:
    text = read_metadata(weights).get(CARD)
    if text is None:
        return None
    try:
        card = json.loads(text)
        asked = {name: card[name] for name in ("model", "made_of", "arrangement")}
        return Record("export", asked, {}, {}, card["command"], card)
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be unravelled.

    Attributes:
        module: in eval mode, on the CPU.
        spec: what it was loaded from.
        example: one batch of inputs, or None if the spec cannot know it.
        card: the model card of shipped weights (recipe, test error, command), else None.
        random: the names of its weights that nobody gave; none of a factory's, which does as it likes.
    """

    module: nn.Module = field(repr=False)
    spec: str
    example: Any = field(repr=False)
    card: Record | None = field(default=None, repr=False)
    random: tuple[str, ...] = field(default=(), repr=False)

    @property
    def untrained(self) -> bool:
        """Whether nobody gave any of its weights."""
        return bool(self.random) and len(self.random) == sum(1 for _ in self.module.parameters())


@suggesting
def load_model(
    spec: str,
    *,
    checkpoint: Path | str | None = None,
    model_args: Mapping[str, Value] | None = None,
    samples: SampleSet | None = None,
    seed: int = 0,
    arguments: None = None,
) -> LoadedModel:
    """Build a model by its spec.

    Args:
        spec: `resect:resnet110` (pre-activation; any depth 6m+2), `resect:resnet110-w8` (width 8),
            `resect:resnet18.5.13` (so many blocks in the three stages),
            `resect:resnet56-x2` (two branches a block: the network of twice the hidden width, no other multiplicity),
            `resect:resnet56-h8` (8 channels inside the branches of the first stage),
            `resect:resnet56-b2-s3` (two towers, merged every three blocks), `resect:resnet110-original`,
            `resect:highway27` (any multiple of 3), `resect:vgg15`, those of `SHIPPED` (`resect:resnet110-digits`; with
            weights), `torchvision:NAME`, `timm:NAME`, `hf:ID` or `hf:FOLDER`, `py:pkg.mod:factory` (returns a module,
            or a module and an example).
        checkpoint: weights to load. Without, and without pretrained=true, the weights are random. If a model card of
            `resect train` lies beside them, or one of `resect export` inside, arguments that are not given are its.
        model_args: keyword arguments of the model, e.g. {"width": 32}, {"pretrained": True}.
        samples: the data that the model will see; its channels, classes and size are taken over where not given.
            Without, `resect:` networks take images (N, 3, 32, 32) and have 10 classes.
        seed: of random weights; the global random state is left alone.
        arguments: the former name of `model_args`.

    Raises:
        SpecError: the spec is unknown, cannot be built, or needs a package that is not installed.
        CheckpointError: the weights are missing, damaged, of another network or not finite.
    """
    if arguments is not None:
        raise InputError("`arguments` of load_model is now `model_args`.")
    require_model_spec(spec)
    kind, _, rest = spec.partition(":")
    builders = {"resect": _resect, "torchvision": _torchvision, "timm": _timm, "hf": _hugging_face, "py": _factory}
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        model_args, samples = as_trained(spec, checkpoint, model_args or {}, samples)
    with seeded(seed):
        loaded = builders[kind](spec, rest, dict(model_args or {}), samples)
    if checkpoint is not None:
        load_checkpoint(loaded.module, checkpoint)
        loaded = replace(loaded, random=())
    check_finite(loaded.module)
    loaded.module.eval()
    return loaded


def as_trained(
    spec: str, checkpoint: Path, model_args: Mapping[str, Value], samples: SampleSet | None
) -> tuple[dict[str, Value], SampleSet | None]:
    """`model_args` and `samples` with what the card beside the weights knows: arguments, image shape and classes."""
    card = card_beside(checkpoint)
    if card is None or card.asked.get("model") != spec:
        return dict(model_args), samples
    shape, classes = card.found.get("sample_shape"), card.found.get("classes")
    if spec.startswith("resect:") and shape and classes:
        inputs = torch.zeros(1, *shape) if samples is None else samples.first()[0]
        samples = Samples(spec, inputs, torch.tensor([classes - 1]), classes)
    return {**card.asked.get("arguments", {}), **model_args}, samples


def _resect(spec: str, name: str, arguments: dict[str, Value], samples: SampleSet | None) -> LoadedModel:
    parts = parts_of(spec)
    shipped = parts["trained"] is not None
    images = IMAGES[parts["data"]] if samples is None and shipped else _image_shape(samples)
    trained_on = IMAGES.get(parts["data"], images)
    if images[0] != trained_on[0] or (parts["kind"] is None and images != trained_on):
        raise SpecError(
            f"{spec} takes images {'x'.join(map(str, trained_on))} (channels, height, width), but the samples are "
            f"{'x'.join(map(str, images))}: they are of other data than it was trained on."
        )
    # a few samples of one's own may lack some of the ten classes
    classes = None if samples is None or shipped else samples.classes
    settings: dict[str, Any] = {"channels": images[0], "classes": classes or 10}
    if parts["kind"] == "resnet":
        settings |= {"depth": depth_of(parts), "preactivation": parts["original"] is None}
        branches = parts["branches"] or parts["towers"]
        settings |= {"branches": int(branches)} if branches else {}
        settings |= {name: int(parts[name]) for name in ("merge", "hidden") if parts[name]}
    elif parts["kind"] == "highway":
        settings["blocks"] = depth_of(parts)
    else:
        if images[1] != images[2]:
            raise SpecError(f"{spec} takes square images, but the samples are {images[1]}x{images[2]}.")
        settings["size"] = images[1]
        settings["width"] = _DIGITS_WIDTH["vgg15"] if images[1] <= 8 else 64
    if parts["width"]:
        settings["width"] = int(parts["width"])
    settings |= arguments
    makers: dict[str | None, type[nn.Module]] = {"resnet": CifarResNet, "highway": CifarHighway, None: Vgg15}
    try:
        module = makers[parts["kind"]](**settings)
    except TypeError as error:
        raise SpecError(f"{spec} does not take these arguments: {error}.") from error
    example = _example(samples) if samples else torch.zeros(1, settings["channels"], *images[1:])
    if shipped:
        _load_shipped(module, name)
        return LoadedModel(module, spec, example, load_card(name))
    return LoadedModel(module, spec, example, random=_weights(module))


def _load_shipped(module: nn.Module, name: str) -> None:
    with resources.as_file(WEIGHTS / f"{name}.safetensors") as path:
        load_checkpoint(module, path)


def _image_shape(samples: SampleSet | None) -> tuple[int, int, int]:
    if samples is None:
        return 3, 32, 32
    if len(samples.shape) != 3:
        shape = (len(samples), *samples.shape)
        raise SpecError(f"the networks of resect: take images (N, C, H, W), but {samples.name} holds {shape}.")
    channels, height, width = samples.shape
    return channels, height, width


def _example(samples: SampleSet | None) -> Any:
    return None if samples is None else samples.first()[0]


def _torchvision(spec: str, name: str, arguments: dict[str, Value], samples: SampleSet | None) -> LoadedModel:
    models = _optional("torchvision.models", spec, "vision")
    known = models.list_models()
    if name not in known:
        raise SpecError(f"torchvision has no model {name!r}.{closest(name, known)}")
    settings: dict[str, Any] = dict(arguments)
    settings["weights"] = "DEFAULT" if settings.pop("pretrained", False) else None
    heads = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}.get(name, ())
    without_heads = bool(heads) and not settings.get("aux_logits", False)
    if heads and settings["weights"] is None:
        settings = {"init_weights": False, "aux_logits": False} | settings
    elif without_heads:
        settings.pop("aux_logits", None)  # torchvision loads weights only with the heads
    if "weights_backbone" in signature(models.get_model_builder(name)).parameters:
        settings.setdefault("weights_backbone", None)  # which torchvision would download
    size = 299 if name == "inception_v3" else 224
    module: Any = _build(spec, lambda: models.get_model(name, **settings))
    if without_heads:
        module.aux_logits = False
        for head in heads:
            setattr(module, head, None)
    example = torch.zeros(1, 3, size, size) if samples is None else _example(samples)
    return LoadedModel(module, spec, example, random=() if settings["weights"] else _weights(module))


def _timm(spec: str, name: str, arguments: dict[str, Value], samples: SampleSet | None) -> LoadedModel:
    timm = _optional("timm", spec, "vision")
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise SpecError(f"timm has no model {name!r}.{closest(name, known)}")
    module = _build(spec, lambda: timm.create_model(name, **arguments))
    configuration: Any = module.default_cfg
    example = torch.zeros(1, *configuration["input_size"]) if samples is None else _example(samples)
    given = arguments.get("pretrained") or arguments.get("checkpoint_path")
    return LoadedModel(module, spec, example, random=() if given else _weights(module))


def _hugging_face(spec: str, name: str, arguments: dict[str, Value], samples: SampleSet | None) -> LoadedModel:
    if name[0] in "/.~" and not Path(name).is_dir():
        raise SpecError(f"there is no folder {name}. hf:FOLDER needs one that `save_pretrained` wrote.")
    transformers = _optional("transformers", spec, "hf")

    missing: list[str] = []

    def build() -> nn.Module:
        config = transformers.AutoConfig.from_pretrained(name)
        architecture = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        module: nn.Module
        module, loading = architecture.from_pretrained(name, output_loading_info=True, **arguments)
        missing.extend(sorted(loading["missing_keys"]))
        return module

    with hub_or_cache(name) as offline:
        try:
            module = _build(spec, build)
        except SpecError as error:
            if not offline:
                raise
            raise SpecError(
                f"{spec} cannot be built: there is no folder {name}, {UNREACHABLE}. Connect, or name a folder."
            ) from error
    loaded = LoadedModel(module, spec, _example(samples), random=tuple(missing))
    if samples is not None:
        return loaded
    config: Any = module.config
    if hasattr(config, "vocab_size"):
        length = min(16, getattr(config, "max_position_embeddings", 16))
        return replace(loaded, example={"input_ids": torch.zeros(1, length, dtype=torch.long)})
    size, channels = getattr(config, "image_size", 224), getattr(config, "num_channels", 3)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return replace(loaded, example={"pixel_values": torch.zeros(1, channels, height, width)})


def _factory(spec: str, target: str, arguments: dict[str, Value], samples: SampleSet | None) -> LoadedModel:
    result = call_factory(spec, target, **arguments)
    module, example = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(module, nn.Module):
        raise SpecError(f"{spec} must return a torch.nn.Module, or one and an example, got {type(module).__name__}.")
    return LoadedModel(module, spec, example if example is not None else _example(samples))


def _weights(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, _ in module.named_parameters())


def _build(spec: str, build: Any) -> nn.Module:
    try:
        module: nn.Module = build()
    except Exception as error:  # the libraries raise whatever they like for bad arguments and missing files
        raise SpecError(f"{spec} cannot be built: {str(error).splitlines()[0] if str(error) else error!r}") from error
    return module


def _optional(module: str, spec: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise SpecError(f"{spec} needs {package}, which is not installed: pip install 'resect[{extra}]'.") from error
