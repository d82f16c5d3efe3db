"""The network as a strip of blocks: what they are, which can trade places, and what each is worth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from resect.errors import InputError
from resect.figures.colours import GREY, INK, ORANGE
from resect.figures.style import SMALL, Entry, axes_or_new, figure_of, head
from resect.words import count

SMALLEST_LOSS = 1e-3  # nats; a loss that grows by less is drawn as not growing
_PER_ROW = 64
_FEWEST = 14  # a row is this many blocks wide at least, so that one block does not fill the page
_ROW_HEIGHT = 3.1  # in block widths: the block, its index, the bracket of its span
_NEGLIGIBLE = "#f4f5f6"
_GATED = {"gated": "□ gated", "hyper": "□ hyper-connection"}  # kinds whose skip multiplies the signal, in the key


def strip(blocks: pd.DataFrame, deletions: pd.DataFrame, intact_loss: float, ax: Axes | None = None) -> Axes:
    """Blocks in order, coloured by how much the loss grows without each; kinds marked, spans bracketed.

    The colour is the loss and not the error, because on few samples most single deletions change no prediction.

    Args:
        blocks: one row a block: `block`, `kind`, `span`, `downsampling`.
        deletions: one row a block: `block`, and the `loss` without it, in nats.
    """
    table = blocks.merge(deletions[["block", "loss"]], on="block")
    growth = table["loss"].fillna(float("inf")) - intact_loss
    shades = _shades(growth[growth < float("inf")])
    colours = [shades.to_rgba(np.asarray(min(g, 1e9))) if g >= SMALLEST_LOSS else _NEGLIGIBLE for g in growth]
    ax = _blocks(table, colours, ax)
    _frame(ax, table, [("□ less than 0.001 nats", GREY)])
    _bar(ax, shades, "growth of\nloss (nats)")
    return ax


def by_size(blocks: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Blocks in order, coloured by their parameters; kinds marked, spans bracketed.

    Args:
        blocks: as of `strip`, with `parameters`.
    """
    if not len(blocks):
        raise InputError("`blocks` must hold at least one block to be drawn, got none.")
    sizes = blocks["parameters"].clip(lower=1)
    least, most = int(sizes.min()), int(max(sizes.max(), sizes.min() * 10))
    shades = ScalarMappable(LogNorm(least, most), "viridis_r")
    ax = _blocks(blocks, [shades.to_rgba(size) for size in sizes], ax)
    _frame(ax, blocks, [])
    bar = _bar(ax, shades, "parameters")
    bar.minorticks_off()
    bar.set_ticks([least, most], labels=[count(least), count(most)])
    return ax


def _blocks(table: pd.DataFrame, colours: Sequence[Any], ax: Axes | None) -> Axes:
    """Every block as a square of its colour, in rows; kinds marked, spans bracketed."""
    per_row = _per_row(table)
    ax = axes_or_new(ax, height=height(len(table)))
    for position, (row, colour) in enumerate(zip(table.to_dict("records"), colours, strict=True)):
        x, y = position % per_row, -_ROW_HEIGHT * (position // per_row)
        projects, gated = row["kind"] == "projection" or row["downsampling"], row["kind"] in _GATED
        frame = ORANGE if projects else INK if gated else "#c3c7cc"
        width = 2.0 if projects else 1.4 if gated else 0.5
        ax.add_patch(Rectangle((x + 0.1, y), 0.8, 1, facecolor=colour, edgecolor=frame, linewidth=width))
        if row["downsampling"]:
            ax.plot(x + 0.5, y + 1.28, "v", color=ORANGE, markersize=5)
        if per_row <= 25 or position % 5 == 0:
            ax.text(x + 0.5, y - 0.12, str(row["block"]), ha="center", va="top", fontsize=7.5)
    for start in range(0, len(table), per_row):
        _brackets(ax, table.iloc[start : start + per_row], -_ROW_HEIGHT * (start // per_row))
    return ax


def height(blocks: int) -> float:
    """The height in inches at which the rows of so many blocks stand clear of each other."""
    return 0.85 + 0.72 * _rows(blocks)


def _rows(blocks: int) -> int:
    return -(-blocks // _PER_ROW)


def _per_row(table: pd.DataFrame) -> int:
    return -(-len(table) // _rows(len(table)))


def _shades(growth: pd.Series) -> ScalarMappable:
    """Colours by the growth of the loss, on a logarithmic scale of at least a factor of ten."""
    largest = float(growth.max()) if len(growth) else 0.0
    return ScalarMappable(LogNorm(SMALLEST_LOSS, max(largest, SMALLEST_LOSS * 10), clip=True), "viridis_r")


def _brackets(ax: Axes, part: pd.DataFrame, y: float) -> None:
    """A bracket below every run of blocks of one span, with its number."""
    place = 0
    for span, run in groupby(part["span"]):
        count = len(list(run))
        left, right, level = place + 0.12, place + count - 0.12, y - 0.72
        ax.plot([left, left, right, right], [level + 0.12, level, level, level + 0.12], color=GREY, linewidth=0.9)
        label = f"span {span}" if count >= 4 or len(part) <= _FEWEST else str(span)
        ax.text((left + right) / 2, level - 0.1, label, ha="center", va="top", fontsize=7.5, color=GREY)
        place += count


def _frame(ax: Axes, table: pd.DataFrame, entries: list[Entry]) -> None:
    """Limits, and the key of the marks that occur, before other entries."""
    ax.set_xlim(-0.1, max(_per_row(table), _FEWEST) + 0.1)
    ax.set_ylim(-_ROW_HEIGHT * (_rows(len(table)) - 1) - 1.4, 1.55)
    ax.axis("off")
    if (table["kind"] == "projection").any() or table["downsampling"].any():
        entries.insert(0, ("□ projection skip", ORANGE))
    if table["downsampling"].any():
        entries.insert(0, ("▼ downsampling", ORANGE))
    entries[:0] = [(name, INK) for kind, name in _GATED.items() if (table["kind"] == kind).any()]
    head(ax, "", entries)


def _bar(ax: Axes, shades: ScalarMappable, label: str) -> Colorbar:
    """The key of the colours."""
    bar = figure_of(ax).colorbar(shades, ax=ax, location="right", fraction=0.025, pad=0.01, aspect=9)
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.ax.grid(visible=False)
    bar.outline.set_visible(False)
    return bar
