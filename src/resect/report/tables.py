"""Tables as plain values, for JSON."""

from __future__ import annotations

from math import isfinite
from typing import Any

import pandas as pd


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping a row; numbers keep all their digits, and those that are not finite become None."""
    return [{str(name): plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def plain(value: Any) -> Any:
    """A value that JSON has."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not isfinite(value) else value
