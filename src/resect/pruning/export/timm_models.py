"""A folder that `timm.create_model("local-dir:DIR", pretrained=True)` loads: the same constructor, fewer layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import count, takewhile
from pathlib import Path
from typing import Any, cast

from torch import nn

from resect.errors import ExportError
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.export.fresh import Proof, loaded_afresh, proven, trials
from resect.pruning.export.layers import dropped_paths, other_layers
from resect.pruning.export.removed import ANY_NETWORK, Shortened, require_gone, shortened_lists
from resect.pruning.export.shorter import Shorter, not_made
from resect.pruning.export.weights import renumbered
from resect.seeds import seeded

_ONE = ("depth", "num_layers", "num_blocks")  # arguments that count the layers of one list
_STAGES = ("depths", "layers", "block_depths", "stage_depths", "num_blocks")  # those of all stages


def shorter(net: Unraveled, arrangement: Arrangement) -> Shorter:
    """The network without its removed layers; ExportError if the family's constructor makes no such network."""
    model: Any = net.model
    if not type(model).__module__.startswith("timm.") or not getattr(model, "pretrained_cfg", None):
        raise ExportError(
            f"timm can only write models that timm made, but {type(model).__name__} is none. {ANY_NETWORK}"
        )
    lists = shortened_lists(net, arrangement, "timm")
    require_gone(net, arrangement, lists, frozenset(), "timm")
    new, changed = _made(model, lists, {entry.path: len(entry.kept) for entry in lists})
    return Shorter(new, changed, renumbered(model, new, lists, "timm"))


def write_timm(net: Unraveled, arrangement: Arrangement, folder: Path) -> tuple[str, ...]:
    """Write the network without its removed layers; ExportError if the family's constructor makes no such network."""
    model, new = cast(Any, net.model), shorter(net, arrangement)
    new.model.load_state_dict(dict(new.weights.tensors))
    import_module("timm.models").save_for_hf(new.model, str(folder), model_args=new.arguments, safe_serialization=True)
    told = ", ".join(f"{name}={value}" for name, value in new.arguments.items())
    return (*new.weights.notes, f"It is {model.pretrained_cfg['architecture']} with {told}.", *dropped_paths(model))


def prove_timm(net: Unraveled, arrangement: Arrangement, folder: Path) -> Proof:
    """Compare what `create_model` loads in a fresh process."""
    tried = trials(net, arrangement)
    return proven("timm", tried, loaded_afresh("timm", folder, net, tried.calls)["outputs"])


def load_timm(folder: Path) -> str:
    """The lines of Python that load what lies in a folder."""
    return 'import timm\n\nmodel = timm.create_model("local-dir:DIR", pretrained=True).eval()  # this folder'


def _made(model: Any, lists: Sequence[Shortened], depths: Mapping[str, int]) -> tuple[Any, dict[str, Any]]:
    """A model with so many layers in the lists, by the arguments that make it, found by trial."""
    timm, own = import_module("timm"), getattr(import_module("timm.models._hub"), "get_model_args", None)
    base = dict(own(model)) if own else {"num_classes": model.num_classes}
    why = "none of its arguments counts them"
    for changed in _choices(model, depths):
        try:
            with seeded(0):
                new = timm.create_model(model.pretrained_cfg["architecture"], **{**base, **changed}).eval()
        except Exception:  # constructors raise whatever they like for arguments that they do not have
            continue
        odd = next(other_layers(model, new, list(lists)), None)
        if odd is None:
            return new, {**base, **changed}
        why = odd
    raise not_made("timm's constructor", lists, why)


def _choices(model: nn.Module, depths: Mapping[str, int]) -> list[dict[str, Any]]:
    """Arguments that may say the new depths: one number, or those of all stages, which are numbered in their paths."""
    choices: list[dict[str, Any]] = [{name: next(iter(depths.values()))} for name in _ONE if len(depths) == 1]
    numbers = [re.search(r"^(.*?)(\d+)((?:\.[a-z_]+)*)$", path) for path in depths]
    shapes = {(found[1], found[3]) for found in numbers if found}
    if len(shapes) == 1 and all(numbers):
        before, after = next(iter(shapes))
        names = dict(model.named_modules())
        stages = takewhile(
            names.__contains__, (f"{before}{i}{after}" for i in count(int(f"{before}0{after}" not in names)))
        )
        each = [depths.get(path, len(list(names[path].children()))) for path in stages]
        choices += [{name: each} for name in _STAGES]
    return choices
