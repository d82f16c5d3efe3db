"""What other tools are told: which layers go. They cut the checkpoint themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from resect.errors import ExportError
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.export.configs import shortened_config
from resect.pruning.export.fresh import Proof
from resect.pruning.export.hugging_face import quiet, require_stock
from resect.pruning.export.removed import Shortened, shortened_lists

_UNNAMED = "MODEL"
_DERIVED = ("transformers_version", "dtype")


def sliced(net: Unraveled, arrangement: Arrangement) -> Shortened:
    """The list of which mergekit takes slices.

    Raises:
        ExportError: half a layer goes, layers of several lists go, or mergekit, which changes the count of layers
            alone, would write a wrong configuration.
    """
    model, only = require_stock(net.model, "mergekit"), _only(net, arrangement, "mergekit")
    with quiet():
        new: Any = shortened_config(model, [only], "mergekit")[0]
    before, after = model.config.to_dict(), new.config.to_dict()
    more = [n for n in after if after[n] != before.get(n) and type(after[n]) is not int and n not in _DERIVED]
    if more:
        raise ExportError(
            f"mergekit changes the count of layers alone, but {more[0]} of the configuration has to follow. `hf` "
            "writes the checkpoint itself."
        )
    return only


def write_mergekit(net: Unraveled, arrangement: Arrangement, path: Path) -> tuple[str, ...]:
    """Write a `passthrough` recipe, whose ranges [first, end) leave the end out; ExportError as `sliced` has it."""
    model: Any = net.model
    name = getattr(model.config, "_name_or_path", "") or _UNNAMED
    ranges = _ranges(sliced(net, arrangement))
    slices = [{"sources": [{"model": name, "layer_range": list(ends)}]} for ends in ranges]
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    recipe = {"slices": slices, "merge_method": "passthrough", "dtype": dtype}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return (f"Write in place of {_UNNAMED} where the model lies.",) if name == _UNNAMED else ()


def numbered(net: Unraveled, arrangement: Arrangement) -> Shortened:
    """The list whose layers llama-quantize leaves out; ExportError if other than layers of one list go."""
    return _only(net, arrangement, "gguf-layers")


def write_gguf_layers(net: Unraveled, arrangement: Arrangement, path: Path) -> tuple[str, ...]:
    """Write the numbers for `llama-quantize --prune-layers`; ExportError if other than layers of one list go."""
    path.write_text(",".join(map(str, numbered(net, arrangement).removed)) + "\n", encoding="utf-8")
    return (
        "llama-quantize --prune-layers takes these numbers, which are those of the intact model. In some families "
        "lists in the metadata keep an entry for each removed layer.",
    )


def prove_recipe(net: Unraveled, arrangement: Arrangement, path: Path) -> Proof:
    """Nothing is run: what cuts the checkpoint is another tool."""
    return Proof(None)


def _only(net: Unraveled, arrangement: Arrangement, kind: str) -> Shortened:
    lists = shortened_lists(net, arrangement, kind)
    if len(lists) > 1:
        gone = "; ".join(map(str, lists))
        raise ExportError(f"{kind} can only express layers of one list that are removed, but here go {gone}.")
    return lists[0]


def _ranges(entry: Shortened) -> Iterator[tuple[int, int]]:
    """The runs of kept layers, each up to, and without, its end."""
    for _, run in groupby(enumerate(entry.kept), key=lambda pair: pair[1] - pair[0]):
        layers = [layer for _, layer in run]
        yield layers[0], layers[-1] + 1
