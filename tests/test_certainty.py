"""How sure random signs are, and that more are drawn until they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import resect
from by_hand import IMAGES, TARGETS, chain
from resect.engines.local import Local, Memory
from resect.jobs.asked import PathsAsked
from resect.paths.certainty import relative_errors
from resect.paths.energy import path_energy

DATA = [(IMAGES[:3].double(), TARGETS[:3]), (IMAGES[3:].double(), TARGETS[3:])]
LOOSE, TIGHT, NEVER = 99, 13, 1e-6


def settings(precision: float | None, seed: int = 0) -> resect.PathSettings:
    return resect.PathSettings(seed=seed, precision=precision)


@pytest.fixture(scope="module")
def net() -> resect.Unraveled:
    return chain("CNN of 6 blocks").net


def test_more_sweeps_begin_with_the_same_ones(net: resect.Unraveled) -> None:
    few, all_of_them = (resect.path_squares(net, DATA, settings(p), sweeps=3) for p in (LOOSE, NEVER))
    asked = resect.path_squares(net, DATA, settings(None), sweeps=24)
    assert few.norms.shape[1] == 3 and few.draws == 6
    assert all_of_them.draws == 48  # up to 8 times as many, in each of two batches
    np.testing.assert_array_equal(all_of_them.norms, asked.norms)
    np.testing.assert_array_equal(few.norms, asked.norms[:, :3])
    some = path_energy(net, DATA, settings(NEVER), draws=3)
    np.testing.assert_array_equal(some.products, path_energy(net, DATA, settings(None), draws=24).products)


def test_each_batch_has_as_many_as_make_it_precise(net: resect.Unraveled) -> None:
    squares = resect.path_squares(net, DATA, settings(TIGHT), sweeps=2)
    whole = np.square(resect.path_squares(net, DATA, settings(None), sweeps=16).norms)
    made = []
    for batch in (0, 1):
        rows = squares.batch == batch
        own = int(np.isfinite(squares.norms[rows][0, :, 0]).sum())
        for many in (4, 8, 16):  # 2 say nothing
            sums = whole[rows, :many].mean(0)
            error = sums.std(0, ddof=1) / many**0.5 / sums.mean(0)
            rms = np.sqrt(sums.mean(0) / squares.counts.paths) * squares.counts.paths
            counts = np.maximum(sums.mean(0) / sums.mean(0).sum(), rms / rms.sum()) >= 0.01
            if error[counts].max() <= TIGHT / 100:
                break
        assert own == many
        made.append(many)
    assert made[0] != made[1] and squares.draws == sum(made)
    assert squares.error < TIGHT / 100
    expected = [np.square(squares.norms[squares.batch == b][:, :many]).mean(1) for b, many in enumerate(made)]
    np.testing.assert_allclose(squares.total, np.concatenate(expected).mean(0), rtol=1e-12)
    spectrum = resect.path_spectrum(net, DATA)
    own = np.square(spectrum.norms) / np.concatenate(expected)
    np.testing.assert_allclose(squares.own_coherence(spectrum), own, rtol=1e-12)
    low, high = squares.rms_interval()
    assert (low[1:6] < squares.rms[1:6]).all() and (squares.rms[1:6] < high[1:6]).all()


def test_parts_of_other_lengths_are_joined_to_what_one_run_finds(net: resect.Unraveled) -> None:
    for measure, how in ((resect.path_squares, {"sweeps": 2}), (path_energy, {"draws": 2})):
        whole = measure(net, DATA, settings(TIGHT), **how)
        parts = [measure(net, [batch], settings(TIGHT, seed), **how) for seed, batch in enumerate(DATA)]
        joined = type(whole).joined(parts)
        assert joined.table.equals(whole.table) and joined.summary() == whole.summary()
        assert len({getattr(part, "norms" if "sweeps" in how else "squares").shape[1] for part in parts}) == 2
        store = Local(Memory())
        first = measure(net, DATA[:1], settings(TIGHT), **how, engine=store)
        assert first.table.equals(parts[0].table)
        assert measure(net, DATA, settings(TIGHT), **how, engine=store).table.equals(whole.table)
        assert not measure(net, DATA, settings(NEVER), **how, engine=store).table.equals(whole.table)


def test_results_say_whether_they_are_sure(net: resect.Unraveled) -> None:
    many, one = (resect.path_squares(net, DATA, settings(None), sweeps=sweeps) for sweeps in (60, 1))
    wild = replace(many, norms=np.concatenate([many.norms[:, :5], many.norms[:, 5:6] * 10], 1))
    assert "too much to go by" in wild.summary() and wild.error > 0.25
    assert "too much to go by" not in many.summary() and 0 < many.error < 0.25
    assert "fewer than 3 draws do not say how far off that is" in one.summary() and np.isnan(one.error)
    assert (many.table["relative_error"] < wild.table["relative_error"])[1:6].all()
    assert many.relative_error[[0, 6]] == pytest.approx(0, abs=1e-12)  # a single path
    energy = path_energy(net, DATA, settings(None), draws=64)
    assert "one standard error of the sums of squares is up to" in energy.summary() and 0 < energy.error < 0.25


def test_the_relative_error_is_that_of_the_mean_over_samples() -> None:
    draw, sizes = np.random.default_rng(0), [3, 1]
    means = 0.75 * draw.exponential(size=(4000, 8)).mean(1) + 0.25 * draw.exponential(size=(4000, 16)).mean(1)
    said = [
        relative_errors([draw.exponential(size=(8, 1)), draw.exponential(size=(16, 1))], sizes)[0] for _ in range(400)
    ]
    assert np.sqrt(np.mean(np.square(said))) == pytest.approx(np.std(means), rel=0.25)
    assert np.isnan(relative_errors([np.ones((2, 2))], [1])).all()
    assert relative_errors([np.zeros((4, 2))], [1]).tolist() == [0, 0]


@pytest.mark.parametrize("precision", [0, 100, -1, "high"])
def test_a_precision_is_a_part_of_the_estimate(precision: object) -> None:
    with pytest.raises(resect.InputError, match="`precision` must lie between 0 and 100 per cent of what random signs"):
        resect.PathSettings(precision=precision)


@pytest.mark.parametrize(("given", "why"), [({"sweeps": 0}, "`sweeps` is 0"), ({"max_length": 3}, "`max_length` is")])
def test_a_precision_of_no_signs_is_refused(given: dict[str, int], why: str) -> None:
    with pytest.raises(resect.InputError, match=f"`precision` is an option of .*, but {why}"):
        PathsAsked.from_options("resect:resnet8", "digits", {**given, "precision": 5})
