"""The numbers and the figures of a comparison."""

from __future__ import annotations

import subprocess
import sys
from math import comb, log2
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from finished import a_record, chain, sampled
from resect.errors import InputError
from resect.jobs.compare import CompareJob, Summary, change
from resect.paths.measures import shortest_range
from resect.report.compare import _figures
from resect.runs.record import Record, plain


def summarise(lengths: pd.DataFrame, mass: float = 0.95, name: str = "a") -> Summary:
    return Summary.of(name, a_record(lengths), mass)


def compared(mass: float = 0.95, **runs: pd.DataFrame) -> Record:
    return CompareJob((), mass=mass).compared({name: a_record(lengths) for name, lengths in runs.items()})


def figures(mass: float = 0.95, **runs: pd.DataFrame) -> Any:
    """What draws the figures of some runs, by name."""
    return _figures(compared(mass, **runs))


@pytest.mark.parametrize(("n", "r"), [(1, 1.0), (9, 0.5), (54, 0.125), (54, 3.0)])
def test_numbers_of_a_chain_in_closed_form(n: int, r: float) -> None:
    found, p = summarise(chain(n, r)), r / (1 + r)
    assert (found.blocks, found.longest, found.known, found.layers) == (n, n, n, 2.0 * n)
    assert found.effective_depth == pytest.approx(n * p, rel=1e-12)
    assert found.relative_depth == pytest.approx(p, rel=1e-12)
    assert found.log2_paths == pytest.approx(n, rel=1e-12)
    assert found.log2_effective_paths == pytest.approx(-n * (p * log2(p) + (1 - p) * log2(1 - p)), rel=1e-12)
    assert found.known_share == pytest.approx(1, rel=1e-12)
    assert found.magnitude_range is None


@pytest.mark.parametrize(
    ("mass", "expected"),
    [(246 / 512, (4, 5)), (252 / 512, (4, 5)), (253 / 512, (3, 5)), (492 / 512, (2, 7)), (493 / 512, (1, 7))],
)
def test_ranges_of_nine_fair_coins_are_exact(mass: float, expected: tuple[int, int]) -> None:
    assert shortest_range(chain(9, 1.0)["share"], mass) == expected  # 1 9 36 84 126 126 84 36 9 1, of 512


def test_measures_agree_with_those_of_exact_counts() -> None:
    from resect.graph.routes import Counts
    from resect.paths import measures

    for seed in range(20):
        draw = np.random.default_rng(seed)
        n = int(draw.integers(2, 60))
        share = draw.normal(0.3, 1, n + 1) * chain(n, 0.3)["share"]
        share /= share.sum()
        counts = Counts(tuple(comb(n, k) for k in range(n + 1)), tuple(2 * k * comb(n, k) for k in range(n + 1)))
        found = summarise(chain(n, 1.0).assign(share=share), 0.9)
        known, size = measures.effective_range(share.to_numpy(), counts, 0.9), measures.multiplicity(share, counts)
        assert found.share_range == (known.low, known.high), f"seed {seed}"
        ours = found.effective_depth, found.log2_paths, found.log2_effective_paths
        theirs = size.effective_depth, size.log2_paths, size.log2_effective_paths
        assert ours == pytest.approx(theirs, rel=1e-9), f"seed {seed}"


def test_truncated_runs_say_only_what_is_known() -> None:
    table = chain(9, 1.0)
    table.loc[table["length"] > 6, ["share", "norm"]] = np.nan
    assert summarise(table, 0.8).share_range == (3, 6)  # 420 of 512
    found = summarise(table, 0.95)
    assert (found.known, found.longest) == (6, 9)
    assert found.share_range is None
    assert found.known_share == 466 / 512
    assert found.effective_depth == pytest.approx((9 + 72 + 252 + 504 + 630 + 504) / 466, rel=1e-12)
    assert change(found, summarise(chain(9, 1.0)))["share_range"] is None


