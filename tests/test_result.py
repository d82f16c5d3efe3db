"""What is read off outcomes: tables, intervals, flips, classes, early stopping, own metrics."""

from __future__ import annotations

from math import exp

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import resect
from resect.figures import samples
from resect.measuring.crossed import crossed_interval
from resect.measuring.statistics import mcnemar, paired_error_interval
from resect.sweep import plans

IMAGES = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(3))
ALL = resect.LesionSettings(metrics=("error", "loss", "agreement", "kl"))


@pytest.fixture
def data(resnet) -> list[tuple[Tensor, Tensor]]:
    """40 images in batches of 16, three quarters of them labelled as the network itself says."""
    with torch.no_grad():
        targets = resnet(IMAGES).argmax(1)
    targets[::4] = (targets[::4] + 1) % 10
    return list(zip(IMAGES.split(16), targets.split(16), strict=True))


def test_agreement_and_divergence_are_those_to_the_intact_network(net, data) -> None:
    result = resect.lesion(net, data, plans.single(net), ALL)
    for block in range(9):
        agree, divergence = [], []
        with torch.no_grad():
            for x, _ in data:
                intact, lesioned = net(x), net(x, net.intact.without(block))
                agree.append((intact.argmax(1) == lesioned.argmax(1)).float())
                gap = nn.functional.kl_div(lesioned.log_softmax(1), intact.softmax(1), reduction="none")
                divergence.append(gap.sum(1))
        assert np.array_equal(result.values["agreement"][block], torch.cat(agree).numpy())
        np.testing.assert_allclose(result.values["kl"][block], torch.cat(divergence).numpy(), rtol=1e-3, atol=1e-6)
    assert (result.intact["agreement"] == 1).all()
    assert (result.intact["kl"] == 0).all()
    assert (result.table["kl_low"] >= 0).all()
    assert (result.table["agreement_high"] <= 1).all()


def test_the_table_pairs_every_difference(net, data) -> None:
    result = resect.lesion(net, data, plans.single(net))
    table = result.table
    broken = ((result.errors - result.intact["error"]) > 0).sum(1)
    repaired = ((result.errors - result.intact["error"]) < 0).sum(1)
    low, high = paired_error_interval(broken, repaired, 40)
    assert np.array_equal(table["damage_low"], low)
    assert np.array_equal(table["damage_high"], high)
    assert np.array_equal(table["p_value"], mcnemar(broken, repaired))
    assert table["damage"].to_numpy() == pytest.approx((broken - repaired) / 40)
    assert ((table["damage_low"] <= table["damage"]) & (table["damage"] <= table["damage_high"])).all()
    assert table["loss_change"].to_numpy() == pytest.approx(table["loss"] - result.intact_loss, abs=1e-6)
    assert (table["loss_change_low"] < table["loss_change_high"]).all()
    assert (table["samples"] == 40).all()


def test_flips_and_classes(net, data) -> None:
    result = resect.lesion(net, data, plans.single(net))
    targets = torch.cat([y for _, y in data]).numpy()
    with torch.no_grad():
        before = torch.cat([net(x).argmax(1) for x, _ in data]).numpy() == targets
        after = torch.cat([net(x, net.intact.without(0)).argmax(1) for x, _ in data]).numpy() == targets
    flips = result.flips(0)
    assert list(flips["sample"]) == list(np.flatnonzero(before != after))
    assert list(flips["flip"]) == ["broken" if was else "repaired" for was in before[before != after]]
    assert list(flips["target"]) == list(targets[before != after])
    by_class = result.by_class()
    assert list(by_class.columns) == sorted(set(targets.tolist()))
    for label in by_class.columns:
        assert by_class.loc[0, label] == pytest.approx(1 - after[targets == label].mean())
        assert by_class.loc["intact", label] == pytest.approx(1 - before[targets == label].mean())
    flipped = pd.concat([result.flips(row).assign(lesion=row) for row in range(9)])
    bars = samples.flips(result.table, flipped).containers
    assert bars[0][0].get_height() == pytest.approx((before & ~after).mean() * 100)
    assert samples.classes(by_class).images[0].get_array().shape == by_class.shape
    with pytest.raises(resect.InputError, match="0 to 8, got 9"):
        result.flips(9)


def test_own_metrics_are_given_the_outputs(net, data) -> None:
    def margin(outputs: Tensor, targets: Tensor) -> Tensor:
        top = outputs.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]

    result = resect.lesion(net, data, plans.single(net), resect.LesionSettings(metrics=("error", margin)))
    with torch.no_grad():
        expected = torch.cat([margin(net(x, net.intact.without(4)), y) for x, y in data])
    assert np.array_equal(result.values["margin"][4], expected.numpy())
    assert {"margin", "margin_change", "margin_change_low"} <= set(result.table.columns)

    def mean(outputs: Tensor, targets: Tensor) -> Tensor:
        return margin(outputs, targets).mean()

    with pytest.raises(resect.DataError, match=r"metric mean must return one value a sample.* \(16,\), got \(\)"):
        resect.lesion(net, data, plans.single(net), resect.LesionSettings(metrics=(mean,)))


