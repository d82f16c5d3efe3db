"""Capture a model as a flat, functional ATen graph whose parameters are the model's own tensors."""

from __future__ import annotations

import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.utils.checkpoint import CheckpointFunction

from resect.errors import ExportError, InputError
from resect.graph.canonical import canonical, keep_stopped_gradients
from resect.graph.differences import largest_difference
from resect.graph.randomness import drawn_since, generator_states, kept_generators
from resect.graph.sequences import batch_comes_first
from resect.graph.untouched import Mode, untouched

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Input:
    """One tensor that the captured graph expects.

    Attributes:
        label: how the user names it, e.g. "input 0" or "input_ids".
        shape: ints, and None for the free batch dimension.
    """

    node: Node
    label: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Capture:
    """A model's graph in one mode.

    Attributes:
        nodes: `call_function` nodes in the order of execution.
        inputs: one entry a tensor leaf of the example; None where the leaf is not a tensor.
        constants: values of non-parameter constants by their placeholder.
        parameters: dotted names of parameters and buffers by their placeholder.
        outputs: the flat outputs, nodes or plain Python values.
        mutations: buffers that the graph updates (batch statistics in train mode): (new value, dotted name).
        batch_size: None if the batch dimension is free, else the one size the graph accepts.
        as_run: whether the model was told that it is not being exported, see `capture`.
    """

    model: nn.Module
    mode: Mode
    nodes: tuple[Node, ...]
    inputs: tuple[Input | None, ...]
    constants: Mapping[Node, Any]
    parameters: Mapping[Node, str]
    outputs: tuple[Any, ...]
    mutations: tuple[tuple[Node, str], ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    batch_size: int | None
    as_run: bool


def as_call(example: Any) -> Call:
    """Turn a tensor, tuple or mapping of inputs into positional and keyword arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


def flat_inputs(call: Call, spec: pytree.TreeSpec) -> list[Any]:
    """The leaves of a call in the example's order; its keywords may come in any. InputError for another structure."""
    args, kwargs = call
    example_args, example_kwargs = pytree.tree_unflatten([0] * spec.num_leaves, spec)
    if kwargs.keys() == example_kwargs.keys():
        kwargs = {name: kwargs[name] for name in example_kwargs}
    leaves, own_spec = pytree.tree_flatten((args, kwargs))
    if own_spec != spec:
        wanted, got = _words(example_args, example_kwargs), _words(args, kwargs)
        hint = "Give both alike."
        if "labels" in example_kwargs.keys() - kwargs.keys():
            hint = "Leave `labels` out of the example: they are the targets of the data."
        raise InputError(f"`inputs` must have the structure of the example, {wanted}, got {got}. {hint}")
    return leaves


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as users write it: "float32"."""
    return str(dtype).removeprefix("torch.")


def _words(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The structure of a call: a dot for a leaf, e.g. "(., [., .], mask=.)"."""

    def shape(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{name!r}: {shape(v)}" for name, v in value.items()) + "}"
        return "[" + ", ".join(map(shape, value)) + "]" if isinstance(value, (tuple, list)) else "."

    return "(" + ", ".join([*map(shape, args), *(f"{name}={shape(value)}" for name, value in kwargs.items())]) + ")"


def cut_samples(inputs: Any, which: slice, total: int) -> Any:
    """The same nested inputs with only some of the `total` samples; what holds no samples stays whole."""

    def cut(leaf: Any) -> Any:
        return leaf[which] if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == total else leaf

    return pytree.tree_map(cut, inputs)


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Let `nn.MultiheadAttention` run its own operators, as it does in an exported graph and with gradients."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def capture(model: nn.Module, example: Any, mode: Mode = "eval", *, as_run: bool = False) -> Capture:
    """Export `model` in `mode`, functionally, with a free batch dimension where the model allows it; see `unravel`.

    Args:
        as_run: tell a model that asks (`torch.compiler.is_exporting`) that it is not: some compute in another way when
            they are exported, by other operators with other last bits.
    """
    call = as_call(example)
    leaves = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor)]
    if not leaves:
        raise InputError(
            f"`example` must hold at least one tensor, got none in {type(example).__name__}. Pass one batch of the "
            "model's inputs."
        )
    if any(leaf.ndim and not leaf.shape[0] for leaf in leaves[:1]):
        raise InputError(f"`example` must hold at least one sample, got an input of shape {tuple(leaves[0].shape)}.")
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise ExportError(
            f"`model` must be a module of Python code, but {type(model).__name__} is or holds TorchScript, which hides "
            "operators and names. Pass the module that it was made from."
        )
    with untouched(model, mode), kept_generators(model):
        _refuse_coins(model, call, mode)
        # A batch of 0 or 1 is burnt into an exported graph, so it is widened to 2 first.
        batch = leaves[0].shape[0] if leaves[0].ndim else 0
        try:
            captured = _read(model, _widen(call, batch), mode, as_run)
        except ExportError:
            if mode == "train" or batch != 1:
                raise
            captured = _read(model, call, mode, as_run)  # some take one sample only
        if captured.batch_size not in (None, batch) and mode == "eval":  # its forward() counts the samples
            captured = _read(model, call, mode, as_run)
    return captured


