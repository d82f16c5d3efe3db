"""What is differentiated, where, and in how much memory; and the batches that fit into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resect.errors import InputError
from resect.graph.capture import cut_samples
from resect.measuring.batches import Batches, checked
from resect.measuring.memory import bytes_per_sample, free_bytes
from resect.network.unraveled import Unraveled, require_blocks
from resect.paths.target import At, resolve_target
from resect.paths.trace import Scalar, Trace

Progress = Callable[[float], None]
TOLERANCE = 1e-3  # of the relative error of a result's own check


@dataclass(frozen=True)
class PathSettings:
    """Settings of everything that differentiates along paths.

    Attributes:
        at: where gradients are measured: "input", "stem" (the values that enter the first block), the index or name of
            a block (the state before it), the name of a parameter, or "auto": the input, but the stem for networks
            that read tokens. A parameter has one gradient a batch, so a row of its results is a batch: give batches of
            one sample to have it sample by sample.
        of: what is differentiated: "loss" (cross-entropy), "target" (the logit of the target class), the number of a
            class (its logit), or a function (outputs, targets) -> (B,); of sequences, the mean over positions.
        memory: bytes that values may take beside the weights; half of what is free by default. Batches and lanes are
            split to fit.
        seed: of what is drawn at random: paths and signs.
    """

    at: At = "auto"
    of: Scalar = "loss"
    memory: int | None = None
    seed: int = 0


class Traces:
    """The traces of data, in batches that fit into the memory.

    Raises:
        InputError: the network has one path only, or the settings do not fit it.
    """

    def __init__(self, net: Unraveled, settings: PathSettings) -> None:
        require_paths(net)
        self.net, self.settings = net, settings
        self.target = resolve_target(net, settings.at)
        self.memory = free_bytes() // 2 if settings.memory is None else settings.memory
        # What autograd keeps of the whole network, for the gradient itself; and the linearised slices.
        whole = sum(net.programs.value_bytes.values()) // net.programs.example_batch
        self._fixed = bytes_per_sample(net, len(net.sliced.slices)) + whole
        self._lane = 2 * (bytes_per_sample(net, 1) - bytes_per_sample(net, 0))

    def __call__(self, data: Batches, lanes: int, *, truth: bool = True) -> Iterator[Trace]:
        """Trace by trace.

        Args:
            lanes: how many lanes the work keeps at one time; at least one where it can do with fewer.
            truth: whether the gradient itself is wanted.

        Raises:
            InputError: the memory does not hold a single sample.
            DataError: there are no data, or they do not fit the network.
        """
        needed = self._fixed + lanes * self._lane
        if needed > self.memory:
            raise InputError(
                f"`memory` must hold one sample with {lanes} lanes, about {needed / 2**20:.1f} MiB, got "
                f"{self.memory / 2**20:.1f} MiB. Give more, or a smaller `max_length`."
            )
        for inputs, targets in checked(data):
            for part in self._parts(inputs, targets, max(1, self.memory // needed)):
                yield Trace(self.net, *part, self.target, self.settings.of, truth)

    def lanes_for(self, trace: Trace) -> int:
        """How many lanes of this trace fit into the memory, at least one."""
        samples = len(trace.targets)
        return max(1, (self.memory - samples * self._fixed) // (samples * self._lane))

    def _parts(self, inputs: Any, targets: Tensor, size: int) -> Iterator[tuple[Any, Tensor]]:
        """A batch cut into some of at most `size` samples, where samples are independent."""
        total = len(targets)
        if size >= total or self.target.kind == "parameter" or self.net.sliced.captured.batch_size is not None:
            yield inputs, targets
            return
        for start in range(0, total, size):
            which = slice(start, start + size)
            yield cut_samples(inputs, which, total), targets[which]


def require_paths(net: Unraveled) -> None:
    """Raise InputError unless the network has skips, and so more than one path."""
    if isinstance(net, Unraveled) and net.plain:
        raise InputError("a network unravelled with plain=True has one path: it has no skips. Unravel it without.")
    require_blocks(net)