def test_settings_are_checked() -> None:
    for bad in ((), ("errors",), ("error", "error")):
        with pytest.raises(resect.InputError, match="`metrics` must name some of error, loss, agreement, kl"):
            resect.LesionSettings(metrics=bad)
    with pytest.raises(resect.InputError, match="between 0 and 100 percentage points, got 0"):
        resect.LesionSettings(precision=0)
    with pytest.raises(resect.InputError, match="must hold 'error'"):
        resect.LesionSettings(metrics=("loss",), precision=1)


def test_precise_lesions_stop_early(net, data) -> None:
    batches = data * 20  # 800 samples
    full = resect.lesion(net, batches, plans.single(net))
    early = resect.lesion(net, batches, plans.single(net), resect.LesionSettings(precision=6))
    samples = early.table["samples"].to_numpy()
    assert samples.min() < samples.max() <= 800
    for row, count in enumerate(samples):
        assert np.array_equal(early.errors[row, :count], full.errors[row, :count])
        assert np.isnan(early.errors[row, count:]).all()
        widths = (early.table["damage_high"] - early.table["damage_low"]) / 2
        assert widths[row] <= 0.06 or count == 800
    sizes = [len(y) for _, y in batches]
    ends = np.cumsum(sizes)
    first = samples.argmin()
    before = ends[list(ends).index(samples[first]) - 1]
    change = full.errors[first, :before] - full.intact["error"][:before]
    low, high = paired_error_interval([(change > 0).sum()], [(change < 0).sum()], before)
    assert (high - low)[0] / 2 > 0.06  # one batch earlier it was not precise


@pytest.mark.parametrize("precision", [None, 20])
def test_progress_adds_up_to_the_whole(net, data, precision: float | None) -> None:
    steps: list[float] = []
    settings = resect.LesionSettings(precision=precision)
    result = resect.lesion(net, data, plans.pairs(net), settings, progress=steps.append)
    assert sum(steps) == (36 + 9 + 1) * result.samples


def test_repeats_have_intervals_over_repeats(net, data) -> None:
    result = resect.lesion(net, data, plans.random(net, [1, 4], repeats=6))
    table = result.over_repeats()
    assert list(table["deleted"]) == [1, 4]
    assert list(table["repeats"]) == [6, 6]
    four = result.table.loc[result.table["deleted"] == 4, "error"]
    assert table["error"][1] == pytest.approx(four.mean())
    own = result.errors[result.table["deleted"] == 4]
    low, high = crossed_interval(
        own.mean(1, dtype=float)[None], own.mean(0, dtype=float)[None]
    )  # draws and samples vary
    assert (table["error_low"][1], table["error_high"][1]) == pytest.approx((max(0, low[0]), min(1, high[0])), rel=1e-5)
    assert low[0] < four.mean() < high[0]
    with pytest.raises(resect.InputError, match="must have repeats"):
        resect.lesion(net, data, plans.single(net)).over_repeats()


