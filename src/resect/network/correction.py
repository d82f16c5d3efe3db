"""The correction at test time: every branch scaled by the part of the steps in which it ran (Huang et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import nn

from resect.errors import InputError
from resect.graph.slices import Sliced
from resect.graph.tails import tail_parameters

_ADDED = ("identity", "projection")  # kinds of blocks whose branch is added to the skip as it is


class Correction:
    """The factors by which the weights at the branches' ends are multiplied.

    Raises:
        InputError: a branch that is to be scaled ends in no weights of its own.
    """

    def __init__(self, sliced: Sliced, survival: Sequence[float]) -> None:
        self._factors: dict[str, float] = {}
        for slot, factor in zip(sliced.slots, survival, strict=True):
            if factor == 1.0:
                continue
            kind = slot.join.kind
            names = tail_parameters(sliced, slot) if kind in _ADDED else ()
            if not names:
                raise InputError(
                    f"`correction` must be off for this network: block {slot.index} ({slot.name}, {kind}) adds no "
                    "branch that ends in weights of its own, which could be scaled by the part of the steps in which "
                    "it runs. Pass correction=False, or --no-correction."
                )
            for name in names:
                self._factors[name] = self._factors.get(name, 1.0) * factor
        parameters = dict(sliced.captured.model.named_parameters())
        self._shapes = {name: parameters[name].shape for name in self._factors}
        self._folded: WeakSet[nn.Module] = WeakSet()

    def factors(self, model: nn.Module) -> dict[str, float]:
        """The factor of every parameter of `model` that is not yet as it should be at test time."""
        return {} if model in self._folded else self._factors

    def fold(self, model: nn.Module) -> None:
        """Multiply the parameters of a model, or of a copy of it, for good and only once."""
        parameters = dict(model.named_parameters())
        for name, shape in self._shapes.items():
            if name not in parameters or parameters[name].shape != shape:
                raise InputError(
                    f"`model` must be a copy of the model on the schedule, but {type(model).__name__} has no `{name}` "
                    f"of shape {tuple(shape)}. What averages weights holds the copy, at `module`."
                )
        with torch.no_grad():
            for name, factor in self.factors(model).items():
                parameters[name].mul_(factor)
        self._folded.add(model)
