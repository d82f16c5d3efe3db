"""Measures on models that take sequences first, (L, B, ...): what they say is what a transposing module says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import resect
from resect.cli import main
from resect.graph.decisions import Removal


class SequencesFirst(nn.Module):
    def __init__(self, pooled: bool, batch_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.pooled, self.positions = pooled, int(batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.stem(x))
        return self.head(x.mean(self.positions) if self.pooled else x)


class Transposing(nn.Module):
    def __init__(self, model: SequencesFirst) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        y = self.model(x.transpose(0, 1))
        return y if self.model.pooled else y.transpose(0, 1)  # type: ignore[no-any-return]


class Case:
    """The same network three times, on the same data: sequences first, in a transposing module, with batch_first."""

    def __init__(self, pooled: bool) -> None:
        torch.manual_seed(0)
        model, other = SequencesFirst(pooled).eval(), SequencesFirst(pooled, batch_first=True).eval()
        other.load_state_dict(model.state_dict())
        self.net = resect.unravel(model, torch.randn(5, 3, 6), batch_dim=1)
        self.transposing = resect.unravel(Transposing(model), torch.randn(3, 5, 6))
        self.batch_first = resect.unravel(other, torch.randn(3, 5, 6))
        self.data = [(torch.randn(5, 4, 6), torch.randint(3, (4,) if pooled else (4, 5))) for _ in range(2)]
        self.transposed = [(inputs.transpose(0, 1), targets) for inputs, targets in self.data]

    def require_same(self, measure: Callable[[resect.Unraveled, Any], np.ndarray]) -> None:
        own = measure(self.net, self.data)
        assert np.isfinite(own).any()
        assert np.array_equal(own, measure(self.transposing, self.transposed), equal_nan=True)
        assert np.allclose(own, measure(self.batch_first, self.transposed), rtol=1e-3, atol=1e-6, equal_nan=True)


@pytest.fixture(scope="module", params=[True, False], ids=["one class a sample", "one class a position"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.mark.parametrize("removal", ["zero", "mean", "other sample"])
def test_lesions_of_sequences_first(case: Case, removal: Removal) -> None:
    def losses(net: resect.Unraveled, data: Any) -> np.ndarray:
        result = resect.lesion(net, data, resect.plans.single(net).removing(removal))
        return np.concatenate([result.losses, result.errors])

    case.require_same(losses)


@pytest.mark.parametrize("at", ["input", "stem", 1])
def test_gradients_of_sequences_first_are_each_samples_own(case: Case, at: str | int) -> None:
    settings = resect.PathSettings(at=at)
    case.require_same(lambda net, data: resect.path_spectrum(net, data, settings).norms)
    case.require_same(lambda net, data: resect.participation(net, data, settings).products)
    inputs, targets = case.data[0]
    alone = [(inputs[:, i : i + 1], targets[i : i + 1]) for i in range(4)]
    together = resect.path_spectrum(case.net, case.data[:1], settings).norms
    assert np.allclose(resect.path_spectrum(case.net, alone, settings).norms, together, rtol=1e-4, atol=1e-7)


def test_scores_of_sequences_first(case: Case) -> None:
    names = ("loss_change", "share", "first_order")
    case.require_same(lambda net, data: resect.scores(net, data, *names).table.drop(columns="name").to_numpy(float))


def test_a_loss_of_ones_own_is_given_the_samples_first() -> None:
    case = Case(pooled=False)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        assert outputs.shape == (4, 5, 3)
        return outputs.square().mean((1, 2))

    case.require_same(lambda net, data: resect.lesion(net, data, resect.plans.single(net), task=loss).losses)


def test_tokens_of_sequences_first_are_moved_to_name_the_next() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 8), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 7)).eval()
    tokens = torch.randint(7, (5, 3))
    net = resect.unravel(model, tokens, batch_dim=1)
    ignored = torch.full((3, 1), -100)
    plan = resect.plans.single(net)
    own = resect.lesion(net, [(tokens, tokens.T)], plan, task="next-token")
    moved = resect.lesion(net, [(tokens, torch.cat([tokens.T[:, 1:], ignored], 1))], plan, task="next-token")
    assert np.array_equal(own.losses, moved.losses)


def test_samples_and_positions_that_are_folded_have_no_gradients_of_their_own() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.reshape(-1, 6)
            return self.head((flat + self.one(flat).relu()).view(x.shape).mean(0))

    net = resect.unravel(Folded().eval(), torch.randn(5, 3, 6), batch_dim=1)
    data = [(torch.randn(5, 4, 6), torch.randint(3, (4,)))]
    assert resect.lesion(net, data, resect.plans.single(net)).losses.shape == (1, 4)
    with pytest.raises(resect.InputError, match=r"a dimension of samples alone .* one has"):
        resect.path_spectrum(net, data)


def test_a_recording_holds_at_its_batch_and_is_not_measured_with_sequences_first() -> None:
    class Deciding(SequencesFirst):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if bool(self.head.bias.sum() < 100) else -x)

    net = resect.unravel(Deciding(pooled=True).eval(), torch.randn(5, 3, 6), batch_dim=1)
    assert net.recorded
    with pytest.raises(resect.InputError, match=r"any number of samples .* batch_dim=1, but its graph holds at 3"):
        resect.plans.single(net)


def make_sequences_first() -> tuple[nn.Module, Tensor]:
    return SequencesFirst(pooled=True), torch.randn(5, 3, 6)


def test_blocks_of_sequences_first_are_listed() -> None:
    arguments = ["blocks", f"py:{__name__}:make_sequences_first", "--batch-dim", "1", "--format", "json"]
    said = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert [block["branch_shape"] for block in said["blocks"]] == [[5, "B", 8]] * 2


def make_samples() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 5, 6), torch.randint(3, (8,))


@pytest.mark.parametrize(("verb", "table"), [("lesion", "lesions"), ("paths", "lengths")])
def test_verbs_give_sequences_first_what_data_give_samples_first(verb: str, table: str) -> None:
    made, data = f"py:{__name__}:make_sequences_first", f"py:{__name__}:make_samples"
    options = ["--sweeps", "0", "--draws", "0", "--strongest", "0"] if verb == "paths" else []
    arguments = [verb, made, data, "--batch-dim", "1", *options, "--batch-size", "8", "--format", "json", "--quiet"]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["asked"]["batch_dim"] == 1 and "--batch-dim 1" in said["command"]
    inputs, targets = make_samples()
    torch.manual_seed(0)
    model = make_sequences_first()[0]
    net = resect.unravel(model, inputs[:2].transpose(0, 1), batch_dim=1)
    own = [(inputs.transpose(0, 1), targets)]
    if verb == "lesion":
        expected, column = resect.lesion(net, own, resect.plans.single(net)).table["loss"], "loss"
    else:
        expected, column = resect.path_spectrum(net, own).share, "share"
    assert [row[column] for row in said["tables"][table]] == pytest.approx(list(expected), rel=1e-5)
