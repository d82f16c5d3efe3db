"""What deleting, repeating and reordering blocks does (paper, Figures 3 and 5).

Tables are those of a lesion result: one row a lesion, with its labels, its `error`, and what else a figure says it
needs. `behind` are lesions of the same kind that others made (the paper's authors), drawn behind in grey. Errors are
fractions of 1 and drawn in percent, unless a `Measure` says what they are instead. `intact` is the error of the intact
network, `chance` that of always naming the commonest class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, SymLogNorm

from resect.figures.colours import BAR_GREY, BLUE, GREY, INK, ORANGE, PALE_BLUE
from resect.figures.marks import bar_places, block_axis, block_map, heat_map, reference_line, whole_numbers
from resect.figures.style import axes_or_new, head
from resect.words import percent, power_of_ten, shortened

BY_BLOCK = {
    "single": ("one block deleted", "deleted block (its index)"),
    "skips": ("one skip deleted, its branch kept", "block whose skip is deleted (its index)"),
    "repeated": ("one block run twice", "block that is run twice (its index)"),
    "bypassed": ("one block left out with its skip", "block that is left out (its index)"),
}  # plans with one lesion a block: title, and name of the x axis
SPANS = {
    "windows": "consecutive {unit}s deleted",
    "reversed": "consecutive {unit}s in reversed order",
    "parallel": "consecutive {unit}s side by side",
}  # plans over spans: what is done to one
_BY_ROW = {
    "explicit": "arrangements of blocks",
    "pairs": "two blocks deleted",
    "orders": "blocks deleted one after another",
}  # titles of other plans


@dataclass(frozen=True)
class Measure:
    """What is drawn as the error.

    Attributes:
        name: of it.
        rate: it is a fraction, drawn in percent of 0 to 100; anything else as it is.
    """

    name: str = "error"
    rate: bool = True

    @property
    def factor(self) -> int:
        """What values are multiplied by to be drawn."""
        return 100 if self.rate else 1

    @property
    def label(self) -> str:
        """Of the axis."""
        return f"{self.name} (%)" if self.rate else self.name

    def said(self, value: float) -> str:
        """A value as a label has it."""
        return percent(value) if self.rate else f"{value:.3g}"


ERROR = Measure()
_THEIRS = "the paper's authors"


def with_error(table: pd.DataFrame) -> pd.DataFrame:
    """A table of a task that has a loss alone, with the loss in the place of the error."""
    if "error" in table:
        return table
    ends = {f"loss_change{end}": f"damage{end}" for end in ("", "_low", "_high")}
    return table.rename(columns={"loss": "error", **ends})


def by_plan(plan: str, table: pd.DataFrame, intact: float, ax: Axes | None = None, measure: Measure = ERROR) -> Axes:
    """The figure that suits a plan, by its name; of pairs, `interaction` shows more."""
    if plan == "random":
        return random(table, intact, ax=ax, measure=measure)
    if plan == "random-repeated":
        return random_repeated(table, intact, ax=ax, measure=measure)
    if plan == "shuffled":
        return reorderings(table, intact, ax=ax, measure=measure)
    if plan in SPANS and (plan != "windows" or (table["length"].is_unique and len(table) > 1)):
        return spans(table, plan, ax, measure)
    if plan == "windows":
        return windows(table, ax, measure)
    row = "arrangement" if plan == "explicit" else "lesion"
    title, label = BY_BLOCK.get(plan, (_BY_ROW.get(plan, plan), f"{row} (row of the table)"))
    return deletions(table, intact, title=title, label=label, ax=ax, measure=measure)


def deletions(
    table: pd.DataFrame,
    intact: float,
    chance: float | None = None,
    *,
    title: str = "",
    label: str = BY_BLOCK["single"][1],
    behind: pd.DataFrame | None = None,
    ax: Axes | None = None,
    measure: Measure = ERROR,
) -> Axes:
    """Error of every lesion, on a scale of its own: 0 to what the worst needs.

    Args:
        table: drawn by `block`, if each has one row, else by row; with the 95 % interval of the change where there are
            `damage`, `damage_low` and `damage_high`, and marks where `downsampling` is true.
        label: of the x axis.
    """
    ax = axes_or_new(ax, height=3.9)
    where = bar_places(table)
    _bars(ax, table, where, BLUE, measure=measure)
    ends, factor = _interval(table, measure), measure.factor
    theirs = () if behind is None else behind["error"] * factor
    highest = np.nanmax([intact * factor, *table["error"] * factor, *(ends[1] if ends else ()), *theirs])
    top = _top(float(highest), chance, measure)
    entries = []
    if behind is not None:
        ax.plot(behind["block"], theirs, "o", color=GREY, markersize=3.5, fillstyle="none", markeredgewidth=0.9)
        entries.append((f"○ {_THEIRS}", GREY))
    if ends:
        ax.vlines(where, *ends, color=BAR_GREY, linewidth=1.3)
        entries.append(("| 95 % interval of the change", GREY))
    if "downsampling" in table and table["downsampling"].any():
        marked = table["downsampling"].to_numpy(bool)
        reached = np.fmax(table["error"] * factor, ends[1]) if ends else table["error"] * factor
        ax.plot(where[marked], reached[marked] + top * 0.03, "v", color=ORANGE, markersize=5)
        entries.append(("▼ downsampling", ORANGE))
    if chance is not None and chance * 100 > top:
        entries.append((f"chance, {percent(chance)}, lies above", GREY))
    ax.set(xlabel=label, ylabel=measure.label, ylim=(0, top))
    head(ax, title, entries)
    _reference_errors(ax, intact, chance, top, measure)
    return ax


def control(
    table: pd.DataFrame,
    beside: pd.DataFrame,
    intact: float,
    chance: float | None = None,
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Error without each layer of a plain network, from 0 to 100 %, with another network's range behind.

    Args:
        table: as of `deletions`, of the plain network.
        beside: that of the other network, which stands at the left.
    """
    ax = axes_or_new(ax, height=3.9)
    low, high = float(beside["error"].min()) * 100, float(beside["error"].max()) * 100
    ax.axhspan(low, high, facecolor=PALE_BLUE, edgecolor=BLUE, linewidth=0.6, zorder=0.5)
    _bars(ax, table, bar_places(table), BAR_GREY, width=0.55)
    ax.set_xlabel("deleted layer (its index)")
    head(ax, f"{shortened([title], 24)[0]}, plain", [("■ range of the left panel", BLUE)])
    _whole_scale(ax, intact, chance)
    return ax


