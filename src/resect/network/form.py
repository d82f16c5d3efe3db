"""The form of a model's inputs: how the example gave them, and calls that give them in another way."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.errors import InputError, closest
from resect.graph.calls import Call


class Form:
    """Brings calls to the form of the example: by place, by name, with defaults given or left out.

    It holds no tensors, and can be pickled.

    Attributes:
        names: of the inputs that the model's forward has.
        constants: the leaves of the example, with None in the place of tensors.
    """

    def __init__(self, model: nn.Module, call: Call) -> None:
        leaves, self._spec = pytree.tree_flatten(call)
        self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._tensors = [isinstance(leaf, Tensor) for leaf in leaves]
        self._by_name, self._order = bool(call[1]), tuple(call[1])
        parameters = [_plain(parameter) for parameter in inspect.signature(model.forward).parameters.values()]
        self._signature = inspect.Signature(parameters)
        self.names = frozenset(self._signature.parameters)

    def leaves(self, call: Call) -> list[Any]:
        """The leaves of a call in the example's order.

        Raises:
            InputError: it gives other inputs than the example; those that are left at their defaults do not count.
        """
        leaves, own = pytree.tree_flatten(call)
        spec: pytree.TreeSpec | None = own
        if spec == self._spec:
            return leaves
        example = pytree.tree_unflatten(_Leaf.all(self._tensors, self.constants), self._spec)
        try:
            leaves, spec = pytree.tree_flatten(self._as_example(self._arguments(example), self._arguments(call)))
        except (TypeError, KeyError):  # the call does not fit the signature, or lacks an input
            spec = None
        if spec != self._spec:
            raise self._refusal(example, call)
        return [leaf.value if isinstance(leaf, _Leaf) else leaf for leaf in leaves]

    def joined(self, inputs: Any, named: Mapping[str, Any]) -> Any:
        """Inputs of which some are given by name, as one call: all of them by name."""
        if inputs is None:
            return dict(named)
        if isinstance(inputs, Mapping):
            return {**inputs, **named}
        call = (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), dict(named))
        try:
            return self._arguments(call)
        except TypeError as error:
            names = [*self._signature.parameters, "arrangement"]
            likely = "".join(closest(name, names) for name in named if name not in names)
            raise InputError(
                f"`inputs` must be given once each, by place or by name, of {', '.join(names[:-1])}: {error}.{likely} "
                "Beside inputs by name, an arrangement is given as arrangement=..."
            ) from None

    def _arguments(self, call: Call) -> dict[str, Any]:
        """What a call gives, by name; TypeError if it does not fit the signature."""
        args, kwargs = call
        given = self._signature.bind(*args, **kwargs).arguments
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        return given

    def _as_example(self, example: Mapping[str, Any], given: Mapping[str, Any]) -> Call:
        """The given arguments in the example's form; KeyError if one lacks, TypeError if one is too many."""
        for name in given.keys() - example.keys():
            parameter = self._signature.parameters.get(name)
            if parameter is None or given[name] is not parameter.default:
                raise TypeError(name)
        values: dict[str, Any] = {}
        for name, value in example.items():
            fixed = all(isinstance(leaf, _Leaf) and not leaf.is_tensor for leaf in pytree.tree_leaves(value))
            values[name] = given.get(name, value) if fixed else given[name]
        if self._by_name:
            return (), {name: values[name] for name in self._order}
        return inspect.BoundArguments(self._signature, OrderedDict(values)).args, {}

    def _refusal(self, example: Call, call: Call) -> InputError:
        likely = "".join(closest(name, self.names) for name in call[1] if name not in self.names)
        hint = "Give both alike: what the example has is part of the graph, so unravel with all that you want to give."
        if "labels" in example[1].keys() - call[1].keys():
            hint = "Leave `labels` out of the example: they are the targets of the data."
        return InputError(
            f"`inputs` must have the structure of the example, {_words(*example)}, got {_words(*call)}.{likely} {hint}"
        )


class _Leaf:
    """One leaf of the example, while a call is compared with it."""

    def __init__(self, is_tensor: bool, value: Any) -> None:
        self.is_tensor, self.value = is_tensor, value

    @classmethod
    def all(cls, tensors: Sequence[bool], constants: Sequence[Any]) -> list[_Leaf]:
        return [cls(*pair) for pair in zip(tensors, constants, strict=True)]


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter without its annotation, and with a plain default or one that nothing is equal to."""
    default = parameter.default
    if default is not inspect.Parameter.empty and not isinstance(default, (bool, int, float, str, type(None))):
        default = "a default of its own"
    return parameter.replace(annotation=inspect.Parameter.empty, default=default)


def _words(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The structure of a call: a dot for a leaf, e.g. "(., [., .], mask=.)"."""

    def shape(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{name!r}: {shape(v)}" for name, v in value.items()) + "}"
        return "[" + ", ".join(map(shape, value)) + "]" if isinstance(value, (tuple, list)) else "."

    return "(" + ", ".join([*map(shape, args), *(f"{name}={shape(value)}" for name, value in kwargs.items())]) + ")"
