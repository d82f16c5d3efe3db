"""Where a model comes in: what is given is looked at, captured in eval mode, and tried on a single sample."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.errors import ExportError, InputError
from resect.graph.capture import as_call, cut_samples, outputs_of, without_fused_attention
from resect.graph.differences import alike, largest_difference
from resect.graph.untouched import untouched
from resect.network.unraveled import Unraveled, unraveled


class WithExample(Protocol):
    """A model and an example of its inputs, as `resect.load_model` returns them."""

    @property
    def module(self) -> nn.Module:
        """The model."""

    @property
    def example(self) -> Any:
        """One batch of its inputs; None if it is not known."""


def unravel(model: nn.Module | WithExample, example: Any = None, *, plain: bool = False) -> Unraveled:
    """Take a network apart into its residual blocks.

    Args:
        model: any module that `torch.export` can capture, or what `resect.load_model` returned. It is not changed.
        example: one batch of its inputs: a tensor, a tuple, or a dict of keyword arguments. Dimension 0 is the batch.
            Only what `resect.load_model` returned has one of its own.
        plain: take the weight layers as units instead of residual blocks, for networks without skips (VGG).

    Returns:
        The unravelled network in eval mode. `blocks` is empty for a network without joins; try `plain=True` then.

    Raises:
        InputError: the model cannot run the example.
        ExportError: `torch.export` cannot capture the model; the message names module and line.

    Example:
        >>> net = resect.unravel(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))
        >>> len(net.blocks)
        8
    """
    if not isinstance(model, nn.Module) and isinstance(getattr(model, "module", None), nn.Module):
        example = model.example if example is None else example
        model = model.module
    if not isinstance(model, nn.Module):
        raise InputError(
            f"`model` must be a torch.nn.Module, got {type(model).__name__}. resect.load_model makes one from a spec."
        )
    if example is None:
        raise InputError(
            f"`example` must be one batch of the inputs of {type(model).__name__}, such as "
            "torch.zeros(1, 3, 224, 224); it is missing."
        )
    net = unraveled(model, example, plain, "eval")
    if not _has_the_bits(net, example):
        with suppress(ExportError):  # then it can be exported in that other way only
            as_run = unraveled(model, example, plain, "eval", as_run=True)
            return as_run if _has_the_bits(as_run, example) else net
    return net


def _has_the_bits(net: Unraveled, example: Any) -> bool:
    """Whether the graph, which is made with two samples or more, is the model on a single one, to the bit.

    Raises:
        ExportError: it is another network there.
    """
    if net.device.type == "meta":
        return True
    one = example if net.batch_size is not None else cut_samples(example, slice(1), net.samples_of(example))
    with untouched(net.model, "eval"), without_fused_attention(), torch.no_grad():
        try:
            expected = outputs_of(net.model, as_call(one))
        except Exception:  # a model that cannot run a single sample does not differ on it
            return True
        got = net(one)
    for want, value in zip(pytree.tree_leaves(expected), pytree.tree_leaves(got), strict=True):
        if net.batch_size is None and isinstance(want, Tensor) and not alike(want, value):
            raise ExportError(
                f"`model` must compute every sample alike, but {type(net.model).__name__} treats a batch of one in "
                "another way than larger ones. Let its forward() not depend on the number of samples."
            )
    return largest_difference(expected, got) == 0
