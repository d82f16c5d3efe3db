"""Copies and pickles of networks, schedules and results."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import resect
from networks import CUSTOM


def saved(value: Any) -> Any:
    """Through torch.save and back."""
    file = io.BytesIO()
    torch.save(value, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value)), "torch.save": saved  # noqa: S301
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> resect.Unraveled:
    torch.manual_seed(1)
    return resect.unravel(CUSTOM["residual"][0]().eval(), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_network_computes_the_same_and_shares_nothing(small, batch, way: str) -> None:
    net, images, arrangement = small, batch[0], small.intact.without(-1)
    other = COPIES[way](net)
    assert other.fingerprint() == net.fingerprint() and other.blocks == net.blocks and other.plain == net.plain
    assert torch.equal(other(images, arrangement), net(images, arrangement))
    assert other.check(images).identical
    if way == "pickle":
        assert torch.equal(other.train_graph(images), copy.deepcopy(net.model).train()(images))
    kept = net(images)
    with torch.no_grad():
        for value in (*other.model.parameters(), *other.model.buffers()):
            value.zero_()
    assert torch.equal(net(images), kept)
    assert torch.equal(other(images), torch.zeros_like(kept))


class Tied(torch.nn.Module):
    """Two blocks with the same weights, over a constant that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = torch.nn.Linear(64, 8), torch.nn.Linear(8, 8)
        self.twin, self.out = self.branch, torch.nn.Linear(8, 10)
        self.shift = torch.ones(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.flatten(1)) + self.shift
        x = x + torch.tanh(self.branch(x))
        return self.out(x + torch.tanh(self.twin(x)))


def test_a_deep_copy_keeps_ties_and_copies_constants(batch) -> None:
    net = resect.unravel(Tied(), batch[0])
    other = copy.deepcopy(net)
    assert other.model.branch is other.model.twin is not net.model.branch
    assert len(other.parameter_nodes("branch.weight")) == len(net.parameter_nodes("branch.weight"))
    pairs = zip(net.sliced.captured.constants.values(), other.sliced.captured.constants.values(), strict=True)
    assert [one.data_ptr() == two.data_ptr() for one, two in pairs] == [False]
    assert torch.equal(other(batch[0]), net(batch[0]))


def test_a_plain_network_stays_plain(batch) -> None:
    layers = [torch.nn.Linear(64, 64) for _ in range(3)]
    net = resect.unravel(torch.nn.Sequential(torch.nn.Flatten(), *layers), batch[0], plain=True)
    for way in (copy.deepcopy, COPIES["pickle"]):
        other = way(net)
        assert other.plain and other.blocks == net.blocks


def test_a_schedule_is_copied_with_its_model_once_it_is_closed(batch) -> None:
    model = Tied()
    schedule = resect.schedules.FixedCount(1)
    scheduled = resect.unravel(model, batch[0]).schedule(schedule, seed=3, correction=False)
    with scheduled:
        model.train()(batch[0])
        with pytest.raises(resect.InputError, match="before its schedule is opened or after it is closed"):
            copy.deepcopy(model)
    for way in (copy.deepcopy, COPIES["pickle"]):
        other = way(scheduled)
        assert other.step == scheduled.step == 1
        with other, scheduled:  # on models of their own
            ran = [opened._model.train()(batch[0]) for opened in (other, scheduled)]
        assert torch.equal(*ran) and other.running == scheduled.running
        scheduled.step = 1


def test_a_stand_alone_module_is_saved_whole(small, batch) -> None:
    alone = small.without(1)
    for way in COPIES.values():
        assert torch.equal(way(alone)(batch[0]), alone(batch[0]))


def test_results_are_copied_and_pickled(net, batch) -> None:
    data = [batch]
    for result in (
        resect.lesion(net, data, resect.plans.random(net, 2)),
        resect.shapley(net, data, orders=1),
        resect.ensemble(net, data, removed=1, members=2),
        resect.path_spectrum(net, data),
        resect.sample_paths(net, data, draws=1),
        resect.path_squares(net, data, sweeps=1),
        resect.participation(net, data),
        resect.strongest_paths(net, data, count=2),
        resect.Samples("some", *batch, 10),
    ):
        for way in COPIES.values():
            other = way(result)
            assert repr(other) == repr(result) and type(other) is type(result)
            for name, value in vars(result).items():
                assert not isinstance(value, np.ndarray) or np.array_equal(getattr(other, name), value, equal_nan=True)
