"""What ATen operators mean to discovery: which are linear, which mix with weights, which only move values."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

WEIGHT_MIXING = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear addmm mm matmul "
    "bmm baddbmm einsum addbmm mv _grouped_mm lstm gru rnn_tanh rnn_relu".split()
)
ATTENTION = frozenset({"scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu"})
PRODUCTS = frozenset("mul mm matmul bmm baddbmm addmm einsum linear div addcmul outer dot".split()) | ATTENTION

# Operators that read the shape of a signal and nothing else of it.
SHAPE_ONLY = frozenset(
    "sym_size sym_numel new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like fill".split()
)

# Views hand on the values of one operand; a zero stays a zero through them.
VIEWS = frozenset(
    "view _unsafe_view reshape permute transpose t flatten unflatten squeeze unsqueeze expand clone contiguous "
    "slice select split split_with_sizes chunk unbind getitem alias detach _to_copy to type_as repeat roll "
    "movedim pixel_shuffle pixel_unshuffle neg dropout lift_fresh native_dropout unfold tile flip swapaxes".split()
)
# Of them, those that hand on a part only.
PARTS = frozenset("slice select split split_with_sizes chunk unbind narrow".split())
NORMS = frozenset(
    "batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit native_batch_norm "
    "_native_batch_norm_legit_functional layer_norm native_layer_norm group_norm native_group_norm rms_norm "
    "instance_norm _fused_rms_norm".split()
)
POOLS = frozenset(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d "
    "adaptive_avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices mean sum amax max "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d upsample_nearest3d "
    "upsample_trilinear3d upsample_linear1d _upsample_bilinear2d_aa _upsample_bicubic2d_aa".split()
)
RESHAPERS = frozenset(
    "cat stack pad constant_pad_nd reflection_pad2d replication_pad2d index index_select gather copy "
    "slice_scatter select_scatter im2col col2im add sub rsub cumsum".split()
)
FOURIER = frozenset(
    "_fft_r2c _fft_c2r _fft_c2c fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn "
    "fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift stft istft view_as_real view_as_complex real imag "
    "_conj conj resolve_conj _conj_physical complex".split()
)
# Batch and layer normalisation count as linear: they stand on projection skips and leave no path of their own.
LINEAR = VIEWS | NORMS | POOLS | RESHAPERS | WEIGHT_MIXING | FOURIER | {"mul", "div", "addcmul", "summed"}

POINTWISE = frozenset(
    "relu relu6 hardtanh gelu silu sigmoid tanh leaky_relu elu selu celu hardswish hardsigmoid mish softplus "
    "prelu rrelu threshold clamp clamp_min logsigmoid softsign dropout native_dropout feature_dropout "
    "alpha_dropout".split()
)


def gate(value: Tensor) -> Tensor:
    """Hand on `value`: the place where a branch enters its join, put into the graph by discovery."""
    return value


def summed(*terms: Tensor, dim: int, mean: bool) -> Tensor:
    """The sum (or mean) of equally shaped terms over an axis at which they are stacked."""
    stacked = torch.ops.aten.stack.default(list(terms), dim)
    total: Tensor = torch.ops.aten.mean.dim(stacked, [dim]) if mean else torch.ops.aten.sum.dim_IntList(stacked, [dim])
    return total


def op_name(node: Node) -> str:
    """The operator of a node without namespace and overload: "add" for `aten.add.Tensor`."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    if target is operator.getitem:
        return "getitem"
    if isinstance(target, Callable):  # type: ignore[arg-type]  # a typing construct, fine at run time
        return getattr(target, "__name__", str(target))
    return str(target)


def is_check(node: Node) -> bool:
    """Whether a node only asserts something about its input and computes nothing."""
    return op_name(node).startswith(("_assert", "sym_constrain", "_check"))


def hints(value: Tensor) -> tuple[int, ...]:
    """The shape of a captured tensor at the example batch."""
    return tuple(int(size) if isinstance(size, int) else int(size.node.hint) for size in value.shape)


def hint_shape(node: Node) -> tuple[int, ...] | None:
    """The shape of a node's tensor at the example batch; None for other values."""
    value = node.meta.get("val")
    return hints(value) if isinstance(value, Tensor) else None


def free_shape(node: Node) -> tuple[Any, ...]:
    """The shape of a node's tensor, free sizes as expressions."""
    return tuple(size if isinstance(size, int) else size.node.expr for size in node.meta["val"].shape)


def shown_shape(node: Node, batch: Any) -> tuple[int | str, ...]:
    """The shape of a node's tensor at the example, but with the batch as an expression, e.g. ("B", 64, 8, 8).

    Args:
        batch: the symbol of the batch size.
    """
    shown: list[int | str] = []
    for i, (size, hint) in enumerate(zip(free_shape(node), hints(node.meta["val"]), strict=True)):
        if isinstance(size, int) or batch not in size.free_symbols:
            shown.append(hint)
        else:
            shown.append("B" if i == 0 else str(size).replace(str(batch), "B"))
    return tuple(shown)


def is_float(node: Node) -> bool:
    """Whether a node's value is a floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def module_of(node: Node) -> str:
    """The dotted path of the innermost module that a node was traced in; "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]).split("@")[0] for entry in stack.values()]
    return paths[-1].removeprefix("model").removeprefix(".") if paths else ""  # capture wraps the model once
