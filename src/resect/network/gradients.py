"""Whether a captured graph has the gradient of its model: custom backwards and hooks do not get into a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.errors import ExportError
from resect.graph.calls import Call, as_call, batch_dimensions, labelled, outputs_of
from resect.graph.differences import alike
from resect.graph.exporting import cause, without_checkpoints, without_fused_attention
from resect.graph.kernels import in_float32
from resect.graph.randomness import kept_generators, seed_generators
from resect.graph.untouched import Mode, untouched

if TYPE_CHECKING:
    from resect.network.unraveled import Unraveled

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}  # of rounding; 0.1 in half precision
Gradients = dict[str, Tensor | None]


def require_own_gradient(net: Unraveled, example: Any) -> bool:
    """Compare the gradients of the graph with autograd's on the model, on two samples of the example.

    Returns:
        Whether they could be compared: not if the model has none of its own, or draws in another order than the graph.

    Raises:
        ExportError: they differ, so that paths or a schedule would follow another gradient than the model's.
    """
    model, mode = net.model, net.sliced.captured.mode
    on_device = pytree.tree_map(lambda leaf: leaf.to(net.device) if isinstance(leaf, Tensor) else leaf, example)
    with (
        untouched(model, mode),
        kept_generators(model),
        without_fused_attention(),
        without_checkpoints(),
        _all_require_gradients(model),
        in_float32(),
    ):
        for inputs in (_two_samples(net, on_device), on_device):
            try:
                own, outputs = _gradients(model, lambda call: outputs_of(model, call), as_call(inputs), mode)
                break
            except Exception as error:  # any model raises what it likes
                if "modified by an inplace operation" in str(error):  # it has no gradient itself, but the graph has
                    return False
                if inputs is on_device:  # two samples alone may be too few
                    raise ExportError(
                        f"`model` must be differentiable on the example, but {type(model).__name__} says: "
                        f"{cause(model, error)}. Was it cast or changed since it was unravelled?"
                    ) from error
        captured, others = _gradients(model, lambda call: net(call[1] or call[0]), as_call(inputs), mode)
    if not all(alike(one, other) for one, other in zip(outputs, others, strict=True)):
        return False
    norms = {name: _norm(gradient) for name, gradient in own.items() if gradient is not None}
    whole = max(norms.values(), default=0.0)
    for name, gradient in own.items():
        other = captured[name]
        if gradient is None and other is None:
            continue
        one = torch.zeros_like(other) if gradient is None else gradient  # type: ignore[arg-type]  # one of them is there
        norm, apart = norms.get(name, 0.0), _norm(one if other is None else one - other)
        tolerance = _TOLERANCE.get(one.dtype, 0.1) * max(whole * 1e-2, norm)
        if isfinite(norm) and isfinite(whole) and not apart <= tolerance:
            raise ExportError(
                f"`model` must have the gradient of the operators in its forward(), but that of `{name}` differs from "
                f"the captured graph's in {mode} mode: a custom autograd function, a hook that changes gradients, or "
                "the like stands behind it. Take it out of forward() to look at gradients; lesions work as it is."
            )
    return True


def _two_samples(net: Unraveled, example: Any) -> Any:
    """Two samples of the example where the batch is free; a single one is varied."""

    def leaf_of(leaf: Any, at: int | None) -> Any:
        if at is None or net.batch_size is not None:
            return leaf
        if leaf.shape[at] > 1:
            return leaf.narrow(at, 0, 2)
        noise = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
        noise = noise.to(leaf.device)
        return torch.cat([leaf, (leaf + 0.1 * noise).to(leaf.dtype) if leaf.is_floating_point() else leaf], at)

    leaves, spec = pytree.tree_flatten(example)
    return pytree.tree_unflatten(map(leaf_of, leaves, batch_dimensions(leaves, net.batch_dim)), spec)


def _gradients(model: nn.Module, run: Callable[[Call], Any], call: Call, mode: Mode) -> tuple[Gradients, list[Tensor]]:
    """The gradients of a fixed weighted sum of all outputs by every parameter, in eval mode by every input, too, and
    the outputs."""
    seed_generators(model, 0)
    places = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    leaves, spec = pytree.tree_flatten(call)
    given = [leaf.detach().requires_grad_() if _is_float(leaf) else leaf for leaf in leaves]
    if mode == "eval":  # a training needs none of them
        names = [name for name, _ in labelled(call)]
        places |= {name: leaf for name, leaf in zip(names, given, strict=True) if _is_float(leaf)}
    with torch.enable_grad():
        inputs = [leaf.clone() if _is_float(leaf) else leaf for leaf in given]  # a model may write into them
        outputs = [leaf for leaf in pytree.tree_leaves(run(pytree.tree_unflatten(inputs, spec))) if _has_gradient(leaf)]
    if not outputs or not places:
        return dict.fromkeys(places), outputs
    generator = torch.Generator().manual_seed(0)
    plain: Any = {"generator": generator, "dtype": torch.float32, "device": "cpu"}  # whatever the defaults are
    weights = [torch.rand(leaf.shape, **plain).to(leaf) for leaf in outputs]
    # Not backward(): that would fill `grad`, and reach those who wait for it, as DistributedDataParallel does.
    gradients = torch.autograd.grad(outputs, list(places.values()), weights, allow_unused=True)
    return dict(zip(places, gradients, strict=True)), [leaf.detach() for leaf in outputs]


def _norm(gradient: Tensor) -> float:
    return float(torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32)))


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _has_gradient(leaf: Any) -> bool:
    return _is_float(leaf) and leaf.requires_grad


@contextmanager
def _all_require_gradients(model: nn.Module) -> Iterator[None]:
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
