"""A model as it was: what `forward()`, `train()` and `eval()` do beside computing is undone.

Models cache, count, log and record activations in hooks; under an export that would leave fake tensors behind. So the
attributes of all submodules are remembered before, with the containers, small objects and tensors in them and what
hooks and `forward()` can reach by name, and get their old contents afterwards. Class attributes, `__slots__`, arrays of
numpy, and what lies deeper, as a trainer or a data set does, stay as they are.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from inspect import getattr_static
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from resect.errors import ExportError

Mode = Literal["eval", "train"]
_CONTAINERS = (dict, list, set, deque)
_OTHERS = {"torch", "builtins", "logging", "threading", "multiprocessing", "concurrent", "asyncio", "_thread", "_io"}
_DEPTH = 4  # steps from a submodule to what it holds
_LONGEST = 10_000  # entries of a container, beyond which it is data
_MOST = 200_000  # things in all
_LARGEST = 50_000_000  # bytes of a tensor that is no buffer


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
    """The contents of the containers and tensors (but parameters) that are found in a model."""

    def __init__(self, model: nn.Module) -> None:
        self.contents: list[tuple[Any, Any]] = []
        self.values: list[tuple[Tensor, Tensor]] = []
        self._buffers = {id(buffer) for buffer in model.buffers()}
        self._seen: set[int] = set()
        found: list[Any] = list(model.modules())
        for _ in range(_DEPTH):
            found = [inner for value in found for inner in self._remembered(value)]

    def _remembered(self, value: Any) -> Iterable[Any]:
        """Remember one value; returns what it holds."""
        plain = value is None or isinstance(value, (str, bytes, int, float, type))
        if plain or id(value) in self._seen or len(self._seen) > _MOST:
            return ()
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            small = id(value) in self._buffers or value.nbytes <= _LARGEST
            if small and not isinstance(value, nn.Parameter) and value.layout is torch.strided:
                self.values.append((value, value.detach().clone()))
            return ()
        if isinstance(value, FunctionType):
            return _named(value)
        if isinstance(value, MethodType):
            return (value.__self__, value.__func__)
        if isinstance(value, partial):
            return (value.func, *value.args, *value.keywords.values())
        if isinstance(value, tuple):
            return value if len(value) <= _LONGEST else ()
        return self._inside(value)

    def _inside(self, value: Any) -> list[Any]:
        containers = [value] if isinstance(value, _CONTAINERS) else []
        held = getattr(value, "__dict__", None)
        if type(held) is dict and not _is_foreign(value):
            containers.append(held)
        inner: list[Any] = []
        for container in containers:
            if len(container) <= _LONGEST:
                self.contents.append((container, _copied(container)))
                inner += _items(container)
        if isinstance(value, nn.Module):
            inner.append(getattr_static(type(value), "forward", None))
        return inner

    def restore(self) -> None:
        """Give everything its old contents, in place; what cannot be given back keeps nothing else from it."""
        for container, old in self.contents:
            with suppress(Exception):
                _refill(container, old)
        for tensor, values in self.values:
            with suppress(Exception):
                _restored(tensor, values)


def _is_foreign(value: Any) -> bool:
    """Whether an object is no part of a model: a library's own affair, or data."""
    if isinstance(value, nn.Module):
        return False
    return type(value).__module__.partition(".")[0] in _OTHERS or isinstance(value, (Dataset, DataLoader))


def _named(function: FunctionType) -> list[Any]:
    """What a function can reach by name: what it encloses, and containers of its file."""
    if (function.__module__ or "").partition(".")[0] in _OTHERS:
        return []
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    return [*_enclosed(function), *(value for value in named if type(value) in _CONTAINERS)]


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that is bound later
            yield cell.cell_contents


def _items(container: Any) -> list[Any]:
    return [*container.values()] if isinstance(container, dict) else list(container)


def _copied(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _refill(container: Any, old: Any) -> None:
    """Give a container its old contents, by the methods of its kind: those of a subclass may refuse or do more."""
    now = _copied(container)
    if _same_items(now, old):
        return
    if isinstance(container, dict):
        kind: Any = OrderedDict if isinstance(container, OrderedDict) else dict
        kind.clear(container)
        for key, value in old.items():
            kind.__setitem__(container, key, value)
    elif isinstance(container, list):
        list.__setitem__(container, slice(None), old)
    elif isinstance(container, set):
        set.clear(container)
        set.update(container, old)
    else:
        deque.clear(container)
        deque.extend(container, old)


def _same_items(now: Any, old: Any) -> bool:
    """Whether two copies hold the very same objects, under the same keys."""
    pairs = zip(_items(now), _items(old), strict=False)
    same_keys = not isinstance(now, dict) or list(now) == list(old)
    return len(now) == len(old) and same_keys and all(a is b for a, b in pairs)


def _restored(tensor: Tensor, old: Tensor) -> bool:
    """Give a tensor its old values; whether they were others."""
    if tensor.is_meta or (tensor.shape == old.shape and _same_values(tensor, old)):
        return False
    with torch.no_grad():
        (tensor if tensor.shape == old.shape else tensor.resize_(old.shape)).copy_(old)
    return True


def _same_values(tensor: Tensor, old: Tensor) -> bool:
    return torch.equal(tensor, old) or bool(((tensor == old) | ((tensor != tensor) & (old != old))).all())
