"""What a sweep found, on the terminal and in figures."""

from __future__ import annotations

from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from resect.figures import carriers, ensembles, lesions, samples
from resect.measuring.meaning import Meaning
from resect.report.layout import least_width, print_table
from resect.report.parts import Figures, save_figures, say
from resect.report.together import together
from resect.runs.record import Record
from resect.words import plural

_SHOWN = 60
_ROW = "arrangement (row of the table)"
_HEADINGS = {"disagreement": "disagree"}  # where eight columns of numbers have 80 characters
_CLASSES_SHOWN = 50  # in one heat map
_PERCENT = ("error", "damage", "agreement", "vote_error", "member_error", "independent_error", "disagreement")


def main_table(record: Record) -> pd.DataFrame:
    """The table that answers what the plan asks: lesions, Shapley values or ensembles."""
    return next(record.tables[name] for name in ("ensembles", "shapley", "lesions") if name in record.tables)


def show(record: Record, console: Console) -> None:
    """Print the table, its first rows if it is long, and the summary."""
    rows, meaning = main_table(record), Meaning.of(record.found)
    hidden = ("p_value", "q_bh") if "p_holm" in rows else ()
    columns = [str(c) for c in rows.columns if not str(c).endswith(("_low", "_high")) and c not in hidden]
    columns = [name for name in columns if name not in ("name", "samples") or rows[name].nunique() > 1]
    called = {**_HEADINGS, "error": meaning.error}
    headings, names = [called.get(name, name.replace("_", " ")) for name in columns], {"name"} & set(columns)
    shown, bracketed, bare = rows.head(_SHOWN).to_dict(orient="records"), _bracketed(columns, rows), []
    cells = [[_cell(name, row, bracketed, meaning) for name in columns] for row in shown]
    while bracketed and least_width(headings, cells, names) > console.width:
        bare.append(bracketed.pop().replace("_", " "))
        cells = [[_cell(name, row, bracketed, meaning) for name in columns] for row in shown]
    print_table(console, headings, cells, names=names)
    if bare:
        say(console, f"There is no room for the intervals of: {', '.join(bare)}. --format json and --out DIR have all.")
    if len(rows) > _SHOWN:
        say(console, f"{plural(len(rows) - _SHOWN, 'more row')}; --format json or --out DIR gives all.")
    say(console, *sentences(record))


def sentences(record: Record) -> list[str]:
    """What was found, and how it was run."""
    ran, summary = record.found["ran"], record.found["summary"]
    intervals = main_table(record).filter(regex="_low$").notna().any(axis=None)
    said = [f"{summary} In brackets: 95 % intervals." if intervals else summary]
    if "together" in record.found:
        said.append(together(record.found["together"], main_table(record)["name"].tolist()))
    if "saturated" in record.tables:
        both = record.tables["saturated"].to_numpy(bool)
        if count := int(both.sum()) // 2:
            whole = plural(len(both) * (len(both) - 1) // 2, "pair")
            said.append(
                f"{count} of {whole} {'are' if count > 1 else 'is'} saturated: each of both blocks alone already "
                "brings the error nearly to chance, so that the interaction says nothing of what they do together."
            )
    memory_format = "channels last" if ran["channels_last"] else "contiguous"
    compiled, slices, states = ", compiled" * ran["compile"], ran["slices_run"], ran["states_kept"]
    said.append(
        f"Batches of {ran['batch_size']}, {memory_format}{compiled}; {plural(slices, 'slice')} a batch, at most "
        f"{plural(states, 'state')} kept."
    )
    return said


def _bracketed(columns: list[str], rows: pd.DataFrame) -> list[str]:
    """The columns whose intervals the table has, those of the damage first."""
    return sorted((name for name in columns if f"{name}_low" in rows), key=lambda name: name != "damage")


def _cell(name: str, row: dict[Any, Any], bracketed: list[str], meaning: Meaning) -> str:
    """A value, with its interval where there is one and room for it."""
    value = row[name]
    if not isinstance(value, float):
        return str(value)
    text = _number(name, value, meaning)
    if name in bracketed and isfinite(row[f"{name}_low"]):
        text += " [" + ", ".join(_number(name, row[f"{name}{end}"], meaning) for end in ("_low", "_high")) + "]"
    return text


def _number(name: str, value: float, meaning: Meaning) -> str:
    if name.startswith(_PERCENT) and (meaning.rate or not name.startswith(("error", "damage"))):
        return f"{round(value * 100, 1) + 0.0:.1f}"  # not -0.0
    return f"{value:.1e}" if name in ("p_value", "p_holm") and value < 0.001 else f"{value:.3f}"


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png."""
    return save_figures(_figures(record), folder)


def _figures(record: Record) -> Figures:
    """Every figure that suits the plan."""
    tables, table, intact = record.tables, main_table(record), record.found["intact"]
    meaning = Meaning.of(record.found)
    measure = lesions.Measure(meaning.name, meaning.rate)
    if "ensembles" in tables:
        return {"ensemble": partial(ensembles.ensemble, table, record.found["removed"], intact["error"])}
    if "shapley" in tables:
        metric = next(iter(intact))
        return {"shapley": partial(carriers.shapley, table, metric, unit=meaning.unit(metric))}
    plan, figures = record.found["plan"], {}
    if "interaction" in tables:
        metric = "loss" if "loss" in intact else next(iter(intact))
        figures[plan] = partial(lesions.interaction, tables["interaction"], metric, tables.get("saturated"))
    elif plan == "explicit" and "without" in record.tables["lesions"] and "error" in intact:
        title = f"deleted together: {record.tables['lesions']['without'][0]}"
        figures[plan] = partial(lesions.deletions, table, intact["error"], title=title, label=_ROW, measure=measure)
    elif "error" in intact:
        figures[plan] = partial(lesions.by_plan, plan, table, intact["error"], measure=measure)
    if plan in lesions.BY_BLOCK and "flips" in tables:
        figures["flips"] = partial(samples.flips, table, tables["flips"])
        classes = tables["classes"].drop(columns="lesion") if "classes" in tables else None  # queries have none
        if classes is not None and classes.shape[1] <= _CLASSES_SHOWN:
            figures["classes"] = partial(samples.classes, classes, table["block"].tolist())
    return figures
