"""Does a network fit the samples, and the device?"""

from __future__ import annotations

import torch
from torch import nn

from resect.data import Samples
from resect.errors import DataError, InputError
from resect.graph.outputs import logits_of
from resect.graph.untouched import untouched
from resect.measuring.batches import AnyTask
from resect.measuring.items import Item
from resect.measuring.metrics import check_classes
from resect.measuring.targets import as_task, guessed, prepared
from resect.measuring.tasks import Task


def require_fit(module: nn.Module, samples: Samples, task: AnyTask = None) -> Task:
    """The task of the samples, guessed if it is not given.

    Raises:
        DataError: `module` does not run on the samples, or has no output for each of their classes or values.
    """
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
    try:
        known = as_task(task)
        every = Item(samples.inputs, samples.targets)
        shape = tuple(logits_of(outputs, None if known is None else known.output).shape)
        known = known or guessed(every, (None, *shape[1:]))
        targets = prepared(every, shape, known)
        if not known.whole:
            known.outcomes(outputs, targets[: len(samples.inputs[:2])].to(device))
        if known.classes:
            check_classes(targets, known.scored(outputs).shape[-1])
    except DataError as error:
        raise DataError(f"{samples.name}: {error}") from error
    return known


def placed(module: nn.Module, device: str, dtype: torch.dtype | None = None) -> nn.Module:
    """`module` on a device and, if one is named, in a dtype; InputError if this PyTorch cannot use the device."""
    try:
        module.to(device, dtype)
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(f"`device` must be one that this PyTorch can use, got {device!r}: {error}") from error
    return module
