"""Calls of a model in the form of the example that its graph was captured on."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch.utils._pytree as pytree
from torch import nn

from resect.errors import InputError


class Calls:
    """Brings calls to the form of the example: what it gave by name may be given by place, and the other way round.

    Attributes:
        signature: of a method that takes what the example gave, by the names of the model's own forward.
    """

    def __init__(self, model: nn.Module, spec: pytree.TreeSpec) -> None:
        args, kwargs = pytree.tree_unflatten([0] * spec.num_leaves, spec)
        self._own = inspect.signature(model.forward)
        self._placed, self._named = len(args), tuple(kwargs)
        self._names = tuple(self._arguments(args, kwargs))
        own = self._own.parameters
        keyword = inspect.Parameter.KEYWORD_ONLY
        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        taken = [own[name] for name in own if name in self._names]
        taken += [inspect.Parameter(name, keyword) for name in self._names if name not in own]
        self.signature = inspect.Signature([first, *taken])

    def as_example(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The inputs of a call as the example had them: a tuple, or a dict of keyword arguments.

        Raises:
            InputError: the call gives other inputs than the example did; those that are their defaults do not count.
        """
        if len(args) == self._placed and kwargs.keys() == set(self._named):
            return kwargs or args
        try:
            given = self._arguments(args, kwargs)
        except TypeError as error:
            raise InputError(f"`inputs` must be those of the example, {self._words(self._names)}: {error}.") from None
        if missing := [name for name in self._names if name not in given]:
            raise InputError(
                f"`inputs` must be those of the example, {self._words(self._names)}, but there is no "
                f"{self._words(missing)}. Give all of them."
            )
        defaults = {name: parameter.default for name, parameter in self._own.parameters.items()}
        known = {*self._names}
        more = [name for name in given if name not in known and given[name] is not defaults.get(name, inspect._empty)]
        if more:
            raise InputError(
                f"`inputs` must be those of the example, {self._words(self._names)}, got {self._words(more)} as well. "
                "Unravel the model with an example that has them. What asks a model for its inputs, as Hugging Face's "
                "Trainer does, must be made while the schedule is open."
            )
        values = {name: given[name] for name in self._names}
        return values if self._named else tuple(values.values())

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a call gives, by name."""
        given = self._own.bind(*args, **kwargs).arguments
        for name, parameter in self._own.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        return given

    @staticmethod
    def _words(names: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in names)
