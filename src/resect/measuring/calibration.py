"""Batch statistics for networks that have none: batch norm before training is the identity, which no network is."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resect.errors import DataError, InputError, ResectError
from resect.graph.calls import as_call
from resect.graph.exporting import cause
from resect.measuring.batches import Batches, batches_of, to_device
from resect.network.standalone import Standalone


def calibrate(model: nn.Module, data: Batches) -> int:
    """Measure the statistics of all batch norms of `model` on data, in place; all else runs in eval mode.

    They become the plain averages of those of the batches, as `torch.optim.swa_utils.update_bn` takes them, but without
    dropout and other randomness of train mode. Without, a network with random weights is another one: its batch norms
    do nothing, activations grow from block to block, and the gradient's paths are several times as long.

    Args:
        model: of any kind; without batch norms it stays as it is. A stand-alone network runs in train mode as a whole.
        data: (inputs, targets) batches of at least 2 samples; some 256 samples are enough.

    Returns:
        How many batch norms were measured.

    Raises:
        InputError: it is no module.
        ExportError: a stand-alone network has no train mode.
        DataError: the data are empty, the model cannot run them, or a batch has a single value a channel. The
            statistics are those of before then.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"`model` must be a torch.nn.Module, got {type(model).__name__}. Of a network, give net.model."
        )
    norms = norms_of(model)
    if not norms:
        return 0
    modes = {part: part.training for part in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    device = next((buffer.device for buffer in model.buffers()), torch.device("cpu"))
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        if isinstance(model, Standalone):  # whose norms only hold what its one graph of train mode updates
            model.train()
        with torch.no_grad():
            for batch in batches_of(data):
                args, kwargs = as_call(to_device(batch.inputs, device))
                model(*args, **kwargs)
    except BaseException as error:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        if isinstance(error, ValueError) and not isinstance(error, ResectError):  # a single value a channel
            raise DataError(
                f"`data` must have batches of at least 2 samples to measure batch norms on: {error}."
            ) from error
        if isinstance(error, RuntimeError):
            raise DataError(f"`data` must hold inputs that the model can run: {cause(model, error)}.") from error
        raise
    finally:
        for part, mode in modes.items():
            part.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    return len(norms)


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that have statistics."""
    return [part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]


def has_untouched_norms(model: nn.Module) -> bool:
    """Whether a batch norm of `model` has the statistics that it was made with, mean 0 and variance 1."""
    return any(
        bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())
        for norm in model.modules()
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    )
