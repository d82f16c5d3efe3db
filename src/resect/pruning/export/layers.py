"""Whether the layers that a constructor makes are those that are kept: their modules, shapes and plain attributes.

What a comparison of outputs may miss shows here: a window longer than the example, an attention that is causal or not,
a number computed from the layer's index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from resect.pruning.export.removed import Shortened

_PLAIN = (bool, int, float, str, type(None))
_POINTS = ("layer_idx", "layer_index")  # parts of the names of attributes that hold the number of another layer
_TRAINED_WITH = ("drop", "stochastic")  # parts of the names of what acts in training alone, often by the depth
Traits = Mapping[tuple[str, str], Any]
"""By module and attribute inside a layer; a module's class stands under "class", shapes under the tensor's name."""


def other_layers(old: nn.Module, new: nn.Module, lists: list[Shortened]) -> Iterator[str]:
    """What of the layers of `new` is not as in the kept layers of `old`, in sentences."""
    for entry in lists:
        befores = [_traits(layer) for layer in old.get_submodule(entry.path).children()]
        afters = [_traits(layer) for layer in new.get_submodule(entry.path).children()]
        if len(afters) != len(entry.kept):
            yield f"{entry.path} has {len(afters)} layers instead of {len(entry.kept)}"
            continue
        for j, i in enumerate(entry.kept):
            first = befores[0] if j == 0 else None
            for key in sorted(befores[i].keys() | afters[j].keys()):
                one, other = befores[i].get(key, "nothing"), afters[j].get(key, "nothing")
                if one != other and not _is_place(key, befores, afters, entry, (i, j)):
                    if first is not None and first.get(key, "nothing") == other and _moves(befores[i], afters[j]):
                        continue
                    where = ".".join(part for part in (entry.path, entry.names[i], *key) if part)
                    yield f"{where} is {_short(one)} in the network and {_short(other)} where layer {i} becomes {j}"


def dropped_paths(model: nn.Module) -> tuple[str, ...]:
    """What is to be said of a model whose training drops whole branches."""
    kinds = {type(part).__name__ for part in model.modules()}
    if not kinds & {"DropPath", "StochasticDepth"}:
        return ()
    return ("In training branches are dropped at the rates that the constructor gives to a network of this depth.",)


def _traits(layer: nn.Module) -> Traits:
    traits: dict[tuple[str, str], Any] = {}
    for name, module in layer.named_modules():
        if any(part in f"{name} {type(module).__name__}".lower() for part in _TRAINED_WITH):
            continue
        traits[name, "class"] = type(module).__name__
        tensors = {**module._parameters, **module._buffers}
        traits |= {(name, key): tuple(value.shape) for key, value in tensors.items() if value is not None}
        for key, value in vars(module).items():
            if key[0] != "_" and key != "training" and _TRAINED_WITH[0] not in key and _is_plain(value):
                traits[name, key] = value
    return traits


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(isinstance(entry, _PLAIN) for entry in value)
    return isinstance(value, _PLAIN)


def _is_place(
    key: tuple[str, str], befores: list[Traits], afters: list[Traits], entry: Shortened, place: tuple[int, int]
) -> bool:
    """Whether an attribute is the number of its layer, of another one, or that of all, or has an entry for each."""
    i, j = place
    one, other = befores[i].get(key), afters[j].get(key)
    if isinstance(one, (list, tuple)) and len(one) == len(befores):  # an entry for each layer
        return other is not None and list(other) == [one[k] for k in entry.kept]
    if type(one) is not int or type(other) is not int:
        return False
    if (one, other) == (len(befores), len(afters)):
        return True
    if any(part in key[1] for part in _POINTS) and one in entry.kept and entry.kept.index(one) == other:
        return True
    offsets = {
        int(trait[key]) - number
        for numbered in (befores, afters)
        for number, trait in enumerate(numbered)
        if isinstance(trait.get(key), int)
    }
    return len(offsets) == 1


def _moves(one: Traits, other: Traits) -> bool:
    """Whether a new first layer holds all that it had and more, such as a table of positions."""
    modules = {key for key in one if key[1] == "class"}
    return modules < {key for key in other if key[1] == "class"}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:37]}..."
