"""What is differentiated, where, and in how much memory; and the batches that fit into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, get_args

import numpy as np
import torch

from resect.engines.work import Arrays, Progress
from resect.errors import (
    AccuracyError,
    InputError,
    require_one_of,
    require_whole,
    settings_or_default,
    suggesting_settings,
)
from resect.graph.decisions import Gates
from resect.graph.kernels import in_float32
from resect.graph.ops import free_shape
from resect.graph.routes import Routes
from resect.measuring.batches import AnyTask, Batch
from resect.measuring.memory import bytes_of_all_values, bytes_per_sample, free_bytes, in_words
from resect.measuring.targets import as_task
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled
from resect.paths.precision import PRECISION, require_precision
from resect.paths.scalar import Scalar
from resect.paths.target import At, resolve_target
from resect.paths.trace import Trace

TOLERANCE = 1e-3  # of the relative error of a result's own check


@suggesting_settings
@dataclass(frozen=True)
class PathSettings:
    """Settings of everything that differentiates along paths.

    Attributes:
        at: where gradients are measured: "input", "stem" (the values that enter the first block), the index or name of
            a block (where it starts: its input, behind the ReLU or norm that may follow the addition before it, and all
            else that lives on there), the name of a parameter, or "auto": the input, but the stem for networks that
            read tokens. A parameter has one gradient a batch, so a row of its results is a batch: give batches of
            one sample to have it sample by sample.
        of: what is differentiated: "loss" (that of the task, by default cross-entropy), "target" (the logit of the
            target class), the number of a class (its logit), or a function (outputs, targets) -> (B,); of sequences,
            the mean over positions.
        memory: bytes that values may take beside the weights; half of what is free by default. Batches and lanes are
            split to fit.
        seed: of what is drawn at random: paths and signs.
        precision: of what random signs estimate: more are drawn, up to 8 times as many as are asked for, until one
            standard error is at most so many per cent of the sums of squares. None draws no more than is asked for.
        gates: what is computed from a signal and multiplies that on a skip (the mixing of a hyper-connection, the carry
            gate of a highway block): "differentiated" with all else, so that paths sum to the model's own gradient; or
            "frozen", held at its value, so that a skip is the linear map that it is at the sample, and paths sum to
            the gradient of that.
    """

    at: At = "auto"
    of: Scalar = "loss"
    memory: int | None = None
    seed: int = 0
    gates: Gates = "differentiated"
    precision: float | None = PRECISION

    def __post_init__(self) -> None:
        if self.memory is not None:
            require_whole("memory", self.memory)
        require_precision(self.precision)
        require_one_of("gates", self.gates, get_args(Gates))


@dataclass(frozen=True)
class PathWork:
    """A piece of work along the paths of a network on one batch.

    Attributes:
        what: its name.
        compute: (traces, batch, progress, **own) -> arrays.
        settings: what is differentiated, where, and in how much memory.
        own: all else that decides the result, as plain values.
        passes: how often it goes through all joins.
        bounded: whether the memory decides how far it goes.
    """

    what: str
    compute: Callable[..., Arrays]
    settings: PathSettings
    own: Mapping[str, Any]
    passes: float = 1.0
    bounded: bool = False

    @property
    def key(self) -> dict[str, Any] | None:
        """All that decides the result beside network and batch; None for a scalar of one's own."""
        if callable(self.settings.of):
            return None
        memory = {"memory": self.settings.memory} if self.bounded else {}
        gates = {} if self.settings.gates == "differentiated" else {"gates": self.settings.gates}
        return {"what": self.what, "at": self.settings.at, "of": self.settings.of, **gates, **self.own, **memory}

    def cost(self, net: Unraveled, batch: Batch) -> float:
        """Joins passed."""
        return passing(net) * self.passes

    def run(self, net: Unraveled, batch: Batch, progress: Progress) -> Arrays:
        """Compute it."""
        with torch.inference_mode(False), torch.enable_grad(), in_float32():  # whatever the caller has switched off
            return self.compute(Traces(net, self.settings, batch.task), batch, progress, **self.own)


def passing(net: Unraveled) -> int:
    """How many joins a pass through the network goes through."""
    return net.slices - 2


