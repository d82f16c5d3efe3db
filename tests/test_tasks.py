"""What a network is asked to do: losses and errors of every task against torch's own, and hand deletions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from resect import LesionSettings, PathSettings, Samples, Task, plans
from resect.jobs.evaluate import evaluate_networks
from resect.models.specs import LoadedModel
from resect.training.loop import train
from resect.training.recipe import Recipe

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))


class Chain(nn.Module):
    """Three residual blocks between two linear layers."""

    def __init__(self, out: int = 4, width: int = 8) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(5, width), nn.Linear(width, out)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(x)


class Pixels(nn.Module):
    """A residual network whose outputs are logits of every pixel, (B, C, H, W), under the name "out"."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out, self.aux = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 3, 1), nn.Conv2d(6, 2, 1)
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        x = x + self.branch(x)
        return {"out": self.out(x), "aux": self.aux(x)}


@pytest.fixture(scope="module")
def net() -> resect.Unraveled:
    torch.manual_seed(0)
    return resect.unravel(Chain().eval(), X[:2])


@pytest.fixture(scope="module")
def pixels() -> resect.Unraveled:
    torch.manual_seed(0)
    return resect.unravel(Pixels().eval(), torch.zeros(2, 1, 6, 5))


def single(net: resect.Unraveled, data: object, **options: object) -> resect.LesionResult:
    return resect.lesion(net, data, plans.single(net), **options)


def deleted(net: resect.Unraveled, block: int) -> Tensor:
    """What the network gives where a block's last layer is zero, by hand."""
    network = Chain()
    network.load_state_dict(net.model.state_dict())
    nn.init.zeros_(network.blocks[block][2].weight)
    nn.init.zeros_(network.blocks[block][2].bias)
    return network(X)


@pytest.mark.parametrize("kind", ["floats", "integers", "booleans"])
def test_multi_label_is_guessed_and_has_torchs_losses(net: resect.Unraveled, kind: str) -> None:
    labels = torch.rand(40, 4, generator=torch.Generator().manual_seed(2)) > 0.5
    given = {"floats": labels.float(), "integers": labels.long(), "booleans": labels}[kind]
    result = single(net, [(X[:30], given[:30]), (X[30:], given[30:])])
    assert (result.meaning.task, result.meaning.outcome) == ("multi-label", "label")
    assert single(net, [{"x": X, "labels": given}]).intact_loss == pytest.approx(result.intact_loss, rel=1e-5)
    for block, row in enumerate(result.table.to_dict("records")):
        out = deleted(net, block)
        assert row["loss"] == pytest.approx(F.binary_cross_entropy_with_logits(out, labels.float()).item(), rel=1e-5)
        assert row["error"] == pytest.approx(((out > 0) != labels).float().mean().item(), rel=1e-5)
        assert row["agreement"] == pytest.approx(((out > 0) == (net.model(X) > 0)).float().mean().item(), rel=1e-5)
        assert row["damage_low"] < row["damage"] < row["damage_high"]
    assert "p_value" not in result.table and "perplexity" not in result.table
    assert " % of labels, median damage" in result.summary() and "multi-label" in result.summary()


def test_labels_that_are_ignored_count_for_nothing(net: resect.Unraveled) -> None:
    labels = (torch.rand(40, 4) > 0.5).float()
    labels[:, 2] = -100
    result, known = single(net, [(X, labels)], task="multi-label"), labels != -100
    wanted = F.binary_cross_entropy_with_logits(net.model(X)[known], labels[known])
    assert result.intact_loss == pytest.approx(wanted.item(), rel=1e-5) and (result.weights == 3).all()


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_a_single_output_is_a_label_or_a_value(shape: tuple[int, ...]) -> None:
    net = resect.unravel(Chain(out=1).eval(), X[:2])
    labels, values = (torch.rand(shape) > 0.5).float(), torch.randn(shape)
    out = net.model(X)[:, 0]
    assert single(net, [(X, labels)]).intact_loss == pytest.approx(
        F.binary_cross_entropy_with_logits(out, labels.view(40)).item(), rel=1e-5
    )
    result = single(net, [(X, values)])
    assert result.intact_loss == pytest.approx(F.mse_loss(out, values.view(40)).item(), rel=1e-5)
    if len(shape) == 1:  # a single outcome a sample: as a class
        binary = single(net, [(X, labels)])
        assert "p_value" in binary.table and list(binary.by_class().columns) == [0, 1]


