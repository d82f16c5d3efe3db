"""Modules that take the sequence first and the batch second, which is easily mistaken for the batch first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.errors import InputError


@contextmanager
def batch_is_dimension(batch_dim: int, model: nn.Module, example: Any) -> Iterator[None]:
    """While the model runs on the example, refuse one whose dimension 0, taken for the batch, is a sequence.

    Raises:
        InputError: a module with batch_first=False is given the example's dimension 0 as its sequence.
    """
    sizes = {leaf.shape[:2] for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor) and leaf.ndim > 1}
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = next((leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor)), None)
        if given is None or given.ndim != 3 or given.shape[0] == given.shape[1] or given.shape[:2] not in sizes:
            return
        sequence, batch = given.shape[:2]
        raise InputError(
            f"`example` must have the batch in dimension 0, but `{names[module] or type(model).__name__}` has "
            f"batch_first=False and takes dimension 0 ({sequence}) for the sequence and dimension 1 ({batch}) for the "
            "batch. Say so by batch_dim=1, or build the model with batch_first=True."
        )

    if batch_dim:
        yield
        return
    sequential = [module for module in names if getattr(module, "batch_first", True) is False]
    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module in sequential]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
