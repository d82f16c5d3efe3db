"""How the results of sweeps draw themselves, each plan in the way that suits it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from resect.sweep.ensemble import EnsembleResult
    from resect.sweep.result import LesionResult
    from resect.sweep.shapley import ShapleyResult

BLUE, ORANGE, GREY, PALE = "#0a4f94", "#d9661a", "#767b83", "#d3e2f2"
_TITLES = {
    "single": "One block deleted",
    "skips": "One skip deleted, its branch kept",
    "repeated": "One block run twice",
}
_KEY: dict[str, Any] = {"frameon": False, "fontsize": 8.5}
_ABOVE: dict[str, Any] = {**_KEY, "loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2, "borderaxespad": 0.2}
BY_BLOCK = ("single", "skips", "repeated")


def draw(result: LesionResult, ax: Axes | None = None) -> Axes:
    """Draw a result by its plan: a heat map of pairs and windows, else error against the plan's labels."""
    ax = _axes(ax, height=5.6 if result.plan.name == "pairs" else 4.0)
    by_plan = {"pairs": _draw_pairs, "windows": _draw_windows, "random": _draw_repeats, "shuffled": _draw_shuffled}
    by_plan.get(result.plan.name, _draw_each)(result, ax)
    return ax


def _axes(ax: Axes | None, height: float = 4.0) -> Axes:
    return Figure(figsize=(8, height), layout="constrained").subplots() if ax is None else ax


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _intact(ax: Axes, result: LesionResult) -> None:
    error = result.intact_error * 100
    ax.axhline(error, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    ax.annotate(f"intact {error:.1f} %", (1, error), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                xytext=(0, 2), textcoords="offset points", fontsize=8.5, color=GREY)  # fmt: skip


def _draw_each(result: LesionResult, ax: Axes) -> None:
    """Error of every lesion with the interval of its damage."""
    table = result.table
    across = str(table.columns[0]) if result.plan.name != "explicit" else "arrangement"
    where, error = table[across].to_numpy(), table["error"].to_numpy() * 100
    low, high = (error + (table[f"damage_{end}"] - table["damage"]).to_numpy() * 100 for end in ("low", "high"))
    ax.bar(where, error, color=BLUE, width=0.75)
    ax.vlines(where, np.clip(low, 0, None), high, color=ORANGE, linewidth=1.3)
    ax.set(xlabel=across, ylabel="error (%)", ylim=(0, None))
    _intact(ax, result)
    what = {
        "single": "One block deleted",
        "skips": "One skip deleted, its branch kept",
        "repeated": "One block run twice",
    }
    _finish(ax, f"{what.get(result.plan.name, result.plan.name)} (orange: 95 % interval of the damage)")


def _draw_repeats(result: LesionResult, ax: Axes) -> None:
    """Error against the first label: every lesion, and the mean over repeats with its interval."""
    table, means = result.table, result.over_repeats()
    label = str(means.columns[0])
    ax.plot(table[label], table["error"] * 100, ".", color=BLUE, alpha=0.35, markersize=5, markeredgewidth=0)
    low, high = (np.clip(means[f"error_{end}"] * 100, 0, 100) for end in ("low", "high"))
    ax.fill_between(means[label], low, high, color=PALE, linewidth=0, label="95 % interval of the mean over repeats")
    ax.plot(means[label], means["error"] * 100, color=BLUE, marker="o", markersize=3, label="mean")
    ax.set(xlabel=f"blocks {label} at random" if label == "deleted" else label, ylabel="error (%)", ylim=(0, None))
    ax.legend(loc="lower right", **_KEY)
    _intact(ax, result)
    _finish(ax, "Random blocks deleted")


def _draw_shuffled(result: LesionResult, ax: Axes) -> None:
    table = result.table
    ax.plot(table["kendall_tau"], table["error"] * 100, "o", color=BLUE, alpha=0.45, markersize=4.5, markeredgewidth=0)
    ax.set(xlabel="Kendall tau of the order of the blocks (1 = intact)", ylabel="error (%)", ylim=(0, None))
    ax.invert_xaxis()
    _intact(ax, result)
    ax.set_title("Blocks reordered", loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_pairs(result: LesionResult, ax: Axes) -> None:
    """The interaction matrix, on a scale that is linear around zero and logarithmic beyond."""
    metric = "loss" if "loss" in result.values else next(iter(result.values))
    matrix = result.interaction(metric).to_numpy()
    found = matrix[np.isfinite(matrix)]
    limit = max(float(np.abs(found).max()), 1e-12)
    # A few pairs interact a thousand times as strongly as most, which a linear scale would leave white.
    norm = SymLogNorm(linthresh=limit / 1000, vmin=-limit, vmax=limit, base=10)
    image = ax.imshow(matrix, cmap="RdBu_r", norm=norm, interpolation="nearest")
    label = f"{metric} without both, less what each costs alone"
    label += "\nblue: they do the same work; red: each makes up for the other"
    ax.figure.colorbar(image, ax=ax, shrink=0.9, label=label)
    ax.grid(visible=False)
    ax.set(xlabel="block", ylabel="block", facecolor="#e3e6e9")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    _finish(ax, "How two deletions interact")
    ax.spines[["left", "bottom"]].set_visible(False)


def _draw_windows(result: LesionResult, ax: Axes) -> None:
    """Damage by the first block and the number of blocks deleted."""
    table = result.table
    grid = np.full((int(table["length"].max()), int(table["start"].max()) + 1), np.nan)
    grid[table["length"] - 1, table["start"]] = table["damage"] * 100
    image = ax.imshow(grid, cmap="viridis", origin="lower", aspect="auto", interpolation="nearest",
                      extent=(-0.5, grid.shape[1] - 0.5, 0.5, grid.shape[0] + 0.5))  # fmt: skip
    ax.figure.colorbar(image, ax=ax, label="damage (points of error)")
    ax.grid(visible=False)
    ax.set(xlabel="first block deleted", ylabel="consecutive blocks deleted")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    _finish(ax, "Windows of consecutive blocks deleted")


def draw_flips(result: LesionResult, ax: Axes | None = None) -> Axes:
    """For every lesion how many samples it breaks (upward) and repairs (downward), as a percentage."""
    ax = _axes(ax)
    change = result.errors - result.intact["error"]
    counted = (~np.isnan(change)).sum(1)
    broken, repaired = (change > 0).sum(1) / counted * 100, (change < 0).sum(1) / counted * 100
    by_block = result.plan.name in BY_BLOCK
    where = result.table["block"] if by_block else np.arange(len(broken))
    ax.bar(where, broken, color=ORANGE, width=0.8, label="broken: right before, wrong now")
    ax.bar(where, -repaired, color=BLUE, width=0.8, label="repaired: wrong before, right now")
    ax.axhline(0, color="#22262b", linewidth=0.8)
    ax.set(xlabel="block" if by_block else "lesion (row of the table)", ylabel="samples (%)")
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    ax.legend(**_ABOVE)
    _finish(ax, "Samples flipped")
    return ax


def draw_classes(result: LesionResult, ax: Axes | None = None) -> Axes:
    """Error of every class under every lesion, the intact network in the last row apart."""
    table = result.by_class() * 100
    ax = _axes(ax, height=max(3.0, 1.2 + 0.09 * len(table)))
    image = ax.imshow(table.to_numpy(), cmap="viridis", aspect="auto", vmin=0, vmax=100, interpolation="nearest")
    ax.axhline(len(table) - 1.5, color="white", linewidth=1.5)
    ax.grid(visible=False)
    ax.figure.colorbar(image, ax=ax, label="error (%)")
    unit = "block" if result.plan.name in BY_BLOCK else "lesion (row of the table)"
    ax.set(xlabel="class", ylabel=unit)
    rows = list(range(0, len(table) - 1, max(1, len(table) // 10)))
    blocks = result.table["block"] if result.plan.name in BY_BLOCK else range(len(table))
    ax.set_yticks([*rows, len(table) - 1], [*(str(blocks[row]) for row in rows), "intact"])
    _finish(ax, "Error by class")
    if table.shape[1] <= 20:
        ax.set_xticks(range(table.shape[1]), [str(c) for c in table.columns])
    return ax


def draw_shapley(result: ShapleyResult, ax: Axes | None = None) -> Axes:
    """Shapley values of the first metric with intervals, and what deleting the block alone costs."""
    ax = _axes(ax)
    metric, table = next(iter(result.marginals)), result.table
    scale, unit = (100, "points of error") if metric == "error" else (1, "nats" if metric == "loss" else metric)
    value = table[metric] * scale
    ax.bar(table["block"], value, color=BLUE, width=0.75, label="Shapley value")
    ax.vlines(table["block"], table[f"{metric}_low"] * scale, table[f"{metric}_high"] * scale, color=ORANGE, lw=1.3,
              label="95 % interval over orders")  # fmt: skip
    alone = table[f"{metric}_alone"] * scale
    ax.plot(table["block"], alone, "_", color="#22262b", markersize=9, markeredgewidth=1.6, label="deleted alone")
    ax.axhline(0, color="#22262b", linewidth=0.8)
    ax.set(xlabel="block", ylabel=f"contribution ({unit})")
    ax.legend(loc="upper right", **_KEY)
    _finish(ax, f"What each block contributes; together {result.total[metric] * scale:.1f} {unit}")
    return ax


def draw_ensemble(result: EnsembleResult, ax: Axes | None = None) -> Axes:
    """Error against the number of members: averaged, voting, and as many independent voters."""
    ax = _axes(ax)
    table = result.table
    ax.fill_between(table["members"], table["error_low"] * 100, table["error_high"] * 100, color=PALE, linewidth=0)
    for column, label, style in (
        ("member_error", "one member", {"color": GREY, "linestyle": "--"}),
        ("error", "outputs averaged (95 % interval)", {"color": BLUE, "marker": "o", "markersize": 3}),
        ("vote_error", "plurality vote", {"color": BLUE, "linestyle": ":"}),
        ("independent_error", "vote of as many independent members", {"color": ORANGE}),
    ):
        ax.plot(table["members"], table[column] * 100, label=label, **style)
    intact = float(result.intact_error.mean()) * 100
    ax.axhline(intact, color="#22262b", linewidth=1, linestyle=(0, (4, 3)), label=f"intact network, {intact:.1f} %")
    ax.set(xlabel="members of the ensemble", ylabel="error (%)", ylim=(0, None))
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.6), **_KEY)
    blocks = f"{result.removed} block{'s' if result.removed > 1 else ''}"
    disagree = table["disagreement"].iloc[-1] * 100
    _finish(ax, f"Sub-networks without {blocks}, averaged; two members disagree on {disagree:.1f} % of the samples")
    return ax
