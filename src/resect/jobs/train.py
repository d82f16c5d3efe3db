"""`resect train`: a network trained, its weights written with a model card, which is the record of the training."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resect.data import Samples, load_samples
from resect.data.normalization import how_read
from resect.data.samples import SampleSet, in_memory
from resect.errors import DataError, InputError, RunError, SpecError
from resect.files import write_text
from resect.jobs.environment import environment
from resect.jobs.evaluate import mean_error_and_loss
from resect.jobs.fit import placed, require_fit
from resect.jobs.source import slug
from resect.measuring.items import Item
from resect.measuring.meaning import require_task
from resect.measuring.targets import prepared
from resect.measuring.tasks import CLASSIFICATION, Task
from resect.models.inputs import ModelInputs
from resect.models.names import SHIPPED, Value, bare_name
from resect.models.specs import card_beside, load_model
from resect.runs import lock
from resect.runs.record import Record, plain
from resect.training import loop
from resect.training.checkpoint import Kept
from resect.training.loop import Trained, Watch
from resect.training.recipe import Recipe
from resect.training.recipes import RecipeFile, load_recipe_file
from resect.weights import load_checkpoint, read_metadata, save_weights


@dataclass(frozen=True)
class TrainJob:
    """Which network to train on which data, how, and where its weights go.

    Attributes:
        model: a model spec, e.g. "resect:resnet110" (`resect:` may be left out).
        data: a data spec; what has no test split of its own (a file, a factory) needs `test_data`.
        out: the safetensors file; the model card is written beside it, with the suffix .json.
        recipe_file: the file that `recipe` comes from, for the card's command.
        normalize: how pixels become inputs, as in `load_samples`; None for the data spec's own. The card keeps it.
        test_data: the data spec of other samples to test on.
        history: a folder for the weights before training and after every epoch, epoch-0.safetensors and so on.
        logs: a folder for TensorBoard.
        task: what the targets mean, by name; None to have it guessed.
    """

    model: str
    data: str
    out: Path
    recipe: Recipe
    model_args: dict[str, Value] = field(default_factory=dict)
    device: str = "cpu"
    recipe_file: RecipeFile = field(default_factory=RecipeFile)
    normalize: str | None = None
    test_data: str | None = None
    history: Path | None = None
    logs: Path | None = None
    save_every: float = Kept.every
    task: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", require_task(self.task))

    @classmethod
    def from_options(cls, recipe: str, out: Path | None, options: Mapping[str, Any]) -> TrainJob:
        """The job that a recipe and options say; what is None counts as not given.

        Raises:
            SpecError: the recipe is unknown, or neither it nor the options name model and data.
            InputError: there is no such option, or a setting is of no use.
        """
        file = load_recipe_file(recipe)
        given = {name: value for name, value in options.items() if value is not None}
        settings = {name: given.pop(name) for name in list(given) if name in Recipe.names()}
        chosen = Recipe(**file.settings_with(settings.get("schedule")) | settings)
        model, data = given.pop("model", file.model), given.pop("data", file.data)
        if model is None or data is None:
            missing = "data" if model else "model"
            raise SpecError(f"the recipe {recipe} names no {missing}. Give --{missing}.")
        target = out or Path(
            f"{slug(model.removeprefix('resect:'))}-{data.partition(':')[0]}{_suffix(chosen)}.safetensors"
        )
        if "arguments" in given:
            raise InputError("`arguments` of train is now `model_args`.")
        model_args = {**file.model_args, **given.pop("model_args", {})}
        known = {field.name for field in fields(cls)} - {"out", "recipe", "recipe_file"}
        if unknown := sorted(set(given) - known):
            options_known = ", ".join(sorted({*known, *Recipe.names()}))
            raise InputError(f"`{unknown[0]}` must be an option of train, one of {options_known}.")
        return cls(model, data, target, chosen, model_args, recipe_file=file, **given)

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted training goes on from."""
        return self.out.with_suffix(".checkpoint")

    @property
    def card(self) -> Path:
        """The file of the model card."""
        return self.out.with_suffix(".json")

    def finished(self) -> Record | None:
        """The card of this very training if it is over.

        Raises:
            InputError: `out` or `history` hold something else, which a training would overwrite.
        """
        if self.checkpoint.exists():
            return None
        if self.out.is_file():
            card = card_beside(self.out)
            if card is None or any(card.asked.get(name) != value for name, value in plain(self.asked).items()):
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
            "arguments": self.model_args,
            "data": self.data,
            "test_data": self.test_data or self.data,
            "normalize": self.normalize,
            "recipe": self.recipe.as_dict(),
            **({} if self.task is None else {"task": self.task}),
        }

    @property
    def spec(self) -> str:
        """The model spec, complete."""
        return self.model if ":" in self.model else f"resect:{self.model}"

    @property
    def network(self) -> str:
        """Spec, arguments and, where it is given, normalisation in one string."""
        said = f"{self.spec} {json.dumps(self.model_args, sort_keys=True)}"
        return said if self.normalize is None else f"{said} {self.normalize}"

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
        words += ["--normalize", self.normalize] if self.normalize else []
        words += ["--model", self.spec.removeprefix("resect:")] if self.model != file.model else []
        for name, value in self.model_args.items():
            if value != file.model_args.get(name):
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
        words += ["--task", self.task] if self.task else []
        words += ["--device", self.device] if self.device != "cpu" else []
        return shlex.join([*words, "--out", self.out.name])

    def train(self, watch: Watch | None = None) -> Record | None:
        """Train, write half-precision weights and the card, and return it; None in all processes but the first.

        A training that is over is not done again.

        The test error on the card is that of the half-precision weights as written. Where branches were not always run,
        "test_error_uncorrected" is that of the network whose branches are not scaled.

        Raises:
            SpecError: the model is unknown, or one of the shipped weights.
            DataError: the data have no test samples of their own.
            InputError: the device or the file cannot be used, something would be overwritten, or the training diverges.
            RunError: the checkpoint is damaged or of another training, another process trains to the same file, or a
                file cannot be written.
        """
        if card := self.finished():
            return card
        name = self.spec.removeprefix("resect:")
        if name in SHIPPED:
            raise SpecError(
                f"{name} must be a network without weights; it is trained already. Name {bare_name(name)} instead."
            )
        with _alone(self.out):
            return self._train(watch)

    def _train(self, watch: Watch | None) -> Record | None:
        samples, test = self._splits()
        module = self._module(samples, test)
        task = require_fit(module, samples, self.task)
        require_fit(module, test, task)
        samples = replace(samples, targets=prepared(Item(None, samples.targets), None, task))
        watch = replace(watch or Watch(), logs=self.logs, test=lambda: _tested(module, test, task))
        if self.history:
            history = _History(module, self.history, json.dumps(plain(self.asked), sort_keys=True))
            watch = replace(watch, epoch=history.keep, resume=history.require)
        kept = Kept(self.checkpoint, self.save_every, self.network)
        try:
            trained = loop.train(
                module, samples.inputs, samples.targets, self.recipe, task=task, kept=kept, watch=watch
            )
            if not trained.main:
                return None
            card = self._written(module, trained, samples, test, task)
            write_text(self.card, card.json())
        except OSError as error:
            if error.filename is None:  # no file of the training
                raise
            raise RunError(
                f"{error.filename} cannot be used: {error.strerror}. The last checkpoint is as it was: mend this (make "
                "room on a full disk), and the same command goes on from there."
            ) from error
        self.checkpoint.unlink(missing_ok=True)
        return card

    def _splits(self) -> tuple[Samples, SampleSet]:
        """The training and the test samples, which must differ."""
        model = ModelInputs(self.spec, None, self.model_args)
        read = partial(load_samples, normalize=self.normalize, model=model)
        samples, test = read(self.data, split="train"), read(self.test_data or self.data, split="test")
        if samples.digest() == test.digest():
            raise DataError(
                f"{self.data} must have test samples beside those to train on, but they are the same, and an error on "
                "what was trained on says nothing. Name others with --test-data, or train on digits or cifar10:DIR."
            )
        return in_memory(samples), test

    def _module(self, samples: Samples, test: SampleSet) -> nn.Module:
        """The network to train, on its device, which fits the samples."""
        loaded = load_model(self.spec, model_args=self.model_args, samples=samples, seed=self.recipe.seed)
        module = placed(loaded.module, self.device)
        if torch.device(self.device).index is not None:
            raise InputError(
                f"`device` must be a kind of device, got {self.device!r}: Accelerate chooses among several. Set "
                "CUDA_VISIBLE_DEVICES to name one."
            )
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise InputError(f"`model` must have parameters to train, but {self.spec} has none.")
        return module

    def _written(self, module: nn.Module, trained: Trained, samples: Samples, test: SampleSet, task: Task) -> Record:
        """Write the weights in half precision and measure them."""
        errors = {}
        if trained.scheduled and set(trained.scheduled.survival) != {1.0}:
            errors["test_error_uncorrected"] = mean_error_and_loss(module, test, task=task)[0]
            trained.scheduled.fold()
        save_weights(module, self.out, torch.float16)
        load_checkpoint(module, self.out)
        error, loss = mean_error_and_loss(module, test, task=task)
        progress = trained.progress
        found = {
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "train_samples": len(samples),
            "test_samples": len(test),
            "sample_shape": list(samples.shape),
            "classes": samples.classes,
            **how_read(samples),
            "test_error": error,
            "test_loss": loss,
            **({} if task == CLASSIFICATION else {"task": task.meaning(test.first()[1]).as_dict()}),
            **errors,
            "precision": "float16",
            "processes": trained.processes,
            "curve": [{name: round(value, 5) for name, value in epoch.items()} for epoch in progress.curve],
        }
        made_of = {"samples": [samples.digest(), test.digest()]}
        seconds = {"seconds": round(progress.seconds, 1)}
        return Record("train", self.asked, made_of, environment() | seconds, self.command(trained.processes), found)


