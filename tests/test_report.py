"""The report, drawn from real (small) studies and from their edge cases."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from resect.data import load_samples
from resect.models.specs import LoadedModel, load_model
from resect.report import captions, lesion_figures, path_figures
from resect.report.console import answers_table
from resect.report.page import drawings, write_report
from resect.report.words import measures, percent, points, power_of_ten, two_to, verdicts
from resect.runs.folder import RunFolder
from resect.studies.results import Study
from resect.studies.study import Settings, Subjects, run_study

SETTINGS = Settings(repeats=3, gradient_samples=8, gradient_batch=8, paths=2, path_samples=8, path_batch=8)


def small_study(folder: Path, spec: str, *, plain: bool = False, control: bool = True, beside: bool = False) -> Study:
    """A study of an untrained small network on 40 digits."""
    samples = load_samples("digits", limit=40)

    def load(name: str) -> LoadedModel:
        return load_model(name, samples=samples, arguments={"width": 4})

    subjects = Subjects(
        load(spec), load("resect:vgg15") if control else None, (load("resect:resnet8"),) if beside else ()
    )
    settings = replace(SETTINGS, plain=plain)
    return run_study(subjects, samples, settings, RunFolder(folder, {}), lambda what, total: lambda amount: None)[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return small_study(tmp_path_factory.mktemp("run") / "a", "resect:resnet20", beside=True)


class Page(HTMLParser):
    """Collects what a page would load, its text and its alternative texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.words: list[str] = []
        self.alternatives: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data") and value:
                self.loads.append(value)
            if name == "alt":
                self.alternatives.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_one_file_with_every_answer(study: Study, tmp_path: Path) -> None:
    path = write_report(study, tmp_path, {"model": "resect:resnet20"})
    page = Page(path.read_text())
    text = re.sub(r"\s+", " ", "".join(page.words))
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.loads)
    assert "script" not in page.tags
    assert "@import" not in text
    for verdict in verdicts(study):
        assert verdict in text
    for _, measure, value, paper in measures(study):
        assert measure in text
        assert value in text
        assert paper in text
    names = [drawing.name for drawing in drawings(study)]
    assert names == ["blocks", "deletions", "random", "reorderings", "counts", "shares", "norms", "multiplicity"]
    assert len(page.alternatives) == len(names) == len(page.loads)
    assert all(page.alternatives)
    for name in names:
        assert (tmp_path / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / "figures" / f"{name}.svg").stat().st_size > 1000
    assert not list(tmp_path.rglob("*.tmp"))
    for name in study.blocks["name"]:
        assert name in text


def test_names_are_escaped(study: Study, tmp_path: Path) -> None:
    named = replace(study, subject=replace(study.subject, model="<script>alert(1)</script>"))
    page = Page(write_report(named, tmp_path).read_text())
    assert "script" not in page.tags
    assert "<script>alert(1)</script> taken apart" in "".join(page.words)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("resect:resnet8", {"control": False}),
        ("resect:resnet14-original", {}),
        ("resect:vgg15", {"plain": True, "control": False}),
    ],
)
def test_other_networks(spec: str, options: dict[str, bool], tmp_path: Path) -> None:
    study = small_study(tmp_path / "run", spec, **options)
    page = Page(write_report(study, tmp_path / "run").read_text())
    assert "nan" not in " ".join(page.words).lower().split()
    if options.get("plain"):
        assert study.answers.depth is None
        assert [drawing.name for drawing in drawings(study)][:3] == ["blocks", "deletions", "random"]
        assert "one path" in verdicts(study)[1]
    if spec == "resect:resnet8":
        assert study.answers.ensemble.reorderings == 0
        assert "no two can trade places" in [value for _, _, value, _ in measures(study)]


def test_captions_name_the_extreme_block(study: Study) -> None:
    worst = study.deletions["name"][int(study.deletions["damage"].argmax())]
    assert f"the most costly is {worst} with" in captions.deletions_caption(study)[1]
    grown = study.deletions.sort_values("loss")["name"].iloc[-1]
    assert grown in captions.strip_caption(study)[1]


def test_figures_hold_the_data(study: Study) -> None:
    bars = lesion_figures.deletions_figure(study).patches
    assert [bar.get_height() for bar in bars] == pytest.approx(list(study.deletions["error"] * 100))
    dots = lesion_figures.random_figure(study).get_lines()[0]
    assert len(dots.get_xdata()) == len(study.random)
    assert len(lesion_figures.reordering_figure(study).get_lines()[0].get_xdata()) == len(study.reorderings)
    assert study.lengths is not None
    counts = [bar.get_height() for bar in path_figures.counts_figure(study).patches if bar.get_width() == 0.8]
    assert counts == pytest.approx(list(study.lengths["path_fraction"] * 100))
    lines = path_figures.share_figure(study).get_lines()
    assert list(lines[0].get_ydata()) == pytest.approx(list(study.lengths["share"] * 100)[: len(lines[0].get_ydata())])


@pytest.mark.parametrize("width", [80, 100])
def test_the_console_table_fits(study: Study, width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(answers_table(study))
    text = console.file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert percent(study.answers.ensemble.intact_error) in text
    for number in range(1, 5):
        assert f"{number}. " in text


def test_numbers_in_words() -> None:
    assert percent(0.1234) == "12.3 %"
    assert percent(-0.1234) == "-12.3 %"
    assert percent(0.0) == "0.0 %"
    assert percent(1.1e-8) == "1.1 × 10⁻⁶ %"
    assert percent(None) == "-"
    assert points(0.094) == "9.4 points"
    assert two_to(54) == "2⁵⁴ = 1.8 × 10¹⁶"
    assert two_to(20.5) == "2²⁰·⁵ = 1.5 × 10⁶"
    assert two_to(3) == "8"
    assert power_of_ten(0.5) == "0.5"
