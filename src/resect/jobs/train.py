"""Train a network and write its weights with a model card."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resect import __version__
from resect.data import Samples, load_samples
from resect.errors import DataError, InputError, SpecError
from resect.files import write_text
from resect.jobs.environment import environment
from resect.jobs.evaluate import evaluate
from resect.jobs.fit import placed, require_fit
from resect.models.specs import SHIPPED, Value, bare_name, card_beside, load_model
from resect.training.checkpoint import Kept
from resect.training.loop import Watch, train
from resect.training.recipe import Recipe
from resect.training.recipes import RecipeFile
from resect.weights import load_checkpoint, save_weights


@dataclass(frozen=True)
class TrainingJob:
    """Which network to train on which data, how, and where its weights go.

    Attributes:
        model: a model spec, e.g. "resect:resnet110" (`resect:` may be left out).
        data: a data spec; what has no test split of its own (a file, a factory) needs `test_data`.
        out: the safetensors file; the model card is written beside it, with the suffix .json.
        recipe_file: the file that `recipe` comes from, for the card's command.
        test_data: the data spec of other samples to test on.
        history: a folder for the weights before training and after every epoch, epoch-0.safetensors and so on.
        logs: a folder for TensorBoard.
    """

    model: str
    data: str
    out: Path
    recipe: Recipe
    arguments: dict[str, Value] = field(default_factory=dict)
    device: str = "cpu"
    recipe_file: RecipeFile = field(default_factory=RecipeFile)
    test_data: str | None = None
    history: Path | None = None
    logs: Path | None = None
    save_every: float = Kept.every

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted training goes on from."""
        return self.out.with_suffix(".checkpoint")

    @property
    def finished(self) -> dict[str, Any] | None:
        """The card of this very training if it is over.

        Raises:
            InputError: `out` or `history` hold something else, which a training would overwrite.
        """
        if self.checkpoint.exists():
            return None
        if self.out.is_file():
            card = card_beside(self.out)
            if any(card.get(name) != value for name, value in self.asked.items()):
                raise InputError(f"`out` must be a new file, but {self.out} holds other weights. Choose another --out.")
            return card
        # a training that was stopped before its first checkpoint left two at most, which it writes again
        if self.history and {file.stem for file in self.history.glob("epoch-*.safetensors")} - {"epoch-0", "epoch-1"}:
            raise InputError(
                f"`history` must be a folder without weights, but {self.history} holds those of another training. "
                "Choose another."
            )
        return None

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the weights, as the card has it."""
        return {
            "model": self.spec,
            "arguments": self.arguments,
            "data": self.data,
            "test_data": self.test_data or self.data,
            "recipe": self.recipe.as_dict(),
        }

    @property
    def spec(self) -> str:
        """The model spec, complete."""
        return self.model if ":" in self.model else f"resect:{self.model}"

    @property
    def network(self) -> str:
        """Spec and arguments in one string."""
        return f"{self.spec} {json.dumps(self.arguments, sort_keys=True)}"

    def command(self, processes: int = 1) -> str:
        """The command that trains the same network in as many processes."""
        file = self.recipe_file
        launcher = ["accelerate", "launch", "--num_processes"]
        if self.device == "cpu":  # of which Accelerate's launcher starts one process only
            launcher = ["torchrun", "--nproc-per-node"]
        start = [*launcher, str(processes), "-m"] if processes > 1 else []
        words = [*start, "resect", "train", file.name]
        words += ["--data", self.data] if self.data != file.data else []
        words += ["--test-data", self.test_data] if self.test_data else []
        words += ["--model", self.spec.removeprefix("resect:")] if self.model != file.model else []
        for name, value in self.arguments.items():
            if value != file.arguments.get(name):
                words += ["--model-arg", f"{name}={value}"]
        base = Recipe().as_dict() | file.settings_with(self.recipe.schedule)
        for name, value in self.recipe.as_dict().items():
            if value == base[name] or value is None:
                continue
            option = name.replace("_", "-")
            words += (
                [f"--{option}" if value else f"--no-{option}"]
                if isinstance(value, bool)
                else [f"--{option}", str(value)]
            )
        words += ["--device", self.device] if self.device != "cpu" else []
        return shlex.join([*words, "--out", self.out.name])


def train_network(job: TrainingJob, watch: Watch | None = None) -> dict[str, Any] | None:
    """Train, write half-precision weights and the card, and return the card; None in all processes but the first.

    A training that is over is not done again.

    The test error on the card is that of the half-precision weights as written. Where branches were not always run,
    "test_error_uncorrected" is that of the network whose branches are not scaled.

    Raises:
        SpecError: the model is unknown, or one of the shipped weights.
        DataError: the data have no test samples of their own.
        InputError: the device or the file cannot be used, something would be overwritten, or the training diverges.
    """
    if card := job.finished:
        return card
    name = job.spec.removeprefix("resect:")
    if name in SHIPPED:
        raise SpecError(
            f"{name} must be a network without weights; it is trained already. Name {bare_name(name)} instead."
        )
    samples, test = _splits(job.data, job.test_data)
    loaded = load_model(job.spec, arguments=job.arguments, samples=samples, seed=job.recipe.seed)
    module = placed(loaded.module, job.device)
    if torch.device(job.device).index is not None:
        raise InputError(
            f"`device` must be a kind of device, got {job.device!r}: Accelerate chooses among several. Set "
            "CUDA_VISIBLE_DEVICES to name one."
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(f"`model` must have parameters to train, but {job.spec} has none.")
    require_fit(module, samples)
    require_fit(module, test)
    _make_folder(job.out)
    watch = replace(watch or Watch(), logs=job.logs)
    if job.history:
        watch = replace(watch, epoch=_History(module, job.history))
    trained = train(
        module,
        samples.inputs,
        samples.targets,
        job.recipe,
        kept=Kept(job.checkpoint, job.save_every, job.network),
        watch=watch,
    )
    if not trained.main:
        return None
    errors = {}
    if trained.scheduled and set(trained.scheduled.survival) != {1.0}:
        errors["test_error_uncorrected"] = evaluate(module, test)[0]
        trained.scheduled.fold()
    save_weights(module, job.out, torch.float16)
    load_checkpoint(module, job.out)
    error, loss = evaluate(module, test)
    progress = trained.progress
    card = {
        **job.asked,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "train_samples": len(samples),
        "test_samples": len(test),
        "sample_shape": list(samples.inputs.shape[1:]),
        "classes": samples.classes,
        "test_error": error,
        "test_loss": loss,
        **errors,
        "precision": "float16",
        "processes": trained.processes,
        "seconds": round(progress.seconds, 1),
        "curve": [{name: round(value, 5) for name, value in epoch.items()} for epoch in progress.curve],
        "command": job.command(trained.processes),
        "resect": __version__,
        "environment": environment(),
    }
    write_text(job.out.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    job.checkpoint.unlink(missing_ok=True)
    return card


@dataclass(frozen=True)
class _History:
    """Keeps the weights after every epoch."""

    module: nn.Module
    folder: Path

    def __call__(self, epoch: int) -> None:
        save_weights(self.module, self.folder / f"epoch-{epoch}.safetensors", torch.float16)


def _splits(data: str, test_data: str | None) -> tuple[Samples, Samples]:
    """The training and the test samples, which must differ."""
    samples, test = load_samples(data, split="train"), load_samples(test_data or data, split="test")
    if samples.digest() == test.digest():
        raise DataError(
            f"{data} must have test samples beside those to train on, but they are the same, and an error on what was "
            "trained on says nothing. Name others with --test-data, or train on digits or cifar10:DIR."
        )
    return samples, test


def _make_folder(out: Path) -> None:
    """Make the folder of `out` and check that it can be written to, before hours of training."""
    probe = out.with_name(f".{out.name}.probe")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another process of the same training may have been faster
    except OSError as error:
        raise InputError(f"`out` must be a file that can be written, got {out}: {error.strerror}.") from error
    if out.is_dir():
        raise InputError(f"`out` must be a file, got the folder {out}.")
    if out.suffix != ".safetensors":  # the card and the checkpoint are written beside it, with other suffixes
        raise InputError(f"`out` must end in .safetensors, got {out}.")
