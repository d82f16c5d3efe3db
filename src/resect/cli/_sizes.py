"""Options that need no torch: batch sizes, amounts of memory, lists of numbers, the mass of an effective range."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class BatchSize(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A whole number of at least 1, or "auto" (None)."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Parse one value."""
        if value == "auto" or value is None:
            return None
        if not str(value).isdigit() or int(value) < 1:
            self.fail(f"{value!r} is neither a whole number of at least 1 nor auto.", param, ctx)
        return int(value)


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """An amount of memory, e.g. 4GiB, 800M or 1000000 (bytes); units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse one value."""
        amount = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower())
        if not amount or float(amount[1]) == 0:
            self.fail(f"{value!r} is no amount of memory such as 4GiB or 800M.", param, ctx)
        return int(float(amount[1]) * _UNITS[amount[2]])


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """Whole numbers with commas between, and ranges: "1-3,7" is 1, 2, 3, 7."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse one value."""
        if isinstance(value, tuple):
            return value
        numbers: list[int] = []
        for part in str(value).split(","):
            ends = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
            if not ends or (ends[2] and int(ends[2]) < int(ends[1])):
                self.fail(
                    f"{value!r} must be whole numbers and ranges with commas between, e.g. 0,3 or 1-9.", param, ctx
                )
            numbers += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        return tuple(numbers)


mass_option = click.option(
    "--mass",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Of the effective range.",
)
