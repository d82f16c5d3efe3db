"""A folder with weights for the constructors of torchvision, and the arguments by which they make the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from resect.errors import ExportError
from resect.files import write_text
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.export.child import constructed
from resect.pruning.export.fresh import Proof, loaded_afresh, proven, trials
from resect.pruning.export.layers import dropped_paths, other_layers
from resect.pruning.export.removed import ANY_NETWORK, Shortened, require_gone, shortened_lists
from resect.pruning.export.shorter import Shorter, not_made
from resect.pruning.export.weights import renumbered
from resect.seeds import seeded
from resect.weights import save_weights

Depth = Callable[[str], int]
"""How many layers a list has, by its path, without the removed ones."""
_DIGITS = 8  # digits of a rate that is read from the last layer


def shorter(net: Unraveled, arrangement: Arrangement) -> Shorter:
    """The network without its removed layers; ExportError if the family's constructor makes no such network."""
    model: Any = net.model
    name = _name(type(model))
    if name not in CONSTRUCTORS:
        known = ", ".join(known.rpartition(".")[2] for known in CONSTRUCTORS)
        raise ExportError(f"torchvision can only write its {known}, but {name} is none of them. {ANY_NETWORK}")
    lists = shortened_lists(net, arrangement, "torchvision")
    require_gone(net, arrangement, lists, frozenset(), "torchvision")
    try:
        arguments = CONSTRUCTORS[name](model, partial(_depth, model, lists))
        with seeded(0):
            new = constructed(name, arguments).eval()
    except Exception as error:  # whatever: parts that are no longer the family's, or arguments that it does not take
        raise not_made(name, lists, str(error)) from error
    if odd := next(other_layers(model, new, lists), None):
        raise not_made(name, lists, odd)
    return Shorter(new, arguments, renumbered(model, new, lists, "torchvision"))


def write_torchvision(net: Unraveled, arrangement: Arrangement, folder: Path) -> tuple[str, ...]:
    """Write weights, constructor and arguments; ExportError if the constructor makes no such network."""
    new = shorter(net, arrangement)
    new.model.load_state_dict(dict(new.weights.tensors))
    save_weights(new.model, folder / "model.safetensors")
    made = {"constructor": _name(type(net.model)), "arguments": new.arguments}
    write_text(folder / "config.json", json.dumps(made, indent=2) + "\n")
    return (*new.weights.notes, *dropped_paths(new.model))


def prove_torchvision(net: Unraveled, arrangement: Arrangement, folder: Path) -> Proof:
    """Compare what torchvision's constructor and a strict `load_state_dict` give in a fresh process."""
    tried, dtype = trials(net, arrangement), str(next(net.model.parameters()).dtype).removeprefix("torch.")
    answer = loaded_afresh("torchvision", folder, net, tried.calls, dtype=dtype)
    return proven("torchvision", tried, answer["outputs"])


def load_torchvision(folder: Path) -> str:
    """The lines of Python that load what lies in a folder."""
    made = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    module, _, kind = made["constructor"].rpartition(".")
    names = sorted({kind, *_classes(made["arguments"], module)})
    given = ", ".join(f"{name}={_code(value)}" for name, value in made["arguments"].items())
    return "\n".join(
        [
            "from safetensors.torch import load_file",
            f"from {module} import {', '.join(names)}",
            "",
            f"model = {kind}({given}).eval()",
            'model.load_state_dict(load_file("model.safetensors"))',
        ]
    )


def _resnet(model: Any, depth: Depth) -> dict[str, Any]:
    return {
        "block": {"class": _name(type(model.layer1[0]))},
        "layers": [depth(f"layer{stage}") for stage in range(1, 5)],
        "num_classes": model.fc.out_features,
        "groups": model.groups,
        "width_per_group": model.base_width,
    }


def _vision_transformer(model: Any, depth: Depth) -> dict[str, Any]:
    same = ("image_size", "patch_size", "hidden_dim", "mlp_dim", "dropout", "attention_dropout", "num_classes")
    return {
        **{name: getattr(model, name) for name in same},
        "num_layers": depth("encoder.layers"),
        "num_heads": model.encoder.layers[0].num_heads,
        "representation_size": model.representation_size,
    }


def _convnext(model: Any, depth: Depth) -> dict[str, Any]:
    stages = range(1, len(model.features), 2)
    widths = [model.features[stage][0].block[0].in_channels for stage in stages]
    settings = zip(widths, [*widths[1:], None], stages, strict=True)
    return {
        "block_setting": [
            {
                "class": "torchvision.models.convnext.CNBlockConfig",
                "arguments": [one, other, depth(f"features.{stage}")],
            }
            for one, other, stage in settings
        ],
        "stochastic_depth_prob": _rate(model.features[stages[-1]][-1]),
        "num_classes": model.classifier[-1].out_features,
    }


def _swin(model: Any, depth: Depth) -> dict[str, Any]:
    stages = range(1, len(model.features), 2)
    stem, first, merging = model.features[0][0], model.features[1][0], model.features[2:3]
    return {
        "patch_size": list(stem.kernel_size),
        "embed_dim": stem.out_channels,
        "depths": [depth(f"features.{stage}") for stage in stages],
        "num_heads": [model.features[stage][0].attn.num_heads for stage in stages],
        "window_size": list(first.attn.window_size),
        "mlp_ratio": first.mlp[0].out_features / stem.out_channels,
        "dropout": first.attn.dropout,
        "attention_dropout": first.attn.attention_dropout,
        "stochastic_depth_prob": _rate(model.features[stages[-1]][-1]),
        "num_classes": model.num_classes,
        "block": {"class": _name(type(first))},
        **({"downsample_layer": {"class": _name(type(merging[0]))}} if len(merging) else {}),
    }


CONSTRUCTORS: dict[str, Callable[[Any, Depth], dict[str, Any]]] = {
    "torchvision.models.resnet.ResNet": _resnet,
    "torchvision.models.vision_transformer.VisionTransformer": _vision_transformer,
    "torchvision.models.convnext.ConvNeXt": _convnext,
    "torchvision.models.swin_transformer.SwinTransformer": _swin,
}
"""What makes networks of some depth, and how its arguments are read from one; classes stand as {"class": NAME}."""


def _depth(model: nn.Module, lists: Sequence[Shortened], path: str) -> int:
    kept = next((len(entry.kept) for entry in lists if entry.path == path), None)
    return len(list(model.get_submodule(path).children())) if kept is None else kept


def _rate(layer: Any) -> float:
    return round(float(layer.stochastic_depth.p), _DIGITS)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _classes(value: Any, module: str) -> list[str]:
    """The names of the classes in arguments, which all are of the constructor's own module."""
    if isinstance(value, dict) and "class" in value:
        return [value["class"].removeprefix(f"{module}.")]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for entry in inside for name in _classes(entry, module)]


def _code(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_code, value))}]"
    if isinstance(value, dict):
        name = value["class"].rpartition(".")[2]
        return f"{name}({', '.join(map(_code, value['arguments']))})" if "arguments" in value else name
    return repr(value)
