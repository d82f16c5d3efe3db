"""What is left of a network, fitted to what the intact one does: least squares, no gradients, the same shapes.

The last layer of a kept branch, linear or a convolution, adds to the state; here its weights are chosen so that the
state behind it, and behind the blocks that are gone behind it, is what the intact network has there. ReplaceMe
(Shopkhoev et al. 2025, arXiv 2505.02819) fits one linear map in the place of a run of layers; here every kept branch
behind the first gap makes up for what is missing, one after the other, and what a fit leaves over is the next one's to
mend.

Batch norms behind a gap that no fitted layer makes up for see other inputs than their statistics were measured on:
these are measured again, before, and mixed with what they are (Schneider et al. 2020, arXiv 2006.16971).

Letters: N positions of all samples, I and O numbers that a layer takes and gives.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from resect.engines.local import LOCAL
from resect.engines.work import Progress
from resect.errors import DataError, InputError
from resect.graph.endings import Ending, endings
from resect.graph.ops import hint_shape
from resect.graph.slots import Slot
from resect.measuring.batches import Batch, to_device, widest_float
from resect.measuring.calibration import calibrate, norms_of
from resect.network.arrangement import Arrangement
from resect.network.standalone import Standalone
from resect.network.unraveled import Unraveled
from resect.pruning.rerun import Rerun, mean_loss
from resect.seeds import generator_for

METHOD = (
    "linear layers, convolutions, statistics"  # by which a store tells what this fits from what earlier versions did
)
STRENGTHS = (1.0, 0.1, 0.01)
PASSES = 2 * (len(STRENGTHS) + 1)
ROWS = 2**15  # positions that a layer is fitted to, at the most, about
_HELD = 4  # a part of the batches says which strength is best


@dataclass(frozen=True)
class Refit:
    """What was fitted.

    Attributes:
        tensors: the new weights and biases, by their names in the model; none where the old ones are better.
        strength: of the ridge, as a part of the mean square of a layer's inputs; None where nothing was fitted.
        losses: on the samples held back, by the strength that was tried; of None without a fit.
    """

    tensors: dict[str, Tensor]
    strength: float | None
    losses: dict[float | None, float]


def refit(
    net: Unraveled,
    arrangement: Arrangement,
    batches: Sequence[Batch],
    strengths: Sequence[float] = STRENGTHS,
    progress: Progress | None = None,
) -> Refit:
    """Fit the last layers of what is left to the states of the intact network, and batch norms that they leave out.

    A ridge keeps weights and statistics near what they are. Its strength, and whether anything is fitted at all, is
    what gives the least loss on a quarter of the batches, after a fit to the others; then all are fitted to.

    Args:
        arrangement: the network without some blocks.
        batches: at least two.
        strengths: that are tried.
        progress: called with the number of samples since the last call; of each there are PASSES in all, about.

    Raises:
        InputError: no branch ends in a layer of its own that is linear or a convolution, and there are no batch norms.
        DataError: there are fewer than two batches.
    """
    require_fittable(net)
    if len(batches) < 2:
        raise DataError(
            f"`batches` must be at least 2, of which the last chooses how strong a fit is, got {len(batches)}."
        )
    held = -max(1, len(batches) // _HELD)
    losses: dict[float | None, float] = {None: _loss(net, arrangement, {}, batches[held:])}
    for strength in strengths:
        tensors = fitted(net, arrangement, batches[:held], strength, progress)
        losses[strength] = _loss(net, arrangement, tensors, batches[held:])
    best = min(losses, key=lambda strength: losses[strength])
    return Refit({} if best is None else fitted(net, arrangement, batches, best, progress), best, losses)


def require_fittable(net: Unraveled) -> None:
    """Raise InputError unless a branch ends in a layer that can be fitted, or there are batch norms."""
    if not norms_of(net.model) and not endings(net.sliced):
        raise InputError(
            "`refit` fits linear layers and convolutions that branches end in, or the statistics of batch norms, but "
            "the network has neither."
        )


def measures_norms(net: Unraveled) -> bool:
    """Whether a fit can have norms to measure, which runs the graph of train mode."""
    return bool(norms_of(net.model)) and len(endings(net.sliced)) < len(net.sliced.slots)


def with_tensors(module: Standalone, tensors: Mapping[str, Tensor]) -> Standalone:
    """A stand-alone network, into which some tensors are put."""
    module.load_state_dict(tensors, strict=False)
    return module


def positions(net: Unraveled) -> tuple[int, int]:
    """Of a sample of the example: the rows that the fit of a layer has of it, at the least and at the most."""
    found = [(own, hint_shape(own.layer) or (1,)) for own in endings(net.sliced).values()]
    rows = [prod(shape) // (shape[1] if own.window else shape[-1]) for own, shape in found] or [1]
    least, most = (max(1, number // net.programs.example_batch) for number in (min(rows), max(rows)))
    return least, most


def fitted(
    net: Unraveled,
    arrangement: Arrangement,
    batches: Sequence[Batch],
    strength: float,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The new values of all that is fitted, by name: of weights and biases, and of the statistics of batch norms.

    Args:
        strength: of the ridge, as a part of the mean square of a layer's inputs; statistics have the weight 1, old ones
            that of the strength.
        progress: called with the number of samples since the last call, about two passes of each.
    """
    pieces = _pieces(net, arrangement)
    tensors = _measured(net, arrangement, batches, strength, progress, _far(net, arrangement, pieces))
    return {**tensors, **_layers(net, arrangement, batches, strength, progress, pieces, tensors)} if pieces else tensors


