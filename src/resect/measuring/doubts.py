"""What makes data or outputs doubtful, though they can be measured; each in one sentence."""

from __future__ import annotations

import torch.utils._pytree as pytree
from torch import Tensor

from resect.errors import DataError
from resect.graph.outputs import IGNORED, squashed_by
from resect.measuring.tasks import Task
from resect.network.unraveled import Unraveled

_BYTES = 32  # pixels that are standardised stay far below, bytes do not


def doubts(inputs: object, targets: Tensor, task: Task, net: Unraveled) -> list[str]:
    """Sentences on the first batch of data: probabilities for logits, bytes for images, tokens that name themselves.

    Args:
        inputs, targets, task: of the batch.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return [*_squashed(task, net), *_bytes(leaves), *_themselves(leaves, targets, task, net.batch_dim)]


def _squashed(task: Task, net: Unraveled) -> list[str]:
    try:
        squashed = squashed_by(net.sliced.captured, task.output) if task.classes or task.name == "multi-label" else None
    except DataError:  # said where it is scored
        return []
    if squashed is None:
        return []
    return [
        f"the model's outputs come out of a {squashed}, but the loss of {task.name} is of logits: losses are not those "
        "of training, while errors are right. Unravel the model without it, or give `task` a loss of your own."
    ]


def _bytes(leaves: list[Tensor]) -> list[str]:
    for leaf in leaves:
        if leaf.ndim == 4 and leaf.is_floating_point() and leaf.numel():
            least, most = float(leaf.min()), float(leaf.max())
            if least >= 0 and _BYTES < most <= 255 and bool((leaf == leaf.round()).all()):
                return [
                    f"the images have whole numbers from {least:.0f} to {most:.0f}, as bytes have. Was the network "
                    "trained on such, and not on pixels / 255, normalised?"
                ]
    return []


def _themselves(leaves: list[Tensor], targets: Tensor, task: Task, batch_dim: int) -> list[str]:
    counted = targets != IGNORED
    if task.name != "classification" or targets.ndim != 2 or not counted.any():
        return []
    tokens = [leaf.movedim(batch_dim, 0) for leaf in leaves if leaf.ndim == targets.ndim > batch_dim]
    same = any(leaf.shape == targets.shape and bool((leaf == targets)[counted].all()) for leaf in tokens)
    return [
        "every target is the very token at its place in the inputs. If the network is to name the next one, say "
        "task='next-token', which moves them."
    ] * same
