"""Does a network fit the samples, and the device?"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.data.samples import Samples, SampleSet
from resect.errors import DataError, InputError
from resect.graph.calls import as_call
from resect.graph.outputs import logits_of
from resect.graph.untouched import untouched
from resect.measuring.batches import AnyTask, to_device
from resect.measuring.items import Item
from resect.measuring.metrics import check_classes
from resect.measuring.targets import as_task, guessed, prepared
from resect.measuring.tasks import Task


def require_fit(module: nn.Module, samples: SampleSet, task: AnyTask = None, batch_dim: int = 0) -> Task:
    """The task of the samples, guessed if it is not given.

    Args:
        batch_dim: the dimension of sequences that counts the samples.

    Raises:
        DataError: `module` does not run on the samples, or has no output for each of their classes or values.
    """
    inputs, some = samples.first(2)
    outputs = _samples_first(_outputs(module, samples.name, inputs), len(some), batch_dim)
    known = as_task(task)
    every = Item(samples.inputs, samples.targets) if isinstance(samples, Samples) else Item(inputs, some)
    require_outputs(module, samples, known, outputs)
    try:
        known = known or guessed(every, (None, *logits_of(outputs).shape[1:]))
        targets = prepared(every, None, known)
        if not known.whole:
            known.outcomes(outputs, targets[: len(some)].to(logits_of(outputs).device))
        if known.classes:
            check_classes(targets, known.scored(outputs).shape[-1])
    except DataError as error:
        raise DataError(f"{samples.name}: {error}") from error
    return known


def require_run(module: nn.Module, samples: SampleSet) -> None:
    """Raise DataError unless `module` runs on the samples."""
    _outputs(module, samples.name, samples.first(2)[0])


def _samples_first(outputs: Any, count: int, batch_dim: int) -> Any:
    """Outputs (L, B, C) as (B, L, C); what holds one value a sample has no other dimension before its last."""

    def moved(leaf: Any) -> Any:
        inside = isinstance(leaf, Tensor) and leaf.ndim > batch_dim + 1 and leaf.shape[batch_dim] == count
        return leaf.movedim(batch_dim, 0) if inside else leaf

    return pytree.tree_map(moved, outputs) if batch_dim else outputs


def require_outputs(
    module: nn.Module, samples: SampleSet, task: Task | None = None, returned: Any = None, batch_dim: int = 0
) -> None:
    """Raise DataError unless the outputs of `module` are of the classes of the samples, as far as those are known.

    Args:
        returned: what the module returns on the first two samples, samples first; None to have it run.
        batch_dim: the dimension of sequences that counts the samples.
    """
    labels, name = samples.labels, type(module).__name__
    if not (labels or samples.prepared):
        return
    inputs, targets = samples.first(2)
    if returned is None:
        returned = _samples_first(_outputs(module, samples.name, inputs), len(targets), batch_dim)
    task = task or guessed(Item(inputs, targets), (None, *logits_of(returned).shape[1:]))
    outputs = logits_of(task.scored(returned)).shape[-1]
    if labels and len(labels) != outputs:
        raise DataError(
            f"{samples.name} has {len(labels):,} class{'es' if labels[1:] else ''} ({', '.join(labels[:3])}"
            f"{', ...' if labels[3:] else ''}), but {name} has {outputs:,} outputs, so that class numbers would mean "
            "others. Name a network for these classes (--model-arg num_classes=...), or a file with all classes in the "
            "order of its outputs: folder:DIR,classes=FILE."
        )
    if samples.prepared and not labels and outputs < (samples.classes or 0):
        raise DataError(
            f"{samples.name} needs a language model, but {name} gives {outputs:,} numbers a token, and not one for "
            f"each of the {samples.classes:,} tokens. Name one with a head: ...ForCausalLM, ...LMHeadModel, "
            "...ForMaskedLM."
        )


def _outputs(module: nn.Module, name: str, inputs: Any) -> Any:
    """What `module` returns in eval mode; DataError if it does not run."""
    parameter = next(iter(module.parameters()), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    try:
        with untouched(module, "eval"), torch.no_grad():
            args, kwargs = as_call(to_device(inputs, device))
            return module(*args, **kwargs)
    except Exception as error:  # any model raises what it likes on inputs that it was not made for
        said = " ".join(str(error).split()).rstrip(".")
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise DataError(
            f"{name} must fit the network, but on inputs {shape} {type(module).__name__} says: {said}. Name a network "
            "for such inputs, or data as it takes them."
        ) from error


def placed(module: nn.Module, device: str, dtype: torch.dtype | None = None) -> nn.Module:
    """`module` on a device and, if one is named, in a dtype; InputError if this PyTorch cannot use the device."""
    try:
        module.to(device, dtype)
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(f"`device` must be one that this PyTorch can use, got {device!r}: {error}") from error
    return module
