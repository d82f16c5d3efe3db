"""A model as it was: whatever `forward()`, `train()` and `eval()` do beside computing is undone.

Models cache, count, log and record activations in hooks. Under an export that would leave fake tensors behind, so all
that can be reached from the model is remembered before, shallowly, and given its old contents afterwards.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import getattr_static
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resect.errors import ExportError

Mode = Literal["eval", "train"]
_CONTAINERS = (list, dict, set, deque)


@contextmanager
def untouched(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Put every submodule in `mode`; afterwards the model, and what its hooks record, is as before.

    Raises:
        ExportError: `train()` or `eval()` fails, or changes weights, which a captured graph would not follow.
    """
    memory = _Memory(model)
    try:
        _set_mode(model, mode)
        yield
    finally:
        memory.restore()


def _set_mode(model: nn.Module, mode: Mode) -> None:
    """Call `train()` unless all modules are in `mode`; weights that it changes are restored."""
    if all(part.training == (mode == "train") for part in model.modules()):
        return
    own = [part for part in model.modules() if (type(part).train, type(part).eval) != (nn.Module.train, nn.Module.eval)]
    weights = {name: weight for part in own for name, weight in part.named_parameters()}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        model.train(mode == "train")
    except NotImplementedError as error:
        raise ExportError(
            f"`model` must be a module whose {mode}() works, but {type(model).__name__} says: {error} If it is the "
            "module of an exported program, pass the one that was exported."
        ) from error
    changed = [name for name, weight in weights.items() if _restored(weight, before[name])]
    if changed:
        raise ExportError(
            f"`model` must be in {mode} mode before it is taken apart, as its {mode}() changes weights "
            f"(`{changed[0]}`), which the captured graph would not follow. Call model.{mode}() first."
        )


class _Memory:
    """The contents of all containers, objects and tensors (but parameters) that can be reached from a model."""

    def __init__(self, model: nn.Module) -> None:
        self.contents: list[tuple[Any, Any]] = []
        self.values: list[tuple[Tensor, Tensor]] = []
        seen = {id(parameter) for parameter in model.parameters()}
        pending: list[Any] = [model]
        while pending:
            value = pending.pop()
            if id(value) in seen or isinstance(value, (str, bytes, int, float, type(None), type)):
                continue
            seen.add(id(value))
            if isinstance(value, Tensor):
                self.values.append((value, value.detach().clone()))
            else:
                pending += self._remembered(value)

    def _remembered(self, value: Any) -> Iterable[Any]:
        """Remember the contents of one value; returns them."""
        if isinstance(value, FunctionType):
            return _named(value)
        if isinstance(value, MethodType):
            return (value.__self__, value.__func__)
        if isinstance(value, partial):
            return (value.func, *value.args, *value.keywords.values())
        if isinstance(value, tuple):
            return value
        inside = _inside(value)
        if inside is None:
            return ()
        self.contents.append((inside, copy.copy(inside)))
        own = (getattr_static(type(value), "forward", None),) if isinstance(value, nn.Module) else ()
        return (*_items(inside), *own)

    def restore(self) -> None:
        """Give everything its old contents, in place."""
        for container, old in self.contents:
            items, before = _items(container), _items(old)
            if len(items) != len(before) or any(a is not b for a, b in zip(items, before, strict=True)):
                container.clear()
                (container.update if isinstance(container, (dict, set)) else container.extend)(old)
        for tensor, values in self.values:
            _restored(tensor, values)


def _inside(value: Any) -> Any:
    """The container whose contents make up a value; None where there is none, or where it is torch's own affair."""
    if type(value) in _CONTAINERS or isinstance(value, dict):
        return value
    if isinstance(value, nn.Module) or not type(value).__module__.startswith(("torch", "builtins", "_")):
        attributes = getattr(value, "__dict__", None)
        return attributes if type(attributes) is dict else None
    return None


def _named(function: FunctionType) -> list[Any]:
    """What a function can reach by name: what it encloses, and containers of its file."""
    if function.__module__ and function.__module__.startswith("torch"):
        return []
    globals_ = [function.__globals__.get(name) for name in function.__code__.co_names]
    return [*_enclosed(function), *(value for value in globals_ if type(value) in _CONTAINERS)]


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is bound later
            continue


def _items(container: Any) -> list[Any]:
    return [*container, *container.values()] if isinstance(container, dict) else list(container)


def _restored(tensor: Tensor, old: Tensor) -> bool:
    """Give a tensor its old values; whether they were others."""
    if tensor.is_meta or torch.equal(tensor, old) or torch.equal(tensor.nan_to_num(), old.nan_to_num()):
        return False
    with torch.no_grad():
        tensor.copy_(old)
    return True
