"""What the text of a data spec says, before anything is read."""

from __future__ import annotations

import difflib

from resect.errors import SpecError

KINDS = ("digits", "cifar10", "npz", "py")
LIKE = 0.7  # how alike two names must be for one to be suggested in the place of the other


def require_data_spec(spec: str) -> None:
    """Raise SpecError unless the text is that of a data spec."""
    kind, _, rest = spec.partition(":")
    if {"digits": not rest, "cifar10": True, "npz": bool(rest), "py": ":" in rest}.get(kind):
        return
    close = [] if kind in KINDS else difflib.get_close_matches(kind, KINDS, n=1, cutoff=LIKE)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise SpecError(
        f"unknown data spec {spec!r}.{hint} Known are digits, cifar10:DIR, npz:FILE and py:pkg.mod:factory."
    )
