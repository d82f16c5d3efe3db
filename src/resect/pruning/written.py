"""What a pruned language model writes, in words: known without torch, as reports are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from resect.measuring.meaning import number
from resect.words import decimal, percent

CHECKS = {
    "perplexity": "perplexity",
    "continuations": "same continuations",
    "tokens": "tokens until they part",
    "copying": "random tokens copied",
    "brackets": "brackets closed",
}
RATES = ("continuations", "copying", "brackets")


def tables(table: pd.DataFrame) -> list[tuple[list[str], list[list[str]]]]:
    """Headings, and one row a check: what it is, both networks, and the change with its interval. One table a network
    beside the intact one: of what was healed, cut and healed."""
    shown = {"cut": ("cut", "cut_change"), "healed": ("pruned", "change")}
    return [
        (["writing", "intact", name, "change"], [_cells(row, *columns) for row in table.to_dict("records")])
        for name, columns in (shown if "cut" in table else {"pruned": ("pruned", "change")}).items()
    ]


def _cells(row: Mapping[Any, Any], which: str, change: str) -> list[str]:
    return [CHECKS[row["check"]], _value(row, row["intact"]), _value(row, row[which]), _change(row, change)]


def sentence(table: pd.DataFrame, tokens: int) -> str:
    """How much of the writing is left, healed and before."""
    if "cut" not in table:
        return f"Of {_left(table, tokens, 'pruned')}"
    return f"After healing: of {_left(table, tokens, 'pruned')} Before: of {_left(table, tokens, 'cut')}"


def _left(table: pd.DataFrame, tokens: int, which: str) -> str:
    by_check = {row["check"]: row for row in table.to_dict("records")}
    own, kept = by_check["continuations"], by_check["tokens"]
    same = round(own[which] * own["samples"])
    said = (
        f"{own['samples']} continuations of the text, each the likeliest {tokens} tokens, {same} are still the "
        f"intact network's own; on average they part after {decimal(kept[which], 1)} tokens"
    )
    named = {"copying": "of random sequences it copies", "brackets": "of open brackets it closes"}
    more = [
        f"{words} {_value(row, row[which])} instead of {_value(row, row['intact'])}"
        for check, words in named.items()
        if (row := by_check.get(check))
    ]
    return "; ".join([said, *more]) + "."


def _value(row: Mapping[Any, Any], value: float) -> str:
    if row["check"] in RATES:
        return percent(value)
    return decimal(value, 1) if row["check"] == "tokens" else number(value)


def _change(row: Mapping[Any, Any], name: str) -> str:
    rate, ends = row["check"] in RATES, [row[f"{name}{end}"] for end in ("", "_low", "_high")]
    value, low, high = (decimal(end * 100 if rate else end, 2 if row["check"] == "perplexity" else 1) for end in ends)
    return f"{value}{' points' if rate else ''} [{low}, {high}]"
