"""What is left of a network, fitted to what the intact one does: least squares, no training, the same shapes.

The last layer of a kept branch, linear or a convolution, adds to the state; here its weights are chosen so that the
state behind it, and behind the blocks that are gone behind it, is what the intact network has there. ReplaceMe
(Shopkhoev et al. 2025, arXiv 2505.02819) fits one linear map in the place of a run of layers; here every kept branch
behind the first gap makes up for what is missing, one after the other, and what a fit leaves over is the next one's to
mend.

Batch norms behind a gap that no fitted layer makes up for see other inputs than their statistics were measured on:
these are measured again, before, and mixed with what they are (Schneider et al. 2020, arXiv 2006.16971).

Positions count for a linear layer by how much the outputs depend on the state there (sensitivity.py).

Letters: N positions of all samples, I and O numbers that a layer takes and gives.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from resect.engines.work import Progress
from resect.errors import DataError, DoubtfulWarning
from resect.graph.calls import as_call
from resect.graph.endings import endings
from resect.measuring.batches import Batch, to_device, widest_float
from resect.measuring.calibration import calibrate
from resect.measuring.tasks import Task
from resect.network.arrangement import Arrangement
from resect.network.standalone import Standalone
from resect.network.unraveled import Unraveled
from resect.pruning import sensitivity
from resect.pruning.pieces import Piece, far_norms, pieces_of, require_fittable
from resect.pruning.rerun import mean_over
from resect.pruning.walk import Walk
from resect.seeds import generator_for

METHOD = (  # by which a store tells what this fits from what earlier versions did
    "linear layers by the sensitivity at positions, convolutions, statistics; by divergence"
)
STRENGTHS = (1.0, 0.1, 0.01, 0.001)
ROWS = 2**15  # positions that a layer is fitted to, at the most, about
_HELD = 4  # a part of the batches says which strength is best

Weights = dict[int, Tensor]
"""By slot, (N,) of the positions of a batch; of a slot that is missing all count alike."""


@dataclass(frozen=True)
class Refit:
    """What was fitted.

    Attributes:
        tensors: the new weights and biases, by their names in the model; none where the old ones are better.
        strength: of the ridge, as a part of the mean square of a layer's inputs; None where nothing was fitted.
        distances: how far the outputs are from the intact network's on the samples held back, KL(intact || fitted) in
            nats; of tasks that have no such divergence, the loss. By the strength that was tried, None for no fit.
    """

    tensors: dict[str, Tensor]
    strength: float | None
    distances: dict[float | None, float]


def refit(
    net: Unraveled,
    arrangement: Arrangement,
    batches: Sequence[Batch],
    strengths: Sequence[float] = STRENGTHS,
    progress: Progress | None = None,
    *,
    alike: bool = False,
) -> Refit:
    """Fit the last layers of what is left to the states of the intact network, and batch norms that they leave out.

    A ridge keeps weights and statistics near what they are. Its strength, and whether anything is fitted at all, is
    what brings the outputs nearest to the intact network's on a quarter of the batches, after a fit to the others; then
    all are fitted to. What targets say is used by tasks without a divergence alone; of others, what they ignore.

    Args:
        arrangement: the network without some blocks.
        batches: at least two.
        strengths: that are tried.
        progress: called with the number of samples since the last call; of each there are `passes(net)` in all, about.
        alike: all positions count alike.

    Raises:
        InputError: no branch ends in a layer of its own that is linear or a convolution, and there are no batch norms.
        DataError: there are fewer than two batches, or targets do not fit the outputs.
    """
    require_fittable(net)
    if len(batches) < 2:
        raise DataError(
            f"`batches` must be at least 2, of which the last chooses how strong a fit is, got {len(batches)}."
        )
    held = -max(1, len(batches) // _HELD)
    weights = [] if alike else position_weights(net, arrangement, batches, progress)
    distances: dict[float | None, float] = {None: _distance(net, arrangement, {}, batches[held:], progress)}
    for strength in strengths:
        tensors = fitted(net, arrangement, batches[:held], strength, progress, weights[:held])
        distances[strength] = _distance(net, arrangement, tensors, batches[held:], progress)
    best = min(distances, key=lambda strength: distances[strength])
    return Refit({} if best is None else fitted(net, arrangement, batches, best, progress, weights), best, distances)


def passes(net: Unraveled) -> int:
    """Forward passes of the samples that a fit costs, about."""
    tried = len(STRENGTHS)
    own = 2 * (tried * (_HELD - 1) / _HELD + 1) + 2 * (tried + 1) / _HELD  # of fits, and of what is held back
    linear = any(ending.window is None for ending in endings(net.sliced).values())
    return round(own) + (sensitivity.PASSES if linear else 0)


def with_tensors(module: Standalone, tensors: Mapping[str, Tensor]) -> Standalone:
    """A stand-alone network, into which some tensors are put."""
    module.load_state_dict(tensors, strict=False)
    return module


def fitted(
    net: Unraveled,
    arrangement: Arrangement,
    batches: Sequence[Batch],
    strength: float,
    progress: Progress | None = None,
    weights: Sequence[Weights] = (),
) -> dict[str, Tensor]:
    """The new values of all that is fitted, by name: of weights and biases, and of the statistics of batch norms.

    Args:
        strength: of the ridge, as a part of the mean square of a layer's inputs; statistics have the weight 1, old ones
            that of the strength.
        progress: called with the number of samples since the last call, about two passes of each.
        weights: of every batch, by `position_weights`; none for positions that all count alike.
    """
    pieces = pieces_of(net, arrangement)
    tensors = _measured(net, arrangement, batches, strength, progress, far_norms(net, arrangement, pieces))
    if pieces:
        tensors |= _layers(net, arrangement, batches, strength, progress, pieces, tensors, weights)
    return tensors


def position_weights(
    net: Unraveled, arrangement: Arrangement, batches: Sequence[Batch], progress: Progress | None = None
) -> list[Weights]:
    """Of every batch, how much the outputs depend on what linear layers are fitted to, position by position.

    A vision transformer reads its answer off one of its tokens, padding is nobody's, and what is behind the last layer
    is seen nowhere else. Places of a picture are alike, and what a ReLU holds back here it may not hold back there, so
    that the positions of convolutions count alike; so do all of a layer whose state no gradient reaches. Where one is
    not finite, a position does not count.

    Args:
        progress: called with the number of samples since the last call; of each there are `sensitivity.PASSES`, about.
    """
    pieces = [piece for piece in pieces_of(net, arrangement) if piece.ending.window is None]
    key_of, found = net.programs.keys.of, list[Weights]()
    for batch in batches if pieces else ():
        try:
            squares = sensitivity.squared_gradients(net, batch, {key_of(piece.behind) for piece in pieces})
        except RuntimeError as error:
            if not re.search(r"derivative|autograd", str(error)):
                raise
            said = str(error).partition("\n")[0]
            warnings.warn(f"All positions count alike in the fit: {said}", DoubtfulWarning, stacklevel=2)
            return [{} for _ in batches]
        found.append(
            {
                piece.slot.index: piece.ending.at_positions(squares[key]).mean(1).sqrt().nan_to_num(0, 0, 0)
                for piece in pieces
                if (key := key_of(piece.behind)) in squares
            }
        )
        if progress:
            progress(sensitivity.PASSES * len(batch))
    counted = {index for index in (found[0] if found else ()) if any(bool(own[index].any()) for own in found)}
    return [{index: own[index] for index in counted} for own in found] or [{} for _ in batches]


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


@torch.no_grad()
def _layers(
    net: Unraveled,
    arrangement: Arrangement,
    batches: Sequence[Batch],
    strength: float,
    progress: Progress | None,
    pieces: Sequence[Piece],
    statistics: Mapping[str, Tensor],
    weights: Sequence[Weights],
) -> dict[str, Tensor]:
    """Weights and biases, one layer after the other, each on what those before give."""
    key_of, slice_of = net.programs.keys.of, net.programs.slice_of
    names, made = net.sliced.captured.parameters, dict[str, Tensor]()
    intact = Walk(net, net.intact, batches, [key_of(piece.behind) for piece in pieces], progress)
    wanted = [key_of(node) for piece in pieces for node in (piece.ending.inputs, piece.slot.join.node)]
    cut = Walk(net, arrangement, batches, wanted, progress, peeked=True)
    for node, name in names.items():
        if name in statistics:
            cut.put(key_of(node), statistics[name])
    for number, piece in enumerate(pieces):
        behind, join = key_of(piece.behind), key_of(piece.slot.join.node)
        intact.through(slice_of[behind])
        cut.through(slice_of[join] - 1)
        aims = intact.kept[behind]
        own = [weights[i].get(piece.slot.index) if weights else None for i in range(len(batches))]
        for node, tensor in _solved(piece, aims, own, cut, key_of, strength).items():
            cut.put(key_of(node), tensor)
            made[names[node]] = tensor
        if all(key_of(later.behind) != behind for later in pieces[number + 1 :]):
            intact.release(behind)
    return made


def _solved(
    piece: Piece,
    aims: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    cut: Walk,
    key_of: Callable[[Node], int],
    strength: float,
) -> dict[Node, Tensor]:
    """The parameters of a layer that bring the state nearest to the aim of every batch; none where it is not finite.

    Args:
        weights: (N,) of each batch; None for positions that all count alike.
    """
    own, base = piece.ending, cut.bases[0]
    weight = base[key_of(own.weight)]
    inputs, outputs = own.matrix(weight).shape
    wide = widest_float(weight.device)

    def known(node: Node) -> Tensor:
        value: Tensor = base[key_of(node)]
        return value

    sums = torch.zeros(inputs + 1, inputs + 1 + outputs, dtype=wide, device=weight.device)  # of [H, 1]' w [H, 1, R]
    most = -(-ROWS // len(aims))
    for number, (aim, counts) in enumerate(zip(aims, weights, strict=True)):
        taken, value = cut.peek(number, [key_of(own.inputs), key_of(piece.slot.join.node)])
        missing = own.back(aim.to(wide) - value.to(wide), taken, outputs, known)
        drawn = torch.arange(len(missing)) if counts is None else counts.cpu().nonzero()[:, 0]
        if len(drawn) > most:
            some = torch.randperm(len(drawn), generator=generator_for(0, "positions", number))[:most]
            drawn = drawn[some.sort().values]
        drawn = drawn.to(missing.device)
        rows, missing = own.rows(taken, drawn).to(wide), missing[drawn]
        rows = torch.cat([rows, torch.ones(len(rows), 1).to(rows)], 1)
        weighted = rows if counts is None else rows * counts[drawn, None].to(rows)
        sums += weighted.T @ torch.cat([rows, missing], 1)
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


def _distance(
    net: Unraveled,
    arrangement: Arrangement,
    tensors: Mapping[str, Tensor],
    batches: Sequence[Batch],
    progress: Progress | None,
) -> float:
    """How far the stand-alone network with some tensors is from the intact one, in the mean over what counts."""
    module, parts = with_tensors(net.standalone(arrangement), tensors), list[Tensor]()
    with torch.inference_mode():
        for batch in batches:
            inputs, targets = to_device(batch.inputs, net.device), batch.targets.to(net.device)
            args, kwargs = as_call(inputs)
            own = _apart(batch.task, module(*args, **kwargs), net(inputs), targets)
            parts.append(own.float().nan_to_num(nan=torch.inf, posinf=torch.inf).cpu())
            if progress:
                progress(2 * len(batch))
    return mean_over(torch.cat(parts).numpy(), batches)


def _apart(task: Task, outputs: Any, intact: Any, targets: Tensor) -> Tensor:
    """(B,) of a task's divergence, or its loss."""
    task.checked(outputs, targets)
    if "kl" in task.metrics:
        return task.divergence(outputs, intact, targets)
    _, loss = task.outcomes(outputs, targets)
    return loss
