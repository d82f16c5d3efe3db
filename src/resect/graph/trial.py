"""A trial run before a model is captured: it takes the example, and is not random in a way that a graph freezes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.errors import ExportError, InputError
from resect.graph.calls import Call, dtype_name, labelled, outputs_of
from resect.graph.differences import largest_difference
from resect.graph.exporting import cause
from resect.graph.randomness import drawn_since, generator_states
from resect.graph.sequences import batch_is_dimension
from resect.graph.untouched import Mode


def require_dense(call: Call) -> None:
    """InputError if a call holds sparse or nested tensors."""
    for label, leaf in labelled(call):
        if isinstance(leaf, Tensor) and (leaf.is_nested or leaf.layout is not torch.strided):
            layout = "a nested tensor" if leaf.is_nested else str(leaf.layout).removeprefix("torch.")
            raise InputError(f"`example` must hold dense tensors, got {layout} as {label}. Pad it, or call to_dense().")


def require_samples(model: nn.Module, example: Any, leaves: Sequence[Any], batch_dim: int) -> int:
    """The number of samples in the example, 0 where it has no such dimension."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors:
        raise InputError(
            f"`example` must hold at least one tensor, got none in {type(example).__name__}. Pass one batch of the "
            "model's inputs."
        )
    most = max(leaf.ndim for leaf in tensors) - 1
    if batch_dim > max(most, 0):
        raise InputError(f"`batch_dim` must be a dimension of the inputs, 0 to {max(most, 0)}, got {batch_dim}.")
    batch = next((leaf.shape[batch_dim] for leaf in tensors if leaf.ndim > batch_dim), 0)
    if tensors[0].ndim > batch_dim and not batch:
        raise InputError(f"`example` must hold at least one sample, got an input of shape {tuple(tensors[0].shape)}.")
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise ExportError(
            f"`model` must be a module of Python code, but {type(model).__name__} is or holds TorchScript, which hides "
            "operators and names. Pass the module that it was made from."
        )
    return int(batch)


def refuse_coins(model: nn.Module, call: Call, mode: Mode, batch_dim: int) -> None:
    """Run the model; ExportError if it is random in eval mode, or in a way that a graph would freeze."""
    before = generator_states(model)
    with batch_is_dimension(batch_dim, model, call):
        outputs = _try_forward(model, call)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(outputs)):
        raise ExportError(
            f"`model` must return a tensor, or a tuple, dict or data class that holds some, but {type(model).__name__} "
            "returns none. Wrap it in a module that returns what is scored."
        )
    drawn = drawn_since(before, model)
    if mode == "train":
        frozen = [name for name in drawn if name != "torch"]
        if frozen:
            raise ExportError(
                f"`model` must draw with torch alone in train mode, but {type(model).__name__} draws from "
                f"{frozen[0]} in forward() (LayerDrop, mixup, masks as of SpecAugment), and a captured graph repeats "
                "one draw for ever. Switch that off in its configuration, or draw outside of forward(); net.schedule "
                "skips layers at random."
            )
    elif drawn and any(largest_difference(outputs, _try_forward(model, call)) for _ in range(3)):
        raise ExportError(
            f"`model` must give the same outputs each time in eval mode, but {type(model).__name__} is random then: "
            f"it draws from {drawn[0]} in forward() (e.g. dropout without training=self.training, noise, a random "
            "mask). Make it deterministic, e.g. pass the noise or the mask as an input."
        )


def _try_forward(model: nn.Module, call: Call) -> Any:
    try:
        with torch.no_grad():
            return outputs_of(model, call)
    except InputError:  # of ours
        raise
    except Exception as error:  # any model raises what it likes on inputs that it was not made for
        named = [(label, leaf) for label, leaf in labelled(call) if isinstance(leaf, Tensor)]
        shapes = ", ".join(f"{label} {tuple(leaf.shape)} {dtype_name(leaf.dtype)}" for label, leaf in named)
        raise InputError(
            f"`example` must be a batch that the model can run, got {shapes}: {cause(model, error)}. "
            "Pass one batch with the shape and dtype the model was made for, of all inputs that it needs: several as a "
            "tuple, or by name as a dict."
        ) from error
