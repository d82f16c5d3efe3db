"""How a candidate is healed: its stand-alone network is fitted, trained a little, and its norms are measured again."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.digest import key_digest, tensors_digest
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import DataError, DoubtfulWarning, InputError, said_of, settings_or_default
from resect.graph.outputs import IGNORED
from resect.measuring.batches import Batch, Batches, Read, again, batches_of, to_device
from resect.measuring.calibration import calibrate, norms_of
from resect.measuring.metrics import check_targets
from resect.measuring.tasks import Task
from resect.network.arrangement import Arrangement
from resect.network.standalone import Standalone
from resect.network.unraveled import Unraveled
from resect.pruning.bench import Bench
from resect.pruning.pieces import measures_norms, positions, require_fittable
from resect.pruning.refit import METHOD, ROWS, refit, with_tensors
from resect.pruning.settings import HealSettings
from resect.seeds import generator_for, seeded
from resect.training import loop
from resect.training.checkpoint import Kept
from resect.training.distill import Teacher
from resect.training.loop import Watch
from resect.training.order import batches
from resect.training.recipe import Recipe

PASSES = 3  # a step costs about as much as so many forward passes
MEASURED = 2048  # training samples that statistics are measured on, at the most
_FITTED_ON = 64  # of them that layers are fitted to, at the least
_STATES = 2**20  # positions of all of them, about, where their number does not fall below that
_PARTS, _LEAST = 8, 4  # batches that a fit looks at, and samples, at the least
_STRENGTH = "strength of the fit"  # where a store keeps it, beside parameters
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Lesson:
    """Samples to train on, in memory.

    Attributes:
        inputs: (N, ...) what the network takes.
        targets: (N, ...) as the task takes them.
        left_out: how many were left out, as they choose or judge, too.
    """

    inputs: Tensor
    targets: Tensor
    left_out: int

    @cached_property
    def digest(self) -> str:
        """Of inputs and targets."""
        return tensors_digest(self.inputs, self.targets)

    @classmethod
    def of(cls, net: Unraveled, data: Batches, task: Task, held: Iterable[Batch]) -> Lesson:
        """All samples of some data but those that are held for something else.

        Raises:
            DataError: a sample has several inputs, or ones that the network does not take, or more than half of them
                are held.
        """
        parts = [(_only(batch), batch.targets) for batch in Read(data, net, task)]
        inputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
        try:
            scored = task.scored(net(to_device(inputs[:1], net.device)))
        except InputError as error:
            raise DataError(f"`training` must be samples that the network takes: {error}") from error
        if task.classes:
            try:
                check_targets(scored.expand(len(targets), *scored.shape[1:]), targets)
            except DataError as error:
                raise DataError(f"`training` must be samples of the network's task: {error}") from error
        known = {digest for batch in held for digest in _digests(batch.inputs)}
        new = torch.tensor([digest not in known for digest in _digests(inputs)])
        lost = len(new) - int(new.sum())
        if lost > len(new) / 2:
            raise DataError(
                f"`training` must be other samples than those that choose and judge, but {lost:,} of {len(new):,} are "
                "the same. Give samples of their own (--heal-data DATA); a spec with split= has those of that split "
                "alone."
            )
        return cls(inputs[new], targets[new], lost) if lost else cls(inputs, targets, 0)

    @property
    def images(self) -> bool:
        """Whether the inputs are (N, C, H, W)."""
        return self.inputs.ndim == 4

    def __len__(self) -> int:
        return len(self.targets)


def _only(batch: Batch) -> Tensor:
    leaves = [leaf for leaf in pytree.tree_leaves(batch.inputs) if isinstance(leaf, Tensor)]
    if len(leaves) != 1 or len(leaves[0]) != len(batch):
        raise DataError(
            f"`training` must have one tensor as inputs, with the samples first, got {len(leaves)} tensors. Train "
            "net.standalone(arrangement) in a loop of your own."
        )
    return leaves[0]


def _digests(inputs: Any) -> Iterator[str]:
    """Of each sample, by its first input."""
    first = next(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
    return (tensors_digest(row) for row in first)


@dataclass(frozen=True)
class Treated:
    """A network that was healed.

    Attributes:
        strength: of the ridge of its fit; None where it was not fitted.
    """

    network: Standalone
    strength: float | None


@dataclass(frozen=True)
class Treatment:
    """Heals candidates of one network, all alike, and keeps what it made in the engine's store.

    Attributes:
        recipe: of the training; None for none.
        checkpoints: a folder for those of trainings that are interrupted; None for none.
    """

    net: Unraveled
    settings: HealSettings
    lesson: Lesson
    task: Task
    recipe: Recipe | None
    engine: Engine
    progress: Progress | None = None
    checkpoints: Path | None = None

    @classmethod
    def of(
        cls, bench: Bench, settings: HealSettings, training: Batches | None, checkpoints: Path | None = None
    ) -> Treatment:
        """A treatment, of which all that can be refused is refused.

        Args:
            bench: whose samples, those that choose and judge, are left out.
            training: the samples to train on.

        Raises:
            InputError: the network or the task cannot be healed so.
            ExportError: the network has no graph of train mode.
            DataError: there are no samples to train on.
        """
        settings = settings_or_default(settings, HealSettings)
        if training is None:
            raise DataError("`training` must be samples to heal on, others than those that choose and judge; got none.")
        net, task, objective = bench.net, bench.task, bench.objective
        _require_healable(net, settings, task)
        lesson = Lesson.of(net, again(training), task, chain(objective.batches, bench.judges))
        if settings.refit and len(lesson) < _LEAST:
            raise DataError(f"`training` must be at least {_LEAST} samples for a fit, got {len(lesson)} of their own.")
        if settings.refit and len(lesson) < _FITTED_ON:
            warnings.warn(
                f"Fitted to {len(lesson)} samples alone, which may fit their noise: give {_FITTED_ON} or more as "
                "`training` (--heal-data).",
                DoubtfulWarning,
                stacklevel=2,
            )
        if task.whole and bool((lesson.targets == IGNORED).any()):
            raise DataError(
                f"`training` must be samples in any order to heal, but targets of {task.name} with {IGNORED} among "
                "them are places in their batch. Give groups as targets, or train net.standalone(...) yourself."
            )
        if settings.epochs or settings.recalibrate or measures_norms(net):
            net.standalone(net.intact).train()  # says why, where it cannot
        recipe = settings.training(images=lesson.images)
        return cls(net, settings, lesson, task, recipe, objective.engine, objective.progress, checkpoints)

    def __call__(self, arrangement: Arrangement) -> Treated:
        """The stand-alone network of an arrangement, healed."""
        key = self._key(arrangement)
        path = self.checkpoints and self.checkpoints / f"healed-{key_digest(key)}.checkpoint"
        kept = Kept(path, network=key_digest({**key, "of": self.net.fingerprint()}))
        if self.task.key is None:  # which no store can tell from others
            treated = self._healed(arrangement, kept)
        else:
            arrays = dict(self.engine.once(self.net, key, lambda: _arrays(self._healed(arrangement, kept))))
            strength, network = float(arrays.pop(_STRENGTH)), self.net.standalone(arrangement)
            network.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
            treated = Treated(network, strength or None)
        if path:
            path.unlink(missing_ok=True)
        return treated

    def _key(self, arrangement: Arrangement) -> Mapping[str, Any]:
        own, recipe = self.settings, self.recipe
        return {
            "what": "healed",
            "arrangement": str(arrangement),
            "recipe": recipe and recipe.as_dict(every=True),
            "distilled": [own.distill, own.temperature] if own.distill else None,
            "refit": own.refit and METHOD,
            "recalibrate": own.recalibrate,
            "seed": own.seed,
            "training": self.lesson.digest,
            "task": self.task.key,
        }

    def _healed(self, arrangement: Arrangement, kept: Kept) -> Treated:
        module, strength = self.net.standalone(arrangement), None
        if self.settings.refit:
            with seeded(self.settings.seed):  # batch norms are measured in train mode, beside dropout
                fit = refit(self.net, arrangement, self._fitted_to, progress=self.progress)
            module, strength = with_tensors(module, fit.tensors), fit.strength
        if self.recipe:
            self._train(module, self.recipe, kept)
        if self.settings.recalibrate:
            with seeded(self.settings.seed):
                calibrate(module, self._some(MEASURED, self._batch_size))
        return Treated(module, strength)

    def _train(self, module: nn.Module, recipe: Recipe, kept: Kept) -> None:
        """Fine-tune a stand-alone network in place."""
        own, lesson = self.settings, self.lesson
        watch = Watch(begin=lambda total, seen: self._advance(seen), step=lambda seen, loss: self._advance(seen))
        teacher = Teacher(self._intact, own.distill, own.temperature) if own.distill else None
        with said_of("recipe"):
            loop.train(
                module, lesson.inputs, lesson.targets, recipe, task=self.task, kept=kept, watch=watch, teacher=teacher
            )
        module.to(self.net.device)

    def _advance(self, seen: int) -> None:
        if self.progress:
            self.progress(PASSES * seen)

    def _intact(self, inputs: Tensor) -> Any:
        """What the intact network returns."""
        return self.net(to_device(inputs, self.net.device))

    @property
    def _batch_size(self) -> int:
        return (self.recipe or Recipe()).batch_size

    @cached_property
    def _fitted_to(self) -> Sequence[Batch]:
        """The training samples that layers are fitted to."""
        example = self.net.part_of(self.net.example, slice(1))
        numbers = max(1, sum(leaf.numel() for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)))
        # of longer samples more
        least, most = (max(1, own * self.lesson.inputs[0].numel() // numbers) for own in positions(self.net))
        count = min(max(ROWS // least, _FITTED_ON), max(_STATES // most, _FITTED_ON), len(self.lesson), MEASURED)
        size = min(self._batch_size, max(count // _PARTS, 2))
        return list(batches_of(self._some(count, size), self.net, self.task))

    def _some(self, most: int, size: int) -> list[tuple[Tensor, Tensor]]:
        """Training samples, drawn at random, `most` at the most, in batches of a size."""
        lesson, draws = self.lesson, generator_for(self.settings.seed, "recalibration", 0)
        chosen = torch.randperm(len(lesson), generator=draws)[:most]
        return [(lesson.inputs[some], lesson.targets[some]) for some in batches(chosen, size, 2)]


def _arrays(treated: Treated) -> Arrays:
    state = {name: _array(value.detach().cpu()) for name, value in treated.network.state_dict().items()}
    return {**state, _STRENGTH: np.array(treated.strength or 0.0)}


def _array(value: Tensor) -> np.ndarray:
    """A tensor as numpy, which has no bfloat16, holds it."""
    array: np.ndarray = (value.float() if value.dtype in _HALF else value).numpy()
    return array


def _require_healable(net: Unraveled, settings: HealSettings, task: Task) -> None:
    """Raise InputError for what cannot be healed."""
    if net.batch_size is not None or net.batch_dim:
        raise InputError("`heal` needs a network that takes any number of samples, which come first in its inputs.")
    if net.device.index:
        raise InputError(
            f"`device` must be the first of its kind to heal, got {net.device}: Accelerate chooses among several. Set "
            "CUDA_VISIBLE_DEVICES to name one."
        )
    parameters = list(net.model.parameters())
    if settings.epochs and not any(parameter.requires_grad for parameter in parameters):
        raise InputError("`heal` needs parameters to train, but all of them are frozen (requires_grad=False).")
    trains = settings.epochs or settings.recalibrate or (settings.refit and measures_norms(net))
    if trains and (half := next((p.dtype for p in parameters if p.dtype in _HALF), None)):
        less = "; to compute in less, give precision=bfloat16 to its recipe" if settings.epochs else ""
        raise InputError(
            f"`heal` trains weights and measures batch norms in float32 or float64, got {half}. Load it in "
            f"float32{less}."
        )
    if settings.refit:
        require_fittable(net)
    if settings.recalibrate and not norms_of(net.model):
        raise InputError("`recalibrate` measures the statistics of batch norms, but the network has none.")
    if settings.distill and not task.classes:
        raise InputError(f"`distill` needs outputs that are logits of classes, which those of {task.name} are not.")
    if settings.epochs and task.error is None:
        raise InputError(f"`heal` needs a task that has an error, but {task.name} has a loss only.")
