"""The scalar of the outputs that is differentiated: a loss, a logit, or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from resect.errors import InputError, whole_number
from resect.graph.outputs import IGNORED
from resect.measuring.tasks import CLASSIFICATION, Task, one_each

Scalar = str | int | Callable[[Any, Tensor], Tensor]


def scalar_of(of: Scalar, outputs: Any, targets: Tensor, task: Task = CLASSIFICATION) -> Tensor:
    """The scalar that is differentiated, one value a sample, so that every sample's gradient is its own.

    Args:
        of: as in `PathSettings`.

    Raises:
        InputError, DataError: there is no such logit, or the function gives another shape.
    """
    if callable(of):
        return one_each("`of`", of(outputs, targets), targets)
    scored = task.checked(outputs, targets)
    if not task.classes:
        if of != "loss":
            raise InputError(f"`of` must be 'loss' or a function where the task is {task.name}, got {of!r}.")
        return one_each(f"the loss of {task.name}", task.loss_of(scored, targets), targets)
    return _of_classes(of, scored, targets)


def _of_classes(of: str | int, logits: Tensor, targets: Tensor) -> Tensor:
    flat, wanted = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long()
    if of == "loss":
        values = F.cross_entropy(flat, wanted, reduction="none", ignore_index=IGNORED)
    elif of == "target":
        values = flat.gather(1, wanted.clamp_min(0)[:, None])[:, 0] * (wanted != IGNORED)
    elif (place := whole_number(of)) is not None and -flat.shape[1] <= place < flat.shape[1]:
        values = flat[:, place]
    else:
        raise InputError(
            f"`of` must be 'loss', 'target', a class below {flat.shape[1]}, or a function (outputs, targets) -> one "
            f"number a sample, got {of!r}."
        )
    return values.view(len(targets), -1).mean(1)
