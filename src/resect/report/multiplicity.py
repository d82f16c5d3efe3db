"""An experiment on multiplicity: on the terminal, and as a page."""

from __future__ import annotations

import base64
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from resect.figures import multiplicity as figures
from resect.files import write_text
from resect.report.layout import Row, print_table
from resect.report.parts import Figures, save_figures, say
from resect.report.study.page import templates
from resect.runs.record import Record
from resect.words import count, decimal, duration, pair, part, plural

_ABOUT = {
    "errors": "Test errors of all trainings. Intervals are over seeds and test images.",
    "differences": "The error of the arm with fewer paths minus that of the arm with more, paired by seed and image.",
}
_TITLES = {"errors": "Test errors by arm", "differences": "What fewer paths do"}
_MEASURES = {
    "effective_depth": "length by share",
    "log2_effective_paths": "bits by share",
    "energy_depth": "length by energy",
    "log2_energy_paths": "bits by energy",
    "training_loss": "(training loss)",
}
_NAMES = {"log2 blocks": "log₂ blocks", "log2 width": "log₂ (towers × hidden)", "bits per block": "log₂ paths / blocks"}


def show(record: Record, console: Console) -> None:
    """Print the answer, the design with its errors, contrasts and slopes."""
    say(console, done(record), "")
    for title, headings, rows in tables(record):
        print_table(console, headings, rows, names=headings[:1], title=title)
    say(console, record.found["summary"])


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png and report.html."""
    place = save_figures(_figures(record), folder)
    shown = [
        {
            "name": name,
            "title": _TITLES[name],
            "source": "data:image/png;base64," + base64.b64encode((place / f"{name}.png").read_bytes()).decode(),
            "what": "",
            "meaning": _ABOUT[name],
        }
        for name in _figures(record)
    ]
    page = folder / "report.html"
    plan = record.found["plan"]
    idle = "learning_rate" if "learning_rates" in plan else ""  # no arm has the recipe's
    recipe = {name: value for name, value in plan["recipe"].items() if name != idle}
    template = templates().get_template("multiplicity.html")
    values = {"record": record, "plan": plan, "recipe": recipe, "done": done(record), "tables": tables(record)}
    write_text(page, template.render(**values, figures=shown, took=_took(record)))
    return page


def done(record: Record) -> str:
    """How much of the experiment is over."""
    found = record.found
    seeds = f"{len(found['seeds'])} of {len(found['plan']['seeds'])} seeds in all arms"
    return (
        f"{found['trained']} of {plural(found['planned'], 'training')} are over, {seeds}, tested on "
        f"{plural(found['samples'], 'image')} of {found['data']}."
    )


def tables(record: Record) -> list[tuple[str, Row, list[Row]]]:
    """Title, headings and rows of every table that has any."""
    bound, every = record.found["plan"]["bound"], record.tables
    designs = ("arm", "blocks", "towers", "merge", "hidden", "bits", "parameters", "norms", "operations")
    births = ("arm", "path length at birth", "without zeroed branches")
    pilot = ("arm", "learning rate", "held-out loss", "held-out error", "training loss", "")
    errors = ("arm", "test error", "95 %", "training loss", "training error")
    contrasts = (
        "fewer paths − more",
        "points",
        "95 %",
        "error, seeds alone",
        "p (Holm)",
        f"p beyond {bound:g}",
        "verdict",
    )
    slopes = ("of logit(error)", "slope", "95 %")
    mediation = ("fewer paths − more", "of the gradient", "fewer", "more", "difference", "95 %", "carries", "95 %")
    found = [
        (
            "Design: what the arms share, and the number of paths in bits, each tower a branch of its own",
            designs,
            _rows(every["design"], _design),
        ),
        ("At birth: mean length of the paths by energy, in blocks", births, _rows(every["design"], _birth)),
        ("Learning rates, by the loss on held-out training images", pilot, _pilot(record)),
        ("Errors", errors, _rows(every["design"], _error)),
        ("Contrasts, the primary one first", contrasts, _rows(every["contrasts"], _contrast)),
        ("Slopes over the arms", slopes, _rows(every["slopes"], _slope)),
        (
            "Exploratory, from 3 seeds on: paths and training losses, and the points of error that go with them",
            mediation,
            _rows(every.get("mediation", pd.DataFrame()), _mediation),
        ),
    ]
    return [(title, headings, rows) for title, headings, rows in found if rows]


def _rows(table: pd.DataFrame, cells: Any) -> list[Row]:
    return [cells(row) for row in table.to_dict("records")]


def _design(row: dict[str, Any]) -> Row:
    sizes = [str(row[name]) for name in ("blocks", "towers", "merge", "hidden")]
    size = count(int(row["parameters"]))
    return (row["arm"], *sizes, decimal(row["log2_paths"], 1), size, str(row["norms"]), count(int(row["operations"])))


def _birth(row: dict[str, Any]) -> Row:
    return row["arm"], decimal(row["length_at_birth"]), decimal(row["length_without_start"])


def _pilot(record: Record) -> list[Row]:
    """The means over seeds of every arm and rate, and which is the arm's."""
    table, chosen = record.tables.get("pilot", pd.DataFrame()), record.found.get("learning_rates") or {}
    if not len(table):
        return []
    rows: list[Row] = []
    for (arm, rate), own in table.groupby(["arm", "learning_rate"]):
        means = own[["loss", "error", "training_loss"]].mean(skipna=False)
        known = (decimal(means["loss"], 3), part(means["error"], 2), decimal(means["training_loss"], 3))
        told = known if pd.notna(means["loss"]) else ("diverged", "", "")
        rows.append((str(arm), f"{rate:g}", *told, "chosen" if chosen.get(str(arm)) == rate else ""))
    return rows


