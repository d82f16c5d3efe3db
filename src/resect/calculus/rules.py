"""Which linear map the derivative of an ATen operator is: closed forms for the operators that networks spend their
time in, any pointwise operator by its elementwise derivative, and autograd's own backward for all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from resect.calculus.maps import Closed, Convolution, Factor, Identity, Map, Recorded
from resect.errors import InputError

Maps = dict[int | str, Map]  # the argument that carries the signal (its position or name) -> the map from it
Rule = Callable[[list[Any], dict[str, Any], Any, "int | str"], "Map | None"]
_UNTAGGED = frozenset({"hardswish", "hardsigmoid", "mish"})  # pointwise, but not marked as such


def differentiate(
    target: Any, args: list[Any], kwargs: dict[str, Any], signals: list[int | str]
) -> tuple[Any, Maps | None]:
    """Run an operator, in the caller's gradient mode, and differentiate it.

    Args:
        signals: the arguments that carry the signal: tensors at positions of `args`, or names in `kwargs`.

    Returns:
        The operator's value, and its maps; None where one of them has no closed form (see `record`).
    """
    value = target(*args, **kwargs)
    bare, bare_kwargs = [_detached(a) for a in args], {name: _detached(a) for name, a in kwargs.items()}
    rule = None if _writes(target) else _RULES.get(_name(target))
    if rule is None and isinstance(value, Tensor) and _is_pointwise(target):
        rule = _pointwise(target)
    maps: Maps = {}
    for place in signals:
        with torch.no_grad():
            found = rule(bare, bare_kwargs, _detached(value), place) if rule else None
        if found is None:
            return value, None
        maps[place] = found
    return value, maps


def record(target: Any, run: Callable[[list[Tensor]], Any], operands: list[Tensor]) -> tuple[Any, dict[Any, list[Map]]]:
    """Differentiate an operator by autograd.

    Args:
        run: calls the operator on the operands that carry the signal.

    Returns:
        The operator's value, and for each output (its index; None where there is just one) the maps from the operands.

    Raises:
        InputError: the operator writes into its operands.
    """
    if _writes(target):
        raise InputError(
            f"the network must be functional to be differentiated lane by lane, but {target} writes into the signal. "
            "Replace the in-place operator in the model's forward()."
        )
    leaves = [operand.detach().requires_grad_() for operand in operands]
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        value = run(leaves)
    if not isinstance(value, (Tensor, list, tuple)):  # a size
        return value, {}
    outputs = {None: value} if isinstance(value, Tensor) else dict(enumerate(value))
    maps: dict[Any, list[Map]] = {}
    for index, output in outputs.items():
        if isinstance(output, Tensor) and output.requires_grad:
            maps[index] = [Recorded(leaf, output) for leaf in leaves]
    plain = value.detach() if isinstance(value, Tensor) else tuple(_detached(item) for item in value)
    return plain, maps


def _is_pointwise(target: Any) -> bool:
    tagged = torch.Tag.pointwise in getattr(target, "tags", ()) or _name(target) in _UNTAGGED
    return tagged and not _writes(target)


def _writes(target: Any) -> bool:
    return bool(getattr(getattr(target, "_schema", None), "is_mutable", False))


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _name(target: Any) -> str:
    schema = getattr(target, "_schema", None)
    return str(schema.name).removeprefix("aten::") if schema else getattr(target, "__name__", "")


def _pointwise(target: Any) -> Rule:
    """The elementwise derivative of any pointwise operator: the gradient of its sum, the operand stretched before."""

    def rule(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
        operand = kwargs[place] if isinstance(place, str) else args[place]
        if not value.is_floating_point():
            return None
        stretched = operand.expand(value.shape).detach().requires_grad_()
        own_args, own_kwargs = list(args), dict(kwargs)
        if isinstance(place, str):
            own_kwargs[place] = stretched
        else:
            own_args[place] = stretched
        with torch.enable_grad():
            output = target(*own_args, **own_kwargs)
            if not output.requires_grad:
                return None
            (factor,) = torch.autograd.grad(output.sum(), stretched)
        return Factor(factor, operand.shape, value.shape, operand.dtype)

    return rule


def _sum(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """add and sub, with alpha."""
    if not isinstance(place, int) or args[place].dtype != value.dtype:
        return None
    return Factor(1.0 if place == 0 else float(kwargs.get("alpha", 1)), args[place].shape, value.shape, value.dtype)


def _difference(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    found = _sum(args, kwargs, value, place)
    if isinstance(found, Factor) and place == 1:
        found.factor = -found.factor
    return found


def _product(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    if not isinstance(place, int) or args[place].dtype != value.dtype:
        return None
    other = args[1 - place]
    return Factor(other, args[place].shape, value.shape, value.dtype)


def _convolution(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """conv1d, conv2d, conv3d with respect to their input; numbers of padding only."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **dict(zip(names, args, strict=False)), **kwargs}
    if place != 0 or isinstance(given["padding"], str) or args[0].ndim != given["weight"].ndim:
        return None
    dims = args[0].ndim - 2
    stride, padding, dilation = (_each(given[name], dims) for name in ("stride", "padding", "dilation"))
    setting = (stride, padding, dilation, False, [0] * dims, given["groups"])
    return Convolution(args[0].shape, value.shape, given["weight"].detach(), setting)


