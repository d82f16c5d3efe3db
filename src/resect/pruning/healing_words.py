"""What healing gave back, in words: known without torch, as reports are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from resect.measuring.meaning import Meaning
from resect.words import decimal, plural


def headings(meaning: Meaning) -> list[str]:
    """Of the columns of `rows`."""
    change = f"change{meaning.points}"
    return ["candidate", "rank", "cut", change, "healed", change]


def rows(table: pd.DataFrame, meaning: Meaning) -> list[list[str]]:
    """One row a candidate: its ranks where it was chosen, and cut and healed the error where it was judged, each with
    its change from the intact network."""
    return [
        [
            f"{place + 1}{', chosen' if row['chosen'] else ''}",
            f"{row['rank_before']} → {row['rank_after']}",
            *(
                said
                for name in ("cut", "healed")
                for said in (meaning.value(row[name]), _change(row, f"{name}_change", meaning))
            ),
        ]
        for place, row in enumerate(table.to_dict("records"))
    ]


def sentence(found: Mapping[str, Any], meaning: Meaning) -> str:
    """How it was healed, what is left of the harm, and whether the order turned."""
    if found["refit"] and found["strength"] is None and not found["epochs"] and not found["recalibrate"]:
        return (
            "Not healed: on samples that were held back no fit to the intact network was better than none, so that the "
            "network stays as it was cut."
        )
    said = (
        f"{_how(found)}, the {meaning.name} is {meaning.value(found['healed'])} instead of "
        f"{meaning.value(found['cut'])}, a change of {_change(found, 'gain', meaning, meaning.points)}, on "
        f"{plural(found['samples'], 'sample')} that neither trained nor chose; from the intact network's "
        f"{meaning.value(found['intact'])} it is {_change(found, 'healed_change', meaning, meaning.points)} away."
    )
    if found["candidates"] == 1:
        return said
    turned = (
        f"the one of rank {found['rank_before']} before is the best after: healing turned their order"
        if found["turned"]
        else "the best before is the best after"
    )
    return f"{said} Of {found['candidates']} candidates {turned}."


def _how(found: Mapping[str, Any]) -> str:
    """What was done."""
    parts = []
    if found["refit"] and found["strength"] is None:
        parts.append("a fit to the intact network did no good and was left out")
    elif found["refit"]:
        parts.append(f"fitted to the intact network by least squares, ridge {found['strength']:g}")
    if found["epochs"]:
        taught = f", with {decimal(found['distill'] * 100, 0)} % of the loss from the intact network's outputs"
        parts.append(
            f"trained for {plural(found['epochs'], 'epoch')} on {plural(found['training_samples'], 'sample')}"
            f"{taught if found['distill'] else ''}"
        )
    if found["recalibrate"]:
        parts.append("batch norms measured again")
    return f"Healed ({'; '.join(parts)})"


def _change(row: Mapping[Any, Any], name: str, meaning: Meaning, unit: str = "") -> str:
    value, low, high = (meaning.change(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{value}{unit} [{low}, {high}]"
