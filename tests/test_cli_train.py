"""`resect train` against the real thing: killed, interrupted, repeated, and asked for what it cannot do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import resect
from resect.data import load_samples
from resect.jobs.evaluate import mean_error_and_loss
from resect.jobs.source import Source
from resect.jobs.train import TrainJob
from resect.models.specs import load_model
from resect.runs.record import Record
from resect.training.loop import Watch
from resect.training.recipe import Recipe
from resect.training.recipes import load_recipe_file
from trainings import NETWORK, SMALL, refused, run

SOME = ["--schedule", "fixed-count", "--keep", "2", "--save-every", "0"]
EPOCHS = 20  # long enough to be stopped on a busy machine
LONG = [*NETWORK, *SOME, "--epochs", str(EPOCHS)]


def written(checkpoint: Path) -> int | None:
    """When it was, None if it is not there."""
    try:
        return checkpoint.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def stopped(out: Path, how: signal.Signals) -> tuple[int, str, int]:
    """Start the command, stop it at a random moment; return its exit status, what it said, and its last step kept."""
    # A process started in the background of a shell ignores SIGINT, and so do its children, unless they are told.
    code = "import signal, torch; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "torch.set_num_threads(1); from resect.cli import main; main()"
    checkpoint, chance = out.with_suffix(".checkpoint"), random.SystemRandom()
    before = written(checkpoint)
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", *LONG, "--out", str(out)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    for _ in range(chance.randint(1, 12)):
        while (now := written(checkpoint)) == before:
            assert process.poll() is None, "the training ended before it could be stopped"
            assert time.monotonic() < deadline, "the training wrote no checkpoint within a minute"
            time.sleep(0.005)
        before = now
    time.sleep(chance.uniform(0, 0.1))  # about the time from one checkpoint to the next
    os.kill(process.pid, how)
    _, said = process.communicate(timeout=60)
    assert not out.exists(), "the training was over before it was stopped; give it more epochs"
    return process.returncode, said, torch.load(checkpoint, weights_only=True)["step"]


@pytest.fixture
def one_thread() -> None:
    """Sums depend on the number of threads, so both sides of a comparison must have the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_training_stopped_twice_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert run(*LONG[:-4], *LONG[-2:], "--out", whole).exit_code == 0  # without a checkpoint after every step
    status, _, killed_at = stopped(broken, signal.SIGKILL)
    assert status == -signal.SIGKILL
    status, said, interrupted_at = stopped(broken, signal.SIGINT)
    assert status == 130
    kept = broken.with_suffix(".checkpoint")
    assert said.strip().startswith(f"Interrupted. {kept} is kept: the same command goes on from there;")
    assert 1 <= killed_at < interrupted_at < EPOCHS * 21
    assert run(*LONG, "--out", broken).exit_code == 0
    expected, found = load_file(whole), load_file(broken)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not broken.with_suffix(".checkpoint").exists()


def test_the_card_holds_the_error_of_the_written_weights(tmp_path: Path) -> None:
    out = tmp_path / "r8.safetensors"
    result = run(*SMALL, "--seed", "2", "--out", out)
    assert result.exit_code == 0, result.output
    card = Record.read(out.with_suffix(".json"))
    assert card.command == (
        "resect train digits --model resnet8 --model-arg width=4 --epochs 6 --seed 2 --out r8.safetensors"
    )
    assert (card.found["train_samples"], card.found["test_samples"], card.found["precision"]) == (1297, 500, "float16")
    assert {value.dtype for name, value in load_file(out).items() if "tracked" not in name} == {torch.float16}
    test = load_samples("digits")
    loaded = load_model("resect:resnet8", checkpoint=out, model_args={"width": 4}, samples=test)
    measured = mean_error_and_loss(loaded.module, test)
    assert measured == (card.found["test_error"], card.found["test_loss"])  # the loss tells half precision from single
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r8.json", "r8.safetensors"]