def _error(row: dict[str, Any]) -> Row:
    ends = _ends(row["error_low"], row["error_high"])
    fit = decimal(row["training_loss"], 3), part(row.get("training_error", nan), 2)  # a record may be of before
    return row["arm"], part(row["error"], 2), ends, *fit


def _contrast(row: dict[str, Any]) -> Row:
    name, ends = pair(row["fewer"], row["more"]), _ends(row["low"], row["high"])
    errors = f"{_points(row['standard_error'])}, {_points(row['seed_error'])}"
    p_values = [decimal(row[name], 3) for name in ("p_holm", "p_equivalent_holm")]
    return name, _points(row["difference"]), ends, errors, *p_values, row["verdict"]


def _slope(row: dict[str, Any]) -> Row:
    value = "not identified" if pd.isna(row["value"]) else decimal(row["value"], 3)
    known = pd.notna(row["low"])
    return _NAMES[row["name"]], value, f"{decimal(row['low'], 3)} to {decimal(row['high'], 3)}" if known else ""


def _mediation(row: dict[str, Any]) -> Row:
    means = decimal(row["mean_fewer"]), decimal(row["mean_more"])
    apart = ("", "")
    if pd.notna(row["difference"]):
        apart = decimal(row["difference"]), f"{decimal(row['difference_low'])} to {decimal(row['difference_high'])}"
    known = pd.notna(row["carried"])
    carried = (_points(row["carried"]), _ends(row["carried_low"], row["carried_high"])) if known else ("", "")
    return (
        pair(row["fewer"], row["more"]),
        _MEASURES[row["measure"]],
        *means,
        *apart,
        *carried,
    )


def _points(value: float) -> str:
    return decimal(value * 100)


def _ends(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{_points(low)} to {_points(high)}"


def _took(record: Record) -> str:
    trainings = record.tables["trainings"]
    if not len(trainings):
        return "No training is over."
    each = duration(float(trainings["seconds"].median()))
    return f"A training took {each} in the median."


def _figures(record: Record) -> Figures:
    tables, bound = record.tables, record.found["plan"]["bound"]
    drawn: dict[str, Any] = {}
    if len(tables["trainings"]):
        drawn["errors"] = partial(figures.errors, tables["design"], tables["trainings"])
    if len(tables["contrasts"]):
        drawn["differences"] = partial(figures.differences, tables["contrasts"], bound)
    return drawn
