"""The report, drawn from studies computed by arithmetic: the frames have a study's columns and plausible curves."""

from __future__ import annotations

import io
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from made import CHANCE, INTACT, made_study
from resect.figures import ensembles, lesions, paths, strip
from resect.jobs.findings import (
    Study,
)
from resect.paths.measures import Effective
from resect.report.study import captions
from resect.report.study.answers import answers, comparison
from resect.report.study.gallery import drawings
from resect.report.study.page import write_report
from resect.report.study.table import answers_table
from resect.report.study.verdicts import verdicts
from resect.words import count, duration, large, part, percent, plural, points, power_of_ten, two_to

CASES: dict[str, dict[str, Any]] = {
    "one block": {"n": 1, "control": False, "reordered": False, "rate": 0.3},
    "three blocks": {"n": 3, "control": False},
    "vit": {"n": 24, "control": False, "rate": 0.45},
    "plain": {"n": 12, "unit": "layer", "control": False, "cost": 0.5},
    "untrained": {"n": 18, "intact": 0.898, "reordered": False},
    "fragile": {"n": 18, "cost": 0.5},
    "very deep": {"n": 200, "rate": 0.02},
}


@pytest.fixture(scope="module")
def study() -> Study:
    return made_study(beside=3)


class Page(HTMLParser):
    """Collects what a page would load, its text, its alternative texts and its table headers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text, self.alternatives, self.tags = "", list[str](), list[str]()
        self.unscoped = 0
        self.feed(text)
        self.text = _unbound(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.unscoped += tag == "th" and "scope" not in found
        self.loads += [value for name, value in attrs if name in ("src", "href", "action", "data") and value]
        if tag == "img":
            self.alternatives.append(found.get("alt") or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def _unbound(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u2060", ""))


def test_the_page_is_one_file_with_every_answer(study: Study, tmp_path: Path) -> None:
    path = write_report(study, tmp_path)
    page = Page(path.read_text())
    assert all(source.startswith(("data:image/svg+xml;base64,", "#question-")) for source in page.loads)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in page.text and "url(" not in page.text
    assert study.command in page.text
    assert '<html lang="en">' in path.read_text() and page.unscoped == 0
    for answer in answers(study):
        assert answer.verdict in page.text and answer.question in page.text and answer.headline.here in page.text
        for measure in answer.measures:
            assert measure.what.strip() in page.text and measure.here in page.text and measure.paper in page.text
    for cell in (cell for row in comparison(study) for cell in row):
        assert cell in page.text
    for name in study.blocks["name"]:
        assert name in page.text
    names = [drawing.name for drawing in drawings(study)]
    assert names == [
        "blocks",
        "deletions",
        "random",
        "reorderings",
        "counts",
        "shares",
        "norms",
        "untrained",
        "multiplicity",
    ]
    assert len(page.alternatives) == len(names) and all(page.alternatives)
    for drawing in drawings(study):
        assert all(part in page.text for part in drawing.caption(study))
        assert (tmp_path / "figures" / f"{drawing.name}.png").read_bytes()[:4] == b"\x89PNG"
        assert b"<svg" in (tmp_path / "figures" / f"{drawing.name}.svg").read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    made = made_study(8, unit="layer", control=False, reordered=False)
    named = replace(
        made,
        subject=replace(made.subject, model=evil, data=evil),
        blocks=made.blocks.assign(name=evil),
        deletions=made.deletions.assign(name=evil),
        environment={evil: evil},
        asked={evil: evil},
    )
    page = Page(write_report(named, tmp_path).read_text())
    assert "script" not in page.tags
    assert page.text.count(evil) > 6


SLOW_CASES = [pytest.param(case, marks=pytest.mark.slow) for case in ("untrained", "very deep")]


@pytest.mark.parametrize("case", ["one block", "plain", *SLOW_CASES])
def test_other_networks(case: str, tmp_path: Path) -> None:
    made = made_study(**CASES[case])
    page = Page(write_report(made, tmp_path).read_text())
    words = re.findall(r"[a-z]+", page.text[page.text.index("Four questions") :].lower())
    assert not {"nan", "none of", "inf"} & set(words)
    assert "−0.0 " not in page.text
    drawn = {drawing.name for drawing in drawings(made)}
    assert ("reorderings" in drawn) == (len(made.reorderings) > 0)
    assert ("shares" in drawn) == (made.subject.unit == "block")
    assert "multiplicity" not in drawn


def test_verdicts_follow_the_numbers() -> None:
    said = {case: verdicts(made_study(**options)) for case, options in CASES.items()}
    assert said["one block"][0].startswith("It has a single block")
    assert said["untrained"][0].startswith("This cannot be told")
    assert said["fragile"][0].startswith("Not by this test, unlike")
    assert said["plain"][1] == "A plain network has one path, through all 12 layers."
    assert "no multiplicity" in said["plain"][3]
    assert said["very deep"][1].startswith("Shallow: the longest path has 200 blocks, and 95.0 % of the gradient")
    assert said["vit"][1].startswith("At most half as deep as the longest path, but no small part of all paths")
    assert "unlike in the paper" in said["vit"][2]
    assert verdicts(made_study())[0].startswith("For the most part; most blocks can go")
    assert "the error falls as" in verdicts(made_study(beside=3))[3]
    assert "two networks show no trend" in verdicts(made_study(beside=1))[3]


def test_captions_name_the_extremes_and_contradict_the_paper_where_the_numbers_do(study: Study) -> None:
    worst = study.deletions["name"][int(study.deletions["damage"].argmax())]
    assert f"the largest cost is 15.3 points ({worst}, index 18)" in captions.deletions_caption(study)[1]
    assert "here" not in captions.deletions_caption(study)[1]
    assert worst in captions.strip_caption(study)[1]
    costly = study.deletions.assign(damage=study.deletions["damage"].where(study.deletions["block"] != 7, 0.5))
    ensemble = replace(study.answers.ensemble, largest_damage=0.5, largest_damage_block="stage0.7")
    other = replace(study, deletions=costly, answers=replace(study.answers, ensemble=ensemble))
    assert "here another block does" in captions.deletions_caption(other)[1]
    rising = replace(study.answers, ensemble=replace(study.answers.ensemble, tau_correlation=0.6))
    assert "falls with disorder, unlike in the paper" in captions.reordering_caption(replace(study, answers=rising))[1]
    jump = study.random.assign(error=np.where(study.random["deleted"] > 9, CHANCE, INTACT))
    assert "abruptly" in captions.random_caption(replace(study, random=jump))[1]
    flat = study.random.assign(error=INTACT)
    assert "hardly rises" in captions.random_caption(replace(study, random=flat))[1]
    assert study.lengths is not None
    negative = study.lengths["length"][int(study.lengths["share"].argmin())]
    large_negative = replace(study, lengths=study.lengths.assign(share=study.lengths["share"] * 1e6))
    assert f"most at length {negative}" in captions.share_caption(large_negative)[1]


def test_lengths_without_paths_are_left_out() -> None:
    made = made_study(12, control=False)
    assert made.lengths is not None
    table = made.lengths.copy()
    table.loc[9:, ["log2_paths", "path_norm", "path_norm_rms"]] = [-np.inf, np.nan, np.nan]
    table.loc[9:, ["layers", "path_fraction", "share", "norm", "magnitude", "magnitude_rms", "sampled"]] = 0
    parallel = replace(made, lengths=table)
    assert len(paths.counts_log(*made_curves(parallel)).get_lines()[0].get_xdata()) == 9
    for drawing in drawings(parallel):
        drawing.figure().draw_without_rendering()
        assert "nan" not in " ".join(drawing.caption(parallel))
    assert "from length 0 to 8" in captions.norm_caption(parallel)[1]


def made_curves(study: Study) -> tuple[pd.DataFrame, dict[str, Effective]]:
    """What figures by path length are drawn from."""
    assert study.lengths is not None and study.answers.depth is not None
    return study.lengths, {"share": study.answers.depth.by_share, "magnitude": study.answers.depth.by_magnitude}


def _heights(ax: Axes) -> list[float]:
    return [patch.get_height() for patch in ax.containers[0]]


def test_figures_hold_the_data(study: Study) -> None:
    assert study.plain is not None and study.lengths is not None
    single, plain = study.deletions, study.plain.deletions
    assert _heights(lesions.deletions(single, INTACT, CHANCE)) == pytest.approx(list(single["error"] * 100))
    assert _heights(lesions.control(plain, single, INTACT, CHANCE)) == pytest.approx(list(plain["error"] * 100))
    assert len(lesions.random(study.random, INTACT).get_lines()[0].get_xdata()) == len(study.random)
    reordered = lesions.reorderings(study.reorderings, INTACT)
    assert len(reordered.get_lines()[0].get_xdata()) == len(study.reorderings)
    assert reordered.get_xlim()[0] > reordered.get_xlim()[1]
    curves = made_curves(study)
    assert _heights(paths.counts(*curves)) == pytest.approx(list(study.lengths["path_fraction"] * 100))
    assert len(paths.counts_log(*curves).get_lines()[0].get_xdata()) == 55
    exact = paths.shares(*curves).get_lines()[2].get_ydata()
    assert list(exact) == pytest.approx(list(study.lengths["share"][: len(exact)] * 100))
    hollow = [line for line in paths.shares_log(*curves).get_lines() if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1 and (np.asarray(hollow[0].get_ydata()) > 0).all() and len(hollow[0].get_xdata()) > 0
    assert len(paths.norms_log(study.lengths).get_lines()) == 3
    assert max(paths.norms(study.lengths).get_lines()[1].get_ydata()) == pytest.approx(100)
    assert len(strip.strip(study.blocks, study.deletions, study.intact_loss).patches) == 54
    networks = pd.DataFrame([asdict(row) for row in study.answers.multiplicity])
    assert len(ensembles.multiplicity(networks).patches) == 2 * 4
    assert len(ensembles.intact_errors(networks).patches) == 4


@pytest.mark.parametrize("case", ["full", "three blocks"])
def test_keys_lie_over_the_axes_and_never_on_curves(case: str) -> None:
    made = made_study(beside=3) if case == "full" else made_study(**CASES[case])
    for drawing in drawings(made):
        figure = drawing.figure()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for ax in figure.axes:
            assert ax.get_legend() is None
            for key in ax.artists:
                box = key.get_window_extent(canvas.get_renderer())
                assert box.y0 >= ax.get_window_extent().y1 and box.x0 >= 0 and box.y1 <= figure.bbox.y1


def test_figures_draw_into_axes_given_and_start_bars_at_zero(study: Study) -> None:
    for drawing in drawings(study):
        for panel in drawing.panels:
            ax = Figure().subplots()
            assert panel(ax=ax) is ax
    assert study.plain is not None
    assert lesions.deletions(study.deletions, INTACT, CHANCE).get_ylim()[0] == 0
    assert lesions.control(study.plain.deletions, study.deletions, INTACT, CHANCE).get_ylim()[0] == 0
    assert paths.counts(*made_curves(study)).get_ylim()[0] == 0


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("case", ["full", *CASES])
def test_the_console_table_fits(case: str, width: int) -> None:
    made = made_study(beside=3) if case == "full" else made_study(**CASES[case])
    console = Console(width=width, file=io.StringIO())
    console.print(answers_table(made))
    text = console.file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= min(width, 100)
    assert percent(made.answers.ensemble.intact_error) in text
    for number in range(1, 5):
        assert f"{number}. " in text


def test_numbers_in_words() -> None:
    assert percent(0.1234) == "12.3 %" and percent(-0.1234) == "−12.3 %"
    assert percent(0.0) == "0.0 %" and percent(None) == percent(float("nan")) == "–"
    assert percent(1.1e-8) == "less than 0.01 %" and percent(-5.6e-52) == "about 0 %"
    assert part(1.1e-8) == "1.1 × 10⁻⁶ %" and percent(0.00026) == part(0.00026) == "0.026 %"
    assert points(0.094) == "9.4 points" and points(-0.0001) == "0.0 points" and points(0.01) == "1.0 point"
    assert two_to(54) == "2⁵⁴ = 1.8 × 10¹⁶" and two_to(20.5) == "2²⁰·⁵ = 1.5 × 10⁶"
    assert two_to(3) == "8" and two_to(1.5) == "2.8" and two_to(0) == "1" and large(54) == "1.8 × 10¹⁶"
    assert power_of_ten(0.5) == "0.5" and power_of_ten(0) == "0" and power_of_ten(123) == "123"
    assert plural(1, "block") == "1 block" and plural(10_000, "sample") == "10,000 samples"
    assert count(940) == "940" and count(94_000) == "94.0 k" and count(1_727_962) == "1.73 M"
    assert duration(12.3) == "12 s" and duration(163) == "2 min 43 s" and duration(11_100) == "3 h 5 min"


def test_infinite_numbers_are_written_and_not_raised() -> None:
    assert power_of_ten(float("inf")) == "∞"
    assert power_of_ten(float("-inf")) == "−∞"
    made = made_study(12, control=False)
    deletions = made.deletions.copy()
    deletions.loc[3, "loss"] = np.inf
    blown = replace(made, deletions=deletions)
    assert "by ∞ nats, without stage0.3" in captions.strip_caption(blown)[1]
    for drawing in drawings(blown):
        drawing.figure().draw_without_rendering()
