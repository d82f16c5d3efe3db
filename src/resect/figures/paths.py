"""The unravelled view: paths, shares of the gradient and norms, by path length (paper, Figure 6).

`lengths` has one row a path length: `length` (blocks), and of `layers`, `log2_paths`, `path_fraction`, `share`, `norm`,
`magnitude`, `magnitude_rms`, `path_norm`, `path_norm_rms` and their `..._low` and `..._high` what the figure draws.
`ranges` are the effective ranges by "share" and by "magnitude" (count x mean norm of sampled paths), of those that are
known; `mass` is what they hold, as a part of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from resect.figures import by_length
from resect.figures.colours import BAR_GREY, BLUE, DIM_BLUE, FRAME, GREEN, GREY, INK, ORANGE
from resect.figures.marks import whole_numbers
from resect.figures.style import Entry, Panel, axes_or_new, head
from resect.words import percent, span, superscript

if TYPE_CHECKING:
    from resect.paths.measures import Effective

Ranges = Mapping[str, "Effective"]

_MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "magnitude_rms": ("- - count × rms", {"color": GREEN, "linestyle": (0, (4, 2)), "linewidth": 1.3}),
    "magnitude": ("■ count × norm", {"color": ORANGE, "marker": "s", "markersize": 3.5}),
    "share": ("● exact", {"color": BLUE, "marker": "o", "markersize": 4, "linewidth": 1.8}),
    "path_norm_rms": ("- - one path, rms", {"color": GREEN, "linestyle": (0, (4, 2)), "linewidth": 1.3}),
    "path_norm": ("■ one path, mean", {"color": ORANGE, "marker": "s", "markersize": 3.5}),
    "norm": ("● all paths", {"color": BLUE, "marker": "o", "markersize": 4}),
}  # every curve with its name in the key, in the order of drawing
_SHARES = ("magnitude_rms", "magnitude", "share")
_NORMS = ("path_norm_rms", "path_norm", "norm")
HEIGHTS = {"counts": 3.6, "shares": 4.2, "norms": 3.6}  # inches, of the figures of two panels


def linear_and_log(
    lengths: pd.DataFrame, ranges: Ranges, mass: float, norm: str = "norm of the gradient"
) -> dict[str, list[Panel]]:
    """The paper's three figures by their names, each of two panels that stand beside each other; `norm` is a label."""
    asked = (lengths, ranges, mass)
    return {
        "counts": [partial(counts, *asked), partial(counts_log, *asked)],
        "shares": [partial(shares, *asked), partial(shares_log, *asked)],
        "norms": [partial(norms, lengths), partial(norms_log, lengths, norm)],
    }


def counts(lengths: pd.DataFrame, ranges: Ranges, mass: float = 0.95, ax: Axes | None = None) -> Axes:
    """Which part of all paths each length has, linear, with the effective ranges."""
    ax, table = axes_or_new(ax), by_length.with_paths(lengths)
    ax.bar(table["length"], table["path_fraction"] * 100, color=BAR_GREY, width=0.8)
    ax.set(ylabel="paths of this length (% of all)", ylim=(0, float(table["path_fraction"].max()) * 100 * 1.4))
    _finish(ax, table, ranges, mass)
    head(ax, "linear", _range_key(ranges, mass))
    return ax


def counts_log(lengths: pd.DataFrame, ranges: Ranges, mass: float = 0.95, ax: Axes | None = None) -> Axes:
    """How many paths have each length, as a power of ten, with the effective ranges."""
    ax, table = axes_or_new(ax), by_length.with_paths(lengths)
    exponents = table["log2_paths"] * np.log10(2)
    ax.plot(table["length"], exponents, color=INK, marker=".", markersize=4)
    top = max(1.0, float(exponents.max())) * 1.4
    ax.set(ylabel="number of paths", ylim=(-0.03 * top, top))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"10{superscript(round(value))}"))
    _finish(ax, table, ranges, mass)
    head(ax, "log", _range_key(ranges, mass))
    return ax


