"""Train one of resect's networks and write its weights with a model card."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resect import __version__
from resect.data import Samples, load_samples
from resect.errors import DataError, InputError, SpecError
from resect.files import write_text
from resect.models.checkpoints import load_checkpoint, save_weights
from resect.models.specs import SHIPPED, Value, load_model
from resect.studies.environment import environment
from resect.training.loop import Recipe, evaluate, train


@dataclass(frozen=True)
class TrainingJob:
    """Which network to train on which data, how, and where its weights go.

    Attributes:
        model: a name of `resect:`, e.g. "resnet110".
        data: a data spec with a train and a test split.
        out: the safetensors file; the model card is written beside it, with the suffix .json.
        history: a folder for the weights before training and after every epoch, epoch-0.safetensors and so on.
    """

    model: str
    data: str
    out: Path
    recipe: Recipe
    arguments: dict[str, Value]
    device: str = "cpu"
    history: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted training goes on from."""
        return self.out.with_suffix(".checkpoint")

    @property
    def command(self) -> str:
        """The command that trains the same network."""
        words = ["resect", "train", self.data, "--model", self.model]
        for name, value in self.arguments.items():
            words += ["--model-arg", f"{name}={value}"]
        for name, value in self.recipe.as_dict().items():
            if value != getattr(Recipe(), name):
                words += [f"--{name.replace('_', '-')}", str(value)]
        words += ["--device", self.device] if self.device != "cpu" else []
        return shlex.join([*words, "--out", self.out.name])


def train_network(job: TrainingJob, progress: Callable[[int, float], None] | None = None) -> dict[str, Any]:
    """Train, write half-precision weights and the card, and return the card.

    The test error on the card is that of the half-precision weights as written.

    Args:
        progress: as for `resect.training.loop.train`.

    Raises:
        SpecError: the name is none of `resect:`, or one of shipped weights.
        DataError: the data have no test samples of their own.
        InputError: the device or the file cannot be used, or the training diverges.
    """
    if job.model in SHIPPED:
        bare = job.model.removesuffix("-digits")
        raise SpecError(f"{job.model} must be a network without weights; it is trained already. Name {bare} instead.")
    samples, test = _splits(job.data)
    spec = f"resect:{job.model}"
    loaded = load_model(spec, arguments=job.arguments, samples=samples, seed=job.recipe.seed)
    module = _placed(loaded.module, job.device)
    _make_folder(job.out)
    step = _with_history(module, len(samples), job.history, progress) if job.history else progress
    seconds = train(module, samples.inputs, samples.targets, job.recipe, checkpoint=job.checkpoint, progress=step)
    save_weights(module, job.out, torch.float16)
    load_checkpoint(module, job.out)
    error, loss = evaluate(module, test.inputs, test.targets)
    card = {
        "model": spec,
        "arguments": job.arguments,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "data": job.data,
        "train_samples": len(samples),
        "test_samples": len(test),
        "recipe": job.recipe.as_dict(),
        "test_error": error,
        "test_loss": loss,
        "precision": "float16",
        "seconds": round(seconds, 1),
        "command": job.command,
        "resect": __version__,
        "environment": environment(),
    }
    write_text(job.out.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    job.checkpoint.unlink(missing_ok=True)
    return card


def _with_history(
    module: nn.Module, images: int, folder: Path, progress: Callable[[int, float], None] | None
) -> Callable[[int, float], None]:
    """Progress that also keeps the weights whenever all images have been seen once more."""
    seen = 0
    if not (folder / "epoch-0.safetensors").exists():
        save_weights(module, folder / "epoch-0.safetensors", torch.float16)

    def step(more: int, loss: float) -> None:
        nonlocal seen
        seen += more
        if seen % images == 0:
            save_weights(module, folder / f"epoch-{seen // images}.safetensors", torch.float16)
        if progress:
            progress(more, loss)

    return step


def _splits(data: str) -> tuple[Samples, Samples]:
    """The training and the test samples, which must differ."""
    samples, test = load_samples(data, split="train"), load_samples(data, split="test")
    if samples.digest() == test.digest():
        raise DataError(
            f"{data} must have test samples beside those to train on, but it has one split, and an error on what was "
            "trained on says nothing. Train on digits or cifar10:DIR."
        )
    return samples, test


def _placed(module: nn.Module, device: str) -> nn.Module:
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"`device` must be one that this PyTorch can use, got {device!r}: {error}") from error


def _make_folder(out: Path) -> None:
    """Make the folder of `out` and check that it can be written to, before hours of training."""
    probe = out.with_name(f".{out.name}.probe")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"`out` must be a file that can be written, got {out}: {error.strerror}.") from error
    if out.is_dir():
        raise InputError(f"`out` must be a file, got the folder {out}.")
    if out.suffix != ".safetensors":  # the card and the checkpoint are written beside it, with other suffixes
        raise InputError(f"`out` must end in .safetensors, got {out}.")