def _bars(
    ax: Axes, table: pd.DataFrame, where: np.ndarray, colour: str, width: float = 0.8, measure: Measure = ERROR
) -> None:
    down = table["downsampling"] if "downsampling" in table else [False] * len(table)
    colours = [ORANGE if marked else colour for marked in down]
    ax.bar(where, table["error"] * measure.factor, color=colours, width=width if len(table) <= 100 else 1.0)
    block_axis(ax, where.tolist())


def _interval(table: pd.DataFrame, measure: Measure) -> tuple[np.ndarray, np.ndarray] | None:
    """(low, high) of every error, as it is drawn: those of the damage, moved to where the error is."""
    if "damage_low" not in table:
        return None
    low, high = (table["error"] + table[f"damage_{end}"] - table["damage"] for end in ("low", "high"))
    most = 100 if measure.rate else np.inf
    return tuple(np.clip(end.to_numpy(float) * measure.factor, 0, most) for end in (low, high))


def _top(error: float, chance: float | None, measure: Measure) -> float:
    """The end of an error axis: room above the data for marks and labels; of rates in percent, chance if not far."""
    if not measure.rate:
        return error * 1.25 or 1.0
    top = max(error * 1.25, 1.0)
    if chance is not None and 0.88 * top < chance * 100 < 1.5 * top:
        top = chance * 113
    return min(113.0, top)


def _whole_scale(ax: Axes, intact: float, chance: float | None, measure: Measure = ERROR) -> None:
    """An error axis from 0 to 100 %, with room above for a label, and the errors of reference."""
    if measure.rate:
        ax.set(ylabel=measure.label, ylim=(0, 110), yticks=range(0, 101, 20))
    else:
        ax.set(ylabel=measure.label, ylim=(0, None))
    _reference_errors(ax, intact, chance, ax.get_ylim()[1], measure)


def _reference_errors(ax: Axes, intact: float, chance: float | None, top: float, measure: Measure) -> None:
    """The intact error and chance, the latter where the axis reaches it; one label where both would collide."""
    label = f"intact {measure.said(intact)}"
    if chance is not None and chance * 100 <= top:
        together = abs(chance - intact) * 100 < top * 0.08
        reference_line(ax, chance * 100, f"chance {percent(chance)}" + (f", {label}" if together else ""))
        label = "" if together else label
    reference_line(ax, intact * measure.factor, label)


def random(
    table: pd.DataFrame,
    intact: float,
    chance: float | None = None,
    *,
    unit: str = "block",
    behind: pd.DataFrame | None = None,
    ax: Axes | None = None,
    measure: Measure = ERROR,
) -> Axes:
    """Error by the number of blocks `deleted` at random: every deletion, the mean and the middle half."""
    ax = axes_or_new(ax)
    _by_number(ax, table, "deleted", "deletion", behind, measure)
    ax.set_xlabel(f"{unit}s deleted at random")
    _whole_scale(ax, intact, chance, measure)
    return ax


