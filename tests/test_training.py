"""Training: reproducible, resumable to the bit, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

import resect
from resect.data import load_samples
from resect.jobs.evaluate import mean_error_and_loss
from resect.jobs.train import TrainJob
from resect.models.resnet import CifarResNet
from resect.models.vgg import Vgg15
from resect.training.augment import Augmentation
from resect.training.checkpoint import Kept
from resect.training.decay import decay_of
from resect.training.loop import Watch, train
from resect.training.order import batches
from resect.training.recipe import Recipe
from resect.weights import load_checkpoint

RECIPE = Recipe(epochs=3, batch_size=32, learning_rate=0.05)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return CifarResNet(8, width=4, channels=1)


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "fixed-count", "keep": 2},
        pytest.param(
            {"schedule": "stochastic-depth", "precision": "bfloat16", "channels_last": True}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"schedule": "progressive", "keep": 1, "decay": "step", "flip": True, "border": "reflect"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda changes: changes.get("schedule", "full"),
)
def test_an_interrupted_training_ends_at_the_same_weights(tmp_path: Path, changes: dict[str, object]) -> None:
    data = load_samples("digits", split="train", limit=32 * 25)
    recipe = replace(RECIPE, epochs=2, **changes)
    whole, broken, resumed = _network(), _network(), _network()
    train(whole, data.inputs, data.targets, recipe)
    calls = []

    def stop(seen: int, loss: float) -> None:
        calls.append(seen)
        if len(calls) == 5:  # steps 10, 20, 25, 35, 45: in the middle of the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, data.inputs, data.targets, recipe, kept=Kept(tmp_path / "c", every=0), watch=Watch(step=stop))
    assert torch.load(tmp_path / "c", weights_only=True)["step"] == 35
    told, begun = [0], []
    again = train(
        resumed,
        data.inputs,
        data.targets,
        recipe,
        kept=Kept(tmp_path / "c"),
        watch=Watch(begin=lambda *call: begun.append(call), step=lambda seen, loss: told.append(seen)),
    )
    assert _same(whole, resumed)
    assert not _same(whole, _network())
    assert begun == [(len(data) * 2, 35 * 32)]
    assert sum(told) == len(data) * 2 - 35 * 32
    assert [epoch["epoch"] for epoch in again.progress.curve] == [1, 2]


def test_a_checkpoint_of_another_recipe_or_network_is_refused(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=64)
    one = replace(RECIPE, epochs=1)
    train(_network(), data.inputs, data.targets, one, kept=Kept(tmp_path / "c"))
    with pytest.raises(resect.RunError, match="must belong to this recipe"):
        train(_network(), data.inputs, data.targets, RECIPE, kept=Kept(tmp_path / "c"))
    with pytest.raises(resect.RunError, match="must belong to this network, other, got"):
        train(_network(), data.inputs, data.targets, one, kept=Kept(tmp_path / "c", network="other"))
    with pytest.raises(resect.RunError, match="must belong to this network; it does not fit"):
        train(CifarResNet(8, width=5, channels=1), data.inputs, data.targets, one, kept=Kept(tmp_path / "c"))


def test_a_checkpoint_of_other_data_or_damaged_is_refused(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=64)
    one = replace(RECIPE, epochs=1)
    train(_network(), data.inputs, data.targets, one, kept=Kept(tmp_path / "c"))
    with pytest.raises(resect.RunError, match="must belong to this data"):
        train(_network(), data.inputs + 1, data.targets, one, kept=Kept(tmp_path / "c"))
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:500])
    with pytest.raises(resect.RunError, match=r"cannot be read: .*\. Delete it"):
        train(_network(), data.inputs, data.targets, one, kept=Kept(tmp_path / "c"))


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80garbage", b"text", {"module": torch.zeros(2)}, [1]])
def test_what_is_no_checkpoint_is_said_in_a_line(tmp_path: Path, content: object) -> None:
    data = load_samples("digits", split="train", limit=64)
    path, one = tmp_path / "c", replace(RECIPE, epochs=1)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        train(_network(), data.inputs, data.targets, one, kept=Kept(path))
        whole = torch.load(path, weights_only=True)
        torch.save(whole | content if isinstance(content, dict) else content, path)
    with pytest.raises(
        resect.RunError, match=r"c must be(long to| a checkpoint).* Delete it to start anew\.$"
    ) as raised:
        train(_network(), data.inputs, data.targets, one, kept=Kept(path))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


def test_dropout_is_resumed_to_the_bit_and_leaves_the_global_state_alone(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=96)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))

    def stop(epoch: int) -> None:
        if epoch:
            raise KeyboardInterrupt

    whole, broken, resumed = network(), network(), network()
    state = torch.random.get_rng_state()
    train(whole, data.inputs, data.targets, RECIPE)
    with pytest.raises(KeyboardInterrupt):
        train(broken, data.inputs, data.targets, RECIPE, kept=Kept(tmp_path / "c"), watch=Watch(epoch=stop))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)  # another process has another global state
    train(resumed, data.inputs, data.targets, RECIPE, kept=Kept(tmp_path / "c"))
    assert _same(whole, resumed)


def test_what_is_watched_is_what_happened(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=96)
    epochs: list[int] = []
    trained = train(_network(), data.inputs, data.targets, RECIPE, watch=Watch(epoch=epochs.append, logs=tmp_path))
    assert epochs == [0, 1, 2, 3]
    still = replace(RECIPE, epochs=1, learning_rate=1e-12, weight_decay=0.0, shift=0, batch_size=96)
    first = train(_network(), data.inputs, data.targets, still).progress.curve[0]
    logits = _network().train()(data.inputs)
    assert first["loss"] == pytest.approx(nn.functional.cross_entropy(logits, data.targets).item(), rel=1e-5)
    assert first["error"] == pytest.approx((logits.argmax(1) != data.targets).float().mean().item())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = events.Scalars("train/loss")
    assert [event.step for event in logged] == [3, 6, 9]
    assert logged[-1].value == pytest.approx(trained.progress.curve[-1]["loss"])


def test_accelerate_set_up_in_another_way_is_refused() -> None:
    data = load_samples("digits", split="train", limit=64)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(cpu=True, mixed_precision="bf16")
        with pytest.raises(resect.InputError, match=r"Accelerate must not be set up in another way .* another process"):
            train(_network(), data.inputs, data.targets, RECIPE)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_small_last_batch_joins_the_one_before() -> None:
    assert [len(piece) for piece in batches(torch.arange(33), 16, 2)] == [16, 17]
    assert [len(piece) for piece in batches(torch.arange(34), 16, 2)] == [16, 16, 2]
    assert [len(piece) for piece in batches(torch.arange(35), 16, 4)] == [16, 19]
    assert [len(piece) for piece in batches(torch.arange(1), 16, 2)] == [1]
    data = load_samples("digits", split="train", limit=33)
    network = Vgg15(width=4, channels=1, size=8)  # its last batch norm cannot train on one sample
    train(network, data.inputs, data.targets, replace(RECIPE, epochs=1, batch_size=16))
    assert not network.training


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=96)
    recipe = replace(RECIPE, learning_rate=1e12)
    with pytest.raises(resect.InputError, match="`learning_rate` must keep the loss finite"):
        train(_network(), data.inputs, data.targets, recipe, kept=Kept(tmp_path / "c"))


def test_training_learns_and_leaves_the_global_state_alone() -> None:
    train_set, test_set = load_samples("digits", split="train"), load_samples("digits")
    state = torch.random.get_rng_state()
    network = _network()
    expected = torch.random.get_rng_state()
    train(network, train_set.inputs, train_set.targets, replace(RECIPE, epochs=8))
    assert torch.equal(torch.random.get_rng_state(), expected)
    torch.random.set_rng_state(state)
    error, loss = mean_error_and_loss(network, test_set, batch_size=100)
    assert error < 0.15
    logits = network(test_set.inputs)
    assert error == pytest.approx((logits.argmax(1) != test_set.targets).float().mean().item())
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, test_set.targets).item(), rel=1e-4)


def _augmented(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    return Augmentation.of(recipe, images)(images, torch.Generator().manual_seed(0))


def test_shifts_move_whole_images() -> None:
    images = torch.arange(2 * 9, dtype=torch.float32).view(2, 1, 3, 3) + 1
    moved = _augmented(images.repeat(50, 1, 1, 1), Recipe(shift=1))
    padded = nn.functional.pad(images, (1, 1, 1, 1), value=1.0)
    windows = [padded[:, :, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    for position, image in enumerate(moved):
        assert any(torch.equal(image, window[position % 2]) for window in windows)
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 18


def test_flips_mirror_half_of_the_images_and_borders_reflect() -> None:
    image = torch.arange(2 * 9, dtype=torch.float32).view(1, 2, 3, 3)
    many = _augmented(image.repeat(200, 1, 1, 1), Recipe(shift=0, flip=True))
    mirrored = sum(torch.equal(found, image[0].flip(2)) for found in many)
    assert sum(torch.equal(found, image[0]) for found in many) == 200 - mirrored
    assert 65 <= mirrored <= 135  # 5 standard deviations
    moved = _augmented(image.repeat(200, 1, 1, 1), Recipe(shift=2, border="reflect", flip=True))
    padded = nn.functional.pad(image, (2, 2, 2, 2), mode="reflect")
    windows = [padded[0, :, i : i + 3, j : j + 3] for i in range(5) for j in range(5)]
    windows += [window.flip(2) for window in windows]
    assert all(any(torch.equal(found, window) for window in windows) for found in moved)


def test_a_share_is_augmented_as_in_the_whole_batch() -> None:
    images = torch.randn(7, 1, 5, 5)
    augment = Augmentation.of(Recipe(shift=1, flip=True), images)
    whole = augment(images, torch.Generator().manual_seed(1))
    for rank in range(2):
        share = slice(rank, None, 2)
        assert torch.equal(augment(images, torch.Generator().manual_seed(1), share), whole[share])


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        (
            {"flip": True, "shift": 0},
            (4, 7),
            "`shift`, `flip` and `channels_last` must be off for inputs that are no images",
        ),
        ({"shift": 5, "border": "reflect"}, (4, 1, 5, 5), "`shift` must be below the images' 5 pixels, got 5"),
    ],
)
def test_inputs_that_cannot_be_augmented(changes: dict[str, object], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(resect.InputError, match=message):
        Augmentation.of(Recipe(**changes), torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a whole number of at least 1"),
        ({"batch_size": 1}, "`batch_size` must be a whole number of at least 2"),
        ({"decay": "cosine"}, "`decay` must be one of one-cycle, step, got 'cosine'"),
        ({"warmup": 1.5}, "`warmup` must be between 0 and 1, got 1.5"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"nesterov": True, "momentum": 0.0}, "`momentum` must be above 0 with `nesterov`"),
        ({"schedule": "fixed-count"}, "`keep` must say how many blocks run"),
        ({"precision": "float16"}, "`precision` must be one of float32, bfloat16"),
    ],
)
def test_what_is_no_recipe(changes: dict[str, object], message: str) -> None:
    with pytest.raises(resect.InputError, match=message):
        Recipe(**changes)


def test_the_learning_rate_falls_in_steps() -> None:
    recipe = Recipe(decay="step", warmup=0.25, learning_rate=0.08)
    optimizer = torch.optim.SGD(_network().parameters(), lr=0.08)
    decay = decay_of(optimizer, recipe, 8)
    found = []
    for _ in range(8):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        decay.step()
    assert found == pytest.approx([0.04, 0.08, 0.08, 0.08, 0.008, 0.008, 0.0008, 0.0008])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_network_that_flattens_its_images_trains_in_both_memory_formats(channels_last: bool, shift: int) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.fc = (
                nn.Conv2d(2, 4, 3, padding=1),
                nn.Conv2d(4, 4, 3, padding=1),
                nn.Linear(64, 3),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.fc((x + self.branch(torch.relu(x))).flatten(1))

    inputs, targets = torch.randn(12, 2, 4, 4), torch.randint(0, 3, (12,))
    recipe = Recipe(epochs=2, batch_size=4, shift=shift, channels_last=channels_last, schedule="fixed-count", keep=1)
    seen: list[torch.Tensor] = []
    network = Flat()
    network.stem.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    train(network, inputs, targets, replace(recipe, schedule="full", keep=None))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert all(images.is_contiguous(memory_format=layout) for images in seen)
    train(Flat(), inputs, targets, recipe)


def test_ignored_targets_count_for_nothing() -> None:
    data = load_samples("digits", split="train", limit=64)
    ignored = torch.full_like(data.targets, -100)
    networks = [_network(), _network()]
    train(networks[0], data.inputs, ignored, replace(RECIPE, epochs=1, weight_decay=0.0))
    for (name, found), start in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(found, start), name


@pytest.mark.parametrize(("warmup", "steps"), [(0.25, 4), (1.0, 3), (0.2, 5), (0.0, 3), (1.0, 1), (0.5, 40)])
def test_one_cycle_of_any_length_has_its_peak_and_ends_low(warmup: float, steps: int) -> None:
    optimizer = torch.optim.SGD(_network().parameters(), lr=0.1, momentum=0.9)
    decay = decay_of(optimizer, Recipe(warmup=warmup, learning_rate=0.1), steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        decay.step()
    assert all(0 <= rate <= 0.1 + 1e-9 for rate in rates)
    assert rates == sorted(rates[: rates.index(max(rates))]) + sorted(rates[rates.index(max(rates)) :], reverse=True)
    if steps == 40:
        assert rates[19] == pytest.approx(0.1)
        assert (rates[0], rates[-1]) == (pytest.approx(0.1 / 25), pytest.approx(0.1 / 25e4))


def test_a_schedule_needs_blocks_that_fit() -> None:
    data = load_samples("digits", split="train", limit=64)
    with pytest.raises(resect.InputError, match=r"`model` must have blocks to run on a schedule.*Train it in full"):
        train(Vgg15(width=4, channels=1, size=8), data.inputs, data.targets, Recipe(schedule="stochastic-depth"))
    with pytest.raises(resect.InputError, match="at most the number of blocks, 3, got 23"):
        train(_network(), data.inputs, data.targets, Recipe(schedule="fixed-count", keep=23))


def test_weights_and_card_are_written(tmp_path: Path) -> None:
    job = TrainJob("resnet8", "digits", tmp_path / "r8.safetensors", replace(RECIPE, epochs=1), {"width": 4})
    card = job.train()
    assert card is not None
    assert job.out.exists()
    assert not job.checkpoint.exists()
    assert card.command == (
        "resect train digits --model resnet8 --model-arg width=4 --epochs 1 --batch-size 32 --learning-rate 0.05 "
        "--weight-decay 0.0005 --out r8.safetensors"
    )
    from resect.models.specs import load_model

    test_set = load_samples("digits")
    loaded = load_model("resect:resnet8", checkpoint=job.out, model_args={"width": 4}, samples=test_set)
    assert mean_error_and_loss(loaded.module, test_set)[0] == card.found["test_error"]


@pytest.mark.parametrize(("momentum", "low", "high"), [(0.9, 0.85, 0.95), (0.96, 0.94, 0.98), (0.0, 0.0, 0.0)])
def test_one_cycle_never_takes_all_friction_away(momentum: float, low: float, high: float) -> None:
    optimizer = torch.optim.SGD(_network().parameters(), lr=0.1, momentum=momentum)
    decay = decay_of(optimizer, Recipe(momentum=momentum, warmup=0.5), 20)
    found = []
    for _ in range(20):
        found.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        decay.step()
    assert (min(found), max(found)) == (pytest.approx(low), pytest.approx(high))


def test_the_weights_of_a_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=64)
    trained, loaded = _network(), _network()
    train(trained, data.inputs, data.targets, replace(RECIPE, epochs=1), kept=Kept(tmp_path / "x.checkpoint"))
    load_checkpoint(loaded, tmp_path / "x.checkpoint")
    assert _same(trained, loaded)


def test_a_checkpoint_names_the_settings_that_differ(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=64)
    train(_network(), data.inputs, data.targets, replace(RECIPE, epochs=1), kept=Kept(tmp_path / "c"))
    with pytest.raises(resect.RunError, match=r"must belong to this recipe with epochs 2, got 1\. Delete it"):
        train(_network(), data.inputs, data.targets, replace(RECIPE, epochs=2), kept=Kept(tmp_path / "c"))


def test_momentum_has_an_effect() -> None:
    data = load_samples("digits", split="train", limit=96)
    trained = []
    for momentum in (0.9, 0.1):
        network = _network()
        train(network, data.inputs, data.targets, replace(RECIPE, momentum=momentum))
        trained.append(network)
    assert not _same(*trained)
