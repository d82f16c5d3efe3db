"""Capture a model as a flat, functional ATen graph whose parameters are the model's own tensors."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from resect.errors import ExportError, InputError

Mode = Literal["eval", "train"]


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
    """

    model: nn.Module
    mode: Mode
    nodes: tuple[Node, ...]
    inputs: tuple[Input | None, ...]
    plain_inputs: tuple[Any, ...]
    constants: Mapping[Node, Any]
    parameters: Mapping[Node, str]
    outputs: tuple[Any, ...]
    mutations: tuple[tuple[Node, str], ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    batch_size: int | None


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn a tensor, tuple or mapping of inputs into positional and keyword arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


@contextmanager
def in_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Put every submodule in `mode` and give each its own flag back afterwards."""
    before = {module: module.training for module in model.modules()}
    try:
        model.train(mode == "train")
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Let `nn.MultiheadAttention` run its own operators, as it does in an exported graph and with gradients."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def capture(model: nn.Module, example: Any, mode: Mode = "eval") -> Capture:
    """Export `model` in `mode`, functionally, with a free batch dimension where the model allows it.

    Args:
        model: any module; it is not changed.
        example: a tensor, tuple or dict of inputs. Dimension 0 of its tensors is the batch.

    Raises:
        InputError: the model cannot run the example at all.
        ExportError: the model runs, but `torch.export` cannot capture it.
    """
    args, kwargs = as_call(example)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not leaves:
        raise InputError("`example` must hold at least one tensor, got none. Pass one batch of inputs of the model.")
    with in_mode(model, mode):
        _try_forward(model, args, kwargs, mode)
        # A batch of 0 or 1 is burnt into an exported graph, so it is widened to 2 first.
        wide_args, wide_kwargs = _widen((args, kwargs), batch=leaves[0].shape[0] if leaves[0].ndim else 0)
        try:
            exported = _export(model, wide_args, wide_kwargs, mode)
        except ExportError:
            if mode == "train" or not leaves[0].ndim or leaves[0].shape[0] > 1:
                raise
            exported = _export(model, args, kwargs, mode)  # some models take one sample only
    return _read(model, exported, mode, _labels(args, kwargs))


def _widen(call: tuple[tuple[Any, ...], dict[str, Any]], batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def widen(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch == 1:
            return leaf.repeat(2, *(1,) * (leaf.ndim - 1))
        return leaf

    return pytree.tree_map(widen, call)  # type: ignore[no-any-return]  # tree_map keeps the structure it is given


def _try_forward(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mode: Mode) -> None:
    buffers = {name: value.clone() for name, value in model.named_buffers()} if mode == "train" else {}
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(
            f"{label} {tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"
            for label, leaf in _labels(args, kwargs)
            if isinstance(leaf, Tensor)
        )
        place = _where(model, error.__traceback__)
        raise InputError(
            f"`example` must be a batch that the model can run, got {shapes}: {place}{_first_line(error)}. "
            "Pass one batch with the shape and dtype the model was made for."
        ) from error
    finally:
        with torch.no_grad():
            for name, value in buffers.items():
                model.get_buffer(name).copy_(value)


class _TensorsOnly(nn.Module):
    """Calls a model and leaves out what no graph can return, e.g. the key-value cache of a language model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return tensors_only(self.model(*args, **kwargs))


def tensors_only(output: Any) -> Any:
    """The same nested output with None for every leaf that is neither a tensor nor a plain Python value."""
    plain = (Tensor, bool, int, float, str, type(None))
    return pytree.tree_map(lambda leaf: leaf if isinstance(leaf, plain) else None, output)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mode: Mode) -> ExportedProgram:
    dynamic: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]  # torch has no annotation
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor) and leaf.ndim:
            dynamic[leaf] = {0: Dim.AUTO}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(
                _TensorsOnly(model),
                args,
                kwargs,
                dynamic_shapes=dynamic,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            functional: ExportedProgram = exported.run_decompositions({})
        except Exception as error:
            place = _where(model, error.__traceback__)
            raise ExportError(
                f"`model` must be one that torch.export can capture in {mode} mode, but {type(model).__name__} is "
                f"not: {place}{_first_line(error)}. Change that line so that it does not turn tensor values into "
                "Python values (no .item(), no `if` on a tensor, no numpy): use torch.where or torch.cond, or move "
                "the step out of forward()."
            ) from error
    return functional


def _labels(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Every leaf of a call, in pytree order, with the name a user knows it by."""
    named: list[tuple[str, Any]] = []
    for path, leaf in pytree.tree_leaves_with_path((tuple(args), dict(kwargs))):
        place, *words = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
        named.append((("input " if place == "0" else "") + ".".join(words), leaf))
    return named


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _where(model: nn.Module, trace: TracebackType | None) -> str:
    """The deepest frame that runs in one of the model's submodules: "module `a.b` (file.py:12: `source`): "."""
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    found = ""
    for frame, line in traceback.walk_tb(trace):
        owner = frame.f_locals.get("self")
        library = Path(frame.f_code.co_filename).parts[-2:-1] == ("modules",) and "torch" in frame.f_code.co_filename
        if owner is None or id(owner) not in names or (library and frame.f_code.co_name.startswith("_")):
            continue
        source = traceback.extract_tb(trace, limit=None)
        text = next((s.line for s in source if s.lineno == line and s.filename == frame.f_code.co_filename), "")
        found = f"module `{names[id(owner)]}` ({Path(frame.f_code.co_filename).name}:{line}: `{text}`) says: "
    return found


def _read(model: nn.Module, exported: ExportedProgram, mode: Mode, labels: list[tuple[str, Any]]) -> Capture:
    signature = exported.graph_signature
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    inputs: list[Input | None] = []
    parameters: dict[Node, str] = {}
    constants: dict[Node, Any] = {}
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            parameters[node] = str(spec.target).removeprefix("model.")
        elif spec.kind is InputKind.USER_INPUT:
            inputs.append(_input(node, labels[len(inputs)][0]))
        else:
            constants[node] = exported.constants[str(spec.target)]
    for node in exported.graph.nodes:
        if node.op == "get_attr":
            constants[node] = _attribute(exported.graph_module, str(node.target))
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
    free = any(shape is None for entry in inputs if entry for shape in entry.shape[:1])
    fixed = next((entry.shape[0] for entry in inputs if entry and entry.shape), None)
    return Capture(
        model=model,
        mode=mode,
        nodes=tuple(node for node in exported.graph.nodes if node.op == "call_function"),
        inputs=tuple(inputs),
        plain_inputs=tuple(leaf for _, leaf in labels),
        constants=constants,
        parameters=parameters,
        outputs=tuple(outputs),
        mutations=tuple(mutations),
        in_spec=exported.call_spec.in_spec,
        out_spec=exported.call_spec.out_spec,
        batch_size=None if free else fixed,
    )


def _input(node: Node, label: str) -> Input | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return Input(node, label, shape, value.dtype)


def _attribute(root: nn.Module, target: str) -> Any:
    value: Any = root
    for part in target.split("."):
        value = getattr(value, part)
    return value