def _measured(
    net: Unraveled,
    arrangement: Arrangement,
    batches: Sequence[Batch],
    strength: float,
    progress: Progress | None,
    names: Collection[str],
) -> dict[str, Tensor]:
    """Statistics of batch norms of some names, measured again and mixed with what they are."""
    if not names:
        return {}
    module = net.standalone(arrangement)
    before = {name: value.clone() for name, value in module.named_buffers() if value.is_floating_point()}
    calibrate(module, [(batch.inputs, batch.targets) for batch in batches])
    if progress:
        progress(sum(map(len, batches)))
    return {
        name: (value + strength * before[name]) / (1 + strength)
        for name, value in module.named_buffers()
        if name in names and name in before and not torch.equal(value, before[name])
    }


def _far(net: Unraveled, arrangement: Arrangement, pieces: Sequence[_Piece]) -> Collection[str]:
    """Names of the statistics of norms whose inputs no fit brings near to what they were measured on: of kept blocks
    behind a gap that no fitted block before it makes up for, as far as to the next fitted one; without any, all."""
    if not pieces:
        return {name for name, _ in net.model.named_buffers()} if measures_norms(net) else ()
    joins, parameters = _joins(net), net.sliced.captured.parameters
    order, found, near = list(joins), set[str](), True
    fitted_at = {piece.slot.join.node: piece.behind for piece in pieces}
    bridged = {own for node, last in fitted_at.items() for own in order[order.index(node) + 1 : order.index(last) + 1]}
    for node, slots in joins.items():
        if all(arrangement[slot.index] is None for slot in slots):
            near = near and node in bridged
        elif node in fitted_at:
            near = True
        elif not near:
            inside = [part for slot in slots for part in net.sliced.slices[slot.place.slice]]
            found |= {parameters[own] for part in inside for own in part.all_input_nodes if own in parameters}
    return found


