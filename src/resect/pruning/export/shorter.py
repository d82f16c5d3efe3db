"""What a family's own constructor makes with fewer layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resect.errors import ExportError
from resect.pruning.export.removed import ANY_NETWORK, Shortened
from resect.pruning.export.weights import Renumbered


@dataclass(frozen=True)
class Shorter:
    """A network that the constructor made with fewer layers, the arguments that did, and the weights for it."""

    model: Any
    arguments: dict[str, Any]
    weights: Renumbered


def not_made(constructor: str, lists: Sequence[Shortened], why: str) -> ExportError:
    """The error that a constructor does not make the network without some layers."""
    gone = "; ".join(map(str, lists))
    return ExportError(f"{constructor} cannot make this network without layers {gone}: {why}. {ANY_NETWORK}")
