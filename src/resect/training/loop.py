"""A small training loop: SGD with one cycle of the learning rate, random shifts, checkpoints every epoch."""

from __future__ import annotations

import hashlib
import math
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resect.errors import InputError, RunError
from resect.files import whole
from resect.training.seeds import seeded

_CYCLE = 0.05


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        learning_rate: the peak of the one-cycle schedule (Smith 2018), reached after `warmup` of all steps.
        momentum: the middle of its cycle: 0.05 less at the peak of the learning rate, 0.05 more at its ends.
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
            bit-identical to an uninterrupted run on the same machine and threads. The global random state is left
            alone; dropout draws from a stream of its own that starts at the recipe's seed.
        progress: called with (images seen since the last call, mean loss of the step); first of all with the images
            of the earlier sittings and NaN, if training goes on from a checkpoint.

    Returns:
        Seconds of training, earlier sittings included.

    Raises:
        InputError: the loss is no longer finite; the checkpoint keeps the epoch before.
        RunError: the checkpoint is damaged, or was made with another recipe, network or data.
    """
    with seeded(recipe.seed):
        return _train(module, inputs, targets, recipe, checkpoint, progress)


def _train(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    checkpoint: Path | None,
    progress: Callable[[int, float], None] | None,
) -> float:
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.SGD(
        module.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    steps = len(_batches(torch.arange(len(inputs)), recipe.batch_size))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=steps * recipe.epochs,
        pct_start=recipe.warmup,
        base_momentum=max(recipe.momentum - _CYCLE, 0.0),
        max_momentum=min(recipe.momentum + _CYCLE, 1.0),
    )
    parts = {"module": module, "optimizer": optimizer, "schedule": schedule}
    made_with = {"recipe": recipe.as_dict(), "data": _digest(inputs, targets)}
    epoch, seconds = _resume(checkpoint, parts, generator, made_with)
    if epoch and progress:
        progress(len(inputs) * epoch, math.nan)
    module.train()
    while epoch < recipe.epochs:
        started = time.perf_counter()
        for chosen in _batches(torch.randperm(len(inputs), generator=generator), recipe.batch_size):
            images = _shifted(inputs[chosen], recipe.shift, generator).to(device)
            loss = _step(module, images, targets[chosen].to(device), optimizer)
            schedule.step()
            if not math.isfinite(loss):
                raise InputError(
                    f"`learning_rate` must keep the loss finite, but with {recipe.learning_rate} it was {loss} in "
                    f"epoch {epoch + 1}. Try a tenth of it."
                )
            if progress:
                progress(len(chosen), loss)
        epoch += 1
        seconds += time.perf_counter() - started
        if checkpoint:
            _save(checkpoint, parts, generator, {**made_with, "epoch": epoch, "seconds": seconds})
    module.eval()
    return seconds


def _step(module: nn.Module, images: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Descend the mean cross-entropy of one batch; return it, in nats."""
    loss = F.cross_entropy(module(images), targets)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """`order` in pieces of `size`; a lone last sample joins the piece before it, for batch norm needs two."""
    pieces = list(torch.split(order, size))
    if size > 1 and len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def _shifted(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Every image moved by up to `shift` pixels each way, filled with the lowest value among them at the border."""
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


def _digest(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' shapes and bytes."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _save(path: Path, parts: dict[str, Any], generator: torch.Generator, facts: dict[str, Any]) -> None:
    """Write a checkpoint; the file changes as a whole or not at all."""
    content = {name: part.state_dict() for name, part in parts.items()}
    content |= {"generator": generator.get_state(), "global": torch.random.get_rng_state(), **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        torch.save(content, temporary)


def _resume(
    path: Path | None, parts: dict[str, Any], generator: torch.Generator, made_with: dict[str, Any]
) -> tuple[int, float]:
    """Take up a checkpoint, if there is one; return its epoch and seconds."""
    if path is None or not path.exists():
        return 0, 0.0
    content = _read(path)
    for what, wanted in made_with.items():
        if content.get(what) != wanted:
            found = f", {wanted}, got {content.get(what)}" if what == "recipe" else ""
            raise RunError(f"{path} must belong to this {what}{found}. Delete it to start anew.")
    try:
        for name, part in parts.items():
            part.load_state_dict(content[name])
        generator.set_state(content["generator"])
        torch.random.set_rng_state(content["global"])
        return int(content["epoch"]), float(content["seconds"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise RunError(f"{path} must belong to this network; it does not fit. Delete it to start anew.") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
        struct.error,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        raise RunError(f"{path} must be a checkpoint of a training; it is damaged. Delete it to start anew.") from error
    if not isinstance(content, dict):
        raise RunError(
            f"{path} must be a checkpoint of a training, got {type(content).__name__}. Delete it to start anew."
        )
    return content