def shares(lengths: pd.DataFrame, ranges: Ranges, mass: float = 0.95, ax: Axes | None = None) -> Axes:
    """Share of the gradient by path length: exact, and by the paper's count x magnitude; linear."""
    ax, table = axes_or_new(ax, height=4.2), by_length.with_paths(lengths)
    drawn = [name for name in _SHARES if name in table]
    measured = [name for name in drawn if name != "magnitude_rms"]
    shown = table[table[drawn].notna().any(axis=1)]
    seen = shown["length"][(shown[measured].abs() > by_length.VISIBLE).any(axis=1)]
    if len(seen):
        shown = shown[shown["length"] <= seen.max() + 2]
    entries, limits = _key(drawn), shown[drawn]
    if by_length.has_interval(shown, "share"):
        by_length.band(ax, shown["length"], shown["share_low"] * 100, shown["share_high"] * 100, BLUE)
        entries.append(("■ 95 % interval", DIM_BLUE))
        limits = limits.join(shown[["share_low", "share_high"]])
    if table["share"].isna().any():
        entries.append((f"longer lengths together {percent(1 - float(table['share'].sum()))}", GREY))
    for name in drawn:
        ax.plot(shown["length"], shown[name] * 100, **_MARKS[name][1])
    ax.axhline(0, color=INK, linewidth=0.8)
    low, high = min(0.0, float(limits.min().min()) * 100), float(limits.max().max()) * 100
    room = high - low
    ax.set(ylabel="share of the gradient (%)", ylim=(low - room * 0.05, high + room * 0.35))
    _finish(ax, shown, ranges, mass)
    head(ax, "linear", entries, above=_layers_axis(ax, table))
    return ax


def shares_log(lengths: pd.DataFrame, ranges: Ranges, mass: float = 0.95, ax: Axes | None = None) -> Axes:
    """The same on a logarithmic axis; hollow markers are negative shares, drawn at their size without sign."""
    ax, table = axes_or_new(ax, height=4.2), by_length.with_paths(lengths)
    drawn = [name for name in _SHARES if name in table]
    measured = [name for name in drawn if name != "magnitude_rms"]
    ax.set_yscale("log")
    deep = table[(table[measured].abs() > by_length.DEEPEST).any(axis=1)]
    for name in drawn[:-1]:
        ax.plot(deep["length"], deep[name].where(deep[name] > 0) * 100, **_MARKS[name][1])
    by_length.signed_curve(ax, deep["length"], deep["share"] * 100, BLUE)
    sizes = deep[measured].abs()
    lowest = max(float(sizes.where(sizes > 0).min().min()), by_length.DEEPEST) * 100
    ax.set_ylim(lowest / 3, 100 * (100 / lowest) ** 0.3 * 3)  # with room above for the brackets
    by_length.percent_ticks(ax, lowest / 3, 100)
    _finish(ax, deep, ranges, mass)
    ax.set_ylabel("share of the gradient (%), without sign")
    entries = _key(drawn) + [("○ negative", BLUE)] * bool((deep["share"] < 0).any())
    head(ax, "log", entries, above=_layers_axis(ax, table))
    return ax