def _each(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _general_convolution(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    if place != 0 or len(args) != 9:
        return None
    return Convolution(args[0].shape, value.shape, args[1].detach(), args[3:9])


def _batch_norm(args: list[Any], kwargs: dict[str, Any], value: Any, place: int | str) -> Map | None:
    """Batch normalisation by running statistics: (input, weight, bias, mean, variance, momentum, eps)."""
    x, weight, _, _, variance, _, eps = args
    if place != 0:
        return None
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight.detach()
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return Factor(scale.view(shape).to(x.dtype), x.shape, x.shape, x.dtype)


def _layer_norm(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """With x^ the normalised input and u = w v: pull(v) = (u - mean u - x^ mean(x^ u)) / std; push likewise, w last."""
    x, shape = args[0], args[1]
    if place != 0:
        return None
    weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
    eps = kwargs.get("eps", args[4] if len(args) > 4 else 1e-5)
    dims = tuple(range(-len(shape), 0))
    centred = x.detach() - x.detach().mean(dims, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    normal = centred * scale
    weight = None if weight is None else weight.detach()

    def core(lanes: Tensor) -> Tensor:
        along = (lanes * normal).mean(dims, keepdim=True)
        return (lanes - lanes.mean(dims, keepdim=True)).addcmul_(normal, along, value=-1).mul_(scale)

    if weight is None:
        return Closed(core, core)
    return Closed(lambda lanes: core(lanes).mul_(weight), lambda lanes: core(lanes * weight))


def _softmax(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """p (v - sum p v), which is its own transpose."""
    dim = args[1] % value.ndim - value.ndim  # counted from the end: lanes stand in front

    def both(lanes: Tensor) -> Tensor:
        return (lanes - (lanes * value).sum(dim, keepdim=True)).mul_(value)

    return Closed(both, both) if value.dtype == args[0].dtype else None


def _linear(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    weight = args[1].detach()
    return Closed(lambda lanes: lanes @ weight.T, lambda lanes: lanes @ weight) if place == 0 else None


def _matmul(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """mm, bmm, and matmul of equally shaped stacks of matrices."""
    one, other = args[:2]
    if one.ndim < 2 or one.shape[:-2] != other.shape[:-2]:
        return None
    one, other = one.detach(), other.detach()
    if place == 0:
        return Closed(lambda lanes: lanes @ other, lambda lanes: lanes @ other.mT)
    return Closed(lambda lanes: one @ lanes, lambda lanes: one.mT @ lanes)


def _addmm(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    if place != 1 or kwargs:
        return None
    other = args[2].detach()
    return Closed(lambda lanes: lanes @ other, lambda lanes: lanes @ other.mT)


def _attention(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """softmax(q k^T s + mask) v, taken apart: PyTorch's fused kernels have neither batching rules nor forward mode."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, **dict(zip(names, args, strict=False)), **kwargs}
    q, k, v = (given[name].detach() for name in ("query", "key", "value"))
    if given["dropout_p"] or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2] or place not in (0, 1, 2):
        return None
    scale = given.get("scale") or 1 / math.sqrt(q.shape[-1])
    scores = q @ k.mT * scale
    mask = given["attn_mask"]
    if given["is_causal"]:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, -1).nan_to_num(0.0)  # a row that may attend to nothing

    def core(lanes: Tensor) -> Tensor:
        return (lanes - (lanes * weights).sum(-1, keepdim=True)).mul_(weights).mul_(scale)

    if place == 0:
        return Closed(lambda lanes: core(lanes @ k.mT) @ v, lambda lanes: core(lanes @ v.mT) @ k)
    if place == 1:
        return Closed(lambda lanes: core(q @ lanes.mT) @ v, lambda lanes: core(lanes @ v.mT).mT @ q)
    return Closed(lambda lanes: weights @ lanes, lambda lanes: weights.mT @ lanes)


def _view(there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Map:
    """The same elements in another shape or order."""
    return Closed(there, back, fresh=False)


def _reshape(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    inner, outer = args[0].shape, value.shape
    return _view(lambda lanes: lanes.reshape(len(lanes), *outer), lambda lanes: lanes.reshape(len(lanes), *inner))


def _permute(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    order = [dim % value.ndim for dim in args[1]]
    back = [order.index(dim) for dim in range(len(order))]
    there = [0, *(dim + 1 for dim in order)], [0, *(dim + 1 for dim in back)]
    return _view(lambda lanes: lanes.permute(there[0]), lambda lanes: lanes.permute(there[1]))


def _transpose(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    one, other = (dim % value.ndim + 1 for dim in args[1:3])
    return _view(lambda lanes: lanes.transpose(one, other), lambda lanes: lanes.transpose(one, other))


def _same(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    return Identity() if place == 0 and value.dtype == args[0].dtype else None


_RULES: Mapping[str, Rule] = {
    "add": _sum,
    "sub": _difference,
    "mul": _product,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "convolution": _general_convolution,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "_softmax": _softmax,
    "linear": _linear,
    "mm": _matmul,
    "bmm": _matmul,
    "matmul": _matmul,
    "addmm": _addmm,
    "scaled_dot_product_attention": _attention,
    "view": _reshape,
    "_unsafe_view": _reshape,
    "reshape": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "clone": _same,
    "contiguous": _same,
    "alias": _same,
    "gate": _same,
}