def test_the_longest_path_of_parallel_branches_is_shorter_than_the_number_of_blocks() -> None:
    table = chain(8, 1.0)  # of which only lengths up to 4 have paths
    table.loc[table["length"] > 4, ["log2_paths", "share", "norm", "layers"]] = [-np.inf, 0.0, 0.0, 0.0]
    table["share"] /= table["share"].sum()
    found = summarise(table)
    assert (found.blocks, found.longest, found.known, found.layers) == (8, 4, 4, 8.0)
    assert found.relative_depth == pytest.approx(found.effective_depth / 4, rel=1e-12)
    assert found.log2_paths == pytest.approx(log2(1 + 8 + 28 + 56 + 70), rel=1e-12)
    curve = figures(a=table, b=chain(8, 1.0))["shares"]().axes[2].lines[1]
    assert curve.get_xdata().tolist() == [0, 25, 50, 75, 100]


def test_changes_are_the_first_minus_every_other() -> None:
    first, second, third = (
        summarise(chain(n, r), name=name) for n, r, name in ((9, 1, "a"), (9, 0.5, "b"), (54, 1, "c"))
    )
    found = [change(first, second), change(first, third)]
    assert [(row["first"], row["other"]) for row in found] == [("a", "b"), ("a", "c")]
    assert found[0]["effective_depth"] == pytest.approx(4.5 - 3, rel=1e-12)
    assert found[1]["relative_depth"] == pytest.approx(0, abs=1e-12)
    assert found[1]["log2_effective_paths"] == pytest.approx(9 - 54, rel=1e-12)
    assert found[0]["share_range"] == (2 - 1, 7 - 6)
    assert compared(a=chain(9, 1), b=chain(9, 0.5), c=chain(54, 1)).found["changes"] == plain(found)


def test_mass_is_a_part_of_one() -> None:
    for mass in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="`mass` must lie between 0 and 1, got"):
            summarise(chain(3, 1.0), mass)


def curves(figure: Figure, panel: int) -> list[Any]:
    """The lines of a panel that have a run's colour."""
    return [line for line in figure.axes[panel].lines if line.get_color() != "#22262b"]


def test_share_figure_draws_every_run_over_both_lengths() -> None:
    runs = [chain(9, 1.0), chain(54, 0.125)]
    figure = figures(a=runs[0], b=runs[1])["shares"]()
    for panel, factor in ((0, 1.0), (2, 100 / 9)):
        blue, orange, blue_range, orange_range = curves(figure, panel)
        assert blue.get_xdata() == pytest.approx(np.arange(10) * factor)
        assert blue.get_ydata() == pytest.approx(runs[0]["share"] * 100)
        assert len(orange.get_xdata()) == 55
        assert list(blue_range.get_xdata()) == pytest.approx([2 * factor, 7 * factor])
        assert blue_range.get_color() == blue.get_color() != orange.get_color() == orange_range.get_color()
        data_top = figure.axes[panel].transData.transform((0, blue.get_ydata().max()))[1]
        ranges = [line.get_transform().transform((0, line.get_ydata()[0]))[1] for line in (blue_range, orange_range)]
        assert ranges[0] > ranges[1] > data_top
    texts = [[text.get_text() for text in figure.axes[panel].texts] for panel in (0, 2)]
    high = summarise(runs[1]).share_range
    assert high is not None
    assert texts[0] == ["2 to 7", f"{high[0]} to {high[1]}"]
    assert texts[1] == ["22 to 78 %", f"{high[0] / 0.54:.0f} to {high[1] / 0.54:.0f} %"]
    assert figure.axes[2].get_xlabel() == "path length (% of the longest path)"


def test_negative_shares_are_hollow_on_the_log_axis() -> None:
    share = np.array([0.7, -0.2, 0.5, 0.0])
    figure = figures(a=chain(3, 1.0).assign(share=share), b=chain(3, 1.0))["shares"]()
    line, filled, hollow = figure.axes[1].lines[:3]
    assert figure.axes[1].get_yscale() == "log"
    assert line.get_ydata() == pytest.approx([70, 20, 50, np.nan], nan_ok=True)
    assert (filled.get_xdata().tolist(), filled.get_ydata().tolist()) == ([0, 2], pytest.approx([70, 50]))
    assert (hollow.get_xdata().tolist(), hollow.get_ydata().tolist()) == ([1], pytest.approx([20]))
    assert (filled.get_markerfacecolor(), hollow.get_markerfacecolor()) == (line.get_color(), "white")
    linear = figure.axes[0]
    assert linear.lines[1].get_ydata() == pytest.approx(share * 100)
    assert linear.get_ylim()[0] < -20
    assert (np.array(linear.get_yticks()) <= 70 * 1.06).all()  # no scale beside the ranges


