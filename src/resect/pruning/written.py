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
HEADINGS = ("writing", "intact", "pruned", "change")


def rows(table: pd.DataFrame) -> list[list[str]]:
    """One row a check: what it is, both networks, and the change with its interval."""
    return [
        [CHECKS[row["check"]], _value(row, row["intact"]), _value(row, row["pruned"]), _change(row)]
        for row in table.to_dict("records")
    ]


def sentence(table: pd.DataFrame, tokens: int) -> str:
    """How much of the writing is left."""
    by_check = {row["check"]: row for row in table.to_dict("records")}
    own, kept = by_check["continuations"], by_check["tokens"]
    same = round(own["pruned"] * own["samples"])
    said = (
        f"Of {own['samples']} continuations of the text, each the likeliest {tokens} tokens, {same} are still the "
        f"intact network's own; on average they part after {decimal(kept['pruned'], 1)} tokens"
    )
    named = {"copying": "of random sequences it copies", "brackets": "of open brackets it closes"}
    more = [
        f"{words} {_value(row, row['pruned'])} instead of {_value(row, row['intact'])}"
        for check, words in named.items()
        if (row := by_check.get(check))
    ]
    return "; ".join([said, *more]) + "."


def _value(row: Mapping[Any, Any], value: float) -> str:
    if row["check"] in RATES:
        return percent(value)
    return decimal(value, 1) if row["check"] == "tokens" else number(value)


def _change(row: Mapping[Any, Any]) -> str:
    rate, ends = row["check"] in RATES, [row[name] for name in ("change", "change_low", "change_high")]
    value, low, high = (decimal(end * 100 if rate else end, 2 if row["check"] == "perplexity" else 1) for end in ends)
    return f"{value}{' points' if rate else ''} [{low}, {high}]"
