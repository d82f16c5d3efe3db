"""What all results have in common: a table, sentences, a figure, and how a notebook shows them."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import resect
from conftest import randomise_norms
from resect.models.resnet import CifarResNet
from resect.words import percent

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(7))
TARGETS = torch.randint(0, 10, (12,), generator=torch.Generator().manual_seed(8))
DATA = [(IMAGES[:6], TARGETS[:6]), (IMAGES[6:], TARGETS[6:])]


def small_net(blocks: int = 9) -> resect.Unraveled:
    torch.manual_seed(1)
    return resect.unravel(randomise_norms(CifarResNet(2 * blocks + 2, width=4, channels=1)), IMAGES[:2])


@pytest.fixture(scope="module")
def small() -> resect.Unraveled:
    return small_net()


@pytest.fixture(scope="module")
def results(small: resect.Unraveled) -> dict[str, Any]:
    every = [
        resect.lesion(small, DATA, resect.plans.single(small)),
        resect.shapley(small, DATA, orders=2),
        resect.ensemble(small, DATA, removed=1, members=4),
        resect.path_spectrum(small, DATA),
        resect.sample_paths(small, DATA, draws=3),
        resect.path_squares(small, DATA, sweeps=3),
        resect.participation(small, DATA, pairs=True),
        resect.strongest_paths(small, DATA, count=5),
    ]
    return {type(result).__name__: result for result in every}


NAMES = ("LesionResult ShapleyResult EnsembleResult PathSpectrum "
         "PathDraws PathSquares Participation StrongPaths").split()  # fmt: skip


def curve(ax: Axes, values: Any) -> bool:
    """Whether a line is drawn through just these values."""
    return any(
        len(line.get_ydata()) == len(values) and np.allclose(line.get_ydata(), values, equal_nan=True)
        for line in ax.get_lines()
    )


def bars(ax: Axes) -> list[float]:
    return list(ax.containers[0].datavalues)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_the_summary_over_the_whole_table(results, name: str) -> None:
    result = results[name]
    html, table = result._repr_html_(), result.table
    assert html.startswith(f"<p>{escape(result.summary())}</p>")
    assert html.count("<tr") == len(table) + 1
    assert all(f"<th>{column}</th>" in html for column in table)
    if "name" in table:
        assert all(f"<td>{block}</td>" in html for block in table["name"])
    assert pictured(html).width == 2 * int(html.split('<img width="')[1].split('"')[0])
    assert len(html) < 60 * 1024 and len(repr(result)) < 500 and "\n" not in repr(result)


def pictured(html: str) -> Image.Image:
    """The one picture that HTML holds, which must not be empty."""
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    picture = Image.open(io.BytesIO(base64.b64decode(source))).convert("L")
    assert picture.getextrema()[0] < 128 and picture.width > 400
    return picture


def test_long_tables_are_cut_and_empty_ones_have_no_figure(small) -> None:
    plans = resect.plans
    pairs = resect.lesion(small, DATA, plans.pairs(small))
    html = pairs._repr_html_()
    assert html.count("<tr") == 12 + 1 and html.endswith("<p>and 24 more rows</p>") and pictured(html)
    assert "<img" not in resect.lesion(small, DATA, plans.explicit(small, []))._repr_html_()
    only = resect.lesion(small, DATA, plans.single(small), resect.LesionSettings("kl"))
    assert "<img" not in only._repr_html_() and only._repr_html_().count("<tr") == 10


def test_a_network_and_its_blocks_are_shown(small) -> None:
    assert len(repr(small)) < 100 and len(repr(small.blocks)) < 100 and len(repr(small.intact)) < 100
    assert repr(small.blocks) == "<Blocks: 9 blocks (7 identity, 2 projection) of 18 layers.>"
    for html in (small._repr_html_(), small.blocks._repr_html_()):
        assert html.count("<tr") == 10 and all(f"<td>{name}</td>" in html for name in small.blocks.names)
        assert pictured(html) and len(html) < 60 * 1024
    assert small._repr_html_().startswith("<p>CifarResNet</p>")
    ax = small.blocks.plot()
    lightness = [sum(patch.get_facecolor()[:3]) for patch in ax.patches]
    sizes = [block.parameters for block in small.blocks]
    assert np.argsort(sizes, kind="stable").tolist() == np.argsort(-np.array(lightness), kind="stable").tolist()
    ax = Figure().subplots()
    assert small.blocks.plot(ax) is ax
    plain = resect.unravel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), IMAGES)
    assert plain._repr_html_().startswith("<p>Sequential</p><p>No blocks.</p>") and "<img" not in plain._repr_html_()


def test_what_holds_much_is_written_in_a_line(small) -> None:
    samples, loaded = resect.Samples("some", IMAGES, TARGETS, 10), resect.load_model("resect:resnet110")
    assert repr(samples) == "<Samples some: 12 of (1, 8, 8) float32, 10 classes>"
    assert repr(loaded) == "LoadedModel(spec='resect:resnet110')"
    assert repr(resect.plans.pairs(small)) == "<Plan pairs: 36 arrangements>"
    long = resect.Arrangement(range(256)).without(3, -1).swapped(5, 6)
    assert eval(repr(long), {"Arrangement": resect.Arrangement}) == long and len(repr(long)) < 60
    record = resect.Record("lesion", {}, {}, {}, "resect lesion a b", {"summary": "<so>"},
                           {"lesions": resect.lesion(small, DATA, resect.plans.pairs(small)).table})  # fmt: skip
    assert repr(record) == "<Record of lesion: resect lesion a b>"
    html = record._repr_html_()
    assert "<p>resect lesion a b</p><p>&lt;so&gt;</p><p>Tables: lesions (36 rows)</p>" in html
    assert html.endswith("<p>and 24 more rows</p>") and "<td>" in html


def test_showing_leaves_no_figure_open_and_needs_no_display() -> None:
    code = (
        "import sys, pandas as pd; from resect.figures.shown import Shown; from resect.figures.lesions import by_plan\n"
        "class Some(Shown):\n"
        "    table = pd.DataFrame({'block': [0, 1], 'error': [0.5, 0.25]})\n"
        "    summary = lambda self: 'two'\n"
        "    plot = lambda self: by_plan('single', self.table, 0.125)\n"
        "assert 'data:image/png' in Some()._repr_html_()\n"
        "assert not {'torch', 'matplotlib.pyplot'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"DISPLAY": "", "MPLBACKEND": ""})


@pytest.mark.parametrize("name", NAMES)
def test_plots_are_drawn_into_the_axes_given_and_hold_the_data(results, name: str) -> None:
    result = results[name]
    table, own = result.table, result.plot()
    own.figure.draw_without_rendering()
    ax = Figure().subplots()
    assert result.plot(ax) is ax
    for drawn in (own, ax):
        if name in ("LesionResult", "ShapleyResult"):
            assert bars(drawn) == pytest.approx(list(table["error"] * 100))
        elif name == "EnsembleResult":
            assert curve(drawn, table["error"] * 100) and curve(drawn, table["independent_error"] * 100)
        elif name == "PathSpectrum":
            assert curve(drawn, table["share"] * 100)
        elif name == "PathDraws":
            assert curve(drawn, result.mean) and curve(drawn, result.rms)
        elif name == "PathSquares":
            assert curve(drawn, result.rms)
        elif name == "Participation":
            assert bars(drawn) == pytest.approx(list(result.share * 100))
        else:
            squares = [tuple(points.get_offsets()[:, 0].astype(int)) for points in drawn.collections]
            assert squares == list(table["blocks"])


def test_lesions_stand_at_their_block_or_their_row(small) -> None:
    explicit = resect.plans.explicit(small, [small.intact.without(4), small.intact])
    for plan, places in (
        (explicit, [0, 1]),
        (resect.plans.orders(small, 1), list(range(18))),
        (resect.plans.repeated(small), [0, 1, 2, 4, 5, 7, 8]),
    ):
        ax = resect.lesion(small, DATA, plan).plot()
        assert [round(bar.get_x() + bar.get_width() / 2) for bar in ax.patches] == places


def test_summaries_name_their_numbers(results) -> None:
    spectrum, samples = results["PathSpectrum"], results["PathDraws"]
    squares, through = results["PathSquares"], results["Participation"]
    effective = spectrum.effective(0.95)
    said = spectrum.summary()
    assert f"{percent(effective.held)} of the gradient lies on {effective.low} to {effective.high} blocks" in said
    assert said.startswith("12 gradients at input by path length") and "of 512 paths at most about" in said
    assert f"{spectrum.multiplicity().effective_depth:.2f} blocks deep on average" in said
    by = samples.effective(0.95)
    assert samples.summary().startswith("6 sampled paths of each of 10 lengths, of 12 gradients at input")
    assert f"{percent(by.held)} of count × mean norm lies on {by.low} to {by.high} blocks" in samples.summary()
    assert f"{samples.mean[0]:.2g} at length 0 and" in samples.summary()
    by = squares.effective(0.95)
    assert squares.summary().startswith("6 sweeps of random signs, of 12 gradients at input")
    assert f"{percent(by.held)} of count × root mean square lies on {by.low} to {by.high} blocks" in squares.summary()
    most, least = int(through.share.argmax()), int(through.share.argmin())
    assert f"{through.share[most]:.1%} goes through blocks.{most}, the most".replace("%", " %") in through.summary()
    assert f"goes through blocks.{least}, the least" in through.summary()
    i, j = np.unravel_index(np.abs(through.interaction).argmax(), (9, 9))
    assert f"The pair most tied: blocks.{i} and blocks.{j} (" in through.summary()


def test_summaries_are_true_at_the_edges(small, results) -> None:
    cut = resect.path_spectrum(small, DATA, max_length=1)
    said = cut.summary()
    assert f"lengths up to 1 hold {np.nansum(cut.share):.1%}".replace("%", " %") in said
    assert f"all longer ones together {cut.rest_share:.1%}".replace("%", " %") in said
    assert "lies on" not in said and "by the shares of those lengths" in said
    assert curve(cut.plot(), cut.share[:2] * 100)
    samples = results["PathDraws"]
    nothing = replace(samples, norms=np.full_like(samples.norms, np.nan))
    assert nothing.summary() == "No path was sampled."
    only = samples.norms.copy()
    only[:, :, [0, *range(2, 10)]] = np.nan
    said = replace(samples, norms=only).summary()
    assert "6 sampled paths of each of 1 length," in said
    assert "100.0 % of count × mean norm of these lengths lies on 1 block (2 layers)" in said
    assert "is zero" in replace(samples, norms=np.zeros_like(samples.norms)).summary()
    shapley = resect.shapley(small, DATA, orders=1)
    assert "nan" not in shapley.summary() and not shapley.plot().collections
    assert "[" not in shapley.summary() and "[" in results["ShapleyResult"].summary()
    assert "this one is the strongest. It holds" in resect.strongest_paths(small, DATA, count=1).summary()
    assert "The strongest path found in 100" in resect.strongest_paths(small, DATA, count=1, limit=100).summary()
    assert "Members without 1 block err" in results["EnsembleResult"].summary()


def test_one_block_is_enough_for_sentences_and_figures() -> None:
    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.out = (torch.nn.Linear(*sizes) for sizes in ((64, 8), (8, 8), (8, 10)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = self.stem(x.flatten(1))
            return self.out(state + torch.tanh(self.branch(state)))

    net = resect.unravel(One(), IMAGES[:2])
    every = [
        resect.lesion(net, DATA, resect.plans.single(net)),
        resect.shapley(net, DATA, orders=1),
        resect.path_spectrum(net, DATA),
        resect.sample_paths(net, DATA, draws=1),
        resect.path_squares(net, DATA, sweeps=1),
        resect.participation(net, DATA, pairs=True),
        resect.strongest_paths(net, DATA),
    ]
    for result in every:
        assert "nan" not in result.summary()
        result.plot().figure.draw_without_rendering()
    assert "the only block" in every[5].summary()
    assert "1 lesion (single)" in every[0].summary()


def test_names_are_escaped(small) -> None:
    def odd(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum(1)

    odd.__name__ = "<b>"
    result = resect.shapley(small, DATA, orders=1, settings=resect.LesionSettings(metrics=(odd,)))
    assert "<b>" in result.summary() and "<b>" not in result._repr_html_()
