"""Trainings as CUDA graphs, against those that launch every operator. With RESECT_TEST_DEVICE=cpu none has graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import resect
from on_device import DEVICE, classes, close, float32_means_float32, images, needs_device, placed, resnet
from resect.training import loop
from resect.training.recipe import Recipe

__all__ = ["float32_means_float32"]  # a fixture
pytestmark = needs_device
ON_GPU = torch.device(DEVICE).type == "cuda"
SCHEDULES = [resect.schedules.FixedCount(4), resect.schedules.StochasticDepth(0.5)]


def ten_steps(schedule: resect.schedules.Schedule, graphs: bool, set_to_none: bool) -> tuple[list[float], nn.Module]:
    """The losses of ten steps, of which the seventh has a smaller batch and the fourth adds to earlier gradients."""
    model = placed(resnet(20)).train()
    net = resect.unravel(model, placed(images(2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    with net.schedule(schedule, seed=3, graphs=graphs):
        for step in range(10):
            count = 5 if step == 6 else 8
            inputs, targets = placed(images(16)[step % 4 :][:count]), placed(classes(16)[step % 4 :][:count])
            if step != 3:
                optimizer.zero_grad(set_to_none=set_to_none)
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["fixed count", "stochastic depth"])
def test_graphs_train_as_steps_launched_one_by_one_do(schedule: resect.schedules.Schedule, set_to_none: bool) -> None:
    (got, here), (wanted, there) = (ten_steps(schedule, graphs, set_to_none) for graphs in (True, False))
    close(got, wanted)
    for name, value in there.state_dict().items():
        close(here.state_dict()[name], value, what=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("schedule", ["full", "fixed-count", "stochastic-depth"])
def test_a_training_with_graphs_is_one_without(
    schedule: str, channels_last: bool, precision: Any, own_accelerate: None
) -> None:
    drawn = {"schedule": schedule, "keep": 4 if schedule == "fixed-count" else None, "precision": precision}
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=0.02, flip=True, channels_last=channels_last, **drawn)
    trained = []
    for graphs in (True, False):
        model, data = placed(resnet(20)), placed(images(21))
        done = loop.train(model, data, classes(21), replace(recipe, graphs=graphs))  # batches of 8, 8 and 5
        assert torch.equal(data.cpu(), images(21))
        trained.append((model, [epoch["loss"] for epoch in done.progress.curve]))
    (here, got), (there, wanted) = trained
    close(got, wanted, 1e-4 if precision == "float32" else 1e-2)
    for name, value in there.state_dict().items() if precision == "float32" else ():
        close(here.state_dict()[name], value, 1e-3, what=name)


def test_graphs_follow_parameters_that_are_frozen_or_replaced() -> None:
    model = placed(resnet(20)).train()
    net = resect.unravel(model, placed(images(2)))
    first = model.blocks[0].c1
    with net.schedule(resect.schedules.FixedCount(9), graphs=True):
        for step in range(9):
            if step == 3:
                first.weight.requires_grad_(False)
            if step == 6:
                first.weight.requires_grad_(True)
                first.weight.data = torch.zeros_like(first.weight)
            model.zero_grad()
            model(placed(images())).square().sum().backward()
            assert (first.weight.grad is None) == (3 <= step < 6)
    before = model.blocks[0].bn2.running_mean.clone()
    model(placed(images(4)))
    assert not torch.equal(model.blocks[0].bn2.running_mean, before)


def test_graphs_see_no_hooks_of_parameters() -> None:
    model = placed(resnet(20)).train()
    net = resect.unravel(model, placed(images(2)))
    model.fc.weight.register_hook(lambda gradient: None)
    with net.schedule(resect.schedules.FixedCount(9), graphs=True):
        if ON_GPU:
            with pytest.raises(resect.InputError, match="where parameters have hooks"):
                model(placed(images()))


def test_graphs_hold_one_forward_pass() -> None:
    model = placed(resnet(20)).train()
    net = resect.unravel(model, placed(images(2)))
    with net.schedule(resect.schedules.FixedCount(9), graphs=True):
        for _ in range(3):  # of which the first two record
            model(placed(images())).sum().backward()
        one, other = model(placed(images())), model(placed(images(6) + 1))
        assert not torch.equal(one, other)  # the second call leaves what the first returned
        if ON_GPU:
            other.sum().backward()
            with pytest.raises(resect.InputError, match="`graphs` must be off to go forward several times"):
                one.sum().backward()
            again = model(placed(images())).sum()
            again.backward(retain_graph=True)
            with pytest.raises(resect.InputError, match="or backward several times"):
                again.backward()