@torch.no_grad()
def _layers(
    net: Unraveled,
    arrangement: Arrangement,
    batches: Sequence[Batch],
    strength: float,
    progress: Progress | None,
    pieces: Sequence[_Piece],
    statistics: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Weights and biases, one layer after the other, each on what those before give."""
    key_of, slice_of = net.programs.keys.of, net.programs.slice_of
    names, made = net.sliced.captured.parameters, dict[str, Tensor]()
    intact = _Walk(net, net.intact, batches, [key_of(piece.behind) for piece in pieces], progress)
    wanted = [key_of(node) for piece in pieces for node in (piece.ending.inputs, piece.slot.join.node)]
    cut = _Walk(net, arrangement, batches, wanted, progress, peeked=True)
    for node, name in names.items():
        if name in statistics:
            cut.put(key_of(node), statistics[name])
    for number, piece in enumerate(pieces):
        behind, join = key_of(piece.behind), key_of(piece.slot.join.node)
        intact.through(slice_of[behind])
        cut.through(slice_of[join] - 1)
        aims = intact.kept[behind]
        for node, tensor in _solved(piece, aims, cut, key_of, strength).items():
            cut.put(key_of(node), tensor)
            made[names[node]] = tensor
        if all(key_of(later.behind) != behind for later in pieces[number + 1 :]):
            intact.release(behind)
    return made


@dataclass(frozen=True)
class _Piece:
    """A kept block whose last layer is fitted.

    Attributes:
        behind: the join of the intact network whose value it is to hand on: its own, or that of the last block that is
            gone behind it.
    """

    slot: Slot
    ending: Ending
    behind: Node


def _joins(net: Unraveled) -> dict[Node, list[Slot]]:
    """The joins in order, with the blocks that meet there; of parallel ones there is one."""
    joins: dict[Node, list[Slot]] = {}
    for slot in net.sliced.slots:
        if slot.place.parent is None:
            joins.setdefault(slot.join.node, []).append(slot)
    return joins


def _pieces(net: Unraveled, arrangement: Arrangement) -> list[_Piece]:
    """All that is fitted, in order: kept blocks behind, or right before, the first that is gone."""
    joins = _joins(net)
    following = defaultdict[Node, list[Node]](list)
    for node, slots in joins.items():
        following[slots[0].join.bypass].append(node)
    gone = {node: all(arrangement[slot.index] is None for slot in slots) for node, slots in joins.items()}
    kept = [slot for slots in joins.values() for slot in slots if arrangement[slot.index] is not None]
    read = {entry for slot in kept for entry in slot.join.entries}

    def behind(node: Node) -> Node:
        """The last join of those that only hand on what this one gives; a kept branch beside them needs that itself."""
        while len(following[node]) == 1 and gone[following[node][0]] and node not in read:
            node = following[node][0]
        return node

    first = min((i for i, decision in enumerate(arrangement) if decision is None), default=len(arrangement))
    found = {i: own for i, own in endings(net.sliced).items() if arrangement[i] is not None}
    return [
        _Piece(slot, found[slot.index], last)
        for node, slots in joins.items()
        for last in (behind(node),)
        for slot in slots
        if slot.index in found and first <= joins[last][-1].index
    ]


class _Walk:
    """A network under an arrangement, run slice by slice on all batches at once.

    Args:
        wanted: keys of values that are looked at behind their slices.
        progress: called with samples, a part of a pass of them a slice.
        peeked: they are looked at before their slices are left behind, and not kept.
    """

    def __init__(
        self,
        net: Unraveled,
        arrangement: Arrangement,
        batches: Sequence[Batch],
        wanted: Sequence[int],
        progress: Progress | None,
        *,
        peeked: bool = False,
    ) -> None:
        self.programs = net.programs.fold(arrangement, also=wanted)
        self.bases = [net.bind(to_device(batch.inputs, net.device)) for batch in batches]
        self.states: list[dict[int, Any]] = [{} for _ in batches]
        self.wanted = () if peeked else wanted
        self.kept = dict[int, list[Tensor]]()  # of every batch
        self.done, self.progress = 0, progress
        self.share = sum(map(len, batches)) / len(self.programs)

    def through(self, last: int) -> None:
        """Run all slices up to and with one."""
        while self.done <= last:
            self.states = [self._next(i) for i in range(len(self.bases))]
            self.done += 1
            for key in self.wanted:
                if key not in self.kept and key in self.states[0]:
                    self.kept[key] = [state[key] for state in self.states]
            if self.progress:
                self.progress(self.share)

    def release(self, key: int) -> None:
        """Keep a value no longer."""
        self.wanted = [wanted for wanted in self.wanted if wanted != key]
        self.kept.pop(key, None)

    def peek(self, batch: int, keys: Sequence[int]) -> list[Tensor]:
        """Values behind the next slice, which is not left behind by that."""
        values = ChainMap(self._next(batch), self.states[batch], self.bases[batch])
        return [values[key] for key in keys]

    def put(self, key: int, value: Tensor) -> None:
        """Take another value for a parameter from now on."""
        for base in self.bases:
            base[key] = value

    def _next(self, batch: int) -> dict[int, Any]:
        return self.programs[self.done].run(self.bases[batch], self.states[batch])


def _solved(
    piece: _Piece, aims: Sequence[Tensor], cut: _Walk, key_of: Callable[[Node], int], strength: float
) -> dict[Node, Tensor]:
    """The parameters of a layer that bring the state nearest to the aim of every batch; none where it is not finite."""
    own, base = piece.ending, cut.bases[0]
    weight = base[key_of(own.weight)]
    inputs, outputs = own.matrix(weight).shape
    wide = widest_float(weight.device)

    def known(node: Node) -> Tensor:
        value: Tensor = base[key_of(node)]
        return value

    sums = torch.zeros(inputs + 1, inputs + 1 + outputs, dtype=wide, device=weight.device)  # of [H, 1]' [H, 1, R]
    most = -(-ROWS // len(aims))
    for number, aim in enumerate(aims):
        taken, value = cut.peek(number, [key_of(own.inputs), key_of(piece.slot.join.node)])
        missing = own.back(aim.to(wide) - value.to(wide), taken, outputs, known)
        drawn = torch.arange(len(missing))
        if len(missing) > most:
            drawn = torch.randperm(len(missing), generator=generator_for(0, "positions", number))[:most].sort().values
        drawn = drawn.to(missing.device)
        rows, missing = own.rows(taken, drawn).to(wide), missing[drawn]
        rows = torch.cat([rows, torch.ones(len(rows), 1).to(rows)], 1)
        sums += rows.T @ torch.cat([rows, missing], 1)
    if not bool(sums.isfinite().all()):
        return {}
    squares, products = sums[:inputs, :inputs], sums[:inputs, inputs + 1 :]
    if own.bias is not None:  # which takes up the means
        means = sums[inputs] / sums[inputs, inputs]
        squares = squares - torch.outer(sums[:inputs, inputs], means[:inputs])
        products = products - torch.outer(sums[:inputs, inputs], means[inputs + 1 :])
    ridge = strength * squares.diagonal().mean().clamp_min(torch.finfo(wide).tiny)
    change = torch.linalg.solve(squares + ridge * torch.eye(inputs).to(squares), products)
    as_kept = change if own.transposed else change.T.reshape(weight.shape)
    new = {own.weight: (weight.to(wide) + as_kept).to(weight)}
    if own.bias is not None:
        bias, shift = known(own.bias), own.bias_change(means[inputs + 1 :] - means[:inputs] @ change, known)
        new[own.bias] = (bias.to(wide) + shift).to(bias)
    return new if all(bool(value.isfinite().all()) for value in new.values()) else {}


def _loss(net: Unraveled, arrangement: Arrangement, tensors: Mapping[str, Tensor], batches: Sequence[Batch]) -> float:
    """The mean loss of the stand-alone network with some tensors."""
    module = with_tensors(net.standalone(arrangement), tensors)
    return mean_loss(Rerun(module, "refit").outcomes(net, batches, LOCAL), batches)
