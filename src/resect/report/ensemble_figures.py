"""Figures of multiplicity: the implicit ensembles of several networks side by side."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from resect.jobs.results import Study
from resect.report.style import BLUE, GREY, PALE_GREY, SMALL, axes_or_new, key, name_panel, shortened
from resect.report.words import count, percent


def multiplicity_figure(study: Study, ax: Axes | None = None) -> Axes:
    """All paths and the effective number of paths of each network, as powers of two."""
    rows = study.answers.multiplicity
    ax = axes_or_new(ax, height=multiplicity_height(study))
    places = np.arange(len(rows))[::-1]
    ax.barh(places + 0.19, [row.log2_paths for row in rows], height=0.34, color=PALE_GREY)
    ax.barh(places - 0.19, [row.log2_effective_paths for row in rows], height=0.34, color=BLUE)
    for place, row in zip(places, rows, strict=True):
        for level, value in ((place + 0.19, row.log2_paths), (place - 0.19, row.log2_effective_paths)):
            _value(ax, value, level, f"{value:.1f}".removesuffix(".0"))
    ax.set_yticks(places, [f"{shortened(row.model, 30)}\n{_size(row.blocks, row.parameters)}" for row in rows])
    ax.set_xlabel("number of paths (power of two)")
    name_panel(ax, "paths")
    key(ax, [("■ all", GREY), ("■ effective", BLUE)])
    _bare(ax, max(row.log2_paths for row in rows), len(rows))
    return ax


def intact_errors_figure(study: Study, ax: Axes | None = None) -> Axes:
    """The error of each intact network, in the same order."""
    rows = study.answers.multiplicity
    ax = axes_or_new(ax, height=multiplicity_height(study))
    places = np.arange(len(rows))[::-1]
    ax.barh(places, [row.error * 100 for row in rows], height=0.5, color="#a9aeb5")
    for place, row in zip(places, rows, strict=True):
        _value(ax, row.error * 100, place, percent(row.error))
    ax.set_yticks(places, [""] * len(rows))
    ax.set_xlabel("error (%)")
    name_panel(ax, "error, intact")
    _bare(ax, max(row.error for row in rows) * 100, len(rows))
    return ax


def multiplicity_height(study: Study) -> float:
    """The height in inches at which the networks stand clear of each other."""
    return 1.4 + 0.6 * len(study.answers.multiplicity)


def _size(blocks: int, parameters: int) -> str:
    return f"{blocks} block{'' if blocks == 1 else 's'}, {count(parameters)} parameters"


def _value(ax: Axes, value: float, place: float, label: str) -> None:
    ax.annotate(label, (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=SMALL)


def _bare(ax: Axes, largest: float, networks: int) -> None:
    ax.set_xlim(0, max(largest, 1e-9) * 1.18)
    ax.set_ylim(-0.6, networks - 0.4)  # the same in both panels, so that their rows are level
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
