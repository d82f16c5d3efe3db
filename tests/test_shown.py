"""What all results have in common: a table, sentences, a figure, and how a notebook shows them."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    assert said.startswith("12 gradients at input by path length") and "of 512 paths about" in said
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
    assert "The strongest path found in" in resect.strongest_paths(small, DATA, count=1).summary()
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
