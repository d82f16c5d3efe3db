"""The kept weights under the names that the family's own constructor gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resect.errors import ExportError
from resect.pruning.export.removed import Shortened


@dataclass(frozen=True)
class Renumbered:
    """Weights of a shorter network.

    Attributes:
        tensors: by their new names.
        sources: the names that they had.
        notes: what became of tensors that belong to several layers, in sentences.
    """

    tensors: Mapping[str, Tensor]
    sources: frozenset[str]
    notes: tuple[str, ...]


def renumbered(old: nn.Module, new: nn.Module, lists: Sequence[Shortened], kind: str) -> Renumbered:
    """The weights of `old` for `new`, in whose lists only the kept layers are left; without copies of what fits.

    Raises:
        ExportError: one of `new` is none of `old`, or the other way round.
    """
    given, wanted, notes = old.state_dict(), new.state_dict(), dict.fromkeys([""])
    tensors: dict[str, Tensor] = {}
    used = set()
    for name, like in wanted.items():
        source = _source(name, new, lists)
        if source not in given:
            source = _moved(name, given, like, new, lists) or source
            notes[f"{name} is that of the removed first layer, which holds it for all."] = None
        if source not in given:
            raise ExportError(f"{kind} needs the weights {name}, which the network does not have.")
        value = given[source]
        if value.shape != like.shape:
            value = _of_kept_layers(value, like, lists, source, kind)
            notes[f"{source} holds a part for each layer; those of removed layers are cut out."] = None
        tensors[name] = value
        used.add(source)
    prefixes = tuple(f"{entry.path}.{entry.names[i]}." for entry in lists for i in entry.removed)
    lost = [name for name in given if name not in used and not name.startswith(prefixes)]
    if lost:
        raise ExportError(f"{kind} has no place for the weights {lost[0]} of a layer that is kept.")
    return Renumbered(tensors, frozenset(used), tuple(note for note in notes if note))


def _source(name: str, new: nn.Module, lists: Sequence[Shortened]) -> str:
    """The name that a tensor had before."""
    for entry in lists:
        if name.startswith(f"{entry.path}."):
            child, _, rest = name.removeprefix(f"{entry.path}.").partition(".")
            place = [other for other, _ in new.get_submodule(entry.path).named_children()].index(child)
            return f"{entry.path}.{entry.names[entry.kept[place]]}.{rest}"
    return name


def _moved(
    name: str, given: Mapping[str, Tensor], like: Tensor, new: nn.Module, lists: Sequence[Shortened]
) -> str | None:
    """Where a tensor that only the first layer holds was before: in the first of the removed layers."""
    for entry in lists:
        first = next(iter(new.get_submodule(entry.path).named_children()))[0]
        if name.startswith(f"{entry.path}.{first}.") and 0 in entry.removed:
            source = f"{entry.path}.{entry.names[0]}.{name.removeprefix(f'{entry.path}.{first}.')}"
            if source in given and given[source].shape == like.shape:
                return source
    return None


def _of_kept_layers(value: Tensor, like: Tensor, lists: Sequence[Shortened], name: str, kind: str) -> Tensor:
    """A tensor with equal parts for all layers, in order along one dimension, with those of the kept ones."""
    for entry in lists:
        n, kept = len(entry.names), torch.tensor(entry.kept, device=value.device)
        for d, (size, wanted) in enumerate(zip(value.shape, like.shape, strict=False)):
            others = value.shape[:d] + value.shape[d + 1 :] == like.shape[:d] + like.shape[d + 1 :]
            if others and size % n == 0 and size // n * len(kept) == wanted:
                parts = value.reshape(*value.shape[:d], n, -1, *value.shape[d + 1 :])
                return parts.index_select(d, kept).reshape(like.shape)
    raise ExportError(
        f"{kind} makes {name} of shape {tuple(like.shape)}, but in the network it is {tuple(value.shape)}."
    )