def _refuse_coins(model: nn.Module, call: Call, mode: Mode) -> None:
    """Run the model; ExportError if it is random in eval mode, or in a way that a graph would freeze."""
    before = generator_states(model)
    with batch_comes_first(model, call):
        outputs = _try_forward(model, call)
    drawn = drawn_since(before, model)
    if mode == "train":
        frozen = [name for name in drawn if name != "torch"]
        if frozen:
            raise ExportError(
                f"`model` must draw with torch alone in train mode, but {type(model).__name__} draws from "
                f"{frozen[0]} in forward() (LayerDrop, mixup, masks as of SpecAugment), and a captured graph repeats "
                "one draw for ever. Switch that off in its configuration, or draw outside of forward(); net.schedule "
                "skips layers at random."
            )
    elif drawn and any(largest_difference(outputs, _try_forward(model, call)) for _ in range(3)):
        raise ExportError(
            f"`model` must give the same outputs each time in eval mode, but {type(model).__name__} is random then: "
            f"it draws from {drawn[0]} in forward() (e.g. dropout without training=self.training, noise, a random "
            "mask). Make it deterministic, e.g. pass the noise or the mask as an input."
        )


def _widen(call: Call, batch: int) -> Call:
    def widen(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch == 1:
            return leaf.repeat(2, *(1,) * (leaf.ndim - 1))
        return leaf

    return pytree.tree_map(widen, call)  # type: ignore[no-any-return]  # tree_map keeps the structure it is given


def _try_forward(model: nn.Module, call: Call) -> Any:
    try:
        with torch.no_grad():
            return outputs_of(model, call)
    except InputError:  # of ours
        raise
    except Exception as error:  # any model raises what it likes on inputs that it was not made for
        named = [(label, leaf) for label, leaf in _labels(call) if isinstance(leaf, Tensor)]
        shapes = ", ".join(f"{label} {tuple(leaf.shape)} {dtype_name(leaf.dtype)}" for label, leaf in named)
        raise InputError(
            f"`example` must be a batch that the model can run, got {shapes}: {cause(model, error)}. "
            "Pass one batch with the shape and dtype the model was made for."
        ) from error


def outputs_of(model: nn.Module, call: Call) -> Any:
    """What a model returns, but None where no graph can return it, e.g. the key-value cache of a language model."""
    args, kwargs = call
    plain = (Tensor, bool, int, float, str, type(None))
    return pytree.tree_map(lambda leaf: leaf if isinstance(leaf, plain) else None, model(*args, **kwargs))


class _TensorsOnly(nn.Module):
    def __init__(self, model: nn.Module, as_run: bool) -> None:
        super().__init__()
        self.model, self.as_run = model, as_run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _unaware_of_export() if self.as_run else nullcontext():
            return outputs_of(self.model, (args, kwargs))


@contextmanager
def _unaware_of_export() -> Iterator[None]:
    """Let `torch.compiler.is_exporting` and `is_compiling` say no."""
    before = torch.compiler._is_exporting_flag, torch.compiler._is_compiling_flag
    torch.compiler._is_exporting_flag = torch.compiler._is_compiling_flag = False
    try:
        yield
    finally:
        torch.compiler._is_exporting_flag, torch.compiler._is_compiling_flag = before


def _export(model: nn.Module, call: Call, mode: Mode, as_run: bool) -> ExportedProgram:
    dynamic: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]  # torch has no annotation
    shaped = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor) and leaf.ndim]
    for leaf in shaped:
        if leaf.shape[0] == shaped[0].shape[0]:
            dynamic[leaf] = {0: Dim.AUTO}
    with warnings.catch_warnings(), _quiet_export(), without_checkpoints():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(
                _TensorsOnly(model, as_run),
                *call,
                dynamic_shapes=dynamic,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            keep_stopped_gradients(exported.graph_module)
            functional: ExportedProgram = exported.run_decompositions({})
        except Exception as error:  # torch.export raises dozens of kinds, and lets the model's own through
            advice = (
                "Change that line so that it does not turn tensor values into Python values (no .item(), no `if` on a "
                "tensor, no numpy): use torch.where or torch.cond, or move the step out of forward()."
            )
            raise ExportError(
                f"`model` must be one that torch.export can capture in {mode} mode, but {type(model).__name__} is "
                f"not: {cause(model, error)}. {advice}"
            ) from error
    return functional


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Keep torch from printing the graph it could not finish; the error that we raise says what is wrong with it."""
    logger = logging.getLogger("torch")
    before, output = logger.level, io.StringIO()
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(output), redirect_stderr(output):
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Let reentrant activation checkpoints, which stop gradients in a graph, be plain calls: both compute the same."""

    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)

    before = vars(CheckpointFunction).get("apply")
    CheckpointFunction.apply = apply
    try:
        yield
    finally:
        if before is None:
            del CheckpointFunction.apply
        else:
            CheckpointFunction.apply = before


