"""Parts of a model that are taken apart by themselves, on the inputs that the whole gives them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
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
    calls = _calls(model, [name], example)
    if name not in calls:
        raise InputError(
            f"`module` must name a submodule that {type(model).__name__} calls, and with inputs all by place or all by "
            f"name, but {name} is not. Name another, or unravel it on inputs of your own."
        )
    return known[name], calls[name]


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


def _calls(model: nn.Module, names: Iterable[str], example: Any) -> dict[str, Any]:
    """The inputs of the first calls of submodules, as an example of each."""
    calls: dict[str, Call] = {}
    hooks = []
    with untouched(model, "eval"), torch.no_grad():
        for name in names:

            def note(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                calls.setdefault(name, (args, kwargs))

            hooks.append(model.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True))
        try:
            outputs_of(model, as_call(example))
        finally:
            for hook in hooks:
                hook.remove()
    return {name: args or kwargs for name, (args, kwargs) in calls.items() if bool(args) != bool(kwargs)}
