"""A small training loop: SGD with one cycle of the learning rate, random shifts, checkpoints every epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resect.errors import RunError


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        learning_rate: the peak of the one-cycle schedule (Smith 2018), reached after `warmup` of all steps.
        shift: random shifts of the images, in pixels to each side.
        seed: of the weights, the order of the samples and the shifts.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.25
    shift: int = 1
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The recipe as a plain dictionary."""
        return asdict(self)


def train(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> float:
    """Train `module` in place and leave it in eval mode.

    Args:
        inputs: (N, C, H, W) float images on the CPU.
        targets: (N,) int64 classes.
        checkpoint: a file that is written after every epoch; if it exists, training goes on from it, to weights
            bit-identical to an uninterrupted run on the same machine and threads.
        progress: called with (images seen since the last call, mean loss of the step).

    Returns:
        Seconds of training, earlier sittings included.

    Raises:
        RunError: the checkpoint was made with another recipe or network.
    """
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.SGD(
        module.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    steps = -(-len(inputs) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=steps * recipe.epochs, pct_start=recipe.warmup
    )
    parts = {"module": module, "optimizer": optimizer, "schedule": schedule}
    epoch, seconds = _resume(checkpoint, parts, generator, recipe, progress, len(inputs))
    module.train()
    while epoch < recipe.epochs:
        started = time.perf_counter()
        for chosen in torch.split(torch.randperm(len(inputs), generator=generator), recipe.batch_size):
            images = _shifted(inputs[chosen], recipe.shift, generator).to(device)
            loss = F.cross_entropy(module(images), targets[chosen].to(device))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            if progress:
                progress(len(chosen), float(loss.detach()))
        epoch += 1
        seconds += time.perf_counter() - started
        if checkpoint:
            _save(checkpoint, parts, generator, recipe, epoch, seconds)
    module.eval()
    return seconds


def _shifted(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Every image moved by up to `shift` pixels each way, filled with its own lowest value at the border."""
    if not shift:
        return images
    count, _, height, width = images.shape
    padded = F.pad(images, (shift,) * 4, value=float(images.min()))
    down, right = torch.randint(0, 2 * shift + 1, (2, count), generator=generator)
    rows = down.view(-1, 1, 1) + torch.arange(height).view(1, -1, 1)
    columns = right.view(-1, 1, 1) + torch.arange(width).view(1, 1, -1)
    moved = padded.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), rows, columns]
    return moved.permute(0, 3, 1, 2).contiguous()


def evaluate(module: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int = 500) -> tuple[float, float]:
    """Error (fraction) and mean cross-entropy (nats) of a module in eval mode."""
    device = next(module.parameters()).device
    wrong, loss = 0, 0.0
    with torch.no_grad():
        for images, wanted in zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True):
            logits = module(images.to(device)).float()
            wrong += int((logits.argmax(-1) != wanted.to(device)).sum())
            loss += float(F.cross_entropy(logits, wanted.to(device), reduction="sum"))
    return wrong / len(inputs), loss / len(inputs)


def _save(
    path: Path, parts: dict[str, Any], generator: torch.Generator, recipe: Recipe, epoch: int, seconds: float
) -> None:
    content = {name: part.state_dict() for name, part in parts.items()}
    content |= {"generator": generator.get_state(), "recipe": recipe.as_dict(), "epoch": epoch, "seconds": seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _resume(
    path: Path | None,
    parts: dict[str, Any],
    generator: torch.Generator,
    recipe: Recipe,
    progress: Callable[[int, float], None] | None,
    samples: int,
) -> tuple[int, float]:
    if path is None or not path.exists():
        return 0, 0.0
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["recipe"] != recipe.as_dict():
        raise RunError(
            f"{path} must belong to this recipe, {recipe}, got {content['recipe']}. Delete it to start anew."
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(content[name])
    except (RuntimeError, ValueError) as error:
        raise RunError(f"{path} must belong to this network; it does not fit. Delete it to start anew.") from error
    generator.set_state(content["generator"])
    if progress:
        progress(samples * content["epoch"], float("nan"))
    return int(content["epoch"]), float(content["seconds"])