def norms(lengths: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Norm of the gradient by path length, linear; each curve as a part of its own largest value."""
    ax, table = axes_or_new(ax), by_length.with_paths(lengths)
    drawn = [name for name in ("path_norm", "norm") if name in table]
    parts = table[drawn] / table[drawn].max()
    shown = table["length"] <= int(table["length"][(parts > 0.01).any(axis=1)].max()) + 2
    for name in drawn:
        ax.plot(table["length"][shown], parts[name][shown] * 100, **_MARKS[name][1])
    ax.set(xlabel="path length (blocks)", ylabel="norm (% of the curve's largest)", ylim=(0, 105))
    whole_numbers(ax)
    head(ax, "linear", _key(drawn))
    return ax


def norms_log(lengths: pd.DataFrame, label: str = "norm of the gradient", ax: Axes | None = None) -> Axes:
    """Norm of the gradient by path length, logarithmic, in the gradient's own unit; `label` is of the y axis."""
    ax, table = axes_or_new(ax), by_length.with_paths(lengths)
    drawn = [name for name in _NORMS if name in table]
    values, entries = table[drawn].where(table[drawn] > 0), _key(drawn)
    ax.set_yscale("log")
    for name in drawn:
        if "norm" not in drawn and by_length.has_interval(table, name):  # beside `norm` it could hardly be seen
            low, high = table[f"{name}_low"].clip(lower=by_length.BELOW), table[f"{name}_high"]
            ax.vlines(table["length"], low, high, color=_MARKS[name][1]["color"], alpha=0.3, linewidth=3)
            entries.append(("▌95 % interval", GREY))
        ax.plot(table["length"], values[name], **_MARKS[name][1])
    if values.notna().any(axis=None):
        lowest, highest = float(values.min().min()), float(values.max().max())
        room = 3 * (highest / lowest) ** 0.03
        ax.set_ylim(lowest / room, highest * room)  # intervals may reach down to 0
    ax.set(xlabel="path length (blocks)", ylabel=label)
    whole_numbers(ax)
    head(ax, "log", entries)
    return ax


def _key(drawn: list[str]) -> list[Entry]:
    """What the curves mean, the last drawn first."""
    return [(_MARKS[name][0], _MARKS[name][1]["color"]) for name in reversed(drawn)]


def _finish(ax: Axes, table: pd.DataFrame, ranges: Ranges, mass: float) -> None:
    """The x axis, and the effective ranges of both measures as brackets in the free room at the top."""
    last = max([float(table["length"].max()), *(effective.high for effective in ranges.values())])
    ax.set(xlim=(-0.7, last + 0.7), xlabel="path length (blocks)")
    whole_numbers(ax)
    for name, colour, level in (("share", BLUE, 0.95), ("magnitude", ORANGE, 0.86)):
        if name not in ranges:
            continue
        low, high = ranges[name].low, ranges[name].high
        left, right = low - 0.5, high + 0.5
        ax.plot([left, left, right, right], [level - 0.025, level, level, level - 0.025], color=colour, linewidth=1.6,
                transform=ax.get_xaxis_transform())  # fmt: skip
        by_length.name_range(ax, (left, right), level, f"≥ {100 * mass:g} %: {span(low, high)}", colour)


def _range_key(ranges: Ranges, mass: float) -> list[Entry]:
    words = {"share": (f"≥ {100 * mass:g} % of the exact share", BLUE), "magnitude": ("of count × norm", ORANGE)}
    return [words[name] for name in words if name in ranges]


def _layers_axis(ax: Axes, table: pd.DataFrame) -> float:
    """A second axis on top in weight layers, if the mean path of every length has equally many a block.

    Returns:
        Where a head can stand, in points above the axes.
    """
    some = table[table["length"] > 0] if "layers" in table else table[:0]
    per_block = some["layers"].to_numpy(float) / some["length"].to_numpy(float) if len(some) else np.empty(0)
    if not len(per_block) or per_block[0] <= 0 or np.ptp(per_block) > 1e-6 * per_block[0]:
        return 6
    factor = float(per_block[0])
    top = ax.secondary_xaxis("top", functions=(partial(np.multiply, factor), partial(np.multiply, 1 / factor)))
    last = factor * ax.get_xlim()[1]
    ticks = MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True).tick_values(0, last)
    top.set_xticks([tick for tick in ticks if tick <= last])
    top.set_xlabel("path length (layers)", color=GREY)
    top.tick_params(labelcolor=GREY, color=FRAME)
    top.spines["top"].set_color(FRAME)
    return 38