def random_repeated(
    table: pd.DataFrame,
    intact: float,
    chance: float | None = None,
    *,
    behind: pd.DataFrame | None = None,
    ax: Axes | None = None,
    measure: Measure = ERROR,
) -> Axes:
    """Error by the number of random blocks that are `repeated`, likewise, on a scale of its own."""
    ax = axes_or_new(ax)
    if behind is not None:
        behind = behind[behind["count"] <= table["repeated"].max()]
    _by_number(ax, table, "repeated", "draw", behind, measure)
    theirs = () if behind is None else behind["error"]
    top = _top(measure.factor * np.nanmax([intact, *table["error"], *theirs]), chance, measure)
    ax.set(xlabel="random blocks that run twice in a row", ylabel=measure.label, ylim=(0, top))
    _reference_errors(ax, intact, chance, top, measure)
    return ax


def _by_number(
    ax: Axes, table: pd.DataFrame, number: str, lesion: str, behind: pd.DataFrame | None, measure: Measure
) -> None:
    """Error by the column `number`; the legend calls a row a `lesion`."""
    entries = [(f"● one {lesion}", "#6b93bd"), ("■ middle half", "#8fb2d6"), ("—  mean", BLUE)]
    if behind is not None:
        theirs = behind["error"] * measure.factor
        ax.plot(behind["count"], theirs, ".", color=BAR_GREY, alpha=0.5, markersize=3, markeredgewidth=0)
        means = theirs.groupby(behind["count"]).mean()
        ax.plot(means.index, means, color=GREY, linewidth=1.4, linestyle="--")
        entries.append((f"╌ mean, {_THEIRS}", GREY))
    drawn = table["error"] * measure.factor
    errors = drawn.groupby(table[number])
    quartiles, mean = errors.quantile(np.array([0.25, 0.75])).unstack(), errors.mean()
    ax.fill_between(mean.index, quartiles[0.25], quartiles[0.75], color=PALE_BLUE, linewidth=0)
    ax.plot(table[number], drawn, ".", color=BLUE, alpha=0.4, markersize=4, markeredgewidth=0)
    ax.plot(mean.index, mean, color=BLUE, linewidth=2, marker="o", markersize=3)
    head(ax, "", entries)
    most = int(table[number].max())
    ax.set_xlim(0, most + max(0.5, most * 0.02))
    whole_numbers(ax)


def reorderings(
    table: pd.DataFrame,
    intact: float,
    chance: float | None = None,
    *,
    behind: pd.DataFrame | None = None,
    ax: Axes | None = None,
    measure: Measure = ERROR,
) -> Axes:
    """Error by the `kendall_tau` of the blocks' order, from the intact order, 1, down."""
    ax = axes_or_new(ax)
    entries = [("● one reordering", BLUE), ("■ median", INK)]
    if behind is not None:
        shown = behind[behind["kendall_tau"] >= table["kendall_tau"].min()]
        where, theirs = shown["kendall_tau"], shown["error"] * measure.factor
        ax.plot(where, theirs, ".", color=BAR_GREY, alpha=0.35, markersize=3, markeredgewidth=0)
        entries.append((f"● {_THEIRS}", GREY))
    tau, error = table["kendall_tau"].to_numpy(float), table["error"].to_numpy(float) * measure.factor
    ax.plot(tau, error, "o", color=BLUE, alpha=0.4, markersize=4.5, markeredgewidth=0)
    before = np.array([(tau > value).sum() for value in tau])  # equal ones stay together
    tenth = before * 10 // len(tau) if len(np.unique(tau)) > 10 else before
    middles = [[np.median(values[tenth == group]) for group in np.unique(tenth)] for values in (tau, error)]
    ax.plot(*middles, color=INK, linewidth=1.6, marker="s", markersize=3.5)
    correlation = ""
    if np.ptp(tau) and np.ptp(error):
        value = np.corrcoef(table["kendall_tau"].rank(), table["error"].rank())[0, 1]
        correlation = f"Spearman rank correlation {value:.2f}".replace("-", "−")
    head(ax, correlation, entries)
    width = max(1 - float(tau.min()), 0.01)
    ax.set_xlim(1 + width * 0.02, 1 - width * 1.04)
    ax.set_xlabel("Kendall tau of the order of the blocks (1 = intact order)")
    _whole_scale(ax, intact, chance, measure)
    return ax