def _labels(call: Call) -> list[tuple[str, Any]]:
    """Every leaf of a call, in pytree order, with the name a user knows it by."""
    named: list[tuple[str, Any]] = []
    for path, leaf in pytree.tree_leaves_with_path(call):
        place, *words = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
        named.append((("input " if place == "0" else "") + ".".join(words), leaf))
    return named


def cause(model: nn.Module, error: Exception) -> str:
    """An error and the submodule that it comes from: "module `a.b` (file.py:12: `source`) says: its first line"."""
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    place, trace = "", error.__traceback__
    for (frame, _), source in zip(traceback.walk_tb(trace), traceback.extract_tb(trace), strict=False):
        owner, file = frame.f_locals.get("self"), Path(source.filename)
        library = file.parts[-2:-1] == ("modules",) and "torch" in source.filename
        if owner is not None and id(owner) in names and not (library and source.name.startswith("_")):
            place = f"module `{names[id(owner)]}` ({file.name}:{source.lineno}: `{source.line}`) says: "
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return place + (lines[0] if lines else type(error).__name__).rstrip(".")


def _read(model: nn.Module, call: Call, mode: Mode, as_run: bool) -> Capture:
    exported = _export(model, call, mode, as_run)
    canonical(exported.graph)
    signature, labels = exported.graph_signature, _labels(call)
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    inputs: list[Input | None] = []
    parameters: dict[Node, str] = {}
    constants: dict[Node, Any] = {}
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            parameters[node] = str(spec.target).removeprefix("model.")
        elif spec.kind is InputKind.USER_INPUT:
            inputs.append(_input(node, labels[len(inputs)][0], exported.range_constraints))
        else:
            constants[node] = exported.constants[str(spec.target)]
    for node in exported.graph.nodes:
        if node.op == "get_attr":
            constants[node] = attrgetter(str(node.target))(exported.graph_module)
    flat = next(node for node in exported.graph.nodes if node.op == "output").args[0]
    outputs, mutations = [], []
    for value, output in zip(flat, signature.output_specs, strict=True):
        if output.kind is OutputKind.USER_OUTPUT:
            outputs.append(value)
        elif output.kind is OutputKind.BUFFER_MUTATION:
            mutations.append((value, str(output.target).removeprefix("model.")))
        else:
            raise ExportError(
                f"`model` must not change its inputs in forward(), but {type(model).__name__} does "
                f"({output.kind.name.lower()} of {output.target}). Let it work on a copy."
            )
    batches = [entry.shape[0] for entry in inputs if entry and entry.shape]
    return Capture(
        model=model,
        mode=mode,
        nodes=tuple(node for node in exported.graph.nodes if node.op == "call_function"),
        inputs=tuple(inputs),
        constants=constants,
        parameters=parameters,
        outputs=tuple(outputs),
        mutations=tuple(mutations),
        in_spec=exported.call_spec.in_spec,
        out_spec=exported.call_spec.out_spec,
        batch_size=None if None in batches or not batches else batches[0],
        as_run=as_run,
    )


def _input(node: Node, label: str, ranges: Mapping[Any, Any]) -> Input | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return Input(node, label, tuple(_size(size, ranges) for size in value.shape), value.dtype)


def _size(size: Any, ranges: Mapping[Any, Any]) -> int | None:
    """A size as a number, None where it is free; a free one that can have one value only is none."""
    if isinstance(size, int):
        return size
    values = ranges.get(size.node.expr)
    return int(values.lower) if values is not None and values.lower == values.upper else None
