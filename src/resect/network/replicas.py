"""The submodules of a stand-alone network: layers that run as modules of their own, and holders of what is left.

A layer that the graph calls with its own weights alone is called as a module: hooks, pruning, parametrizations,
adapters and quantisation then find it, and take hold of what the network computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resect.graph.program import Program, Ref, Step

_CONVOLUTION = "stride padding output_padding dilation groups"
_LAYERS: Mapping[type[nn.Module], tuple[str, str]] = {  # the operator, and what of its arguments the module holds
    nn.Linear: ("linear", ""),
    nn.Conv1d: ("conv1d", _CONVOLUTION),
    nn.Conv2d: ("conv2d", _CONVOLUTION),
    nn.Conv3d: ("conv3d", _CONVOLUTION),
    nn.ConvTranspose1d: ("conv_transpose1d", _CONVOLUTION),
    nn.ConvTranspose2d: ("conv_transpose2d", _CONVOLUTION),
    nn.ConvTranspose3d: ("conv_transpose3d", _CONVOLUTION),
    nn.Embedding: ("embedding", "padding_idx scale_grad_by_freq sparse"),
    nn.LayerNorm: ("layer_norm", "normalized_shape eps"),
    nn.GroupNorm: ("group_norm", "num_groups eps"),
}
_OFF = {"padding_mode": "zeros", "max_norm": None}  # what no operator of these does
_PLAIN = (bool, int, float, str, tuple, list, type(None))


class Holder(nn.Module):
    """A submodule that only holds tensors, which the network reads itself."""

    def extra_repr(self) -> str:
        """The tensors and their shapes."""
        return ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.named_parameters(recurse=False))


def run_layer(layer: nn.Module, value: Tensor) -> Any:
    """Call a submodule, in the place of the operator that it was captured as."""
    return layer(value)


def with_layers(
    folded: Sequence[Program],
    model: nn.Module,
    names: Mapping[int, str],
    first: int,
    only: Collection[str] | None = None,
) -> tuple[list[Program], dict[int, str]]:
    """The same programs, in which layers are called as submodules.

    Args:
        names: of the parameters and buffers, by key.
        first: a key; it and those below are not taken.
        only: paths of the layers that may be called; all by default.

    Returns:
        The programs, and the paths of the submodules by the keys under which the programs read them.
    """
    steps = [step for program in folded for step in program.steps]
    calls = {step.key: call for step in steps if (call := _layer_of(step, model, names))}
    read = Counter(names[key] for step in steps for key in step.reads if key in names)
    if only is not None:
        calls = {key: call for key, call in calls.items() if call[0] in only}
    own = Counter(name for path, _ in calls.values() for name in _weights(model, path))
    paths = sorted(
        {
            path
            for path, _ in calls.values()
            if (only is None or path in only) and all(read[n] == own[n] for n in _weights(model, path))
        }
    )
    keys = {path: first - i for i, path in enumerate(paths)}

    def called(step: Step) -> Step:
        path, value = calls.get(step.key, ("", None))
        if path not in keys or value is None:
            return step
        return Step(step.key, run_layer, (Ref(keys[path]), value), {}, (keys[path], value.key))

    programs = [replace(program, steps=tuple(map(called, program.steps))) for program in folded]
    return programs, {key: path for path, key in keys.items()}


def _layer_of(step: Step, model: nn.Module, names: Mapping[int, str]) -> tuple[str, Ref] | None:
    """The path of the layer that an operator is, and the value that it takes; None for other operators."""
    if not isinstance(step.target, torch._ops.OpOverload) or step.target._overloadname != "default":
        return None
    given = {argument.name: argument.default_value for argument in step.target._schema.arguments}
    given |= {**dict(zip(given, step.args, strict=False)), **step.kwargs}
    weight, value = given.get("weight"), given.get("input", given.get("indices"))
    if not (isinstance(weight, Ref) and isinstance(value, Ref)) or weight.key not in names:
        return None
    path, _, leaf = names[weight.key].rpartition(".")
    layer = attrgetter(path)(model) if path else model
    operator, settings = _LAYERS.get(type(layer), ("", ""))
    if leaf != "weight" or step.target._schema.name != f"aten::{operator}":
        return None
    bias = given.get("bias")
    if (names.get(bias.key) if isinstance(bias, Ref) else None) != _bias(layer, path):
        return None
    same = all(_alike(given[name], getattr(layer, name)) for name in settings.split() if name in given)
    return (path, value) if same and all(getattr(layer, name, off) == off for name, off in _OFF.items()) else None


def _bias(layer: nn.Module, path: str) -> str | None:
    return f"{path}.bias" if getattr(layer, "bias", None) is not None else None


def _weights(model: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}" for name, value in attrgetter(path)(model)._parameters.items() if value is not None]


def _alike(given: Any, held: Any) -> bool:
    """Whether an argument is what a module has: a list for a tuple, -1 for no `padding_idx`."""
    if isinstance(held, tuple):
        return list(held) == list(given)
    return bool(given == (-1 if held is None else held))


def replica(old: nn.Module, *, runs: bool) -> nn.Module:
    """A module without tensors for those of another.

    Args:
        runs: it is called; else it only holds tensors, and a batch norm's is one that
            `torch.optim.swa_utils.update_bn` knows.
    """
    if runs:
        layer: nn.Module = type(old).__new__(type(old))
        nn.Module.__init__(layer)
        vars(layer).update({k: v for k, v in vars(old).items() if k not in vars(layer) and isinstance(v, _PLAIN)})
        for name in old._parameters:
            layer.register_parameter(name, None)
        return layer
    if not isinstance(old, _BatchNorm):
        return Holder()
    holder = nn.BatchNorm1d(old.num_features, old.eps, old.momentum, affine=False, track_running_stats=False)
    holder.affine, holder.track_running_stats = old.affine, old.track_running_stats
    return holder
