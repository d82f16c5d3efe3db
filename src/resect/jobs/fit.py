"""Does a network fit the samples, and the device?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resect.data.samples import Samples, SampleSet
from resect.errors import DataError, InputError
from resect.graph.capture import as_call
from resect.graph.outputs import logits_of
from resect.graph.untouched import untouched
from resect.measuring.batches import to_device
from resect.measuring.metrics import check_classes, check_targets


def require_fit(module: nn.Module, samples: SampleSet) -> None:
    """Raise DataError unless `module` runs on the samples and has an output for each of their classes."""
    inputs, targets = samples.first(2)
    logits = _logits(module, samples.name, inputs)
    _require_outputs(module, samples, logits.shape[-1])
    try:
        check_targets(logits, targets[: len(logits)].to(logits.device))
        if isinstance(samples, Samples) or samples.labels:  # others would have to be read for it
            check_classes(samples.targets_only(), logits.shape[-1])
    except DataError as error:
        raise DataError(f"{samples.name}: {error}") from error


def require_outputs(module: nn.Module, samples: SampleSet) -> None:
    """Raise DataError unless the outputs of `module` are of the classes of the samples, as far as those are known."""
    if samples.labels or samples.prepared:
        _require_outputs(module, samples, _logits(module, samples.name, samples.first(2)[0]).shape[-1])


def _require_outputs(module: nn.Module, samples: SampleSet, outputs: int) -> None:
    labels, name = samples.labels, type(module).__name__
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


def _logits(module: nn.Module, name: str, inputs: Any) -> Tensor:
    """The logits of `module` in eval mode; DataError if it does not run."""
    parameter = next(iter(module.parameters()), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    try:
        with untouched(module, "eval"), torch.no_grad():
            args, kwargs = as_call(to_device(inputs, device))
            return logits_of(module(*args, **kwargs))
    except DataError:
        raise
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
