"""Train one of resect's networks and write its weights with a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resect import __version__
from resect.data import load_samples
from resect.models.checkpoints import load_checkpoint, save_weights
from resect.models.specs import Value, load_model
from resect.studies.environment import environment
from resect.training.loop import Recipe, evaluate, train


@dataclass(frozen=True)
class TrainingJob:
    """Which network to train on which data, how, and where its weights go.

    Attributes:
        model: a name of `resect:`, e.g. "resnet110".
        data: a data spec with a train and a test split.
        out: the safetensors file; the model card is written beside it, with the suffix .json.
    """

    model: str
    data: str
    out: Path
    recipe: Recipe
    arguments: dict[str, Value]
    device: str = "cpu"

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted training goes on from."""
        return self.out.with_suffix(".checkpoint")

    @property
    def command(self) -> str:
        """The command that trains the same network."""
        arguments = "".join(f" --model-arg {name}={value}" for name, value in self.arguments.items())
        standard = Recipe()
        options = "".join(
            f" --{name.replace('_', '-')} {value}"
            for name, value in self.recipe.as_dict().items()
            if value != getattr(standard, name)
        )
        return f"resect train {self.data} --model {self.model}{arguments}{options} --out {self.out.name}"


def train_network(job: TrainingJob, progress: Callable[[int, float], None] | None = None) -> dict[str, Any]:
    """Train, write half-precision weights and the card, and return the card.

    The test error on the card is that of the half-precision weights as written.
    """
    samples = load_samples(job.data, split="train")
    test = load_samples(job.data, split="test")
    spec = f"resect:{job.model}"
    module = load_model(spec, arguments=job.arguments, samples=samples, seed=job.recipe.seed).module.to(job.device)
    seconds = train(module, samples.inputs, samples.targets, job.recipe, checkpoint=job.checkpoint, progress=progress)
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
    temporary = job.out.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(card, indent=2) + "\n")
    os.replace(temporary, job.out.with_suffix(".json"))
    job.checkpoint.unlink(missing_ok=True)
    return card
