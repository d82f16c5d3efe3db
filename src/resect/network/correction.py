"""The correction at test time: every branch scaled by the part of the steps in which it ran (Huang et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from resect.errors import InputError
from resect.graph.slices import Sliced
from resect.graph.tails import tail_parameters

_ADDED = ("identity", "scaled", "projection", "hyper")  # kinds of blocks whose branch is added to the skip as it is


class _Copies(WeakSet[nn.Module]):
    """Copies of a model that were folded."""

    def __reduce__(self) -> Any:
        return _Copies, ()


class Correction:
    """The factors by which the weights at the branches' ends are multiplied.

    Attributes:
        factors: of the model on the schedule, by the names of its parameters; none once it is folded.

    Raises:
        InputError: a branch that is to be scaled ends in no weights of its own.
    """

    def __init__(self, sliced: Sliced, survival: Sequence[float]) -> None:
        self.factors: dict[str, float] = {}
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
                self.factors[name] = self.factors.get(name, 1.0) * factor
        self._model, self._of_copies = sliced.captured.model, self.factors
        self._copies = _Copies()

    def fold(self) -> None:
        """Multiply the parameters of the model for good and only once."""
        _scale(self._model, self.factors)
        self.factors = {}

    def fold_copy(self, model: nn.Module) -> None:
        """Multiply those of a copy for good and only once."""
        parameters, own = dict(model.named_parameters()), dict(self._model.named_parameters())
        for name in self._of_copies:
            if name not in parameters or parameters[name].shape != own[name].shape:
                raise InputError(
                    f"`model` must be a copy of the model on the schedule, but {type(model).__name__} has no `{name}` "
                    f"of shape {tuple(own[name].shape)}. What averages weights holds the copy, at `module`."
                )
        if model not in self._copies:
            _scale(model, self._of_copies)
            self._copies.add(model)


def _scale(model: nn.Module, factors: Mapping[str, float]) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, factor in factors.items():
            parameters[name].mul_(factor)