def test_regression_is_told_in_its_own_unit(net: resect.Unraveled) -> None:
    values = torch.randn(40, 4, generator=torch.Generator().manual_seed(3))
    result = single(net, [(X, values)])
    for block, row in enumerate(result.table.to_dict("records")):
        out = deleted(net, block)
        assert row["loss"] == pytest.approx(F.mse_loss(out, values).item(), rel=1e-5)
        assert row["error"] == pytest.approx(F.l1_loss(out, values).item(), rel=1e-5)
        assert row["damage_low"] < row["damage"] < row["damage_high"]
    assert not {"p_value", "agreement"} & set(result.table)
    assert "regression: intact mean absolute error" in result.summary() and "points" not in result.summary()
    with pytest.raises(resect.InputError, match="`flips` needs one target a sample, but the task is regression"):
        result.flips(0)
    with pytest.raises(resect.InputError, match="`metrics` of the task regression must be of error, loss, got 'kl'"):
        single(net, [(X, values)], settings=LesionSettings(["error", "kl"]))
    with pytest.raises(resect.InputError, match="`precision` is in points of an error rate, which regression has not"):
        single(net, [(X, values)], settings=LesionSettings(precision=1.0))


def test_intervals_of_a_regression_hold_the_true_change(net: resect.Unraveled) -> None:
    """Of 20 samples of 40 from one population, about 95 % of the intervals hold its own damage."""
    torch.manual_seed(5)
    x, values = torch.randn(800, 5), torch.randn(800, 4)
    truth = single(net, [(x, values)]).table["damage"]
    held = []
    for start in range(0, 800, 40):
        table = single(net, [(x[start : start + 40], values[start : start + 40])]).table
        held += list((table["damage_low"] <= truth) & (truth <= table["damage_high"]))
    assert 0.88 <= np.mean(held) <= 1.0


@pytest.mark.parametrize("void", [255, -100])
def test_segmentation_has_torchs_loss_of_every_pixel(pixels: resect.Unraveled, void: int) -> None:
    x, targets = torch.randn(7, 1, 6, 5), torch.randint(0, 3, (7, 6, 5))
    targets[:, 0] = void
    targets[3] = void
    given = targets.to(torch.uint8) if void == 255 else targets
    result = single(pixels, [(x, given)])
    out = pixels.model(x)["out"]
    wanted = F.cross_entropy(out, targets, ignore_index=void)
    assert result.meaning.task == "segmentation" and result.weights.tolist() == [25.0] * 3 + [0.0] + [25.0] * 3
    assert result.intact_loss == pytest.approx(wanted.item(), rel=1e-5)
    wrong = (out.argmax(1) != targets)[targets != void].float().mean()
    assert result.intact_error == pytest.approx(wrong.item(), rel=1e-5)
    assert result.table["agreement"][0] <= 1 and "perplexity" not in result.table
    assert " % of pixels" in result.summary()
    assert resect.path_spectrum(pixels, [(x, given)]).sum_error < 1e-5