def train(recipe: str = "digits", *, out: Path | str, **options: Any) -> Record:
    """Train a network and write its weights and their card.

    Args:
        recipe: "digits", "cifar10" or a YAML file.
        out: the safetensors file; an interrupted training goes on from the checkpoint beside it.
        options: `model`, `model_args`, `task`, `data`, `normalize`, `test_data`, `history`, `logs`, `save_every`,
            `device`, and any setting of a recipe, e.g. epochs=2; they go before the recipe's.

    Returns:
        The card, as a record.

    Raises:
        ResectError: something that was asked for cannot be done.

    Example:
        >>> resect.train("digits", model="resnet20", epochs=4, out="resnet20.safetensors").found["test_error"]
    """
    card = TrainJob.from_options(recipe, Path(out), options).train()
    assert card is not None, "only launchers start several processes, and they call the command line"
    return card


@dataclass(frozen=True)
class _History:
    """Keeps the weights after every epoch.

    Attributes:
        training: what decides the weights, which the files say of themselves.
    """

    module: nn.Module
    folder: Path
    training: str

    def keep(self, epoch: int) -> None:
        save_weights(self.module, self._file(epoch), torch.float16, {"training": self.training})

    def require(self, epochs: int) -> None:
        """Raise InputError unless the folder has the epochs of earlier sittings."""
        missing = [i for i in range(epochs + 1) if read_metadata(self._file(i)).get("training") != self.training]
        if missing:
            raise InputError(
                f"`history` must be the folder that this training began with, but {self.folder} has no "
                f"{self._file(missing[0]).name} of it. Give that folder, go on without --history, or delete the "
                "checkpoint to start anew."
            )

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.safetensors"


def _tested(module: nn.Module, test: SampleSet, task: Task) -> dict[str, float]:
    error, loss = mean_error_and_loss(module, test, task=task)
    return {"error": error, "loss": loss}


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other trainings off `out`, a file that can be written, which is seen before hours of training."""
    if out.is_dir():
        raise InputError(f"`out` must be a file, got the folder {out}.")
    if out.suffix != ".safetensors":  # the card and the checkpoint are written beside it, with other suffixes
        raise InputError(f"`out` must end in .safetensors, got {out}.")
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") == "0":  # of the processes of one training
            try:
                stack.enter_context(lock.held(out.with_suffix(".lock"), out))
            except OSError as error:
                raise InputError(f"`out` must be a file that can be written, got {out}: {error.strerror}.") from error
        yield


def _suffix(recipe: Recipe) -> str:
    """What tells the weights of a schedule from those of the whole network."""
    kept = "" if recipe.keep is None else f"-{recipe.keep}"
    return "" if recipe.schedule == "full" else f"-{recipe.schedule}{kept}"
