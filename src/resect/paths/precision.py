"""How precise estimates from random signs have to be; known without torch."""

from __future__ import annotations

from resect.errors import InputError

PRECISION = 25.0  # per cent: what one standard error may be of an estimate


def require_precision(precision: float | None) -> None:
    """Raise InputError unless it is a part of an estimate, in per cent, or None."""
    if precision is not None and not (isinstance(precision, (int, float)) and 0 < precision < 100):
        raise InputError(
            f"`precision` must lie between 0 and 100 per cent of what random signs estimate, or be None, got "
            f"{precision!r}."
        )
