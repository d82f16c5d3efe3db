"""`resect train`: a network trained, its weights written with a model card, which is the record of the training."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from resect.errors import InputError, SpecError, require_whole, said_of
from resect.jobs.job import Advance, Track, silent
from resect.jobs.source import slug
from resect.jobs.training import trained
from resect.measuring.meaning import require_task
from resect.models.names import SHIPPED, Value, bare_name
from resect.models.specs import card_beside
from resect.runs.record import Record, plain
from resect.training.checkpoint import Kept
from resect.training.loop import Watch
from resect.training.recipe import Recipe
from resect.training.recipes import RecipeFile, load_recipe_file


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
        held_out: training samples that are not trained on but tested on, in the place of test samples, of which none is
            looked at: for the choice of a recipe. Drawn at random, alike for every seed.
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
    recipe_file: RecipeFile = field(default_factory=partial(load_recipe_file, "digits"))
    normalize: str | None = None
    test_data: str | None = None
    held_out: int = 0
    history: Path | None = None
    logs: Path | None = None
    save_every: float = Kept.every
    task: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", require_task(self.task))
        require_whole("held_out", self.held_out, 0)
        if self.held_out and self.test_data:
            raise InputError("`held_out` and `test_data` both say what to test on. Leave one out.")

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
        with nullcontext() if settings else said_of(recipe):  # without settings, all that is wrong is the file's
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
            if card is None or not self.made(card):
                raise InputError(f"`out` must be a new file, but {self.out} holds other weights. Choose another --out.")
            return card
        # a training that was stopped before its first checkpoint left two at most, which it writes again
        if self.history and {file.stem for file in self.history.glob("epoch-*.safetensors")} - {"epoch-0", "epoch-1"}:
            raise InputError(
                f"`history` must be a folder without weights, but {self.history} holds those of another training. "
                "Choose another."
            )
        return None

    def made(self, card: Record) -> bool:
        """Whether a card is that of this very training."""
        asked = plain(self.asked)
        return all(card.asked.get(name) == asked.get(name) for name in {*asked, "held_out"})

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
            **({"held_out": self.held_out} if self.held_out else {}),
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
        words += ["--held-out", str(self.held_out)] if self.held_out else []
        words += ["--normalize", self.normalize] if self.normalize else []
        words += ["--model", self.spec.removeprefix("resect:")] if self.model != file.model else []
        for name, value in self.model_args.items():
            if value != file.model_args.get(name):
                words += ["--model-arg", f"{name}={value}"]
        base = Recipe().as_dict(every=True) | file.settings_with(self.recipe.schedule)
        for name, value in self.recipe.as_dict(every=True).items():
            if value == base[name] or value is None:
                continue
            option = name.replace("_", "-")
            words += (
                [f"--{option}" if value else f"--no-{option}"]
                if isinstance(value, bool)
                else [f"--{option}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
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
        return trained(self, watch)


def train(recipe: str = "digits", *, out: Path | str, **options: Any) -> Record:
    """Train a network and write its weights and their card.

    Args:
        recipe: "digits", "cifar10", "cifar10-paper" or a YAML file.
        out: the safetensors file; an interrupted training goes on from the checkpoint beside it.
        options: `model`, `model_args`, `task`, `data`, `normalize`, `test_data`, `held_out`, `history`, `logs`,
            `save_every`, `device`, and any setting of a recipe, e.g. epochs=2; they go before the recipe's.

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


def shown(track: Track, what: str, share: Advance = lambda part: None) -> Watch:
    """A watch that opens a bar when the training begins.

    Args:
        share: told the parts of the training that are done, 1 in all.
    """
    advance = silent("", 0)

    def begin(total: int, seen: int) -> None:
        nonlocal advance
        advance = partial(_both, track(what, total), share, total)
        advance(seen)

    return Watch(begin=begin, step=lambda seen, loss: advance(seen))


def _both(bar: Advance, share: Advance, total: int, amount: float) -> None:
    bar(amount)
    share(amount / total)


def _suffix(recipe: Recipe) -> str:
    """What tells the weights of a schedule from those of the whole network."""
    kept = "" if recipe.keep is None else f"-{recipe.keep}"
    return "" if recipe.schedule == "full" else f"-{recipe.schedule}{kept}"