def test_an_output_can_be_named(pixels: resect.Unraveled) -> None:
    x, targets = torch.randn(7, 1, 6, 5), torch.randint(0, 2, (7, 6, 5))
    result = single(pixels, [(x, targets)], task="segmentation:aux")
    wanted = F.cross_entropy(pixels.model(x)["aux"], targets)
    assert result.intact_loss == pytest.approx(wanted.item(), rel=1e-5)
    spectrum = resect.path_spectrum(pixels, [(x, targets)], task="segmentation:aux")
    assert spectrum.sum_error < 1e-5 and spectrum.share.sum() == pytest.approx(1)
    with pytest.raises(resect.DataError, match=r"output 'head' must be .* it returns out \(B, 3, 6, 5\), aux \(B, 2"):
        single(pixels, [(x, targets)], task="segmentation:head")
    with pytest.raises(resect.DataError, match=r"The model returns out .* `task` may name another"):
        single(pixels, [(x, targets[:, 0, 0])])


def test_own_losses_are_torchs(net: resect.Unraveled) -> None:
    values = torch.randn(40, 4)

    def huber(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(outputs, targets, reduction="none").mean(1)

    result = single(net, [(X, values)], task=huber)
    assert result.metrics == ("loss",) and result.meaning.loss == "huber"
    for block, row in enumerate(result.table.to_dict("records")):
        assert row["loss"] == pytest.approx(F.huber_loss(deleted(net, block), values).item(), rel=1e-5)
        assert row["loss_change_low"] < row["loss_change"] < row["loss_change_high"]
    assert "huber: intact huber 0." in result.summary() and "median change" in result.summary()
    far = Task("far", huber, error=lambda out, y: ((out - y).abs().amax(1) > 2).float(), rate=True)
    result = single(net, [(X, values)], task=far)
    assert result.intact_error == pytest.approx(((net.model(X) - values).abs().amax(1) > 2).float().mean().item())
    assert "far: intact error" in result.summary() and "points" in result.summary()
    gradient = resect.path_spectrum(net, [(X, values)], task=far)
    x = X.clone().requires_grad_()
    huber(net.model(x), values).sum().backward()
    np.testing.assert_allclose(gradient.squares, x.grad.square().sum(1).double().numpy(), rtol=1e-4)
    with pytest.raises(resect.DataError, match="the error of half must be 0 or 1, as it is a rate"):
        single(net, [(X, values)], task=Task("half", huber, lambda out, y: out[:, 0] * 0 + 0.5, rate=True))


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("multi-label", lambda out, y: F.binary_cross_entropy_with_logits(out, y, reduction="none").mean(1)),
        ("regression", lambda out, y: F.mse_loss(out, y, reduction="none").mean(1)),
    ],
)
def test_paths_differentiate_the_loss_of_the_task(net: resect.Unraveled, task: str, loss: object) -> None:
    wanted = torch.rand(40, 4)
    named = resect.path_spectrum(net, [(X, wanted)], task=task)
    by_hand = resect.path_spectrum(net, [(X, wanted)], PathSettings(of=loss), task=task)
    np.testing.assert_allclose(named.products, by_hand.products, rtol=1e-4, atol=1e-9)
    for measure in (resect.participation, resect.path_squares, resect.strongest_paths, resect.sample_paths):
        tables = [measure(net, [(X, wanted)], PathSettings(of=of), task=task).table for of in ("loss", loss)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-9)
    with pytest.raises(resect.InputError, match=f"`of` must be 'loss' or a function where the task is {task}"):
        resect.path_spectrum(net, [(X, wanted)], PathSettings(of="target"), task=task)


def test_scores_and_shapley_values_of_a_regression(net: resect.Unraveled) -> None:
    values = torch.randn(40, 4)
    scores = resect.scores(net, [(X, values)])
    assert scores.values["damage"]["value"].tolist() == single(net, [(X, values)]).table["damage"].tolist()
    own = resect.scores(net, [(X, values)], task=lambda out, y: (out - y).abs().mean(1))
    assert list(own.values) == ["loss_change", "share", "first_order", "block_influence", "angular", "norm_ratio"]
    shapley = resect.shapley(net, [(X, values)], 2)
    assert "mean absolute error changes by" in shapley.summary() and "points" not in shapley.summary()
    assert sum(shapley.table["error"]) == pytest.approx(shapley.total["error"])
    with pytest.raises(resect.InputError, match="must be logits of classes, but the task is regression"):
        resect.ensemble(net, [(X, values)], 1, members=2)


