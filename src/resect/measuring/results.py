"""What all results have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resect.errors import InputError


def require_alike(parts: Sequence[Any], *names: str) -> None:
    """Raise InputError unless there is a part, and all parts agree in the attributes `names`, and so can be joined."""
    if not isinstance(parts, Sequence):
        raise InputError(f"`parts` must be a list of results, got {type(parts).__name__}.")
    if not parts:
        raise InputError("`parts` must hold at least one result, got none.")
    kind = type(parts[0])
    for part in parts:
        if type(part) is not kind:
            raise InputError(f"`parts` must all be {kind.__name__}, got {type(part).__name__}.")
        for name in names:
            if getattr(part, name) != getattr(parts[0], name):
                raise InputError(f"`parts` must agree in `{name}`, got {getattr(parts[0], name)!r:.80} and others.")
