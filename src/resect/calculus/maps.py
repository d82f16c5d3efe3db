"""Linear maps: the derivative of one operator with respect to one operand, applied to many lanes at once.

A map goes both ways. `pull` is the transpose: cotangents (L, *output) to (L, *operand), reverse mode; `push` is the map
itself: tangents (L, *operand) to (L, *output), forward mode. L lanes stand in front, so that elementwise factors
broadcast over them, and convolutions take lanes and samples as one batch.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class Map(ABC):
    """A linear map on lanes. `owned` says that nobody else reads `lanes`, which may then be overwritten."""

    @abstractmethod
    def pull(self, lanes: Tensor, owned: bool) -> tuple[Tensor, bool]:
        """Cotangents of the operand, and whether they are a new tensor."""

    @abstractmethod
    def push(self, lanes: Tensor) -> Tensor:
        """Tangents of the output."""


class Identity(Map):
    """y = x, but for a view or a copy."""

    @override
    def pull(self, lanes: Tensor, owned: bool) -> tuple[Tensor, bool]:
        return lanes, owned

    @override
    def push(self, lanes: Tensor) -> Tensor:
        return lanes


class Factor(Map):
    """y = f x, elementwise: multiplication, activations, batch normalisation with fixed statistics.

    Args:
        factor: a number, or a tensor that broadcasts to the output's shape.
        inner, outer: shapes of operand and output, which differ where the operand broadcasts.
    """

    def __init__(self, factor: Tensor | float, inner: torch.Size, outer: torch.Size, dtype: torch.dtype) -> None:
        self.factor, self.inner, self.outer, self.dtype = factor, inner, outer, dtype

    @override
    def pull(self, lanes: Tensor, owned: bool) -> tuple[Tensor, bool]:
        product = lanes.mul_(self.factor) if owned else lanes * self.factor
        return unbroadcast(product.to(self.dtype), self.inner), True

    @override
    def push(self, lanes: Tensor) -> Tensor:
        if self.inner != self.outer:
            lanes = lanes.reshape(len(lanes), *(1,) * (len(self.outer) - len(self.inner)), *self.inner)
            lanes = lanes.expand(len(lanes), *self.outer)
        return lanes * self.factor

    def after(self, first: Factor) -> Factor | None:
        """This map after another one, as one; None where shapes change on the way."""
        if self.inner != self.outer or first.inner != first.outer or self.dtype != first.dtype:
            return None
        return Factor(self.factor * first.factor, first.inner, self.outer, self.dtype)

    @property
    def channels(self) -> Tensor | None:
        """The factor (C,) if it is one number for each of dimension 1, as of a normalisation after a convolution."""
        factor = self.factor
        if not isinstance(factor, Tensor) or factor.ndim != len(self.outer) or factor.numel() != self.outer[1]:
            return None
        return factor.flatten() if factor.shape[1] == self.outer[1] else None


def unbroadcast(lanes: Tensor, shape: torch.Size) -> Tensor:
    """Sum lanes (L, *larger) over the dimensions that broadcasting has added to `shape` or stretched."""
    added = lanes.ndim - 1 - len(shape)
    if added:
        lanes = lanes.sum(tuple(range(1, 1 + added)))
    stretched = tuple(i + 1 for i, size in enumerate(shape) if size == 1 and lanes.shape[i + 1] != 1)
    return lanes.sum(stretched, keepdim=True) if stretched else lanes


class Convolution(Map):
    """A convolution with respect to its input; its transpose is a transposed convolution, and the other way round.

    Args:
        inner, outer: shapes of input and output.
        setting: stride, padding, dilation, transposed, output padding, groups.
    """

    def __init__(self, inner: torch.Size, outer: torch.Size, weight: Tensor, setting: Sequence[Any]) -> None:
        self.inner, self.outer, self.weight, self.setting = inner, outer, weight, list(setting)
        stride, padding, dilation, transposed, _, groups = setting
        # What a stride drops at the border comes back as padding of the output.
        sizes = zip(inner[2:], outer[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        left = [i - ((o - 1) * s - 2 * p + d * (k - 1) + 1) for i, o, k, s, p, d in sizes]
        self._back = [stride, padding, dilation, not transposed, [0 for _ in left] if transposed else left, groups]

    def scaled(self, channels: Tensor) -> Convolution | None:
        """The same with each output channel multiplied; None for transposed ones, whose weights lie otherwise."""
        if self.setting[3]:
            return None
        weight = self.weight * channels.view(-1, *(1,) * (self.weight.ndim - 1))
        return Convolution(self.inner, self.outer, weight, self.setting)

    @override
    def pull(self, lanes: Tensor, owned: bool) -> tuple[Tensor, bool]:
        return self._run(lanes, self._back), True

    @override
    def push(self, lanes: Tensor) -> Tensor:
        return self._run(lanes, self.setting)

    def _run(self, lanes: Tensor, setting: Sequence[Any]) -> Tensor:
        """Lanes and samples as one batch."""
        batch: Tensor = torch.ops.aten.convolution(lanes.flatten(0, 1), self.weight, None, *setting)
        return batch.view(len(lanes), -1, *batch.shape[1:])


class Closed(Map):
    """A map given by its two directions.

    Args:
        fresh: whether `back` gives a new tensor; else it may be a view of what it was given.
    """

    def __init__(self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], fresh: bool = True) -> None:
        self.there, self.back, self.fresh = there, back, fresh

    @override
    def pull(self, lanes: Tensor, owned: bool) -> tuple[Tensor, bool]:
        return self.back(lanes), self.fresh or owned

    @override
    def push(self, lanes: Tensor) -> Tensor:
        return self.there(lanes)


class Recorded(Map):
    """Any operator that autograd can differentiate: its own backward, batched over lanes by vmap."""

    def __init__(self, operand: Tensor, output: Tensor) -> None:
        self.operand, self.output = operand, output

    @override
    def pull(self, lanes: Tensor, owned: bool) -> tuple[Tensor, bool]:
        return _batched_grad(self.output, self.operand, lanes), False  # it may be a view of the lanes

    @override
    def push(self, lanes: Tensor) -> Tensor:
        # The backward is linear in the cotangent u; its own derivative with respect to u is the map itself.
        u = torch.zeros_like(self.output, requires_grad=True)
        (back,) = torch.autograd.grad(self.output, self.operand, u, create_graph=True, allow_unused=True)
        if back is None or not back.requires_grad:
            return lanes.new_zeros(len(lanes), *self.output.shape)
        return _batched_grad(back, u, lanes)


def _batched_grad(output: Tensor, operand: Tensor, lanes: Tensor) -> Tensor:
    """The gradient for each of `lanes`; zeros where the output does not depend on the operand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an operator without a batching rule is slower, not wrong
        (gradient,) = torch.autograd.grad(
            output, operand, lanes, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    return lanes.new_zeros(len(lanes), *operand.shape) if gradient is None else gradient
