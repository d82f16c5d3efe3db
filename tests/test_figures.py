"""The figures themselves: frames and plain values in, axes out; no network, and no torch."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from resect.figures import carriers, lesions, paths, samples
from resect.figures.style import head, panels

ALONE = """
import pkgutil, sys
from importlib import import_module
import numpy as np, pandas as pd
import resect.figures
for module in pkgutil.iter_modules(resect.figures.__path__):
    import_module(f"resect.figures.{module.name}")
from resect.figures import carriers, comparison, ensembles, lesions, paths, samples, strip
from resect.paths.measures import Effective

blocks = pd.DataFrame({"block": [0, 1], "name": ["a", "b"], "kind": "identity", "span": 0, "downsampling": False})
table = blocks.assign(error=[0.1, 0.3], loss=[1.0, 2.0], damage=0.1, damage_low=0.0, damage_high=0.2, samples=10,
                      start=[0, 1], length=[2, 1], deleted=[1, 2], repeated=[1, 2], kendall_tau=[1.0, 0.5], share=0.5,
                      share_low=0.4, share_high=0.6)
lengths = pd.DataFrame({"length": [0, 1], "layers": [0.0, 2.0], "log2_paths": 0.0, "path_fraction": 0.5, "share": 0.5,
                        "norm": 1.0})
effective = {"share": Effective(0, 1, 0.0, 2.0, 1.0, 1.0)}
networks = pd.DataFrame({"model": ["a"], "blocks": 2, "parameters": 9, "log2_paths": 2.0,
                         "log2_effective_paths": 1.0, "error": 0.1})
drawn = [
    *(lesions.by_plan(plan, table, 0.1) for plan in ("single", "random", "shuffled", "windows", "explicit")),
    lesions.by_plan("parallel", table, 0.1), lesions.by_plan("random-repeated", table, 0.1),
    lesions.control(table, table, 0.1), lesions.interaction(pd.DataFrame([[np.nan, 1.0], [1.0, np.nan]])),
    samples.flips(table, pd.DataFrame({"lesion": [0], "flip": ["broken"]})), samples.classes(pd.DataFrame(np.eye(3))),
    carriers.blocks(table), carriers.pairs(np.eye(2)), strip.strip(blocks, table, 1.0),
    carriers.strongest(pd.DataFrame({"blocks": [(0, 1)], "relative": 0.5, "share": 0.2})),
    *(draw(lengths, effective) for draw in (paths.counts, paths.counts_log, paths.shares, paths.shares_log)),
    paths.norms(lengths), paths.norms_log(lengths),
    ensembles.multiplicity(networks), ensembles.intact_errors(networks),
]
figures = [ax.figure for ax in drawn]
figures += [comparison.shares({"a": lengths}, {"a": (0, 1)}), comparison.norms({"a": lengths})]
for figure in figures:
    figure.draw_without_rendering()
