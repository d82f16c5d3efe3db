"""How much the outputs of a network depend on its states, position by position: where a fit has to come near."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.graph.outputs import IGNORED
from resect.measuring.batches import Batch, to_device
from resect.network.unraveled import Unraveled
from resect.paths.trace import detached, differentiable
from resect.seeds import generator_for

_DRAWS = 4
PASSES = 2 + 2 * _DRAWS  # forward passes that it costs, about


@torch.inference_mode(False)
@torch.no_grad()
def squared_gradients(net: Unraveled, batch: Batch, keys: Collection[int]) -> dict[int, Tensor]:
    """Mean squares of the gradients of random sums of what the batch's task scores, by states of the intact network.

    In a sum an output counts with a number of a standard normal distribution that its class has at all positions, times
    a sign that its position has for all classes, so that what is expected is the sum of the squared derivatives of all
    outputs, of a task of functions of all that the model returns. Of classes the mean, which a softmax does not see, is
    left out, and so is what targets ignore. Slices are run twice: all states between them are kept, but what autograd
    keeps is that of one slice.

    Args:
        keys: of values behind slices.

    Returns:
        By key, in the shape of the state, float32; none of what no gradient reaches.

    Raises:
        RuntimeError: an operator has no derivative; or there is too little memory.
    """
    programs, slice_of = net.programs.fold(net.intact, also=keys), net.programs.slice_of
    bound = net.bind(to_device(batch.inputs, net.device))
    base = {key: detached(value) if isinstance(value, Tensor) else value for key, value in bound.items()}
    states: list[dict[int, Any]] = [{}]
    for program in programs:
        states.append(program.run(base, states[-1]))
    stem = {net.programs.keys.of(node) for node in net.sliced.stem}
    found = dict[int, Tensor]()
    draws: list[dict[int, Tensor]] = []  # of each, the gradients by what lives
    for number in reversed(range(1 + min(slice_of[key] for key in keys), len(programs))):
        del states[number + 1 :]
        live = {
            key: value.detach().requires_grad_()
            for key, value in states[number].items()
            if differentiable(value) and (key in stem or slice_of.get(key, 0) > 0)  # masks and tables carry nothing
        }
        with torch.enable_grad():
            after = programs[number].run(base, {**states[number], **live})
            if number == len(programs) - 1:
                sums = _random_sums(net.outputs_by_sample(base, after), batch)
                draws = [_back([one], [torch.ones_like(one)], live) for one in sums]
            else:
                draws = [_back([after[key] for key in one], list(one.values()), live) for one in draws]
        for key in (key for key in keys if slice_of[key] == number - 1):
            if parts := [one[key].float().square() for one in draws if key in one]:
                found[key] = torch.stack(parts).mean(0)
    return found


def _back(ends: Sequence[Tensor], gradients: Sequence[Tensor], live: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The gradients by what lives before a slice, of those by its ends."""
    pairs = [(end, gradient) for end, gradient in zip(ends, gradients, strict=True) if end.requires_grad]
    if not pairs:
        return {}
    ends, gradients = zip(*pairs, strict=True)
    reached = torch.autograd.grad(ends, list(live.values()), gradients, retain_graph=True, allow_unused=True)
    return {key: value for key, value in zip(live, reached, strict=True) if value is not None}


def _random_sums(outputs: Any, batch: Batch) -> Iterator[Tensor]:
    """Of what is scored."""
    task, targets = batch.task, batch.targets
    draws = generator_for(0, "sensitivity", batch.number)
    leaves = [leaf for leaf in pytree.tree_leaves(task.scored(outputs)) if differentiable(leaf)]
    ignores = task.classes or task.name == "multi-label"  # in `contrastive` they are candidates

    def random_sum(leaf: Tensor) -> Tensor:
        if ignores and leaf.shape[: targets.ndim] == targets.shape:
            ignored = (targets == IGNORED).to(leaf.device)
            leaf = leaf.masked_fill(ignored.view(*targets.shape, *[1] * (leaf.ndim - targets.ndim)), 0)
        numbers = torch.randn(leaf.shape[-1], generator=draws)
        numbers = numbers - numbers.mean() if task.classes else numbers
        signs = torch.randint(0, 2, leaf.shape[:-1], generator=draws) * 2 - 1
        # one number a position, so that nothing of the size of all outputs is drawn
        return ((leaf.float() @ numbers.to(leaf.device)) * signs.to(leaf.device)).sum()

    for _ in range(_DRAWS if leaves else 0):
        yield torch.stack([random_sum(leaf) for leaf in leaves]).sum()
