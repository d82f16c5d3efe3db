"""What a study says of several networks: only what paired intervals, over samples and over seeds, can tell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind

import resect
from made import made_study
from resect.jobs.answers import multiplicity_row
from resect.jobs.findings import Answers
from resect.jobs.source import Source
from resect.jobs.trend import Compared, steps, training_of
from resect.measuring.statistics import paired_error_interval
from resect.models.resnet import CifarResNet
from resect.models.specs import load_card
from resect.report.study.trend import trend
from resect.runs.record import plain

N = 200
DATA = resect.load_samples("digits", limit=12)


def network(blocks: int, wrong: range, training: str = "") -> Compared:
    """A network whose paths are measured, and which errs on some of 200 samples."""
    if blocks not in NETS:
        torch.manual_seed(blocks)
        model = CifarResNet(2 * blocks + 2, width=4, channels=1).eval()
        resect.calibrate(model, DATA.batches(12))
        net = resect.unravel(model, DATA.first(2)[0])
        NETS[blocks] = net, resect.path_spectrum(net, DATA.batches(12))
    net, spectrum = NETS[blocks]
    errors = np.isin(np.arange(N), list(wrong)).astype(float)
    row = multiplicity_row(f"net{blocks}", net, float(errors.mean()), spectrum)
    return Compared(row, training or f"net{blocks}", errors, np.ones(N), spectrum)


NETS: dict[int, tuple[resect.Unraveled, resect.PathSpectrum]] = {}


def said(networks: list[Compared]) -> str:
    """What is said of the networks, after their numbers have been written and read."""
    study = made_study()
    rows = tuple(network.row for network in networks)
    numbers = replace(study.answers, multiplicity=rows, trend=steps(networks)).as_dict()
    return trend(Answers.of(json.loads(json.dumps(plain(numbers)))))


def test_a_trend_is_told_where_every_step_is_beyond_its_interval() -> None:
    networks = [network(3, range(60)), network(9, range(5)), network(6, range(30))]
    first, second = steps(networks)
    assert (first.fewer, first.more, second.fewer, second.more) == ((0,), (2,), (2,), (1,))
    low, high = paired_error_interval([0], [30], N, 1 - 0.05 / 2)  # two steps at once
    assert first.error == pytest.approx((-0.15, low[0], high[0]))
    assert first.paths[1] > 0 and second.paths[1] > 0
    assert "the error falls as the effective number of paths (an upper bound) grows" in said(networks)
    rising = [network(3, range(5)), network(6, range(30)), network(9, range(60))]
    assert "the error rises as" in said(rising)
    both = [network(3, range(5)), network(6, range(60)), network(9, range(5))]
    assert "the error does not follow the effective number of paths: it both rises and falls" in said(both)


def test_three_points_in_order_by_chance_are_no_trend() -> None:
    networks = [network(3, range(12)), network(6, range(11)), network(9, range(10))]
    assert "the data cannot tell whether the error follows" in said(networks)
    assert "net3 and net6 cannot be told apart by their error (−0.5 points, " in said(networks)
    assert said(networks).endswith("and 1 more of the 2 steps.")
    same_paths = [network(3, range(60)), network(6, range(30)), replace(network(6, range(5)), training="other")]
    assert "by their number of paths" in said(same_paths)
    assert "two networks show no trend" in said(networks[:2]) and "which may be chance" in said(networks[:2])
    assert "which may be chance" not in said([network(3, range(60)), network(6, range(5))])


def test_seeds_count_where_a_network_was_trained_several_times() -> None:
    small = [network(3, range(k), "small") for k in (50, 60, 70)]
    large = [network(6, range(k), "large") for k in (4, 5, 6)]
    (step,) = steps([*small, *large])
    assert (step.fewer, step.more) == ((0, 1, 2), (3, 4, 5))
    change, low, high = step.error
    seeds = ttest_ind([k / N for k in (4, 5, 6)], [k / N for k in (50, 60, 70)]).confidence_interval()
    assert change == pytest.approx(5 / N - 60 / N)
    assert low <= seeds.low + 1e-12 and high >= seeds.high - 1e-12 and high < 0
    wild = [network(3, range(k), "small") for k in (1, 60, 119)]  # the seeds differ more than the networks
    (step,) = steps([*wild, *large])
    assert step.error[2] > 0
    assert "over 3 trainings each, which may be chance" in said([*wild, *large])
    assert "they differ in the seed of their training alone" in said(small)


def test_trainings_are_the_same_but_for_the_seed(tmp_path: Path) -> None:
    card = load_card("resnet110-digits")
    for name, change in (("a", {"seed": 1}), ("b", {"seed": 2}), ("c", {"epochs": 3})):
        asked = {**card.asked, "recipe": {**card.asked["recipe"], **change}}
        replace(card, asked=asked).write(tmp_path / f"{name}.json")
    a, b, c = (training_of(Source("resect:resnet110", checkpoint=tmp_path / f"{n}.safetensors")) for n in "abc")
    assert a == b == training_of(Source("resect:resnet110-digits")) != c
    assert training_of(Source("resect:resnet110", model_args={"width": 8})) not in (a, c)


def test_records_without_intervals_show_no_trend() -> None:
    study = made_study(beside=3)
    assert "the study does not hold paired intervals" in trend(replace(study.answers, trend=None))