def test_work_of_other_tasks_is_kept_apart(net: resect.Unraveled) -> None:
    from resect.engines.local import Local, Memory

    engine, labels = Local(Memory()), (torch.rand(40, 4) > 0.5).float()
    first = single(net, [(X, labels)], engine=engine)
    kept, more = len(engine.store.kept), len(engine.store.kept) - 1  # how long a pass takes is kept, too
    other = single(net, [(X, labels)], task="regression", engine=engine)
    assert first.intact_loss != other.intact_loss and len(engine.store.kept) == kept + more
    assert single(net, [(X, labels)], engine=engine).table.equals(first.table) and len(engine.store.kept) == kept + more
    single(net, [(X, labels)], task=lambda out, y: (out - y).square().mean(1), engine=engine)
    assert len(engine.store.kept) == kept + more  # a loss that no key tells from others is not kept


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 10**6), st.sampled_from([0.05, 0.5]))
def test_info_nce_of_pairs_is_cross_entropy_of_cosines(rows: int, width: int, seed: int, temperature: float) -> None:
    torch.manual_seed(seed)
    a, b = torch.randn(rows, width), torch.randn(rows, width)
    cosines = torch.stack([F.cosine_similarity(a[i : i + 1], b) for i in range(rows)])
    place, ignored = torch.arange(rows), torch.full((rows,), -100)
    task = Task.named("contrastive", temperature=temperature)
    for outputs, targets in (((a, b), place), (torch.cat([a, b]), torch.cat([place, ignored]))):
        error, loss = task.outcomes(outputs, targets)
        wanted = F.cross_entropy(cosines / temperature, place, reduction="none")
        torch.testing.assert_close(loss[:rows], wanted, rtol=1e-4, atol=1e-5)
        assert (error[:rows] > 0).tolist() == (cosines.argmax(1) != place).tolist()
    task_of_groups = task.outcomes(torch.cat([a, b]), torch.cat([place, place]))[1]  # NT-Xent, by its definition
    unit = F.normalize(torch.cat([a, b]), dim=1)
    scores = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.cat([place + rows, place])
    torch.testing.assert_close(task_of_groups, F.cross_entropy(scores, partner, reduction="none"), rtol=1e-4, atol=1e-5)
    both, same = torch.cat([a, b]), torch.cat([place, place])
    assert task.divergence(both, both, same).tolist() == [0.0] * 2 * rows
    assert float(task.divergence(both, 3 * both, same).max()) < 1e-5  # cosines do not know of lengths
    assert bool((task.divergence(both, both.flip(0), same) >= 0).all())


def test_anchors_find_their_positives(net: resect.Unraveled) -> None:
    result = single(net, [(X[:20], X[20:])], task="contrastive")
    assert result.weights.tolist() == [1.0] * 20 + [0.0] * 20
    a, b = (F.normalize(deleted(net, 1)[part], dim=1) for part in (slice(20), slice(20, 40)))
    wrong = (a @ b.T).argmax(1) != torch.arange(20)
    assert result.table["error"][1] == pytest.approx(wrong.float().mean().item())
    loss = F.cross_entropy(a @ b.T / 0.05, torch.arange(20))
    assert result.table["loss"][1] == pytest.approx(loss.item(), rel=1e-4)
    assert "p_value" in result.table and "% of queries" in result.summary()
    before, after = ((F.normalize(x[:20], dim=1) @ F.normalize(x[20:], dim=1).T / 0.05).log_softmax(1)
                     for x in (net.model(X).detach(), deleted(net, 1)))  # fmt: skip
    apart = F.kl_div(after, before, reduction="batchmean", log_target=True)
    data, plan = [(X[:20], X[20:])], resect.plans.single(net)
    divergences = resect.lesion(net, data, plan, resect.LesionSettings("kl"), task="contrastive").table["kl"]
    assert divergences[1] == pytest.approx(apart.item(), rel=1e-3)
    whole = resect.path_spectrum(net, [(X[:20], X[20:])], PathSettings(memory=10**6), task="contrastive")
    assert len(whole.squares) == 40 and whole.sum_error < 1e-5  # never cut, however little memory there is
    with pytest.raises(resect.InputError, match="`by_class` needs one target a sample, but the task is contrastive"):
        result.by_class()
    with pytest.raises(resect.DataError, match="no other row has the target 7 of one of them"):
        single(net, [(X[:3], torch.tensor([1, 1, 7]))], task="contrastive")
    with pytest.raises(resect.DataError, match="there are 1 and a target is 1"):
        single(net, [(X[:3], torch.tensor([0, 1, -100]))], task="contrastive")


