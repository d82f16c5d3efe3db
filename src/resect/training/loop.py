"""The training loop: SGD on any device or number of processes, with branches that come and go, resumable to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resect.digest import tensors_digest
from resect.errors import CheckpointError, DivergedError, InputError, RunError
from resect.graph.outputs import IGNORED
from resect.measuring.tasks import CLASSIFICATION, Task
from resect.measuring.timing import synchronise
from resect.network.entrance import unravel
from resect.network.launching import as_graphs
from resect.network.scheduled import Scheduled
from resect.seeds import generator_for, seeded
from resect.training.augment import Augmentation
from resect.training.checkpoint import Checkpoint, Kept, Progress
from resect.training.decay import decay_of
from resect.training.distill import Teacher
from resect.training.order import Order
from resect.training.processes import accelerator_on
from resect.training.recipe import Recipe
from resect.weights import check_finite

_REPORT = 10  # steps between two looks at the loss, which a GPU has to be waited for


@dataclass(frozen=True)
class Trained:
    """What a training leaves beside the weights.

    Attributes:
        progress: seconds and curve.
        scheduled: the schedule of the blocks, whose `fold` applies the correction; None where all ran.
        main: whether this process is the first; only it should write.
        processes: how many there are.
    """

    progress: Progress
    scheduled: Scheduled | None
    main: bool
    processes: int


@dataclass(frozen=True)
class Watch:
    """Who is told what while a training runs; called in the first process only.

    Attributes:
        begin: called first, with (samples of the whole training, those of earlier sittings).
        step: called every few steps with (samples seen since the last call, their mean loss).
        epoch: called with the number of epochs done, 0 before the first.
        resume: called in the place of the first `epoch`, with the number of epochs that earlier sittings did.
        test: called after every epoch, for what `logs` are to have of samples that are not trained on, by name.
        logs: a folder for TensorBoard.
    """

    begin: Callable[[int, int], None] = lambda total, seen: None
    step: Callable[[int, float], None] = lambda seen, loss: None
    epoch: Callable[[int], None] = lambda done: None
    resume: Callable[[int], None] = lambda done: None
    test: Callable[[], Mapping[str, float]] = dict
    logs: Path | None = None


def train(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    *,
    task: Task = CLASSIFICATION,
    kept: Kept | None = None,
    watch: Watch | None = None,
    teacher: Teacher | None = None,
) -> Trained:
    """Train `module` in place and leave it in eval mode. The loop is Accelerate's: started by `accelerate launch` (on
    the CPU `torchrun`), every process takes its share of each batch, and all run the same blocks.

    Args:
        inputs: (N, ...) what the module takes, on the CPU; images are (N, C, H, W) float.
        targets: (N,) or (N, L) int64 classes; -100 is ignored; or what else the task takes.
        task: whose loss is descended.
        kept: where a checkpoint is written; if it exists, training goes on from it, on the CPU to weights
            bit-identical to an uninterrupted run on the same machine and threads. The global random state is left
            alone.
        teacher: a network whose outputs are learned, too, of a task of classes; `kept.network` must tell it.

    Raises:
        DivergedError: the loss is no longer finite; the checkpoint keeps what was before.
        InputError: the recipe does not fit the network or the data, or TensorBoard is asked for and not installed.
        RunError: the checkpoint is damaged, or was made with another recipe, network or data.
    """
    with seeded(recipe.seed):
        training = _Training(module, inputs, targets, recipe, watch or Watch(), task, teacher)
        return training.run(kept or Kept())


def near(inputs: Tensor, device: torch.device) -> Tensor:
    """The samples on a GPU, if they take a quarter at most of the memory that it has left; else where they are."""
    if device.type != "cuda" or inputs.nbytes > torch.cuda.mem_get_info(device)[0] // 4:
        return inputs
    return inputs.to(device)


class _Training:
    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        recipe: Recipe,
        watch: Watch,
        task: Task,
        teacher: Teacher | None,
    ) -> None:
        self.task, self.teacher = task, teacher
        self.targets, self.recipe, self.watch = targets, recipe, watch
        self.augment = Augmentation.of(recipe, inputs)
        asked = next(module.parameters()).device
        self.accelerator = accelerator_on(asked, recipe.schedule != "full", watch.logs)
        self.device = self.accelerator.device
        if self.device.type != asked.type:
            raise InputError(
                f"`device` must stay the same in one process, but Accelerate trains on {self.device.type} here and the "
                f"network is on {asked.type}. Start another process."
            )
        self.module = module.to(self.device).to(memory_format=self._format)
        least = 2 * self.accelerator.num_processes
        if min(recipe.batch_size, len(inputs)) < least:
            raise InputError(
                f"`batch_size` and the number of samples must be at least {least}, two a process, got "
                f"{recipe.batch_size} and {len(inputs)}."
            )
        self.order = Order(len(inputs), recipe.batch_size, least, recipe.seed)
        self.steps = len(self.order) * recipe.epochs
        optimizer = torch.optim.SGD(
            module.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=self.device.type == "cuda" or None,
        )
        if optimizer.defaults["fused"] and recipe.momentum:  # which does not make some of them later than others
            for parameter in module.parameters():
                if parameter.requires_grad:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.decay = decay_of(optimizer, recipe, self.steps)
        self.scheduled = self._scheduled(inputs)
        self.model, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.inputs = near(inputs, self.device)
        self.for_whole = self._for_whole()
        self.parts: dict[str, Any] = {"module": module, "optimizer": optimizer, "decay": self.decay}

    @property
    def _format(self) -> torch.memory_format:
        return torch.channels_last if self.recipe.channels_last else torch.preserve_format

    def _scheduled(self, inputs: Tensor) -> Scheduled | None:
        if self.recipe.schedule == "full":
            return None
        net = unravel(self.module, inputs[:2].to(self.device, memory_format=self._format))
        schedule = self.recipe.blocks_schedule(self.steps)
        correction = self.recipe.correction
        return net.schedule(schedule, seed=self.recipe.seed, correction=correction, graphs=self._graphs)

    @property
    def _graphs(self) -> bool:
        return self.recipe.graphs and self.device.type == "cuda" and self.accelerator.num_processes == 1

    def _for_whole(self) -> Callable[..., Any] | None:
        """What runs whole batches in the place of the model."""
        if self.scheduled:
            return None
        if self.recipe.compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else None  # CUDA graphs
            return torch.compile(self.model, dynamic=False, mode=mode)
        if self._graphs:
            example = self.inputs[: self.recipe.batch_size].to(self.device, memory_format=self._format)
            with self._autocast():
                return as_graphs(self.module, example)
        return None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def run(self, kept: Kept) -> Trained:
        """All steps that are left."""
        made_with = {"recipe": self.recipe.as_dict(), "data": tensors_digest(self.inputs, self.targets)}
        made_with |= {"network": kept.network, "number of processes": self.accelerator.num_processes}
        checkpoint = Checkpoint(kept.path, made_with)
        progress = checkpoint.resume(self.parts)
        steps = self.accelerator.gather(torch.tensor([progress.step], device=self.device))
        if not bool((steps == progress.step).all()):
            raise RunError(f"{kept.path} must be on a disk that all machines share, but not all of them found it.")
        main = self.accelerator.is_main_process
        if main:
            self._announce(progress)
        started = saved = time.perf_counter()
        meter = torch.zeros(3, device=self.device)
        self.module.train()
        if self.scheduled:
            self.scheduled.step = progress.step
        with self.scheduled or nullcontext():
            while progress.step < self.steps:
                meter += self._step(progress.step)
                progress.step += 1
                within = progress.step % len(self.order)
                if within % _REPORT and within:
                    continue
                synchronise(self.device)
                now = time.perf_counter()
                self._report(meter, now - started, progress)
                started, over = now, within == 0
                meter.zero_()
                if over:
                    self._close_epoch(progress)
                if main and over and self.watch.logs:
                    started += self._log_test(progress.step)
                if main and over:  # before the checkpoint: what a kill in between loses is told again
                    self.watch.epoch(len(progress.curve))
                if main and (over or now - saved >= kept.every):
                    self._require_finite(progress)
                    checkpoint.save(self.parts, progress)
                    saved = now
        self.module.eval()
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return Trained(progress, self.scheduled, main, self.accelerator.num_processes)

    def _require_finite(self, progress: Progress) -> None:
        """The loss was that before the last step; a checkpoint of broken weights would be gone on from for ever."""
        try:
            check_finite(self.module)
        except CheckpointError as error:
            raise self._diverged("weights or statistics were not finite", progress) from error

    def _diverged(self, what: str, progress: Progress) -> DivergedError:
        return DivergedError(
            f"`learning_rate` must keep the loss finite, but with {self.recipe.learning_rate} the {what} in epoch "
            f"{len(progress.curve) + 1}. Try a tenth of it, with another --out or without the checkpoint."
        )

    def _announce(self, progress: Progress) -> None:
        epoch, within = divmod(progress.step, len(self.order))
        seen = epoch * len(self.inputs) + self.order.between(0, within)
        self.watch.begin(len(self.inputs) * self.recipe.epochs, seen)
        if progress.step:
            self.watch.resume(epoch)
        else:
            self.watch.epoch(0)

    def _step(self, step: int) -> Tensor:
        """Descend the mean loss of one batch; return this process's summed loss, wrong answers, answers."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        chosen = self.order.at(step)
        share = slice(rank, None, processes)
        draws = generator_for(self.recipe.seed, "augmentation", step)
        # a copy that is waited for keeps a GPU from being told the next operators in time
        there = chosen.to(self.inputs.device, non_blocking=True)
        images = self.augment(self.inputs[there], draws, share).to(self.device, memory_format=self._format)
        wanted = self.targets[chosen][share].to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)  # before CUDA graphs write anew where the gradients are
        torch.manual_seed(generator_for(self.recipe.seed, f"dropout {rank}", step).initial_seed())
        with self._autocast():
            outputs = self._model_for(chosen)(images)
        answers = int(self.task.weights(self.targets[chosen]).sum())  # of the whole batch
        own = int(self.task.weights(self.targets[chosen][share]).sum())
        loss, wrong = self._loss_and_wrong(outputs, wanted, own)
        if self.teacher:
            loss = self.teacher.loss(self.task, images, outputs, wanted, loss)
        # the mean over processes is that of the batch, however many answers each has
        self.accelerator.backward(loss * (own * processes / max(answers, 1)))
        self.optimizer.step()
        self.decay.step()
        return torch.stack([loss.detach() * own, wrong, torch.full_like(wrong, own)])

    def _model_for(self, chosen: Tensor) -> Callable[..., Any]:
        """The model, or for whole batches what runs them: it is made for that size."""
        whole = len(chosen) == min(self.recipe.batch_size, len(self.inputs))
        return self.model if self.for_whole is None or not whole else self.for_whole

    def _loss_and_wrong(self, outputs: Any, wanted: Tensor, own: int) -> tuple[Tensor, Tensor]:
        """The mean loss over the answers of a batch, and its summed error."""
        if not self.task.classes:
            error, loss = self.task.outcomes(outputs, wanted)
            weights = self.task.weights(wanted)
            assert error is not None, "tasks with names have an error"
            return (loss * weights).sum() / max(own, 1), (error * weights).sum().detach()
        logits, wanted = self.task.scored(outputs).float(), wanted.reshape(-1)
        logits = logits.reshape(-1, logits.shape[-1])
        loss = F.cross_entropy(logits, wanted, reduction="mean" if own else "sum")
        return loss, ((logits.argmax(-1) != wanted) & (wanted != IGNORED)).sum()

    def _report(self, meter: Tensor, seconds: float, progress: Progress) -> None:
        loss, wrong, counted = self.accelerator.reduce(meter.clone(), "sum").tolist()
        if not math.isfinite(loss):
            raise self._diverged(f"loss was {loss}", progress)
        progress.seconds += seconds
        progress.totals = tuple(a + b for a, b in zip(progress.totals, (loss, wrong, counted), strict=True))
        last = (progress.step - 1) % len(self.order)
        images = self.order.between(last // _REPORT * _REPORT, last + 1)
        if self.accelerator.is_main_process:
            self.watch.step(images, loss / max(counted, 1))
        values = {
            "loss": loss / max(counted, 1),
            "error": wrong / max(counted, 1),
            "images_per_second": images / seconds,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self.scheduled:
            values["blocks"] = len(self.scheduled.running)
        self.accelerator.log({f"train/{name}": value for name, value in values.items()}, progress.step)

    def _log_test(self, step: int) -> float:
        """Log what the network does on samples that are not trained on; return the seconds that it took."""
        started = time.perf_counter()
        self.module.eval()
        values = {f"test/{name}": value for name, value in self.watch.test().items()}
        self.module.train()
        self.accelerator.log(values, step)
        return time.perf_counter() - started

    def _close_epoch(self, progress: Progress) -> None:
        loss, wrong, counted = progress.totals
        earlier = sum(epoch["seconds"] for epoch in progress.curve)
        epoch = {"epoch": len(progress.curve) + 1, "loss": loss / max(counted, 1), "error": wrong / max(counted, 1)}
        progress.curve.append({**epoch, "seconds": progress.seconds - earlier})
        progress.totals = (0.0, 0.0, 0.0)