def windows(table: pd.DataFrame, ax: Axes | None = None, measure: Measure = ERROR) -> Axes:
    """`damage` by the first block (`start`) and the number (`length`) of consecutive blocks deleted."""
    ax = axes_or_new(ax, height=4.2)
    grid = np.full((int(table["length"].max()), int(table["start"].max()) + 1), np.nan)
    grid[table["length"] - 1, table["start"]] = table["damage"] * measure.factor
    extent = (-0.5, grid.shape[1] - 0.5, 0.5, grid.shape[0] + 0.5)
    heat_map(
        ax,
        grid,
        "growth of the error (points)" if measure.rate else f"growth of the {measure.name}",
        aspect="auto",
        extent=extent,
    )
    ax.set(xlabel="first block deleted (its index)", ylabel="consecutive blocks deleted")
    whole_numbers(ax)
    whole_numbers(ax, "y")
    head(ax, "windows of consecutive blocks deleted")
    return ax


def spans(table: pd.DataFrame, plan: str, ax: Axes | None = None, measure: Measure = ERROR) -> Axes:
    """`damage` by the `length` of a span: with intervals where each length has one; else all, median and middle half.

    Args:
        table: of layers, if it has the `name` of each span's first.
        plan: one of SPANS.
    """
    ax = axes_or_new(ax)
    damage, lengths = table["damage"] * measure.factor, table["length"]
    if lengths.is_unique:
        low, high = (table[f"damage_{end}"].to_numpy(float) * measure.factor for end in ("low", "high"))
        ax.vlines(lengths, low, high, color=BAR_GREY, linewidth=1.3)
        ax.plot(lengths, damage, color=BLUE, linewidth=1.6, marker="o", markersize=4)
        entries = [("● the one span of a length", BLUE), ("| 95 % interval over samples", GREY)]
    else:
        of_length = damage.groupby(lengths)
        quartiles, middle = of_length.quantile(np.array([0.25, 0.75])).unstack(), of_length.median()
        ax.fill_between(middle.index, quartiles[0.25], quartiles[0.75], color=PALE_BLUE, linewidth=0)
        ax.plot(lengths, damage, ".", color=BLUE, alpha=0.4, markersize=4, markeredgewidth=0)
        ax.plot(middle.index, middle, color=BLUE, linewidth=2, marker="o", markersize=3)
        entries = [("● one span", "#6b93bd"), ("■ middle half of the spans", "#8fb2d6"), ("—  median", BLUE)]
    unit = "layer" if "name" in table else "block"
    growth = "growth of the error (points)" if measure.rate else f"growth of the {measure.name}"
    ax.axhline(0, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0.5)
    ax.set(xlabel=f"length of the span ({unit}s)", ylabel=growth)
    whole_numbers(ax)
    head(ax, SPANS[plan].format(unit=unit), entries)
    return ax


def interaction(
    matrix: pd.DataFrame, metric: str = "loss", saturated: pd.DataFrame | None = None, ax: Axes | None = None
) -> Axes:
    """How two deletions interact, on a scale that is linear around zero and logarithmic beyond.

    Args:
        matrix: (n, n) how much worse deleting both blocks is than the two alone; NaN on the diagonal.
        metric: what is compared.
        saturated: (n, n) whether each deletion alone does nearly all harm; the pair is grey, as it tells nothing.
    """
    ax = axes_or_new(ax, height=5.6, width=7.2)
    grey = np.zeros(matrix.shape, dtype=bool) if saturated is None else saturated.to_numpy(bool)
    values = np.where(grey, np.nan, matrix.to_numpy(float))
    limit = max(float(np.abs(values[np.isfinite(values)]).max(initial=0)), 1e-12)
    # A few pairs interact a thousand times as strongly as most, which a linear scale would leave white.
    norm = SymLogNorm(linthresh=limit / 1000, vmin=-limit, vmax=limit, base=10)
    label = f"{metric} without both, less what each costs alone\n"
    bar = block_map(ax, values, f"{label}blue: they do the same work; red: each makes up for the other", norm)
    ticks = 10.0 ** (np.floor(np.log10(limit)) - np.arange(3))
    words = [power_of_ten(tick) for tick in ticks]
    bar.set_ticks([*-ticks, 0, *ticks], labels=[*(f"−{word}" for word in words), "0", *words])
    bar.ax.minorticks_off()
    entries = []
    if grey.any():
        ax.imshow(np.where(grey, 1.0, np.nan), cmap=ListedColormap([BAR_GREY]), origin="lower", interpolation="nearest")
        entries.append(("■ saturated by each alone: tells nothing", GREY))
    head(ax, "how two deletions interact", entries)
    return ax
