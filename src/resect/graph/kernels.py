"""Operators as they run: on a GPU those of captured graphs that have other last bits than the modules' own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_ATEN = torch.ops.aten


def _training_batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor, training: bool, momentum: float, eps: float
) -> tuple[Tensor, ...]:
    """By cuDNN, as modules on a GPU run it; an export writes PyTorch's own kernel in its place."""
    if not x.is_cuda:
        native: tuple[Tensor, ...] = _ATEN._native_batch_norm_legit_functional.default(
            x, weight, bias, mean, variance, training, momentum, eps
        )
        return native
    mean, variance = mean.clone(), variance.clone()  # which are overwritten
    fast = torch.backends.cudnn.enabled
    y = torch.batch_norm(x, weight, bias, mean, variance, training, momentum, eps, fast)
    return y, x.new_empty(0), x.new_empty(0), mean, variance


_OTHERS: Mapping[Any, Callable[..., Any]] = {
    _ATEN._native_batch_norm_legit_functional.default: _training_batch_norm,
}


def kernel_of(target: Any) -> Callable[..., Any]:
    """What runs in the place of an operator of a graph."""
    return _OTHERS.get(target, target)


@contextmanager
def in_float32() -> Iterator[None]:
    """Convolutions of cuDNN in float32: rounded to TF32, as by default, what two graphs compute is not comparable."""
    cudnn: Any = torch.backends.cudnn
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of the newer names, which torch itself reads
        try:
            before = cudnn.allow_tf32
        except RuntimeError:  # set by the newer names, for some operators
            before = False
        if not before:
            yield
            return
        cudnn.allow_tf32 = False
        try:
            yield
        finally:
            cudnn.allow_tf32 = before
