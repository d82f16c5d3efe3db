"""What one step of `data` gives, in the forms that people have it, as inputs and targets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils.data import default_collate

from resect.errors import DataError
from resect.graph.outputs import IGNORED
from resect.network.unraveled import Unraveled

_WANTED = "`data` must give (inputs, targets) batches"
_LABELS = ("labels", "label", "targets", "target")


@dataclass(frozen=True)
class Item:
    """Inputs and targets of one batch.

    Attributes:
        labels: the targets came under a name, as collators of transformers give them.
        batch_dim: the dimension of the inputs that counts the samples; of the targets it is always the first.
    """

    inputs: Any
    targets: Tensor
    labels: bool = False
    batch_dim: int = 0


def item_of(given: Any, net: Unraveled | None, *, pairs: bool = False) -> Item:
    """Inputs and targets of what `data` gives in one step.

    These are (inputs, targets), for a network of several inputs also (input, ..., input, targets), each with
    identifiers behind it; a mapping or a dataclass of named inputs and `labels`; or a list of samples of these forms.

    Args:
        net: says what its inputs are; None leaves them as they are.
        pairs: (anchors, positives) without targets is a batch, too.

    Raises:
        DataError: it is nothing of this.
    """
    if pairs and (item := _pair_of_inputs(given, net)):
        return item
    if isinstance(given, list) and given and all(map(_is_sample, given)):
        try:
            given = default_collate([_named(sample) or tuple(sample) for sample in given])
        except (RuntimeError, TypeError, KeyError) as error:
            raise DataError(
                f"a batch that is a list of samples must have samples that can be stacked: {error}. Pad them, or "
                "let a DataLoader's collate_fn do it."
            ) from error
    named = _named(given)
    if named is not None:
        return _labelled(named, net)
    return Item(*_pair(given, net))


def _named(given: Any) -> Mapping[str, Any] | None:
    """A mapping or a dataclass, or a tuple of named values among which are labels, by name; None for others."""
    if isinstance(given, Mapping):
        return given
    if is_dataclass(given) and not isinstance(given, type):
        return {entry.name: getattr(given, entry.name) for entry in fields(given)}
    if isinstance(given, tuple) and set(_LABELS) & set(getattr(given, "_fields", ())):
        return dict(zip(given._fields, given, strict=True))  # type: ignore[attr-defined]  # of a named tuple
    return None


def _is_sample(value: Any) -> bool:
    """Whether an element of a list is a sample by itself: named values, or (input, class)."""
    named = _named(value)
    target = next((named[name] for name in _LABELS if name in named), None) if named else None
    if named is None and isinstance(value, (tuple, list)) and len(value) == 2:
        target = value[1]
    return (target is not None and _is_single(target)) or (named is not None and target is not None)


def _is_single(target: Any) -> bool:
    return isinstance(target, (int, float)) or getattr(target, "ndim", 1) == 0


def _pair(item: Any, net: Unraveled | None) -> tuple[Any, Tensor]:
    """Inputs and targets of a tuple."""
    if not isinstance(item, (tuple, list)):
        raise DataError(f"{_WANTED}, got {_words(item)}. A single batch goes into a list: [(inputs, targets)].")
    places = max(1, len(_form(net)[0])) if net is not None else 1
    if places > 1 and len(item) > places:
        item = [tuple(item[:places]), *item[places:]]
    inputs, targets, *more = item if len(item) > 1 else (None, None, None)
    if strangers := [extra for extra in more if extra is None or not _is_identifier(extra)]:
        of = f", among them {_words(strangers[0])} as a third" if len(item) > 1 else ""
        raise DataError(
            f"{_WANTED}, got {type(item).__name__} of {len(item)}{of}. Several inputs go into one tuple: "
            "((a, b), targets); what is neither has to be left out."
        )
    if _is_single(targets):
        raise DataError(
            f"{_WANTED}, got a single sample with the target {targets}. Read a Dataset by batches: "
            "torch.utils.data.DataLoader(dataset, batch_size=100)."
        )
    if not isinstance(targets, Tensor):
        raise DataError(
            f"{_WANTED}, whose targets are a torch.Tensor, got {_words(targets)} as targets. "
            "torch.as_tensor makes one of arrays and lists."
        )
    return (dict(inputs) if isinstance(inputs, Mapping) else inputs), targets


def _labelled(item: Mapping[str, Any], net: Unraveled | None) -> Item:
    """Inputs and targets of a batch as collators of transformers make it: named inputs, and `labels`."""
    name = next((name for name in _LABELS if name in item), None)
    if name is None:
        raise DataError(
            f"a batch that is a dict must have its targets under 'labels', got {', '.join(map(repr, item))}. Or give "
            "(inputs, targets), where inputs is the dict."
        )
    inputs = {own: value for own, value in item.items() if own != name}
    return Item(*_pair((_taken(inputs, net), item[name]), None), labels=True)


def _taken(inputs: dict[str, Any], net: Unraveled | None) -> Any:
    """The named inputs in the form of the example; identifiers beside them, which the model does not take, left out."""
    if net is None:
        return inputs
    args, kwargs = _form(net)
    own = inspect.signature(net.model.forward).parameters
    taken = {name: value for name, value in inputs.items() if name in {*kwargs, *own} or not _is_identifier(value)}
    names = list(own)[: len(args)]
    if kwargs or not args or len(taken) != len(args):
        return taken
    values = tuple(taken[name] for name in names) if set(names) == set(taken) else tuple(taken.values())
    return values[0] if len(values) == 1 else values if set(names) == set(taken) else taken


def _is_identifier(value: Any) -> bool:
    return not isinstance(value, Tensor) or (value.ndim < 2 and not value.is_floating_point())


def _form(net: Unraveled) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and keyword arguments of the example, without their values."""
    spec = net.sliced.captured.in_spec
    args, kwargs = pytree.tree_unflatten([0] * spec.num_leaves, spec)
    return args, kwargs


def _pair_of_inputs(given: Any, net: Unraveled | None) -> Item | None:
    """(anchors, positives): rows of one batch, each anchor with its positive to find; None where there are targets."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        return None
    first, second = ([leaf for leaf in pytree.tree_leaves(_plain(part)) if isinstance(leaf, Tensor)] for part in given)
    if len(first) != len(second) or not first:
        return None
    if any(a.ndim != b.ndim or a.dtype != b.dtype for a, b in zip(first, second, strict=True)):
        return None
    if any(a.shape[1:] != b.shape[1:] for a, b in zip(first, second, strict=True)):
        raise DataError(
            f"anchors and positives must have one shape, got {tuple(first[0].shape)} and {tuple(second[0].shape)}. "
            "Pad texts alike: tokenizer(texts, padding='max_length', ...)."
        )
    rows = torch.arange(len(first[0]))
    if net is not None and len(_form(net)[0]) > 1:
        return Item(tuple(given), rows)  # a model with two towers
    inputs = pytree.tree_map(lambda a, b: torch.cat([a, b]), *map(_plain, given))
    return Item(inputs, torch.cat([rows, torch.full_like(rows, IGNORED)]))


def _plain(inputs: Any) -> Any:
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def _words(value: Any) -> str:
    """The type of a value, and its shape if it has one."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"
