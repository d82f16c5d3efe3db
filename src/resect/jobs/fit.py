"""Does a network fit the samples, and the device?"""

from __future__ import annotations

import torch
from torch import nn

from resect.data import Samples
from resect.errors import DataError, InputError
from resect.graph.outputs import logits_of
from resect.graph.untouched import untouched
from resect.measuring.metrics import check_classes, check_targets


def require_fit(module: nn.Module, samples: Samples) -> None:
    """Raise DataError unless `module` runs on the samples and has an output for each of their classes."""
    parameter = next(iter(module.parameters()), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    try:
        with untouched(module, "eval"), torch.no_grad():
            outputs = module(samples.inputs[:2].to(device))
    except Exception as error:  # any model raises what it likes on inputs that it was not made for
        said = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{samples.name} must fit the network, but on inputs {tuple(samples.inputs[:2].shape)} "
            f"{type(module).__name__} says: {said}. Name a network for such inputs, or data as it takes them."
        ) from error
    logits = logits_of(outputs)
    try:
        check_targets(logits, samples.targets[: len(logits)].to(device))
        check_classes(samples.targets, logits.shape[-1])
    except DataError as error:
        raise DataError(f"{samples.name}: {error}") from error


def placed(module: nn.Module, device: str, dtype: torch.dtype | None = None) -> nn.Module:
    """`module` on a device and, if one is named, in a dtype; InputError if this PyTorch cannot use the device."""
    try:
        module.to(device, dtype)
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(f"`device` must be one that this PyTorch can use, got {device!r}: {error}") from error
    return module
