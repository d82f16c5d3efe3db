"""Which task targets are of, where nobody says it, and what each task makes of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.errors import DataError
from resect.graph.outputs import IGNORED, scored_output
from resect.measuring.items import Item
from resect.measuring.meaning import require_task
from resect.measuring.tasks import CLASSIFICATION, PerSample, Task
from resect.network.unraveled import Unraveled

Shape = tuple[int | None, ...]
_VOID = 255  # what data sets of segmentation mark as no class, where it is none


def as_task(task: Task | str | PerSample | None) -> Task | None:
    """A task given as such, by name, or as a loss (outputs, targets) -> (B,); None where it is to be guessed."""
    if task is None or isinstance(task, Task):
        return task
    if callable(task):
        name = getattr(task, "__name__", type(task).__name__)
        return Task("own loss" if name == "<lambda>" else name, task)
    known = require_task(task)
    return None if known is None else Task.named(known)


def guessed(item: Item, shape: Shape | None) -> Task:
    """The task of a batch's targets.

    Integers are classes, of pixels where they have the shape of the outputs without dimension 1; labels under a name
    are of the next or of masked tokens. Floats that are all 0 or 1 are labels that are there or not, and others values.

    Args:
        shape: of the scored output, None for sizes that are free; None if it is not known, as of classes.

    Raises:
        DataError: they could be several things, or fit nothing.
    """
    targets = item.targets
    if targets.is_complex():
        raise DataError("the targets must be integers or floating-point numbers, got complex ones.")
    as_outputs = shape is not None and len(shape) == 2 and _fits(targets, shape)
    if item.labels and targets.ndim == 2 and not targets.is_floating_point() and not as_outputs:
        return Task.named(_of_tokens(item))
    if shape is None:
        return CLASSIFICATION
    binary = bool(((targets == 0) | (targets == 1) | (targets == IGNORED)).all())
    if not (targets.is_floating_point() or targets.dtype == torch.bool):
        if binary and targets.ndim == len(shape) == 2 and not _sum_to_one(targets) and _fits(targets, shape):
            return Task.named("multi-label")
        pixels = targets.ndim > 1 and not _fits(targets, shape[:-1]) and _fits(targets, (shape[0], *shape[2:]))
        return Task.named("segmentation") if pixels else CLASSIFICATION
    if not _fits(targets, shape) and not _fits(targets, tuple(s for s in shape if s != 1)):
        return CLASSIFICATION  # says what is wrong
    if targets.ndim == 2 and targets.shape[1] > 1 and _sum_to_one(targets):
        if binary:
            return CLASSIFICATION  # says so
        raise DataError(
            f"the targets {tuple(targets.shape)} have rows that sum to 1, as probabilities of classes have. Give "
            "classes, targets.argmax(-1), or say what they are: task='regression', 'multi-label', or a loss of your "
            "own."
        )
    return Task.named("multi-label" if binary else "regression")


def _sum_to_one(targets: Tensor) -> bool:
    """Whether every row is of probabilities."""
    return bool((targets >= 0).all()) and bool(((targets.float().sum(1) - 1).abs() < 1e-4).all())


def scored_shape(net: Unraveled, output: str | None = None) -> Shape:
    """The shape of the scored output; None for sizes that are free."""
    captured = net.sliced.captured
    node = scored_output(captured, output)
    sizes = [size if isinstance(size, int) else None for size in node.meta["val"].shape]
    del sizes[captured.samples_at(node) if net.batch_dim else 0]
    return (None, *sizes)


def _fits(targets: Tensor, shape: Shape) -> bool:
    same = targets.ndim == len(shape) or (targets.shape[1:] == (1,) and len(shape) == 1)
    return same and all(want is None or want == got for want, got in zip(shape, targets.shape, strict=False))


def _of_tokens(item: Item) -> str:
    """Whether labels (B, L) are of the next token, as causal language models take them, or of each one's own place."""
    tokens, labels = _tokens(item), item.targets
    counted = labels != IGNORED
    if tokens is not None and counted.any():
        own, following = (labels == tokens)[counted], (labels == _moved(tokens))[counted]
        if own.all() or following.all():
            return "next-token"
        if own.float().mean() < 0.5:
            return "masked-token"
    raise DataError(
        f"a batch that is a dict must have one label a sample, got labels {tuple(labels.shape)}. They are not those "
        "of a causal language model, its input_ids. Say what they are: task='masked-token' if labels[b, i] is what "
        f"position i should name, task='next-token' if it is what position i - 1 should. Or give (inputs, targets), "
        f"of a causal language model with the labels moved by one, and {IGNORED} at the end."
    )


def _tokens(item: Item) -> Tensor | None:
    """The tokens of a decoder, or the only ones, samples first, if they have the shape of the targets."""
    inputs, targets = item.inputs, item.targets
    names = ("decoder_input_ids", "input_ids")
    leaves = [inputs[name] for name in names if name in inputs] if isinstance(inputs, Mapping) else []
    for leaf in [*leaves, *pytree.tree_leaves(inputs)]:
        if isinstance(leaf, Tensor) and not leaf.is_floating_point() and leaf.ndim == targets.ndim > item.batch_dim:
            tokens = leaf.movedim(item.batch_dim, 0)
            if tokens.shape == targets.shape:
                return tokens
    return None


def _moved(tokens: Tensor) -> Tensor:
    """What follows every token; nothing that counts behind the last."""
    return torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], IGNORED)], 1)


def prepared(item: Item, shape: Shape | None, task: Task) -> Tensor:
    """The targets as the task has them: of the next token, moved by one where they are not yet; without void pixels.

    Raises:
        DataError: they cannot be of this task.
    """
    targets = item.targets
    if task.name == "next-token" and targets.ndim == 2:
        tokens, counted = _tokens(item), targets != IGNORED
        is_moved = tokens is not None and bool((targets == _moved(tokens))[counted].all())
        own = tokens is not None and bool((targets == tokens)[counted].all())
        return _moved(targets) if own or (item.labels and not is_moved) else targets
    if task.name == "segmentation":
        many = shape is not None and (shape[1] or 0) > _VOID
        return targets if many else targets.long().masked_fill(targets == _VOID, IGNORED)
    if task.name == "multi-label" and not bool((((targets >= 0) & (targets <= 1)) | (targets == IGNORED)).all()):
        raise DataError(
            f"the targets of multi-label must lie from 0 to 1, got {targets.min():.3g} to {targets.max():.3g}."
        )
    if targets.is_floating_point() and not bool(targets.isfinite().all()):
        raise DataError("the targets must be finite, but hold NaN or infinity.")
    return targets