def test_what_cannot_be_trained(tmp_path: Path) -> None:
    out = ["--quiet", "--epochs", "1", "--out", tmp_path / "x.safetensors"]
    np.savez(tmp_path / "own.npz", inputs=np.zeros((4, 1, 8, 8)), targets=np.arange(4))
    own = ["--data", f"npz:{tmp_path}/own.npz", "--model", "resnet8"]
    for name, last in (("negative", -1), ("high", 7)):
        np.savez(tmp_path / f"{name}.npz", inputs=np.zeros((5, 1, 8, 8)), targets=[*range(4), last])
    tested = [*own, "--test-data", f"npz:{tmp_path}/negative.npz"]
    assert "negative.npz must be classes from 0, or -100 to be ignored, got -1" in refused("digits", *tested, *out)
    tested[-1] = f"npz:{tmp_path}/high.npz"
    assert "high.npz: the targets must be classes 0 to 3 of the model's outputs" in refused("digits", *tested, *out)
    assert "Name others with --test-data" in refused("digits", *own, *out)
    assert "trained already. Name resnet110 instead" in refused("digits", "--model", "resnet110-digits", *out)
    assert "6m+2, got 9. The nearest are 8 and 14" in refused("digits", "--model", "resnet9", *out)
    assert "unknown model spec" in refused("digits", "--model", "vgg16", *out)
    assert "unknown recipe 'digit'. Known are cifar10, cifar10-paper, digits" in refused(
        "digit", "--model", "resnet8", *out
    )
    data = ["digits", "--model", "resnet8", "--data"]
    assert "unknown data spec 'digit'. Did you mean digits?" in refused(*data, "digit", *out)
    assert "the recipe digits names no model. Give --model" in refused("digits", *out)
    assert "`--keep` must say how many blocks run" in refused(*data[:3], "--schedule", "fixed-count", *out)
    assert "`--keep` must be at most the number of blocks, 3, got 9" in refused(
        *data[:3], "--schedule", "fixed-count", "--keep", "9", *out
    )
    assert "`--device` must be" in refused("digits", "--model", "resnet8", "--device", "tpu9", *out)
    assert "keep the loss finite" in refused("digits", "--model", "resnet8", "--learning-rate", "1e12", *out)
    few = ["digits", "--model", "resnet8", "--model-arg"]
    assert "must be classes 0 to 4 of the model's outputs, got" in refused(*few, "classes=5", *out)
    assert "digits must fit the network, but on inputs (2, 1, 8, 8) CifarResNet says" in refused(
        *few, "channels=3", *out
    )
    assert "`--device` must be" in refused(*few[:3], "--device", "meta", *out)
    assert "`--device` must be a kind of device, got 'cpu:0'" in refused(*few[:3], "--device", "cpu:0", *out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["high.npz", "negative.npz", "own.npz"]


def test_a_file_has_one_training(tmp_path: Path) -> None:
    out, said = tmp_path / "made" / "x.safetensors", list[str]()
    job = TrainJob.from_options("digits", out, {"model": "resnet8", "model_args": {"width": 4}, "epochs": 1})
    assert job.train(Watch(begin=lambda total, seen: said.append(refused(*SMALL, "--out", out)))) is not None
    assert f"{out} must be free, but process {os.getpid()} on " in said[0]
    assert sorted(file.name for file in out.parent.iterdir()) == ["x.json", "x.safetensors"]


def test_a_place_that_cannot_be_written_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "`--out` must be a file that can be written" in refused(*SMALL, "--out", tmp_path / "file" / "x.safetensors")
    assert "`--out` must be a file, got the folder" in refused(*SMALL, "--out", tmp_path)
    assert "`--out` must end in .safetensors" in refused(*SMALL, "--out", tmp_path / "x.json")


def test_a_checkpoint_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    out.with_suffix(".checkpoint").write_bytes(b"not a checkpoint")
    said = refused(*SMALL, "--out", out)
    assert "x.checkpoint must be a checkpoint of a training, but cannot be read: " in said
    assert said.splitlines() == [said.strip()]
    assert said.endswith("Delete it to start anew.\n")


def test_a_finished_training_is_neither_repeated_nor_overwritten(tmp_path: Path) -> None:
    out, history = tmp_path / "x.safetensors", tmp_path / "epochs"
    command = [*NETWORK, "--epochs", "2", "--out", out, "--history", history]
    assert "s of training" in run(*command).stderr
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    made = out.stat().st_mtime_ns
    again = run(*command)
    assert again.exit_code == 0
    assert "trained before; nothing was done again" in again.stderr
    assert "x.safetensors holds other weights. Choose another --out" in refused(*command, "--seed", "1")
    assert "epochs holds those of another training" in refused(*command, "--out", tmp_path / "y.safetensors")
    out.with_suffix(".json").write_text("[]")
    assert "holds other weights" in refused(*command)
    out.with_suffix(".json").write_bytes(before[out.with_suffix(".json")])
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*")} == before
    assert out.stat().st_mtime_ns == made


LAYERED = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))

    def forward(self, x):
        return x + self.f(x)

def build():
    layers = [nn.Flatten(), nn.Linear(64, 32), *(Block() for _ in range(4)), nn.Linear(32, 10)]
    return nn.Sequential(*layers), torch.zeros(1, 1, 8, 8)
"""


def launched(processes: int, *arguments: str, folder: Path) -> None:
    """Train in `processes` processes on the CPU; `accelerate launch --cpu` would start one, whatever it is told."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*command, "-m", "resect", "train", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [[], ["--schedule", "fixed-count", "--keep", "2"]], ids=["full", "fixed-count"])
