"""How the slices of a network are executed: in which memory format, compiled or not, with what for deleted branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from resect.errors import DataError, InputError
from resect.graph.decisions import Removal
from resect.graph.program import Environment, Program
from resect.graph.resolve import Programs
from resect.measuring.batches import Batches, batches_of, channels_last, to_device, widest_float
from resect.network.unraveled import Unraveled
from resect.sweep.compiled import Run, compiled
from resect.sweep.settings import LesionSettings

_STRIDE = 6  # slices fused into one function: more save more memory traffic, but fit into fewer ways through the trie


class Execution:
    """Executes programs of one network.

    With `compile`, programs are fused when they run for the second time on a batch of the first one's size, and runs of
    `stride` slices into one. With `channels_last`, the model keeps its own memory format.

    Args:
        settings: `channels_last`, `compile`, and the seed of the other samples.
        removal: what stands for a deleted branch, as in `Plan`.
        means: per slot the mean of its branch, (k, ...); needed for the removal "mean".
    """

    def __init__(
        self,
        net: Unraveled,
        settings: LesionSettings | None = None,
        removal: Removal = "zero",
        means: Mapping[int, Tensor] | None = None,
    ) -> None:
        if removal != "zero" and net.plain:
            raise InputError(f"the removal {removal!r} is of branches, and a plain network has none; use 'zero'.")
        self.net = net
        self.programs = net.programs if removal == "zero" else Programs(net.sliced, removal=removal)
        self._means = {self.programs.keys.mean(net.sliced.slots[i]): value for i, value in (means or {}).items()}
        self._settings = settings or LesionSettings()
        self._converted: dict[int, Tensor] | None = None
        self._batch = self._size = 0
        self._ready: dict[tuple[int, ...], Run | None] = {}
        self.stride = _STRIDE if self._settings.compile else 1

    def bind(self, inputs: Any) -> dict[int, Any]:
        """Parameters, constants, inputs and what stands for deleted branches, by key; inputs on the model's device."""
        inputs = to_device(inputs, self.net.device)
        base = self.net.bind(channels_last(inputs) if self._settings.channels_last else inputs)
        if self._settings.channels_last:
            if self._converted is None:
                weights = {key: base[key] for key in self.programs.parameter_keys if base[key].ndim == 4}
                self._converted = {k: w.contiguous(memory_format=torch.channels_last) for k, w in weights.items()}
            base |= self._converted
        base |= self._means
        self._size = size = self.net.samples_of(inputs)
        self._batch = self._batch or size
        if self.programs.removal == "other sample":
            base[self.programs.keys.others] = _others(size, self._settings.seed).to(self.net.device)
        return base

    def run(self, programs: Sequence[Program], base: Mapping[int, Any], state: Mapping[int, Any]) -> Environment:
        """The state after programs that follow each other."""
        if self._settings.compile and sum(len(program.steps) for program in programs) > 1:
            ready = self._compiled(programs, base, state)
            if ready:
                return ready(base, state)
        for program in programs:
            state = program.run(base, state)
        return dict(state)

    def _compiled(self, programs: Sequence[Program], base: Mapping[int, Any], state: Mapping[int, Any]) -> Run | None:
        """The programs fused, or None where that is not worth the time it takes."""
        key = tuple(map(id, programs))
        if key not in self._ready:
            self._ready[key] = None
            return None
        if self._size != self._batch:  # a smaller last batch
            return None
        ready = self._ready[key]
        if ready is None:
            ready = self._ready[key] = compiled(programs, self.programs, base, state)
        return ready


def _others(size: int, seed: int) -> Tensor:
    """For every sample another one, a random cycle through all, (size,) int64."""
    if size < 2:
        raise DataError("a batch must hold at least two samples for one to stand for another, got one.")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed), device="cpu")
    others = torch.empty_like(order)
    others[order] = order.roll(1)
    return others


def branch_means(net: Unraveled, batches: Batches) -> dict[int, Tensor]:
    """The mean over all samples of every branch in the intact network, position by position, (k, ...) each.

    k is 1, unless a branch folds other dimensions into that of the samples.
    """
    wide = widest_float(net.device)
    sums: dict[int, Tensor] = {}
    count = 0
    slots, key_of, slice_of = net.sliced.slots, net.programs.keys.branch, net.programs.slice_of
    branches = {key_of(slot): net.sliced.captured.samples_at(slot.join.branch) for slot in slots}
    with torch.no_grad():
        for batch in batches_of(batches):
            size = net.samples_of(batch.inputs)
            count += size
            base, state = net.bind(to_device(batch.inputs, net.device)), Environment()
            for i, program in enumerate(net.programs.fold(net.intact, also=branches)):
                state = program.run(base, state)
                for key, at in branches.items():
                    if slice_of[key] == i:
                        value = state[key].movedim(at, 0)
                        total = value.reshape(size, -1, *value.shape[1:]).sum(0, dtype=wide)
                        sums[key] = sums[key] + total if key in sums else total
    return {slot.index: (sums[key_of(slot)] / count).to(slot.join.branch.meta["val"].dtype) for slot in slots}
