"""The backward pass of one batch, slice by slice, from a scalar of the outputs to a target."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resect.calculus.linear import Lanes, LinearSlice, add_into
from resect.calculus.maps import Identity
from resect.errors import DataError, InputError
from resect.graph.resolve import Programs
from resect.measuring.batches import channels_last, to_device
from resect.measuring.tasks import CLASSIFICATION, Task
from resect.network.unraveled import Unraveled
from resect.paths.scalar import Scalar, scalar_of
from resect.paths.target import Target


class SliceGradient(LinearSlice):
    """One slice that ends in a join.

    Attributes:
        station: the number of the join among all.
        branches: per slot decided in this slice, the key of its gate.
        skip: the key of the skip's value where it enters the join.
    """

    def __init__(self, trace: Trace, index: int, state: dict[int, Any]) -> None:
        programs, keys = trace.programs, trace.programs.keys
        slots = [programs.sliced.slots[i] for i in programs.sliced.slots_of[index]]
        self.station = index - 1
        self.branches = {slot.index: keys.gate(slot) for slot in slots}
        self.skip = keys.skip(slots[0])
        ends = [*self.branches.values(), self.skip]
        self.slot_of = {gate: slot for slot, gate in self.branches.items()}
        super().__init__(trace.folded[index], trace.base, state, trace.signal(index, state), ends, keep=trace.keep)

    def end(self, slot: int | None) -> int:
        """The key at which the branch of a slot, or for None the skip, enters the join."""
        return self.skip if slot is None else self.branches[slot]

    def backward(self, cotangents: Lanes, factors: Tensor | None = None) -> tuple[Lanes, Lanes]:
        """The ordinary backward pass, over all edges together: (cotangents of the live values, those at the ends).

        Args:
            factors: (L, slots); what every lane is multiplied by on the branch of each slot, behind the ends.
        """
        total = {key: value for key, value in cotangents.items() if not self.ends_here(key)}
        ends, direct = self.to_ends({key: value for key, value in cotangents.items() if key not in total})
        scaled = dict(ends)
        for slot, gate in self.branches.items():
            if factors is not None and gate in ends:
                scaled[gate] = ends[gate] * factors[:, slot].to(ends[gate]).view(-1, *[1] * (ends[gate].ndim - 1))
        add_into(total, self.from_ends(scaled))
        add_into(total, direct)
        return total, ends

    def ends_here(self, key: int) -> bool:
        """Whether cotangents of a value that lives after the slice go back through it."""
        return key in self.source and key not in self.passing

    def staying(self, ending: Lanes, others: Collection[int]) -> int | None:
        """The live value whose lanes can stay where those of the join are: its skip, untouched on the way into the sum.

        Args:
            ending: the lanes that end at this slice; only those of a join by itself can stay.
            others: live values that have lanes already.
        """
        if len(ending) != 1:
            return None
        (joined,) = ending
        for operand, each in self._edges.get(self.source[joined], []):
            if operand == self.skip and isinstance(each, Identity):
                live = self.unchanged(self.skip)
                return None if live in others else live
        return None


def enter(part: SliceGradient, lanes: Lanes) -> tuple[Lanes, int | None, list[Tensor]]:
    """Take the lanes that end at a slice out of all lanes: those, the value as which they stay, and memory to reuse."""
    ending = {key: lanes.pop(key) for key in list(lanes) if part.ends_here(key)}
    stays = part.staying(ending, lanes)
    if stays is None:
        return ending, None, list(ending.values())
    (lanes[stays],) = ending.values()
    return ending, stays, []


class Trace:
    """One batch run forward once, every slice on the way to the target linearised.

    Args:
        of: the scalar, as in `PathSettings`.
        truth: whether the gradient at the target is wanted, which autograd finds on the way.
        task: what the targets mean.
        frozen: whether the gates of skips are held fixed, see `PathSettings`.
        keep: whether the values of skips and branches are kept.

    Attributes:
        first, last: the slices that end in the first and the last join on the way to the target.
        parts: the linearised slices, by index, the first first.
        folded: the programs of all slices.
        scalar_gradient: of the summed scalar with respect to the state before the tail, as one lane.
        true_gradient: that at the target by plain autograd through the whole network, as one lane each.
    """

    def __init__(
        self,
        net: Unraveled,
        inputs: Any,
        targets: Tensor,
        target: Target,
        of: Scalar = "loss",
        truth: bool = True,
        task: Task = CLASSIFICATION,
        *,
        frozen: bool = False,
        keep: bool = False,
    ) -> None:
        net.require_own_gradient()
        self.net, self.target, self.of, self.task, self.keep = net, target, of, task, keep
        sliced = net.sliced if target.slot is None else net.sliced.cut_at_input(target.slot)
        self.programs = Programs(sliced, edges=True, frozen=frozen)
        inputs = channels_last(to_device(inputs, net.device))
        self.targets = targets.to(net.device)
        self.base = {
            key: detached(value) if isinstance(value, Tensor) else value for key, value in net.bind(inputs).items()
        }
        self.folded = self.programs.fold(net.intact)
        self.first = target.first_slice
        self.parameters = {self.programs.keys.of(node) for node in target.parameters}
        self.last = len(self.folded) - 2
        self.stem = [self.programs.keys.of(node) for node in net.sliced.stem]
        self.parts: dict[int, SliceGradient] = {}
        with torch.set_grad_enabled(truth):
            self._start, leaves, state = self._run_forward()
        self.scalar_gradient, self.true_gradient = self._differentiate(leaves if truth else {}, state)

    @property
    def rows(self) -> int:
        """How many gradients are told apart: one a sample; a parameter has one for the whole batch."""
        return 1 if self.parameters else len(self.targets)

    def _run_forward(self) -> tuple[dict[int, Any], Lanes, dict[int, Any]]:
        """The state at the inputs, the target's values, and the state before the tail."""
        keys = [self.programs.keys.of(entry.node) for entry in self.net.inputs]
        start = state = {key: self.base[key] for key in [*keys, *self.parameters]}
        leaves: Lanes = {}
        begin = {"state": self.first, "stem": 1}.get(self.target.kind, 0)
        for index in range(self.last + 1):
            if index == begin:
                leaves = {key: state[key].detach().requires_grad_() for key in self._target_keys(index, state)}
                state = state | leaves
            tied = {key: state[key] for key in self.parameters}
            if index < self.first:
                with torch.set_grad_enabled(torch.is_grad_enabled() and index >= begin):
                    state = self.folded[index].run({**self.base, **tied}, state) | tied
            else:
                self.parts[index] = part = SliceGradient(self, index, state)
                state, part.results = part.results | tied, {}
        return start, leaves, state

    def _differentiate(self, leaves: Lanes, state: dict[int, Any]) -> tuple[Lanes, Lanes]:
        """Gradients of the summed scalar at the state before the tail, and at the target's values, one lane each."""
        values = {key: state[key] for key in self.signal(self.last + 1, state)}
        with torch.enable_grad():
            # Views, as a parameter's gradient is asked for twice: through the tail alone, and as a whole.
            live = {k: (v if v.requires_grad else v.detach().requires_grad_()).view_as(v) for k, v in values.items()}
            base = {**self.base, **live}
            results = self.folded[-1].run(base, {**state, **live})
            scalar = scalar_of(self.of, self.net.outputs_by_sample(base, results), self.targets, self.task)
        if not (scalar.requires_grad and scalar.is_floating_point()):
            raise InputError(
                "`of` must be differentiable, and so must a loss of your own, but what it returns has no gradient with "
                "respect to the outputs (argmax, a comparison, detach). Return a smooth function of the outputs."
            )
        gradients = torch.autograd.grad(scalar.sum(), [*live.values(), *leaves.values()], allow_unused=True)
        lanes = [None if value is None else value[None] for value in gradients]
        top = {key: value for key, value in zip(live, lanes, strict=False) if value is not None}
        truth = {key: value for key, value in zip(leaves, lanes[len(live) :], strict=True) if value is not None}
        if leaves:
            self._require_reached(truth)
        return top, _one_row(list(truth.values())) if self.parameters else self._rows_first(truth)

    def _require_reached(self, gradients: Lanes) -> None:
        if not gradients:
            raise InputError(
                f"`at` must be a place that the gradient reaches, but none reaches {self.target.name}: the model stops "
                "it on the way (torch.no_grad, detach). Name a later one: at='stem', or at=1, the start of a block."
            )

    def slices(self) -> Iterator[tuple[int, SliceGradient]]:
        """The slices that end in a join, from the last to the first on the way to the target."""
        return reversed(self.parts.items())

    def signal(self, index: int, state: dict[int, Any]) -> set[int]:
        """The live values before a slice that carry the signal; masks, position tables and sizes do not."""
        later = self.programs.slice_of
        return {
            key
            for key, value in state.items()
            if differentiable(value)
            and (key in self.parameters or (index > 0 and (key in self.stem or later.get(key, 0) > 0)))
        }

    def to_target(self, cotangents: Lanes) -> Lanes:
        """From the live values before the first slice to the target: (L, rows, ...) each."""
        if self.target.kind == "state":
            return self._rows_first(cotangents)
        if self.target.kind == "stem":
            return self._rows_first({key: cotangents[key] for key in self.stem if key in cotangents})
        prelude = self._prelude()
        _, reached = prelude.to_ends(cotangents)
        if not self.parameters:
            self._require_reached(reached)
            return self._rows_first(reached)
        return _one_row([*reached.values(), *(cotangents[key] for key in self.parameters & cotangents.keys())])

    def from_target(self, tangents: Lanes) -> Lanes:
        """Tangents of the target, (L, rows, ...) each, forward to the live values before the first slice."""
        if self.parameters:
            tangents = dict.fromkeys(self.parameters, tangents[0][:, 0])
        else:
            tangents = {key: value.movedim(1, 1 + self._samples_at(key)) for key, value in tangents.items()}
        if self.target.kind in ("stem", "state"):
            return tangents
        return self._prelude().push(tangents) | {key: tangents[key] for key in self.parameters}

    def _rows_first(self, lanes: Lanes) -> Lanes:
        """The target's values (L, ...) with the samples right behind the lanes."""
        return {key: value.movedim(1 + self._samples_at(key), 1) for key, value in lanes.items()}

    def _samples_at(self, key: int) -> int:
        return self.net.sliced.captured.samples_at(self.programs.keys.nodes[key])

    def _prelude(self) -> LinearSlice:
        signal = self.parameters or {key for key, value in self._start.items() if differentiable(value)}
        with torch.no_grad():
            return LinearSlice(self.folded[0], self.base, self._start, signal)

    def _target_keys(self, index: int, state: dict[int, Any]) -> list[int]:
        if self.parameters:
            return sorted(self.parameters)
        if self.target.kind == "stem":
            return [key for key in self.stem if key in state]
        if self.target.kind == "state":
            return sorted(self.signal(index, state))
        return sorted(key for key, value in state.items() if differentiable(value))


def detached(value: Tensor) -> Tensor:
    """A tensor without a history, and that autograd may keep, which one made in inference mode may not be."""
    return value.clone() if value.is_inference() else value.detach()


def _one_row(parts: list[Tensor]) -> Lanes:
    """The gradient of a parameter, wherever it is used, as that of a single row: (L, 1, ...)."""
    return {0: torch.stack(parts).sum(0)[:, None]} if parts else {}


def differentiable(value: Any) -> bool:
    """Whether gradients flow through a value."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def require_finite(squares: np.ndarray, where: str) -> None:
    """Raise DataError unless gradients are finite and not all zero; these are their squared norms."""
    total = float(squares.sum())
    if not 0 < total < float("inf"):
        raise DataError(
            f"the gradient at {where} must be finite and not zero on these samples, got a squared norm of "
            f"{total:.3g}. In half precision, try float32."
        )
