"""Which linear map the derivative of an ATen operator is: closed forms for the operators that networks spend their
time in, any pointwise operator by its elementwise derivative, and autograd's own backward for all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
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
    operands = [bare_kwargs[place] if isinstance(place, str) else bare[place] for place in signals]
    # Closed forms have no conjugates, with which gradients of complex numbers go back; autograd has.
    rule = None if any(map(_is_complex, [value, *operands])) else _rule_of(target, value)
    maps: Maps = {}
    for place in signals:
        with torch.no_grad():
            each = rule(bare, bare_kwargs, _detached(value), place) if rule else None
        if each is None:
            return value, None
        maps[place] = each
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


def _rule_of(target: Any, value: Any) -> Rule | None:
    name = _name(target)
    if _writes(target):
        return None
    if name in _RULES:
        return _RULES[name]
    pointwise = torch.Tag.pointwise in getattr(target, "tags", ()) or name in _UNTAGGED
    return partial(_pointwise, target) if pointwise and isinstance(value, Tensor) else None


def _writes(target: Any) -> bool:
    return bool(getattr(getattr(target, "_schema", None), "is_mutable", False))


def _is_complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _name(target: Any) -> str:
    schema = getattr(target, "_schema", None)
    return str(schema.name).removeprefix("aten::") if schema else getattr(target, "__name__", "")


def _pointwise(target: Any, args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """The elementwise derivative of any pointwise operator: the gradient of its sum, the operand stretched before."""
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


def _factor(factor: Any, operand: Tensor, value: Tensor) -> Map | None:
    """Elementwise multiplication by a tensor or a number; None if it changes the dtype."""
    if operand.dtype != value.dtype:
        return None
    if not isinstance(factor, Tensor) and factor == 1 and operand.shape == value.shape:
        return Identity()
    return Factor(factor, operand.shape, value.shape, value.dtype)


def _sum(sign: float, args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """add and sub, with alpha."""
    factor = 1.0 if place == 0 else sign * kwargs.get("alpha", 1)
    return _factor(factor, args[place], value) if isinstance(place, int) else None


def _summed(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    return _factor(1.0, args[place], value) if isinstance(place, int) and not kwargs["mean"] else None


def _product(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    return _factor(args[1 - place], args[place], value) if isinstance(place, int) else None


def _convolution(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """conv1d, conv2d, conv3d with respect to their input; numbers of padding only."""
    given = _given("input weight bias stride padding dilation groups", args, kwargs)
    weight, padding, dims = given["weight"], given.get("padding", 0), args[0].ndim - 2
    if place != 0 or isinstance(padding, str) or args[0].ndim != weight.ndim:
        return None
    sizes = [_each(size, dims) for size in (given.get("stride", 1), padding, given.get("dilation", 1))]
    return Convolution(args[0].shape, value.shape, weight, (*sizes, False, [0] * dims, given.get("groups", 1)))


def _given(names: str, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name."""
    return dict(zip(names.split(), args, strict=False)) | kwargs


def _each(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _general_convolution(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    if place != 0 or len(args) != 9:
        return None
    return Convolution(args[0].shape, value.shape, args[1], args[3:9])


def _batch_norm(args: list[Any], kwargs: dict[str, Any], value: Any, place: int | str) -> Map | None:
    """Batch normalisation by running statistics: (input, weight, bias, mean, variance, momentum, eps)."""
    x, weight, _, _, variance, _, eps = args
    if place != 0:
        return None
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return Factor(scale.view(shape).to(x.dtype), x.shape, x.shape, x.dtype)


def _any_batch_norm(args: list[Any], kwargs: dict[str, Any], value: Any, place: int | str) -> Map | None:
    """Batch normalisation that is told whether it trains, and whether by cuDNN."""
    *tensors, training, momentum, eps, _ = args
    return None if training else _batch_norm([*tensors, momentum, eps], kwargs, value, place)


def _layer_norm(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """With x^ the normalised input and u = w v: pull(v) = (u - mean u - x^ mean(x^ u)) / std; push likewise, w last."""
    if place != 0:
        return None
    given = _given("input normalized_shape weight bias eps", args, kwargs)
    x, weight = given["input"], given.get("weight")
    dims = tuple(range(-len(given["normalized_shape"]), 0))
    centred = x - x.mean(dims, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(dims, keepdim=True) + given.get("eps", 1e-5))
    normal = centred * scale

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
    return _times(args[1].T) if place == 0 else None


def _times(matrix: Tensor) -> Map:
    """y = x matrix, for one matrix or one for each of a stack."""
    return Closed(lambda lanes: lanes @ matrix, lambda lanes: lanes @ matrix.mT)


def _matmul(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """mm, bmm, and matmul of equally shaped stacks of matrices."""
    one, other = args[:2]
    if one.ndim < 2 or one.shape[:-2] != other.shape[:-2]:
        return None
    if place == 0:
        return _times(other)
    return Closed(lambda lanes: one @ lanes, lambda lanes: one.mT @ lanes)


def _addmm(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    return _times(args[2]) if place == 1 and not kwargs else None


def _attention(args: list[Any], kwargs: dict[str, Any], value: Tensor, place: int | str) -> Map | None:
    """softmax(q k^T s + mask) v, taken apart: PyTorch's fused kernels have neither batching rules nor forward mode."""
    given = _given("query key value attn_mask dropout_p is_causal", args, kwargs)
    q, k, v = given["query"], given["key"], given["value"]
    if given.get("dropout_p") or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2] or place not in (0, 1, 2):
        return None
    scale = given.get("scale") or 1 / math.sqrt(q.shape[-1])
    scores = q @ k.mT * scale
    mask = given.get("attn_mask")
    if given.get("is_causal"):
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
    name: rule
    for names, rule in (
        ("add", partial(_sum, 1.0)),
        ("sub", partial(_sum, -1.0)),
        ("summed", _summed),
        ("mul", _product),
        ("conv1d conv2d conv3d", _convolution),
        ("convolution", _general_convolution),
        ("_native_batch_norm_legit_no_training", _batch_norm),
        ("batch_norm", _any_batch_norm),
        ("layer_norm", _layer_norm),
        ("softmax _softmax", _softmax),
        ("linear", _linear),
        ("mm bmm matmul", _matmul),
        ("addmm", _addmm),
        ("scaled_dot_product_attention", _attention),
        ("view _unsafe_view reshape flatten unflatten squeeze unsqueeze", _reshape),
        ("permute", _permute),
        ("transpose", _transpose),
        ("clone contiguous alias gate", _same),
    )
    for name in names.split()
}
