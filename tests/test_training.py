"""Training: reproducible, resumable to the bit, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import resect
from resect.data import load_samples
from resect.models.resnet import CifarResNet
from resect.models.vgg import Vgg15
from resect.studies.train import TrainingJob, train_network
from resect.training.loop import Recipe, _batches, _shifted, evaluate, train

RECIPE = Recipe(epochs=3, batch_size=32, learning_rate=0.05)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return CifarResNet(8, width=4, channels=1)


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_an_interrupted_training_ends_at_the_same_weights(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=96)
    whole, broken, resumed = _network(), _network(), _network()
    train(whole, data.inputs, data.targets, RECIPE)
    steps = 0

    def stop(seen: int, loss: float) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:  # in the middle of the second epoch of three steps
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, data.inputs, data.targets, RECIPE, checkpoint=tmp_path / "c", progress=stop)
    train(resumed, data.inputs, data.targets, RECIPE, checkpoint=tmp_path / "c")
    assert _same(whole, resumed)
    assert not _same(whole, _network())


def test_a_checkpoint_of_another_recipe_or_network_is_refused(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=64)
    one = replace(RECIPE, epochs=1)
    train(_network(), data.inputs, data.targets, one, checkpoint=tmp_path / "c")
    with pytest.raises(resect.RunError, match="must belong to this recipe"):
        train(_network(), data.inputs, data.targets, RECIPE, checkpoint=tmp_path / "c")
    with pytest.raises(resect.RunError, match="must belong to this network"):
        train(CifarResNet(8, width=5, channels=1), data.inputs, data.targets, one, checkpoint=tmp_path / "c")


def test_a_checkpoint_of_other_data_or_damaged_is_refused(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=64)
    one = replace(RECIPE, epochs=1)
    train(_network(), data.inputs, data.targets, one, checkpoint=tmp_path / "c")
    with pytest.raises(resect.RunError, match="must belong to this data"):
        train(_network(), data.inputs + 1, data.targets, one, checkpoint=tmp_path / "c")
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:500])
    with pytest.raises(resect.RunError, match=r"is damaged\. Delete it"):
        train(_network(), data.inputs, data.targets, one, checkpoint=tmp_path / "c")


def test_dropout_is_resumed_to_the_bit_and_leaves_the_global_state_alone(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=96)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))

    def stop(seen: int, loss: float) -> None:
        if (tmp_path / "c").exists():
            raise KeyboardInterrupt

    whole, broken, resumed = network(), network(), network()
    state = torch.random.get_rng_state()
    train(whole, data.inputs, data.targets, RECIPE)
    with pytest.raises(KeyboardInterrupt):
        train(broken, data.inputs, data.targets, RECIPE, checkpoint=tmp_path / "c", progress=stop)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)  # another process has another global state
    calls: list[tuple[int, float]] = []
    train(
        resumed, data.inputs, data.targets, RECIPE, checkpoint=tmp_path / "c", progress=lambda *call: calls.append(call)
    )
    assert _same(whole, resumed)
    assert calls[0][0] == 96
    assert calls[0][1] != calls[0][1]  # NaN: the images of the earlier sitting
    assert sum(seen for seen, _ in calls) == 96 * RECIPE.epochs


def test_a_lone_last_sample_joins_the_batch_before() -> None:
    assert [len(piece) for piece in _batches(torch.arange(33), 16)] == [16, 17]
    assert [len(piece) for piece in _batches(torch.arange(34), 16)] == [16, 16, 2]
    assert [len(piece) for piece in _batches(torch.arange(1), 16)] == [1]
    data = load_samples("digits", split="train", limit=33)
    network = Vgg15(width=4, channels=1, size=8)  # its last batch norm cannot train on one sample
    train(network, data.inputs, data.targets, replace(RECIPE, epochs=1, batch_size=16))
    assert not network.training


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=96)
    recipe = replace(RECIPE, learning_rate=1e12)
    with pytest.raises(resect.InputError, match="`learning_rate` must keep the loss finite"):
        train(_network(), data.inputs, data.targets, recipe, checkpoint=tmp_path / "c")


def test_training_learns_and_leaves_the_global_state_alone() -> None:
    train_set, test_set = load_samples("digits", split="train"), load_samples("digits")
    state = torch.random.get_rng_state()
    network = _network()
    expected = torch.random.get_rng_state()
    train(network, train_set.inputs, train_set.targets, replace(RECIPE, epochs=8))
    assert torch.equal(torch.random.get_rng_state(), expected)
    torch.random.set_rng_state(state)
    error, loss = evaluate(network, test_set.inputs, test_set.targets, batch_size=100)
    assert error < 0.15
    logits = network(test_set.inputs)
    assert error == pytest.approx((logits.argmax(1) != test_set.targets).float().mean().item())
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, test_set.targets).item(), rel=1e-4)


def test_shifts_move_whole_images() -> None:
    images = torch.arange(2 * 9, dtype=torch.float32).view(2, 1, 3, 3) + 1
    moved = _shifted(images.repeat(50, 1, 1, 1), 1, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, (1, 1, 1, 1), value=1.0)
    windows = [padded[:, :, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    for position, image in enumerate(moved):
        assert any(torch.equal(image, window[position % 2]) for window in windows)
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 18


def test_weights_and_card_are_written(tmp_path: Path) -> None:
    job = TrainingJob("resnet8", "digits", tmp_path / "r8.safetensors", replace(RECIPE, epochs=1), {"width": 4})
    card = train_network(job)
    assert job.out.exists()
    assert not job.checkpoint.exists()
    assert card["command"] == (
        "resect train digits --model resnet8 --model-arg width=4 --epochs 1 --batch-size 32 --learning-rate 0.05 "
        "--out r8.safetensors"
    )
    from resect.models.specs import load_model

    test_set = load_samples("digits")
    loaded = load_model("resect:resnet8", checkpoint=job.out, arguments={"width": 4}, samples=test_set)
    assert evaluate(loaded.module, test_set.inputs, test_set.targets)[0] == card["test_error"]


def test_momentum_has_an_effect() -> None:
    data = load_samples("digits", split="train", limit=96)
    trained = []
    for momentum in (0.9, 0.1):
        network = _network()
        train(network, data.inputs, data.targets, replace(RECIPE, momentum=momentum))
        trained.append(network)
    assert not _same(*trained)
