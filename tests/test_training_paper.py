"""The paper's recipe, what it needs beside the others, and several trainings at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import resect
from resect.data import load_samples
from resect.models.resnet import CifarResNet
from resect.network.graphed import fastest_kernels
from resect.runs.record import Record
from resect.training.augment import Augmentation
from resect.training.checkpoint import Kept
from resect.training.decay import decay_of
from resect.training.loop import train
from resect.training.recipe import Recipe
from resect.training.recipes import load_recipe_file
from trainings import NETWORK, refused, run

PAPER = ["cifar10-paper", "--data", *NETWORK, "--epochs", "1", "--batch-size", "256"]


def rates(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate of every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    decay, found = decay_of(optimizer, recipe, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        decay.step()
    return found


def test_the_papers_learning_rate_falls_after_80_and_121_of_164_epochs() -> None:
    recipe = Recipe(**load_recipe_file("cifar10-paper").settings)
    assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (164, 128, 0.9, 1e-4)
    for epoch in (1, 7):  # steps of an epoch; of CIFAR-10 391
        found = rates(recipe, 164 * epoch)
        wanted = [0.1] * 80 * epoch + [0.01] * 41 * epoch + [0.001] * 43 * epoch
        assert found == pytest.approx(wanted)


def test_the_papers_recipe_trains_and_its_command_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    result = run(*PAPER, "--drops", "0.25,0.5,0.75", "--out", out)
    assert result.exit_code == 0, result.output
    assert " samples/s." in result.stderr
    card = Record.read(out.with_suffix(".json"))
    assert card.asked["recipe"]["drops"] == [0.25, 0.5, 0.75]
    assert card.command == (
        "resect train cifar10-paper --data digits --model resnet8 --model-arg width=4 --epochs 1 --batch-size 256 "
        "--drops 0.25,0.5,0.75 --out x.safetensors"
    )


@pytest.mark.parametrize("drops", [(), (0.5, 0.5), (0.75, 0.5), (0.5, 1.0), (0.0, 0.5), ("half",), 0.5, None])
def test_drops_are_rising_parts_of_a_training(drops: object) -> None:
    with pytest.raises(resect.InputError, match=r"`drops` must be parts of all steps, rising, between 0 and 1"):
        Recipe(drops=drops)


def test_drops_of_a_file_are_those_of_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("{decay: step, drops: [0.25], learning_rate: 1}")
    recipe = Recipe(**load_recipe_file(str(file)).settings)
    assert recipe == Recipe(decay="step", drops=(0.25,), learning_rate=1)
    assert rates(replace(recipe, warmup=0), 8) == pytest.approx([1] * 2 + [0.1] * 6)
    assert "`--drops` must be parts" in refused(file, *NETWORK[1:], "--data", "digits", "--drops", "2")


def test_what_older_cards_do_not_have_is_left_out_at_its_default() -> None:
    assert {"drops", "compile"} <= Recipe(drops=(0.4,), compile=True).as_dict().keys()
    assert not {"drops", "compile"} & Recipe().as_dict().keys()
    assert set(Recipe().as_dict(every=True)) == set(Recipe.names())
    assert Recipe(**Recipe(drops=(0.4,)).as_dict()) == Recipe(drops=(0.4,))


def test_shifts_bring_in_zeros_the_mean_of_normalised_images() -> None:
    image = torch.arange(9, dtype=torch.float32).view(1, 1, 3, 3) - 4
    augment = Augmentation.of(Recipe(shift=2, border="zero"), image)
    moved = augment(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    padded = nn.functional.pad(image, (2, 2, 2, 2))
    windows = [padded[0, :, i : i + 3, j : j + 3] for i in range(5) for j in range(5)]
    assert all(any(torch.equal(found, window) for window in windows) for found in moved)
    assert len({tuple(found.flatten().tolist()) for found in moved}) == 25


@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_images_on_a_gpu_are_moved_there(border: str) -> None:
    """On tensors without memory, which have every operator refuse two devices at once, as a GPU would."""
    recipe = Recipe(shift=2, border=border, flip=True, channels_last=True)
    augment = Augmentation.of(recipe, torch.zeros(1, 3, 8, 8))
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(6, 3, 8, 8, device="cuda")
        moved = augment(images, torch.Generator(), slice(0, None, 2))
    assert (moved.device.type, moved.shape) == ("cuda", (3, 3, 8, 8))
    assert moved.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_a_compiled_training_is_the_same_but_for_the_last_bits(tmp_path: Path) -> None:
    data = load_samples("digits", split="train", limit=32 * 4 + 5)  # the last batch, of another size, is not compiled
    recipe = Recipe(epochs=1, batch_size=32, learning_rate=0.01)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return CifarResNet(8, width=4, channels=1)

    plain, fused, scheduled = network(), network(), network()
    train(plain, data.inputs, data.targets, recipe)
    train(fused, data.inputs, data.targets, replace(recipe, compile=True), kept=Kept(tmp_path / "c"))
    kept = torch.load(tmp_path / "c", weights_only=True)["module"]
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, fused.state_dict()[name], atol=1e-4), name
        assert torch.equal(kept[name], fused.state_dict()[name])
    some = replace(recipe, schedule="fixed-count", keep=2)
    for module, compiled in ((plain, False), (scheduled, True)):
        module.load_state_dict(network().state_dict())
        train(module, data.inputs, data.targets, replace(some, compile=compiled))
    assert all(map(torch.equal, plain.state_dict().values(), scheduled.state_dict().values()))


@pytest.mark.parametrize(
    ("also", "message"),
    [
        (["keep"], "`--also` must be settings of a recipe, as in schedule=fixed-count,keep=23, got 'keep'"),
        (["out=x"], "`--also` must be settings of a recipe"),
        (["seed=1", "seed=1"], "`--also` must name another network each time, got seed=1 and seed=1"),
        (["schedule=fixed-count"], "`--keep` must say how many blocks run"),
        (["learning_rate=0"], "Invalid value for '--learning-rate'"),
    ],
)
def test_what_cannot_be_trained_beside(tmp_path: Path, also: list[str], message: str) -> None:
    result = run(*PAPER, *(word for text in also for word in ("--also", text)), "--out", tmp_path / "x.safetensors")
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert message in result.stderr


@pytest.mark.slow
def test_networks_that_train_side_by_side_are_those_that_train_alone(tmp_path: Path) -> None:
    also = ["--also", "schedule=fixed-count,keep=2", "--also", "drops=0.3,0.6,seed=1", "--history", tmp_path / "h"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on it, and the three share what there is
    try:
        result = run(*PAPER, *also, "--out", tmp_path / "x.safetensors")
        assert result.exit_code == 0, result.output
        assert result.stderr.count("Wrote ") == 3
        alone = {
            "x": [],
            "x-fixed-count-2": ["--schedule", "fixed-count", "--keep", "2"],
            "x-0.3-0.6-1": ["--drops", "0.3,0.6", "--seed", "1"],
        }
        for name, options in alone.items():
            assert len(list((tmp_path / "h" / name).iterdir())) == 2
            assert run(*PAPER, *options, "--out", tmp_path / "alone" / f"{name}.safetensors").exit_code == 0
            one, other = (load_file(folder / f"{name}.safetensors") for folder in (tmp_path, tmp_path / "alone"))
            assert all(torch.equal(value, other[key]) for key, value in one.items())
    finally:
        torch.set_num_threads(threads)
    assert run(*PAPER, *also, "--out", tmp_path / "x.safetensors").stderr.count("nothing was done again") == 3
    failed = refused(*PAPER, "--also", "schedule=fixed-count,keep=9", "--out", tmp_path / "y.safetensors")
    assert "y-fixed-count-9.safetensors is not trained: `--keep` must be at most the number of blocks, 3" in failed
    assert (tmp_path / "y.safetensors").exists()


@pytest.mark.slow
def test_an_interruption_ends_all_and_says_what_is_kept(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "if __name__ == '__main__':\n    from resect.cli import main\n    main()"
    (tmp_path / "start.py").write_text(code)
    words = [*PAPER[:-4], "--epochs", "500", "--save-every", "0", "--also", "seed=1"]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "start.py"), "train", *words, "--out", str(tmp_path / "x.safetensors")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    checkpoints = [tmp_path / "x.checkpoint", tmp_path / "x-1.checkpoint"]
    while not all(file.exists() for file in checkpoints):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.count("is kept: the same command goes on from there") == 2
    assert {file.suffix for file in tmp_path.iterdir()} <= {".checkpoint", ".lock", ".py"}


@pytest.mark.slow
def test_trainings_side_by_side_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    words = [*PAPER, "--epochs", "1000", "--also", "seed=1", "--out", tmp_path / "x.safetensors", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "resect", "train", *map(str, words)])
    try:
        while len(list(tmp_path.glob("*.checkpoint"))) < 2:
            assert process.poll() is None
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
    assert not alive


def test_kernels_are_chosen_by_their_time_unless_results_must_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    for deterministic in (False, True):
        monkeypatch.setattr(cudnn, "deterministic", deterministic)
        before = cudnn.benchmark
        with fastest_kernels():
            assert cudnn.benchmark is not deterministic
        assert cudnn.benchmark is before
