"""Weights of the networks of `resect:`; the file holds a card, from which spec and images are known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from resect.errors import ExportError, SpecError
from resect.graph.calls import as_call
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.export.card import Origin
from resect.pruning.export.fresh import Proof, loaded_afresh, proven, trials
from resect.pruning.export.layers import other_layers
from resect.pruning.export.removed import ANY_NETWORK, require_gone, shortened_lists
from resect.pruning.export.weights import renumbered
from resect.seeds import seeded
from resect.weights import CARD, read_metadata, save_weights


@dataclass(frozen=True)
class Shorter:
    """A network of the same form with fewer blocks, with the kept weights."""

    spec: str
    model: Any


def shorter(net: Unraveled, arrangement: Arrangement) -> Shorter:
    """The network without its removed blocks; ExportError if no spec of `resect:` says it."""
    model: Any = net.model
    if not type(model).__module__.startswith("resect.models.") or not hasattr(model, "shortened"):
        raise ExportError(
            "resect can only write residual and highway networks of resect:, but "
            f"{type(model).__name__} is none. {ANY_NETWORK}"
        )
    lists = shortened_lists(net, arrangement, "resect")
    require_gone(net, arrangement, lists, frozenset(), "resect")
    gone = {f"{entry.path}.{entry.names[i]}" for entry in lists for i in entry.removed}
    try:
        with seeded(0):
            spec, new = model.shortened(gone)
    except SpecError as error:
        raise ExportError(f"resect cannot express this network: {error} {ANY_NETWORK}") from error
    new.eval()
    if odd := next(other_layers(model, new, lists), None):
        raise ExportError(f"resect cannot express this network: {odd}. {ANY_NETWORK}")
    new.load_state_dict(dict(renumbered(model, new, lists, "resect").tensors))
    return Shorter(spec, new)


def write_resect(net: Unraveled, arrangement: Arrangement, path: Path, origin: Origin) -> tuple[str, ...]:
    """Write the weights and their card into one file; ExportError if no spec of `resect:` says the network."""
    new, (args, kwargs) = shorter(net, arrangement), as_call(net.example)
    image: Tensor = next(iter((*args, *kwargs.values())))
    card = {
        "model": new.spec,
        "sample_shape": list(image.shape[1:]),
        "classes": new.model.fc.out_features,
        "normalization": origin.normalization,
        "made_of": origin.model,
        "arrangement": str(arrangement),
        "summary": origin.measured,
        "command": origin.command,
    }
    save_weights(new.model, path, metadata={CARD: json.dumps(card)})
    return (f"It is {new.spec}, with this file as --checkpoint; `resect evaluate` takes SPEC@FILE.",)


def prove_resect(net: Unraveled, arrangement: Arrangement, path: Path) -> Proof:
    """Compare what `resect.load_model` loads in a fresh process, by the spec and the file alone."""
    tried, dtype = trials(net, arrangement), str(next(net.model.parameters()).dtype).removeprefix("torch.")
    spec = json.loads(read_metadata(path)[CARD])["model"]
    answer = loaded_afresh("resect", path, net, tried.calls, spec=spec, dtype=dtype)
    return proven("resect", tried, answer["outputs"])