def test_norms_are_parts_of_each_runs_largest() -> None:
    figure = figures(a=chain(9, 1.0), b=chain(4, 1.0))["norms"]()
    for ax, x in zip(figure.axes, ([0, 1, 2, 3, 4], [0, 25, 50, 75, 100]), strict=True):
        assert ax.get_yscale() == "log"
        assert ax.lines[3].get_xdata().tolist() == x
        assert ax.lines[0].get_ydata() == pytest.approx(np.array([1, 9, 36, 84, 126, 126, 84, 36, 9, 1]) / 1.26)
        assert ax.lines[3].get_ydata() == pytest.approx(np.array([1, 4, 6, 4, 1]) / 0.06)


def test_count_times_magnitude_is_drawn_if_every_run_has_it() -> None:
    both = {"a": sampled(9, 0.5, 1.0), "b": sampled(9, 0.5, 2.0)}
    assert list(figures(**both)) == ["shares", "norms", "magnitudes"]
    assert list(figures(a=both["a"], b=chain(9, 0.5))) == ["shares", "norms"]
    blue, *_, low_to_high, _ = curves(figures(**both)["magnitudes"](), 0)
    assert blue.get_ydata() == pytest.approx(chain(9, 1.0)["share"] * 100)
    assert list(low_to_high.get_xdata()) == [2, 7]


def test_bands_are_the_intervals() -> None:
    share = chain(3, 1.0)["share"]
    table = chain(3, 1.0).assign(share_low=share - [0.2, 0.1, 0.1, 0.1], share_high=share + 0.1)
    figure = figures(a=table, b=chain(3, 1.0))["shares"]()
    (linear,), (log,) = (figure.axes[panel].collections for panel in (0, 1))
    edges = {tuple(point) for point in linear.get_paths()[0].vertices.round(9).tolist()}
    assert {(0, -7.5), (0, 22.5), (1, 27.5), (1, 47.5), (3, 2.5), (3, 22.5)} <= edges
    edges = {tuple(point) for point in log.get_paths()[0].vertices.round(9).tolist()}
    assert {(0, 0), (0, 22.5), (1, 27.5), (1, 47.5)} <= edges  # the first interval holds 0: down to the axis


def test_eight_runs_keep_apart_and_the_key_lies_over_no_panel() -> None:
    runs = {f"timm:vit_small_patch16_224.augreg_in21k_{i}$x$": chain(4 + 7 * i, 0.4) for i in range(8)}
    figure = figures(**runs)["shares"]()
    drawn = figure.axes[0].lines[1:9]
    assert len({to_rgba(line.get_color()) for line in drawn}) == len({line.get_marker() for line in drawn}) == 8
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text()[-8:] for text in legend.get_texts()] == [f"n21k_{i}$x$"[-8:] for i in range(8)]
    assert not any(text.get_parse_math() for text in legend.get_texts())
    key, page = legend.get_window_extent(), figure.bbox
    assert 0 <= key.x0 < key.x1 <= page.x1
    assert all(not key.overlaps(ax.get_tightbbox()) for ax in figure.axes)
    for ax in figure.axes:
        assert all(not key.overlaps(text.get_window_extent()) for text in ax.texts)


def test_a_curve_ends_where_a_run_is_truncated() -> None:
    table = chain(9, 1.0)
    table.loc[table["length"] > 6, ["share", "norm"]] = np.nan
    figure = figures(a=table, b=chain(9, 1.0))["shares"]()
    assert np.isnan(figure.axes[0].lines[1].get_ydata()).tolist() == [False] * 7 + [True] * 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a (lengths to 6)", "b"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["2 to 7"]  # of b: a holds less than 95 %


def test_the_long_table_keeps_every_column() -> None:
    table = compared(a=sampled(2, 1.0, 1.0), b=chain(3, 1.0)).tables["comparison"]
    assert list(table)[:2] == ["run", "length"]
    assert table["run"].tolist() == ["a"] * 3 + ["b"] * 4
    assert table["magnitude"].isna().tolist() == [False] * 3 + [True] * 4


def test_numbers_need_no_torch() -> None:
    code = "import sys, resect.jobs.compare, resect.report.compare; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
