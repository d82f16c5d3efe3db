"""Parts of a model that are taken apart by themselves, on the inputs that the whole gives them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from resect.errors import InputError, ResectError
from resect.graph.calls import Call, as_call, outputs_of
from resect.graph.capture import capture
from resect.graph.untouched import untouched


def part(model: nn.Module, name: str, example: Any) -> tuple[nn.Module, Any]:
    """A submodule by its dotted name, and its inputs when the model runs on `example`.

    Raises:
        InputError: there is no such submodule, or the model does not call it with inputs by place or by name alone.
    """
    known = dict(model.named_modules())
    if not name or name not in known:
        names = ", ".join(child for child, _ in model.named_children())
        raise InputError(f"`module` must name a submodule of {type(model).__name__}, such as {names}; got {name!r}.")
    return known[name], given(model, name, example)


def given(model: nn.Module, name: str, inputs: Any) -> Any:
    """The inputs of the first call of a submodule when the model runs on `inputs`; what it does afterwards is not run.

    Raises:
        InputError: it is not called, or with inputs that can be given neither all by place nor all by name.
    """
    calls = _calls(model, [name], inputs)
    if name not in calls:
        raise InputError(
            f"`module` must name a submodule that {type(model).__name__} calls, and with inputs all by place or all by "
            f"name, but {name} is not. Name another, or unravel it on inputs of your own."
        )
    return calls[name]


def offer(model: nn.Module, example: Any) -> str:
    """A sentence that names the largest child which can be captured where its model cannot; "" if none can."""
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    try:
        calls = _calls(model, [name for name, size in sizes.items() if size], example)
    except Exception:  # any model raises what it likes; the error at hand says more
        return ""
    for name in sorted(calls, key=sizes.__getitem__, reverse=True):
        with suppress(ResectError):
            capture(model.get_submodule(name), calls[name])
            return (
                f" Its part `{name}` can be taken apart by itself: resect.unravel(model.{name}, inputs), with inputs "
                f"as the model gives it (resect blocks MODEL --module {name})."
            )
    return ""


class _AllSeenError(Exception):
    """Every submodule that was asked for has been called."""


def _calls(model: nn.Module, names: Sequence[str], example: Any) -> dict[str, Any]:
    """The inputs of the first calls of submodules, as an example of each."""
    calls: dict[str, Call] = {}
    hooks = []
    with untouched(model, "eval"), torch.no_grad():
        for name in names:

            def note(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                calls.setdefault(name, (args, kwargs))
                if len(calls) == len(names):
                    raise _AllSeenError

            hooks.append(model.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True))
        try:
            with suppress(_AllSeenError):
                outputs_of(model, as_call(example))
        finally:
            for hook in hooks:
                hook.remove()
    examples = {name: _example(model.get_submodule(name), *call) for name, call in calls.items()}
    return {name: example for name, example in examples.items() if example}


def _example(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a call is given as one example: by place or by name; where it is given by both, all by name if possible."""
    if not args or not kwargs:
        return args or kwargs
    placed = list(signature(module.forward).parameters.values())[: len(args)]
    if len(placed) < len(args) or any(parameter.kind is not Parameter.POSITIONAL_OR_KEYWORD for parameter in placed):
        return None
    return {**{parameter.name: value for parameter, value in zip(placed, args, strict=True)}, **kwargs}