def test_two_processes_train_what_one_trains(
    tmp_path: Path, schedule: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "layered.py").write_text(LAYERED)
    monkeypatch.chdir(tmp_path)
    # shares of five and four samples: their means must not count alike
    recipe = ["digits", "--model", "py:layered:build", "--epochs", "1", "--batch-size", "9", *schedule]
    recipe += ["--learning-rate", "0.01", "--quiet"]
    assert run(*recipe, "--out", "one.safetensors").exit_code == 0
    launched(2, *recipe, "--out", "two.safetensors", folder=tmp_path)
    one, two = load_file("one.safetensors"), load_file("two.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():  # batch norm would see half a batch; layer norm does not mind
        assert torch.allclose(value.float(), two[name].float(), atol=1e-3), name  # half precision, below 2
    cards = [Record.read(tmp_path / f"{name}.json") for name in ("one", "two")]
    assert [card.found["processes"] for card in cards] == [1, 2]
    assert cards[1].found["test_error"] < 0.5
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two.json", "two.safetensors"]


@pytest.mark.parametrize("seed", [1, 3])
def test_a_seed_does_not_move_training_images_into_the_test_set(seed: int) -> None:
    samples = Source("resect:resnet8", "digits", model_args={"width": 4}, seed=seed).samples()
    trained = {image.numpy().tobytes() for image in load_samples("digits", split="train").inputs}
    assert not [image for image in samples.inputs if image.numpy().tobytes() in trained]


def test_model_arguments_are_parsed() -> None:
    from resect.cli._options import parse_arguments

    found = parse_arguments(("a=3", "b=0.5", "c=true", "d=False", "e=text", "f=x=y"))
    assert found == {"a": 3, "b": 0.5, "c": True, "d": False, "e": "text", "f": "x=y"}
    assert [type(value) for value in found.values()] == [int, float, bool, bool, str, str]
    with pytest.raises(resect.InputError, match="must have the form K=V, got '=3'"):
        parse_arguments(("=3",))


SHORT = [*NETWORK, "--epochs", "3", "--seed", "5"]


def interrupted(out: Path, history: Path | None = None) -> bytes:
    """Begin the training of SHORT, and stop it at the end of its second epoch; return its checkpoint, of the first."""
    recipe = Recipe(**load_recipe_file("digits").settings_with(None) | {"epochs": 3, "seed": 5})
    seen = 0

    def stop(samples: int, loss: float) -> None:
        nonlocal seen
        seen += samples
        if seen == 2 * 1297:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TrainJob("resnet8", "digits", out, recipe, {"width": 4}, history=history).train(Watch(step=stop))
    return out.with_suffix(".checkpoint").read_bytes()


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    before = interrupted(out)
    # no file may have more than 10 kB, which the system says as it says that a disk is full
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); "
    code += "from resect.cli import main; main()"
    command = [sys.executable, "-c", code, "train", *SHORT, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {out.with_suffix('.checkpoint')} cannot be used: File too large. The last")
    assert len(done.stderr.splitlines()) == 1
    assert out.with_suffix(".checkpoint").read_bytes() == before
    assert list(tmp_path.iterdir()) == [out.with_suffix(".checkpoint")]
    assert run(*SHORT, "--out", out).exit_code == 0


def test_a_training_goes_on_with_the_history_it_began_with(tmp_path: Path) -> None:
    out, history, other = tmp_path / "x.safetensors", tmp_path / "epochs", tmp_path / "other"
    assert run(*SHORT, "--epochs", "1", "--out", tmp_path / "y.safetensors", "--history", other).exit_code == 0
    interrupted(out, history)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    for folder in (tmp_path / "new", other):  # that of another training has files of the same names
        said = refused(*SHORT, "--out", out, "--history", folder)
        assert f"`--history` must be the folder that this training began with, but {folder} has no epoch-0.saf" in said
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*")} == before
    history.rename(tmp_path / "moved")
    assert run(*SHORT, "--out", out, "--history", tmp_path / "moved").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == [f"epoch-{i}.safetensors" for i in range(4)]


@pytest.mark.usefixtures("one_thread")
def test_logs_have_the_test_error_and_change_nothing(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, logged = tmp_path / "plain.safetensors", tmp_path / "logged.safetensors"
    command = [*SHORT, "--schedule", "fixed-count", "--keep", "2"]
    assert run(*command, "--out", plain).exit_code == 0
    assert run(*command, "--out", logged, "--logs", tmp_path / "logs").exit_code == 0
    assert plain.read_bytes() == logged.read_bytes()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    card = Record.read(logged.with_suffix(".json"))
    for name in ("error", "loss"):
        values = events.Scalars(f"test/{name}")
        assert [event.step for event in values] == [21, 42, 63]
        assert values[-1].value == pytest.approx(card.found[f"test_{name}"], abs=2e-3)  # the card's are half precision