class Towers(nn.Module):
    """Two towers with a residual block each, and what neither is."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Chain(6), Chain(6)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        left = self.left(a)
        return {"scale": left.sum(1, keepdim=True), "a": left, "b": self.right(b)}


def test_two_towers_find_each_other() -> None:
    torch.manual_seed(0)
    net = resect.unravel(Towers().eval(), (X[:2], X[:2]))
    assert len(net.blocks) == 6
    out = net.model(X[:20], X[20:])
    wanted = F.cross_entropy(F.normalize(out["a"], dim=1) @ F.normalize(out["b"], dim=1).T / 0.05, torch.arange(20))
    for batch in ((X[:20], X[20:]), ((X[:20], X[20:]), torch.arange(20))):
        result = single(net, [batch], task="contrastive:a,b")
        assert result.intact_loss == pytest.approx(wanted.item(), rel=1e-4)
    assert resect.path_spectrum(net, [batch], task="contrastive:a,b").sum_error < 1e-5
    with pytest.raises(resect.DataError, match=r"one embedding .* returns scale .*, a \(20, 6\), b \(20, 6\)\. N"):
        single(net, [batch], task="contrastive")


def test_training_descends_the_loss_of_the_task(own_accelerate: None) -> None:
    torch.manual_seed(0)
    network, labels = Chain(), (X @ torch.randn(5, 4) > 0).float()
    before = F.binary_cross_entropy_with_logits(network(X), labels).item()
    recipe = Recipe(epochs=60, batch_size=40, learning_rate=0.1, shift=0)
    trained = train(network, X, labels, recipe, task=Task.named("multi-label"))
    curve = trained.progress.curve
    assert curve[0]["loss"] == pytest.approx(before, rel=1e-5)
    assert curve[-1]["loss"] < curve[0]["loss"] / 2 and curve[-1]["error"] < 0.2


def test_networks_are_evaluated_by_the_error_of_their_task() -> None:
    torch.manual_seed(0)
    networks = [LoadedModel(Chain().eval(), name, None) for name in ("a", "b")]
    values, labels = torch.randn(40, 4), (torch.randn(40, 4) > 0).float()
    table = evaluate_networks(networks, Samples("values", X, values, None))
    errors = [(network.module(X) - values).abs().mean(1) for network in networks]
    assert table["error"].tolist() == pytest.approx([error.mean().item() for error in errors], rel=1e-5)
    second = table.iloc[1]
    assert second["difference"] == pytest.approx((errors[1] - errors[0]).mean().item(), rel=1e-4)
    assert second["difference_low"] < second["difference"] < second["difference_high"] and np.isnan(second["p_value"])
    table = evaluate_networks(networks, Samples("labels", X, labels, None))
    wrong = [((network.module(X) > 0) != (labels > 0.5)).float().mean().item() for network in networks]
    assert table["error"].tolist() == pytest.approx(wrong, rel=1e-5)
    assert (table["error_low"] < table["error"]).all() and (table["error"] < table["error_high"]).all()