print(len(figures), "torch" in sys.modules)
"""


def test_every_figure_is_drawn_without_torch() -> None:
    ran = subprocess.run([sys.executable, "-W", "error", "-c", ALONE], capture_output=True, text=True)
    assert ran.stdout == "25 False\n", ran.stderr


def test_intervals_and_downsampling_are_drawn_where_the_table_has_them() -> None:
    plain = pd.DataFrame({"block": [0, 1, 2], "error": [0.1, 0.2, 0.4]})
    assert not lesions.deletions(plain, 0.1).collections
    sure = plain.assign(damage=[0.0, 0.1, 0.3], damage_low=[-0.2, 0.0, 0.2], damage_high=[0.1, 0.3, 0.5])
    ax = lesions.deletions(sure.assign(downsampling=[False, True, False]), 0.1)
    ends = [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [[0, 20], [10, 40], [30, 60]], atol=1e-9)
    (mark,) = (line for line in ax.get_lines() if line.get_marker() == "v")
    assert mark.get_xdata().tolist() == [1] and mark.get_ydata()[0] > 40


def test_the_correlation_of_reorderings_is_that_of_ranks() -> None:
    table = pd.DataFrame({"kendall_tau": [1.0, 0.9, 0.5, 0.1], "error": [0.1, 0.2, 0.15, 0.9]})
    assert lesions.reorderings(table, 0.1).get_title("left") == "Spearman rank correlation −0.80"
    assert lesions.reorderings(table.assign(error=0.2), 0.1).get_title("left") == ""


def test_flips_are_counted_by_lesion_and_by_kind() -> None:
    flipped = pd.DataFrame({"lesion": [2, 2, 0], "flip": ["broken", "broken", "repaired"]})
    broken, repaired = samples.flips(pd.DataFrame({"samples": [10, 10, 4]}), flipped).containers
    assert list(broken.datavalues) == [0, 0, 50]
    assert list(repaired.datavalues) == [-10, 0, 0]


def test_lengths_that_were_not_told_apart_are_named_and_not_drawn() -> None:
    lengths = pd.DataFrame({"length": range(4), "share": [0.25, 0.5, np.nan, np.nan]})
    ax = paths.shares(lengths, {})
    assert ax.get_lines()[0].get_ydata().tolist() == [25, 50]
    words = [text.get_text() for text in ax.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert "longer lengths together 25.0 %" in words


@pytest.mark.parametrize("width", [3.0, 5.0, 9.2])
def test_titles_and_keys_lie_clear_of_each_other(width: float) -> None:
    ax = panels(width=width)[0]
    head(ax, "a title of some length", [("● the first of the marks", "black"), ("■ the second one", "blue")])
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    (key,) = ax.artists
    (title,) = ax.findobj(lambda artist: isinstance(artist, Text) and artist.get_text().startswith("a title"))
    below, above = key.get_window_extent(canvas.get_renderer()), title.get_window_extent()
    assert not above.overlaps(below)
    assert below.x0 >= 0 and above.y1 <= ax.figure.bbox.y1


def test_names_of_checkpoints_do_not_touch() -> None:
    table = pd.DataFrame({"checkpoint": [f"epoch-{i:04d}" for i in range(40)], "low": 1, "high": 5})
    ax = carriers.training(table.assign(effective_depth=3.0, log2_effective_paths=9.0))
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(boxes) > 3 and all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_pairs_that_are_saturated_are_grey_and_do_not_stretch_the_scale() -> None:
    values = np.array([[np.nan, -9.0, 1.0], [-9.0, np.nan, 0.5], [1.0, 0.5, np.nan]])
    both = np.array([[False, True, False], [True, False, False], [False, False, False]])
    ax = lesions.interaction(pd.DataFrame(values), "loss", pd.DataFrame(both))
    shown, grey = (np.ma.filled(image.get_array(), np.nan) for image in ax.images)
    assert np.isnan(shown[both]).all() and shown[0, 2] == 1
    assert (np.isfinite(grey) == both).all()
    assert ax.images[0].norm.vmax == 1
    assert any("saturated" in text.get_text() for key in ax.artists for text in key.findobj(Text))
    assert len(lesions.interaction(pd.DataFrame(values), "loss", pd.DataFrame(both & False)).artists) == 0


def test_the_line_of_random_deletions_is_the_mean_that_reports_name() -> None:
    table = pd.DataFrame({"deleted": [1, 1, 1, 2, 2], "error": [0.1, 0.1, 0.7, 0.2, 0.6]})
    line = lesions.random(table, 0.1).get_lines()[1]
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata() == pytest.approx([30, 40])


@pytest.mark.parametrize("plan", ["explicit", "orders", "pairs"])
def test_plans_by_row_have_titles_in_words(plan: str) -> None:
    ax = lesions.by_plan(plan, pd.DataFrame({"error": [0.2]}), 0.1)
    assert "lesions" not in ax.get_title("left") and ax.get_title("left") != plan
    assert ax.get_xlabel() == f"{'arrangement' if plan == 'explicit' else 'lesion'} (row of the table)"


def test_names_of_blocks_do_not_touch_and_stay_apart() -> None:
    names = [f"model.backbone.layer{i // 3}.{i % 3}.conv" for i in range(9)]
    table = pd.DataFrame({"block": range(9), "name": names, "share": 0.1, "share_low": 0.0, "share_high": 0.2})
    ax = carriers.blocks(table)
    ax.figure.draw_without_rendering()
    labels = ax.get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert len({label.get_text() for label in labels}) == 9 and all(label.get_text()[0] == "…" for label in labels)
