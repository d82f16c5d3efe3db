"""How a training is done: samples and network put together, the loop run, weights and card written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from resect.data import Samples, load_samples
from resect.data.normalization import how_read
from resect.data.samples import SampleSet, in_memory
from resect.errors import DataError, InputError, RunError
from resect.files import write_text
from resect.jobs.environment import environment
from resect.jobs.evaluate import mean_error_and_loss
from resect.jobs.fit import placed, require_fit
from resect.measuring.items import Item
from resect.measuring.targets import prepared
from resect.measuring.tasks import CLASSIFICATION, Task
from resect.models.inputs import ModelInputs
from resect.models.specs import load_model
from resect.runs import lock
from resect.runs.record import Record, plain
from resect.seeds import generator_for
from resect.training import loop
from resect.training.checkpoint import Kept
from resect.training.loop import Trained, Watch
from resect.weights import load_checkpoint, read_metadata, save_weights

if TYPE_CHECKING:
    from resect.jobs.train import TrainJob


def trained(job: TrainJob, watch: Watch | None) -> Record | None:
    """The card of a training, which is done; None in all processes but the first. Raises as `TrainJob.train`."""
    with _alone(job.out):
        return _trained(job, watch)


def _trained(job: TrainJob, watch: Watch | None) -> Record | None:
    samples, test = splits(job)
    module = _module(job, samples)
    task = require_fit(module, samples, job.task)
    require_fit(module, test, task)
    samples = replace(samples, targets=prepared(Item(None, samples.targets), None, task))
    watch = replace(watch or Watch(), logs=job.logs, test=lambda: _tested(module, test, task))
    if job.history:
        history = _History(module, job.history, json.dumps(plain(job.asked), sort_keys=True))
        watch = replace(watch, epoch=history.keep, resume=history.require)
    kept = Kept(job.checkpoint, job.save_every, job.network)
    try:
        done = loop.train(module, samples.inputs, samples.targets, job.recipe, task=task, kept=kept, watch=watch)
        if not done.main:
            return None
        card = _written(job, module, done, samples, test, task)
        write_text(job.card, card.json())
    except OSError as error:
        if error.filename is None:  # no file of the training
            raise
        raise RunError(
            f"{error.filename} cannot be used: {error.strerror}. The last checkpoint is as it was: mend this (make "
            "room on a full disk), and the same command goes on from there."
        ) from error
    job.checkpoint.unlink(missing_ok=True)
    return card


def splits(job: TrainJob) -> tuple[Samples, SampleSet]:
    """The training samples and those to test on, which must differ."""
    model = ModelInputs(job.spec, None, job.model_args)
    read = partial(load_samples, normalize=job.normalize, model=model)
    if job.held_out:
        return _held_out(in_memory(read(job.data, split="train")), job.held_out)
    samples, test = read(job.data, split="train"), read(job.test_data or job.data, split="test")
    if samples.digest() == test.digest():
        raise DataError(
            f"{job.data} must have test samples beside those to train on, but they are the same, and an error on "
            "what was trained on says nothing. Name others with --test-data, or train on digits or cifar10:DIR."
        )
    return in_memory(samples), test


def _held_out(samples: Samples, count: int) -> tuple[Samples, Samples]:
    """The samples without some that are drawn, alike for every seed, and those."""
    require_held_out(samples, count)
    drawn = torch.randperm(len(samples), generator=generator_for(0, "held out", count))
    return samples.chosen(drawn[count:].sort().values), samples.chosen(drawn[:count].sort().values)


def require_held_out(samples: SampleSet, count: int) -> None:
    """Raise InputError unless samples to train on are left beside those that are held out."""
    if count > len(samples) - 2:
        raise InputError(
            f"`held_out` must leave two samples to train on, but {samples.name} has {len(samples):,}, got {count:,}. "
            f"Give fewer; a tenth is {max(1, len(samples) // 10)}."
        )


def _module(job: TrainJob, samples: Samples) -> nn.Module:
    """The network to train, on its device."""
    loaded = load_model(job.spec, model_args=job.model_args, samples=samples, seed=job.recipe.seed)
    module = placed(loaded.module, job.device)
    if torch.device(job.device).index is not None:
        raise InputError(
            f"`device` must be a kind of device, got {job.device!r}: Accelerate chooses among several. Set "
            "CUDA_VISIBLE_DEVICES to name one."
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(f"`model` must have parameters to train, but {job.spec} has none.")
    return module


def _written(job: TrainJob, module: nn.Module, done: Trained, samples: Samples, test: SampleSet, task: Task) -> Record:
    """Write the weights in half precision and measure them."""
    errors = {}
    if done.scheduled and set(done.scheduled.survival) != {1.0}:
        errors["test_error_uncorrected"] = mean_error_and_loss(module, test, task=task)[0]
        done.scheduled.fold()
    save_weights(module, job.out, torch.float16)
    load_checkpoint(module, job.out)
    error, loss = mean_error_and_loss(module, test, task=task)
    progress = done.progress
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
        "processes": done.processes,
        "curve": [{name: round(value, 5) for name, value in epoch.items()} for epoch in progress.curve],
    }
    made_of = {"samples": [samples.digest(), test.digest()]}
    seconds = {"seconds": round(progress.seconds, 1)}
    return Record("train", job.asked, made_of, environment() | seconds, job.command(done.processes), found)


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
