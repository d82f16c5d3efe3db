"""What a sweep found, as a table on the terminal, as JSON, and as tables and figures in its run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from resect.files import write_text
from resect.jobs.sweeps import SweepFound
from resect.report.style import save_figure
from resect.report.tables import plain, plain_rows
from resect.runs.folder import write_parquet
from resect.sweep.drawing import BY_BLOCK, draw_classes, draw_flips
from resect.sweep.result import LesionResult

_SHOWN = 60
_CLASSES_SHOWN = 50  # in one heat map
_PERCENT = ("error", "damage", "agreement", "vote_error", "member_error", "independent_error", "disagreement")


def main_table(found: SweepFound) -> pd.DataFrame:
    """The table that answers what the plan asks: lesions, Shapley values or ensembles."""
    if found.ensemble:
        return found.ensemble.table
    if found.shapley:
        return found.shapley.table
    assert found.lesions is not None
    return found.lesions.table


def summary(found: SweepFound) -> str:
    """One sentence."""
    if found.ensemble:
        return found.ensemble.summary()
    assert found.lesions is not None
    if found.shapley:
        return found.shapley.summary()
    return found.lesions.summary()


def print_sweep(found: SweepFound, console: Console) -> None:
    """The table, its first rows if it is long, and the summary."""
    rows = main_table(found)
    columns = [str(name) for name in rows.columns if not str(name).endswith(("_low", "_high"))]
    columns = [name for name in columns if name not in ("name", "samples") or rows[name].nunique() > 1]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name == "name" else "right", overflow="fold")
    for row in rows.head(_SHOWN).to_dict(orient="records"):
        table.add_row(*(_cell(name, row) for name in columns))
    console.print(table)
    if len(rows) > _SHOWN:
        console.print(f"{len(rows) - _SHOWN} more rows; --format json or --out DIR gives all.")
    console.print(f"{summary(found)} In brackets: 95 % intervals.", highlight=False, soft_wrap=True)
    facts = found.facts
    layout = "channels last" if facts["channels_last"] else "contiguous"
    console.print(
        f"Batches of {facts['batch_size']}, {layout}{', compiled' if facts['compile'] else ''}; {facts['slices_run']} "
        f"slices a batch, at most {facts['states_kept']} states kept.",
        highlight=False,
        soft_wrap=True,
    )


def _cell(name: str, row: dict[Any, Any]) -> str:
    """A value, with its interval where the table has one."""
    value = row[name]
    if not isinstance(value, float):
        return str(value)
    text = _number(name, value)
    if f"{name}_low" in row:
        text += f" [{_number(name, row[f'{name}_low'])}, {_number(name, row[f'{name}_high'])}]"
    return text


def _number(name: str, value: float) -> str:
    if name.startswith(_PERCENT):
        return f"{value * 100:.1f}"
    return f"{value:.1e}" if name == "p_value" and value < 0.001 else f"{value:.3f}"


def sweep_numbers(found: SweepFound) -> str:
    """Everything but the per-sample outcomes, as JSON."""
    numbers: dict[str, Any] = {"summary": summary(found), **found.facts}
    if found.lesions:
        result = found.lesions
        numbers |= {"plan": result.plan.name, "samples": result.samples}
        numbers |= {f"intact_{name}": result.intact_mean(name) for name in result.values}
    else:
        assert found.ensemble is not None
        numbers |= {"plan": "ensemble", "removed": found.ensemble.removed, "samples": len(found.ensemble.intact_error)}
        numbers |= {"intact_error": float(found.ensemble.intact_error.mean())}
    if found.shapley:
        numbers["total"] = dict(found.shapley.total)
    rows = "ensembles" if found.ensemble else "blocks" if found.shapley else "lesions"
    numbers[rows] = plain_rows(main_table(found))
    if found.lesions and found.lesions.plan.name == "pairs":
        numbers["interaction"] = [[plain(v) for v in row] for row in _interaction(found.lesions).to_numpy()]
    return json.dumps(numbers, indent=2)


def _interaction(result: LesionResult) -> pd.DataFrame:
    return result.interaction("loss" if "loss" in result.values else next(iter(result.values)))


def write_sweep(found: SweepFound, folder: Path) -> None:
    """Write results.parquet, summary.json, the tables of the plan and figures/*.png into a run folder."""
    write_parquet(folder / "results.parquet", main_table(found))
    write_parquet(folder / "trials.parquet", found.trials)
    write_text(folder / "environment.json", json.dumps(found.facts["environment"], indent=2) + "\n")
    write_text(folder / "summary.json", sweep_numbers(found) + "\n")
    for name, draw in _figures(found):
        save_figure(partial(_on_a_figure, draw), folder / "figures" / f"{name}.png")
    if found.lesions and found.lesions.plan.name == "pairs":
        matrix = _interaction(found.lesions)
        write_parquet(folder / "interaction.parquet", matrix.rename(columns=str))
    if found.lesions and found.lesions.targets is not None and "error" in found.lesions.values and not found.shapley:
        flips = [found.lesions.flips(i).assign(lesion=i) for i in range(len(found.lesions.plan))]
        write_parquet(folder / "flips.parquet", pd.concat(flips, ignore_index=True))


def _on_a_figure(draw: Callable[[Axes | None], Axes]) -> Figure:
    figure = draw(None).figure
    assert isinstance(figure, Figure)
    return figure


def _figures(found: SweepFound) -> list[tuple[str, Any]]:
    """(name, function of axes) of every figure that suits the plan."""
    if found.ensemble:
        return [("ensemble", found.ensemble.plot)]
    if found.shapley:
        return [("shapley", found.shapley.plot)]
    result = found.lesions
    assert result is not None
    drawn: list[tuple[str, Any]] = [(result.plan.name, result.plot)] if "error" in result.values else []
    if result.targets is None or "error" not in result.values or result.plan.name not in BY_BLOCK:
        return drawn

    def flips(ax: Axes | None) -> Axes:
        return draw_flips(result, ax)

    def classes(ax: Axes | None) -> Axes:
        return draw_classes(result, ax)

    drawn.append(("flips", flips))
    if result.by_class().shape[1] <= _CLASSES_SHOWN:
        drawn.append(("classes", classes))
    return drawn
