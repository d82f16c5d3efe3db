"""Where a model comes in: what is given is looked at, captured in eval mode, and tried on a single sample."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.errors import ExportError, InputError, require_whole, suggesting
from resect.graph.calls import as_call, outputs_of
from resect.graph.differences import alike, largest_difference
from resect.graph.exporting import How, without_fused_attention
from resect.graph.kernels import in_float32
from resect.graph.lengths import Lengths, Trial, lengths_of, three_times
from resect.graph.trial import require_dense
from resect.graph.untouched import untouched
from resect.network.parts import offer
from resect.network.unraveled import Unraveled, unraveled


class WithExample(Protocol):
    """A model and an example of its inputs, as `resect.load_model` returns them."""

    @property
    def module(self) -> nn.Module:
        """The model."""

    @property
    def example(self) -> Any:
        """One batch of its inputs; None if it is not known."""


@suggesting
def unravel(
    model: nn.Module | WithExample, example: Any = None, *, plain: bool = False, batch_dim: int = 0
) -> Unraveled:
    """Take a network apart into its residual blocks.

    Args:
        model: any module that `torch.export` can capture, or whose forward pass can be recorded (`net.recorded`), or
            what `resect.load_model` returned. It is not changed.
        example: one batch of its inputs: a tensor, a tuple, or a dict of keyword arguments. Lengths and image sizes are
            free where the model runs at others, too. Only what `resect.load_model` returned has one of its own.
        plain: take the weight layers as units instead of residual blocks, for networks without skips (VGG).
        batch_dim: the dimension of inputs and outputs that counts the samples, 1 for sequences first. Targets always
            have the samples first, and so has what is scored.

    Returns:
        The unravelled network in eval mode. `blocks` is empty for a network without joins; try `plain=True` then.

    Raises:
        InputError: the model cannot run the example.
        ExportError: the model can be captured in neither way; the message names module and line, and the largest
            part of the model that can be captured.

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
    require_whole("batch_dim", batch_dim, 0)
    started = perf_counter()
    try:
        with torch.inference_mode(False), in_float32():  # so that gradients can be taken with it
            require_dense(as_call(example))
            example = pytree.tree_map(_own, example)
            net = _captured(model, example, plain, batch_dim)
    except ExportError as error:
        offered = "" if batch_dim else offer(model, example)
        raise ExportError(f"{error}{offered}") from error
    net.capture_seconds = perf_counter() - started
    return net


def _own(leaf: Any) -> Any:
    """A copy of a tensor, which a model may write into; the user's example stays as it is."""
    return leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def _captured(model: nn.Module, example: Any, plain: bool, batch_dim: int) -> Unraveled:
    """The network, captured as it is exported where that has the bits of the model, else as it is run."""
    lengths = lengths_of(model, as_call(example), batch_dim)
    net = _fitted(model, example, plain, lengths, How(batch_dim, lengths.places))
    if not _has_the_bits(net, example):
        with suppress(ExportError):  # then it can be exported in that other way only
            as_run = _fitted(model, example, plain, lengths, How(batch_dim, lengths.places, as_run=True))
            return as_run if _has_the_bits(as_run, example) else net
    return net


def _fitted(model: nn.Module, example: Any, plain: bool, lengths: Lengths, how: How) -> Unraveled:
    """The network with free lengths where it then has the bits of the model, else with those of the example."""
    net = unraveled(model, example, plain, "eval", how)
    if not net.sliced.captured.how.free or _fits(net, lengths):  # none, or the export failed with them
        return net
    return unraveled(model, example, plain, "eval", replace(how, free=frozenset()))


def _fits(net: Unraveled, lengths: Lengths) -> bool:
    """Whether the graph has the bits of the model at other sizes; where it has them at 1, it accepts that, too."""
    same = None if lengths.others is None else _same(net, lengths.others)
    if same is None and lengths.others:  # too small for the graph, e.g. where a feature map would be of one pixel
        larger = three_times(net.model, lengths.others)
        same = larger is not None and _same(net, larger)
    if not same:
        return False
    for trial in lengths.ones:
        net.sliced.captured.rules.allow_one(trial.places)
        if not _same(net, trial):
            net.sliced.captured.rules.allow_one(trial.places, False)
    return True


def _same(net: Unraveled, trial: Trial) -> bool | None:
    """Whether the graph has the bits of the model in a trial; None where it does not take these sizes."""
    args, kwargs = trial.call
    if net.device.type == "meta":
        return True
    with without_fused_attention(), torch.no_grad():
        try:
            return largest_difference(trial.outputs, net(kwargs if kwargs else args)) == 0.0
        except InputError:
            return None
        except (RuntimeError, IndexError):
            return False


def _has_the_bits(net: Unraveled, example: Any) -> bool:
    """Whether the graph, which is made with two samples or more, is the model on a single one, to the bit.

    Raises:
        ExportError: it is another network there.
    """
    if net.device.type == "meta":
        return True
    one = example if net.batch_size is not None else net.part_of(example, slice(1))
    with untouched(net.model, "eval"), without_fused_attention(), torch.no_grad():
        try:
            with torch.compiler.set_stance("force_eager"):  # compiled code has other last bits
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
