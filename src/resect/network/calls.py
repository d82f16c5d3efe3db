"""Calls of a model in the form of the example that its graph was captured on."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.errors import InputError
from resect.graph.calls import as_call


class Calls:
    """Brings calls to the form of the example: what it gave by name may be given by place, and the other way round.

    Attributes:
        signature: of a method that takes what the example gave, by the names of the model's own forward.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        args, kwargs = as_call(example)
        self._own = inspect.signature(model.forward)
        self._named = bool(kwargs)
        self._example = self._arguments(args, kwargs)
        own = self._own.parameters
        keyword = inspect.Parameter.KEYWORD_ONLY
        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        taken = [own[name] for name in own if name in self._example]
        taken += [inspect.Parameter(name, keyword) for name in self._example if name not in own]
        self.signature = inspect.Signature([first, *taken])

    def as_example(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The inputs of a call as the example had them: a tuple, or a dict of keyword arguments.

        Raises:
            InputError: the call gives other inputs than the example did; those that are their defaults do not count.
        """
        try:
            given = self._arguments(args, kwargs)
        except TypeError as error:
            raise self._refusal(f": {error}") from None
        own = self._own.parameters
        more = [
            name
            for name in given
            if name not in self._example and not (name in own and given[name] is own[name].default)
        ]
        if more:
            raise self._refusal(
                f", got {_words(more)} as well. Unravel the model with an example that has them. What asks a model for "
                "its inputs, as Hugging Face's Trainer does, must be made while the schedule is open"
            )
        given = {name: own[name].default for name in self._example if name in own} | given
        if missing := [name for name in self._example if name not in given]:
            raise self._refusal(f", but there is no {_words(missing)}")
        for name, value in self._example.items():  # what is no tensor is written into the graph
            if not _alike(_constants(given[name]), _constants(value)):
                raise self._refusal(f": `{name}` was {_shown(value)}, got {_shown(given[name])}")
        values = {name: given[name] for name in self._example}
        return values if self._named else inspect.BoundArguments(self._own, OrderedDict(values)).args

    def _refusal(self, why: str) -> InputError:
        return InputError(f"`inputs` must be those of the example, {_words(self._example)}{why}.")

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a call gives, by name."""
        given = self._own.bind(*args, **kwargs).arguments
        for name, parameter in self._own.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        return given


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _constants(value: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(value) if not isinstance(leaf, Tensor)]


def _alike(some: list[Any], others: list[Any]) -> bool:
    """Whether constants are the same; whether arrays are is no single truth value by themselves."""
    return len(some) == len(others) and all(a is b or np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def _shown(value: Any) -> str:
    return "a tensor" if isinstance(value, Tensor) else repr(value)
