"""Sweeps against naive loops, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch import nn

import resect
from networks import CUSTOM, Encoder
from resect.graph.outputs import logits_of
from resect.models.resnet import CifarResNet
from resect.sweep import plans
from resect.sweep.execution import Execution
from resect.sweep.walk import Tour, walk

_NETWORKS: dict[str, resect.Unraveled] = {}
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def network(name: str) -> resect.Unraveled:
    """An unravelled network, made once."""
    if name not in _NETWORKS:
        torch.manual_seed(3)
        models = {"resnet": lambda: CifarResNet(20, width=4, channels=1), "gpt": _gpt}
        model = models[name]() if name in models else CUSTOM[name][0]()
        _NETWORKS[name] = resect.unravel(model, inputs_of(name))
    return _NETWORKS[name]


def _gpt() -> nn.Module:
    import transformers

    options = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=99, **options)
    return transformers.GPT2LMHeadModel(config).eval()


def inputs_of(name: str) -> torch.Tensor:
    return torch.arange(30).view(3, 10) if name == "gpt" else IMAGES


@given(data=st.data())
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize(
    "name", ["resnet", "encoder", "gpt", "two streams", "parallel", "restoration", "in-place", "highway"]
)
def test_shared_prefixes_change_no_bit(name: str, data: st.DataObject) -> None:
    net = network(name)
    choices = [
        [None, *(b.index for b in net.blocks if b.span == own.span)]
        + [resect.Variant.TWICE] * (not slot.refusals.twice)
        + [resect.Variant.BRANCH_ONLY] * (not slot.refusals.branch_only)
        for own, slot in zip(net.blocks, net.sliced.slots, strict=True)
    ]
    arrangement = st.tuples(*(st.sampled_from(c) for c in choices))
    chosen = [resect.Arrangement(a) for a in data.draw(st.lists(arrangement, min_size=1, max_size=6))]
    seen: dict[int, torch.Tensor] = {}

    def visit(positions, outputs) -> None:
        for position in positions:
            assert position not in seen
            seen[position] = logits_of(outputs)

    execution, inputs = Execution(net), inputs_of(name)
    walk(execution, inputs, Tour.of(execution.programs, chosen), visit)
    assert len(seen) == len(chosen)
    for position, arrangement_ in enumerate(chosen):
        assert torch.equal(seen[position], logits_of(net(inputs, arrangement_))), arrangement_


def test_single_deletions_equal_a_loop(net, batch) -> None:
    inputs, targets = batch
    result = resect.lesion(net, [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])], plans.single(net))
    for block in net.blocks:
        logits = torch.cat([net(part, net.intact.without(block.index)) for part in (inputs[:4], inputs[4:])])
        wrong = (logits.argmax(1) != targets).float()
        loss = nn.functional.cross_entropy(logits, targets, reduction="none").detach()
        assert np.array_equal(result.errors[block.index], wrong.numpy())
        np.testing.assert_allclose(result.losses[block.index], loss.numpy(), rtol=1e-6)
    assert list(result.table["name"]) == [block.name for block in net.blocks]
    assert list(result.table["damage"]) == pytest.approx(list(result.table["error"] - result.intact_error))
    assert "9 lesions (single) on 6 samples" in result.summary()
    assert [bar.get_height() for bar in result.plot().patches] == pytest.approx(list(result.table["error"] * 100))


def test_a_prefix_is_computed_once(net, batch, monkeypatch) -> None:
    runs: list[int] = []
    own = type(net.programs.fold(net.intact)[0])
    run = own.run
    monkeypatch.setattr(own, "run", lambda self, *args: runs.append(len(self.steps)) or run(self, *args))
    resect.lesion(net, [batch], plans.single(net))
    n = len(net.blocks)
    # Prelude, then slot i is run by the intact network and by every deletion before it, and once without its branch.
    assert len(runs) == 1 + n + n * (n + 1) // 2 + (n + 1)


def test_token_networks_are_scored_per_sequence() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mlp, self.out = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embed(ids)
            return self.out(x + torch.tanh(self.mlp(x)))

    model = Language()
    ids = torch.randint(0, 9, (4, 5))
    targets = torch.roll(ids, -1, 1)
    targets[:, -1] = -100
    net = resect.unravel(model, ids)
    result = resect.lesion(net, [(ids, targets)], plans.single(net))
    logits = model(ids)[:, :-1]
    expected = nn.functional.cross_entropy(logits.reshape(-1, 9), targets[:, :-1].reshape(-1)).item()
    assert result.intact_loss == pytest.approx(expected, rel=1e-6)
    assert result.intact_error == pytest.approx((logits.argmax(-1) != targets[:, :-1]).float().mean().item())


def test_random_plans(net) -> None:
    plan = plans.random(net, repeats=3, seed=4)
    assert len(plan) == 4 * 3
    for arrangement, label in zip(plan.arrangements, plan.labels, strict=True):
        assert arrangement.count(None) == label["deleted"]
    assert plan == plans.random(net, repeats=3, seed=4)
    assert plan != plans.random(net, repeats=3, seed=5)
    with pytest.raises(resect.InputError, match=r"from 0 to 9, got \[10\]"):
        plans.random(net, [10])


def test_shuffled_plans_stay_in_their_spans(net) -> None:
    plan = plans.shuffled(net, repeats=2, seed=1)
    for arrangement, label in zip(plan.arrangements, plan.labels, strict=True):
        assert sorted(arrangement) == list(range(9))
        assert all(net.blocks[slot].span == net.blocks[branch].span for slot, branch in enumerate(arrangement))
        assert label["kendall_tau"] == pytest.approx(kendalltau(range(9), list(arrangement)).statistic)
    assert plans.shuffled(net, [0], repeats=1).labels[0]["kendall_tau"] == pytest.approx(1.0)


def test_no_reordering_where_no_two_blocks_fit() -> None:
    assert len(plans.shuffled(resect.unravel(CifarResNet(8, width=4, channels=1), IMAGES))) == 0


def test_nan_weights_are_named(net, batch) -> None:
    with torch.no_grad():
        net.model.blocks[2].c1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(resect.CheckpointError, match=r"`blocks.2.c1.weight` holds NaN"):
        resect.lesion(net, [batch], plans.single(net))


def test_bad_data_is_refused(net, batch) -> None:
    with pytest.raises(resect.DataError, match="at least one"):
        resect.lesion(net, [], plans.single(net))
    with pytest.raises(resect.DataError, match="at least one sample"):
        resect.lesion(net, [(batch[0][:0], batch[1][:0])], plans.single(net))
    with pytest.raises(resect.DataError, match=r"classes 0 to 9 .* got values from 10 to 15"):
        resect.lesion(net, [(batch[0], torch.arange(10, 16))], plans.single(net))
    with pytest.raises(resect.DataError, match=r"\(6,\), got \(3,\)"):
        resect.lesion(net, [(batch[0], batch[1][:3])], plans.single(net))


def test_no_joins_is_said_and_layers_are_offered() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))
    net = resect.unravel(model, IMAGES)
    assert net.blocks == ()
    with pytest.raises(resect.InputError, match=r"no residual joins.*plain=True"):
        plans.single(net)
    layers = resect.unravel(model, IMAGES, plain=True)
    assert [block.name for block in layers.blocks] == ["3"]
    assert torch.equal(layers(IMAGES, (None,)), torch.relu(model[1](IMAGES.flatten(1))))


def test_encoder_blocks_are_two_a_layer() -> None:
    net = resect.unravel(Encoder(3), IMAGES)
    assert [block.name for block in net.blocks] == [f"{part}.{i}" for i in range(3) for part in ("attention", "mlp")]


def test_data_in_which_no_target_counts_are_refused(net: resect.Unraveled) -> None:
    images, plan = torch.randn(6, 1, 8, 8), resect.plans.explicit(net, [net.intact.without(1)])
    ignored = (images, torch.full((6,), -100))
    for measure in (
        lambda: resect.lesion(net, [ignored], plan),
        lambda: resect.lesion(net, [ignored], plan, resect.LesionSettings(precision=0.5)),
        lambda: resect.path_spectrum(net, [ignored]),
        lambda: resect.participation(net, [ignored]),
    ):
        with pytest.raises(resect.DataError, match="`data` must have a target that counts, but all are -100"):
            measure()
    settings, counted = resect.LesionSettings(precision=99), (images, torch.zeros(6, dtype=torch.long))
    both = resect.lesion(net, [ignored, counted], plan, settings)  # of the first batch, nothing is precise yet
    assert both.samples == 12 and both.intact_error == resect.lesion(net, [counted], plan).intact_error