class Language(nn.Module):
    """A language model of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp, self.out = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.out(x + torch.tanh(self.mlp(x)))


def test_means_of_sequences_are_over_tokens() -> None:
    model = Language()
    ids = torch.randint(0, 9, (6, 5))
    targets = torch.roll(ids, -1, 1)
    for row, length in enumerate((5, 4, 3, 2, 1, 5)):
        targets[row, length:] = -100
    net = resect.unravel(model, ids)
    result = resect.lesion(net, [(ids[:4], targets[:4]), (ids[4:], targets[4:])], plans.single(net), ALL)
    with torch.no_grad():
        logits = net(ids, (None,))
    loss = nn.functional.cross_entropy(logits.reshape(-1, 9), targets.reshape(-1), ignore_index=-100).item()
    counted = targets != -100
    assert result.table["loss"][0] == pytest.approx(loss, rel=1e-6)
    assert result.table["perplexity"][0] == pytest.approx(exp(loss), rel=1e-6)
    wrong = (logits.argmax(-1) != targets)[counted].float().mean().item()
    assert result.table["error"][0] == pytest.approx(wrong, rel=1e-6)
    same = (logits.argmax(-1) == model(ids).argmax(-1))[counted].float().mean().item()
    assert result.table["agreement"][0] == pytest.approx(same, rel=1e-6)
    assert result.table["damage_low"][0] <= result.table["damage"][0] <= result.table["damage_high"][0]
    assert "p_value" not in result.table
    with pytest.raises(resect.InputError, match="the targets are sequences"):
        result.by_class()


def test_a_lesion_without_a_finite_value_counts_as_infinite(net, data) -> None:
    calls = iter(range(1000))

    def fragile(outputs: Tensor, targets: Tensor) -> Tensor:
        lesioned = next(calls) % 10 != 8  # of two equal parts of the trie the later one is run first: the intact one
        return torch.full((len(targets),), float("nan") if lesioned else 1.0)

    result = resect.lesion(net, data, plans.single(net), resect.LesionSettings(metrics=("error", fragile)))
    assert np.isinf(result.values["fragile"]).all()
    assert (result.table["samples"] == 40).all()


@pytest.mark.parametrize(
    "plan",
    [
        *("single", "pairs", "windows", "random", "shuffled", "reversed", "parallel"),
        *("skips", "repeated", "random-repeated"),
    ],
)
def test_every_plan_draws_itself(net, data, plan: str) -> None:
    result = resect.lesion(net, data, getattr(plans, plan.replace("-", "_"))(net))
    ax = result.plot()
    ax.figure.draw_without_rendering()
    if plan == "windows":
        grid = ax.images[0].get_array()
        row = result.table.query("start == 2 and length == 3").iloc[0]
        assert grid[2, 2] == pytest.approx(row["damage"] * 100)
    elif plan in ("reversed", "parallel"):
        assert list(ax.get_lines()[0].get_ydata()) == pytest.approx(list(result.table["damage"] * 100))
        medians = result.table.groupby("length")["damage"].median() * 100
        np.testing.assert_allclose(ax.get_lines()[1].get_xydata(), medians.reset_index(), atol=1e-9)
    elif plan == "pairs":
        shown = np.ma.filled(ax.images[0].get_array(), np.nan)
        np.testing.assert_array_equal(shown, result.interaction("loss").mask(result.saturated()))
    elif plan in ("single", "skips", "repeated"):
        assert [bar.get_height() for bar in ax.patches] == pytest.approx(list(result.table["error"] * 100))
    else:
        assert list(ax.get_lines()[0].get_ydata()) == pytest.approx(list(result.table["error"] * 100))


def test_one_span_of_each_length_is_drawn_with_its_interval(net, data) -> None:
    result = resect.lesion(net, data, plans.windows(net, middle=True))
    table, ax = result.table, result.plot()
    assert ax.get_title(loc="left") == "consecutive blocks deleted"
    np.testing.assert_allclose(ax.get_lines()[0].get_xydata(), table[["length", "damage"]] * [1, 100])
    ends = [[segment[0, 1], segment[1, 1]] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(ends, table[["damage_low", "damage_high"]] * 100)


def silent() -> resect.Unraveled:
    """A random language model whose only block changes nothing."""
    model = Language()
    nn.init.zeros_(model.mlp.weight)
    nn.init.zeros_(model.mlp.bias)
    return resect.unravel(model, torch.zeros(2, 5, dtype=torch.long))


def test_two_sequences_without_a_change_know_little() -> None:
    ids = torch.randint(0, 9, (2, 5))
    row = resect.lesion(net := silent(), [(ids, torch.roll(ids, -1, 1))], plans.single(net), ALL).table.iloc[0]
    assert row["damage"] == row["loss_change"] == row["kl"] == 0
    expected = np.ravel(paired_error_interval([0], [0], 2))  # as if there were one token in each
    assert (row["damage_low"], row["damage_high"]) == pytest.approx(tuple(expected))
    assert (row["agreement_low"], row["agreement_high"]) == pytest.approx((1 + expected[0], 1))
    assert np.isnan([row["loss_change_low"], row["loss_change_high"], row["kl_low"], row["kl_high"]]).all()


def test_no_precision_stops_at_sequences_that_do_not_change() -> None:
    ids = torch.randint(0, 9, (4, 5))
    targets = torch.full_like(ids, -100)
    targets[1:] = (ids[1:] + 1) % 9  # the first batch has no target at all
    data = [(ids[i : i + 1], targets[i : i + 1]) for i in range(4)]
    result = resect.lesion(net := silent(), data, plans.single(net), resect.LesionSettings(precision=50))
    assert result.table["samples"][0] == 3
    assert result.damage_widths()[0] > 0.5
    enough = resect.lesion(net, data[1:] * 4, plans.single(net), resect.LesionSettings(precision=50))
    assert enough.table["samples"][0] == 4  # z^2 / (4 + z^2) < 1/2


def test_agreement_of_single_targets_has_a_score_interval(net, data) -> None:
    table = resect.lesion(net, data, plans.single(net), ALL).table
    low, high = paired_error_interval(0, (40 * (1 - table["agreement"])).round(), 40)
    np.testing.assert_allclose(table["agreement_low"], 1 + low)
    np.testing.assert_allclose(table["agreement_high"], np.minimum(1 + high, 1))


def test_samples_whose_target_is_ignored_are_left_out(net, batch) -> None:
    inputs, targets = batch[0], batch[1].clone()
    plan = resect.plans.single(net)
    some = resect.lesion(net, [(inputs[:4], targets[:4])], plan)
    targets[4:] = -100
    result = resect.lesion(net=net, data=[(inputs, targets)], plan=plan)
    pd.testing.assert_frame_equal(
        result.table.drop(columns="agreement"), some.table.drop(columns="agreement"), atol=1e-5
    )
    assert list(result.by_class()) == list(some.by_class())
    assert len(result.damage_widths()) == len(plan)