class Traces:
    """The traces of batches, cut into parts that fit into the memory.

    Args:
        task: says which output the routes lead to, where it names one.

    Raises:
        InputError: the network has one path only, or the settings do not fit it.
    """

    def __init__(self, net: Unraveled, settings: PathSettings | None, task: AnyTask = None) -> None:
        require_paths(net)
        named = as_task(task)
        self._output = None if named is None else named.output
        self.net, self.settings = net, settings_or_default(settings, PathSettings)
        self.target = resolve_target(net, self.settings.at)
        self.memory = free_bytes(net.device) // 2 if self.settings.memory is None else self.settings.memory
        # What autograd keeps of the whole network, for the gradient itself; and the linearised slices.
        self._fixed = bytes_per_sample(net, net.slices) + bytes_of_all_values(net)
        self._lane = 2 * (bytes_per_sample(net, 1) - bytes_per_sample(net, 0))

    @property
    def at(self) -> str:
        """Where gradients are measured, and where skips have gates of their own, how these are taken."""
        gated = any(slot.join.factor for slot in self.net.sliced.slots)
        return f"{self.target.name} (gates {self.settings.gates})" if gated else self.target.name

    @cached_property
    def routes(self) -> Routes:
        """The routes to the target."""
        return self.net.routes(self.target.start, self._output)

    def of(
        self, batch: Batch, lanes: int, progress: Progress, *, truth: bool = True, keep: bool = False
    ) -> Iterator[tuple[Trace, Progress]]:
        """The traces of the parts of a batch, each with what to report its progress to.

        Args:
            lanes: how many lanes the work keeps at one time; at least one where it can do with fewer.
            progress: is told what the whole batch costs in all, however many parts there are.
            truth: whether the gradient itself is wanted.
            keep: whether the values of skips and branches are.

        Raises:
            InputError: the memory does not hold a single sample.
            DataError: the batch does not fit the network.
        """
        needed = self._fixed + lanes * self._lane
        if needed > self.memory:
            raise InputError(
                f"`memory` must hold one sample with {lanes} lanes, about {in_words(needed)}, got "
                f"{in_words(self.memory)}. Give more, or a smaller `max_length`."
            )
        total, size = len(batch), max(1, self.memory // needed)
        if self.target.kind == "parameter" or self.net.batch_size is not None or batch.task.whole:  # it cannot be cut
            size = total
        for start in range(0, total, size):
            part = slice(start, start + size)
            inputs = batch.inputs if size >= total else self.net.part_of(batch.inputs, part)
            frozen = self.settings.gates == "frozen"
            targets, of = batch.targets[part], self.settings.of
            trace = Trace(self.net, inputs, targets, self.target, of, truth, batch.task, frozen=frozen, keep=keep)
            yield trace, partial(_portion, progress, len(trace.targets) / total)

    def lanes_for(self, trace: Trace) -> int:
        """How many lanes of this trace fit into the memory, at least one."""
        samples = len(trace.targets)
        return max(1, (self.memory - samples * self._fixed) // (samples * self._lane))


def _portion(progress: Progress, part: float, amount: float) -> None:
    progress(part * amount)


def concatenated(parts: Iterable[tuple[np.ndarray, ...]], *names: str) -> Arrays:
    """Arrays of the same rows, part by part, as one set of arrays under the given names."""
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def require_accurate(error: float, rule: str) -> None:
    """Raise AccuracyError unless the relative error of a result's own check is small; `rule` is what it breaks."""
    if not error <= TOLERANCE:
        raise AccuracyError(
            f"{rule} by {error:.1e} of it, more than {TOLERANCE:g}. In half precision, use float32; in float32, "
            "float64."
        )


def require_paths(net: Unraveled) -> None:
    """Raise InputError unless the network has skips, and so more than one path."""
    if isinstance(net, Unraveled) and net.plain:
        raise InputError("a network unravelled with plain=True has one path: it has no skips. Unravel it without.")
    require_blocks(net)
    captured = net.sliced.captured
    folded = [slot for slot in net.sliced.slots if captured.batch not in free_shape(slot.join.branch)]
    if net.batch_dim and folded:
        raise InputError(
            f"with batch_dim={net.batch_dim} every branch must have a dimension of samples alone for gradients to be "
            f"told apart by sample, but that of {folded[0].name} has {folded[0].block.branch_shape}. Unravel a module "
            "that keeps samples and positions apart; lesions work as it is."
        )
