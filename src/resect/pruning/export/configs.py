"""The configuration of transformers for a model with fewer layers, found by trial.

Which entry counts the layers of a list is not looked up: the one is taken that makes just this list shorter when a
model is built from it, on the meta device.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from resect.errors import ExportError
from resect.pruning.export.layers import other_layers
from resect.pruning.export.removed import Shortened
from resect.pruning.export.rules import MORE_LAYERS, NEVER, READINGS, Reading, shorten

_COUNTS = ("layer", "depth", "block")  # parts of the names of counts, which are tried first
NO_COUNT = ""  # in the place of a count, where lists alone say how many layers there are
Place = tuple[str | int, ...]
"""Of an entry in the configuration: the keys to it; last an index, where it is one of a list of counts."""


def built(model: nn.Module, entries: dict[str, Any]) -> Any:
    """A model of the same class from a configuration, on the meta device: names and shapes without values."""
    kind: Any = type(model)
    config = type(model.config).from_dict(deepcopy(entries))  # type: ignore[union-attr]  # a configuration of transformers
    config._attn_implementation = model.config._attn_implementation  # type: ignore[union-attr]  # a configuration of transformers
    with torch.device("meta"):
        return kind(config).eval()


def shortened_config(model: Any, lists: Sequence[Shortened], kind: str) -> tuple[nn.Module, list[Shortened]]:
    """A model on the meta device, of a configuration with the kept layers, and all lists that are shorter in it.

    Raises:
        ExportError: no configuration says the kept layers.
    """
    entries = model.config.to_dict()
    for name in MORE_LAYERS:
        if entries.get(name):
            entries[name] = 0
    why: list[str] = []
    for reading in READINGS:
        new, shorter, unsaid = _with_reading(model, entries, lists, reading, kind)
        odd = [*other_layers(model, new, shorter), *_other_lists(model.config, new.config, shorter)]
        if not odd:
            return new, shorter
        why = why or [*odd[:1], *unsaid]
    removed = "; ".join(map(str, lists))
    raise ExportError(f"{kind} cannot express this network without layers {removed}: {'; '.join(why)}.")


def _with_reading(
    model: Any, entries: dict[str, Any], lists: Sequence[Shortened], reading: Reading, kind: str
) -> tuple[Any, list[Shortened], list[str]]:
    """The lists made shorter one after the other, the entries of the configuration read in one way."""
    now, unsaid, shorter = model, [], []
    for entry in lists:
        now, entries, said, parallel = _counted(now, entries, entry, reading, kind)
        unsaid += said
        shorter += [entry, *parallel]
    return now, shorter, unsaid


def _counted(
    model: Any, entries: dict[str, Any], entry: Shortened, reading: Reading, kind: str
) -> tuple[nn.Module, dict[str, Any], list[str], list[Shortened]]:
    """A model in which just this list is shorter, its configuration, what that cannot say, and lists that follow it."""
    n, m, before, errors = len(entry.names), len(entry.kept), _lengths(model), []
    for place in _places(entries, n):
        changed = deepcopy(entries)
        unsaid = _set(changed, place, n, entry.kept, reading)
        try:
            new = built(model, changed)
        except Exception as error:  # configurations raise whatever they like for a count that is none
            errors.append(f"; {type(error).__name__}: {' '.join(str(error).split())}")
            continue
        after = _lengths(new)
        inside = tuple(f"{entry.path}.{name}." for name in entry.names)
        others = [p for p in before if len(before[p]) != len(after.get(p, before[p])) and not p.startswith(inside)]
        if entry.path in others and all(len(before[p]) == n and len(after[p]) == m for p in others):
            more = [Shortened(path, before[path], entry.kept) for path in others if path != entry.path]
            return new, changed, unsaid, more
    raise ExportError(
        f"{kind} cannot express this network: no entry of {type(model.config).__name__} alone leaves layers "
        f"{', '.join(map(str, entry.kept))} in {entry.path}{''.join(errors[:1])}."
    )


def _set(entries: dict[str, Any], place: Place, n: int, kept: Sequence[int], reading: Reading) -> list[str]:
    """Write the new count in its place, and shorten what stands beside it; returns what cannot be said."""
    *above, last = place
    holder: Any = entries
    for key in above:
        holder = holder[key]
    unsaid = [] if isinstance(last, int) else list(shorten(holder, n, kept, reading))
    if last != NO_COUNT:
        holder[last] = len(kept)
    return unsaid


def _lengths(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The names of the entries of every list of modules."""
    lists = ((name, part) for name, part in model.named_modules() if isinstance(part, (nn.ModuleList, nn.Sequential)))
    return {name: tuple(child for child, _ in part.named_children()) for name, part in lists}


def _places(entries: dict[str, Any], n: int) -> list[Place]:
    """Where the configuration says n, likely names first."""

    def said(above: Place, inside: dict[str, Any]) -> Iterator[Place]:
        for name, value in inside.items():
            if isinstance(value, dict):
                yield from said((*above, name), value)
            elif type(value) is int and value == n:
                yield (*above, name)
            elif isinstance(value, list) and all(type(v) is int for v in value):
                yield from ((*above, name, i) for i, v in enumerate(value) if v == n)

    def nested(above: Place, inside: dict[str, Any]) -> Iterator[Place]:
        yield (*above, NO_COUNT)
        for name, value in inside.items():
            if isinstance(value, dict) and "model_type" in value:
                yield from nested((*above, name), value)

    def likely(place: Place) -> bool:
        name = next(str(key) for key in reversed(place) if isinstance(key, str))
        return not any(part in name for part in _COUNTS)

    return [*sorted(said((), entries), key=likely), *nested((), entries)]


def _other_lists(old: Any, new: Any, lists: Sequence[Shortened]) -> Iterator[str]:
    """Lists with an entry for each layer, stored or derived, that do not say the kept layers."""
    for name, value in _listed(old):
        other = next((v for k, v in _listed(new) if k == name), None)
        wanted = [[value[i] for i in entry.kept] for entry in lists if len(value) == len(entry.names)]
        if wanted and other is not None and other != value and other not in wanted:
            yield f"{name} of the configuration would be {other} instead of {wanted[0]}"


def _listed(config: Any, above: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Lists of a configuration and of those in it, derived ones, too."""
    derived = (name for name, _ in inspect.getmembers(type(config), lambda member: isinstance(member, property)))
    for name in {**vars(config), **dict.fromkeys(derived)}:
        try:
            value = getattr(config, name)
        except Exception:  # a property of other configurations of the family
            continue
        if isinstance(value, (list, tuple)) and not any(part in name for part in NEVER) and name[0] != "_":
            yield f"{above}{name}", list(value)
        elif hasattr(value, "to_dict") and name[0] != "_":
            yield from _listed(value, f"{above}{name}.")
