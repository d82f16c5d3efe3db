"""Capture a model as a flat, functional ATen graph whose parameters are the model's own tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from resect.errors import ExportError
from resect.graph.calls import Call, as_call, batch_dimensions, labelled, unmarked, widen
from resect.graph.canonical import canonical
from resect.graph.exporting import NO_PYTHON_VALUES, How, TensorsOnly, cause, export, without_checkpoints
from resect.graph.ops import free_shape, op_name
from resect.graph.randomness import kept_generators
from resect.graph.sizes import Input, Size, SizeRules, simple_sizes
from resect.graph.traced import DependsError, Recorded, require_same
from resect.graph.trial import refuse_coins, require_samples
from resect.graph.untouched import Mode, untouched


@dataclass(frozen=True)
class NodeInput(Input):
    """An input, and the node that stands for it in the graph."""

    node: Node


@dataclass(frozen=True)
class Capture:
    """A model's graph in one mode.

    Attributes:
        nodes: `call_function` nodes in the order of execution.
        inputs: one entry a leaf of the example; None where the leaf is not a tensor.
        rules: what the inputs may be.
        constants: values of non-parameter constants by their placeholder.
        parameters: dotted names of parameters and buffers by their placeholder.
        outputs: the flat outputs, nodes or plain Python values.
        mutations: buffers that the graph updates (batch statistics in train mode): (new value, dotted name).
        batch_size: None if the batch dimension is free, else the one size the graph accepts.
        how: it was captured.
        recorded: whether the graph is what one forward pass executed, as torch.export does not accept the model.
    """

    model: nn.Module
    mode: Mode
    nodes: tuple[Node, ...]
    inputs: tuple[NodeInput | None, ...]
    rules: SizeRules
    constants: Mapping[Node, Any]
    parameters: Mapping[Node, str]
    outputs: tuple[Any, ...]
    mutations: tuple[tuple[Node, str], ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    batch_size: int | None
    how: How
    recorded: bool = False

    @property
    def batch(self) -> sympy.Symbol | None:
        """The symbol of the batch size; None if that is fixed."""
        sizes = [entry.sizes[entry.batch] for entry in self.inputs if entry and entry.batch is not None]
        return next((size for size in sizes if isinstance(size, sympy.Symbol)), None)

    def samples_at(self, node: Node) -> int:
        """The dimension that counts the samples in the value of a node; 0 where none is known to."""
        symbol, sizes = self.batch, free_shape(node)
        return next((i for i, size in enumerate(sizes) if not isinstance(size, int) and symbol in size.free_symbols), 0)


def capture(model: nn.Module, example: Any, mode: Mode = "eval", how: How | None = None) -> Capture:
    """Export `model` in `mode`, functionally, with a free batch dimension where the model allows it; see `unravel`."""
    how = how or How()
    call = unmarked(as_call(example))
    batch = require_samples(model, example, pytree.tree_leaves(call), how.batch_dim)
    with untouched(model, mode), kept_generators(model), _plainly(model):
        refuse_coins(model, call, mode, how.batch_dim)
        try:
            return _exported(model, call, batch, mode, how)
        except ExportError as refusal:
            return _recorded(model, call, mode, how, refusal)


def _exported(model: nn.Module, call: Call, batch: int, mode: Mode, how: How) -> Capture:
    """A batch of 0 or 1 is burnt into an exported graph, so it is widened to 2 first."""
    whole = TensorsOnly(model, how.as_run)
    wide = widen(call, how.batch_dim) if batch == 1 else call
    if how.free:
        with suppress(ExportError), simple_sizes():
            captured = _read(whole, wide, mode, how)
            if captured.batch_size is None:
                return captured
    how = replace(how, free=frozenset())
    try:
        captured = _read(whole, wide, mode, how)
    except ExportError:
        if mode == "train" or batch != 1:
            raise
        captured = _read(whole, call, mode, how)  # some take one sample only
    if captured.batch_size not in (None, batch) and mode == "eval":  # its forward() counts the samples
        captured = _read(whole, call, mode, how)
    return captured


def _recorded(model: nn.Module, call: Call, mode: Mode, how: How, refusal: ExportError) -> Capture:
    """What one forward pass executes; ExportError where that is not all that the model computes."""
    whole = TensorsOnly(model, as_run=True)
    try:
        with warnings.catch_warnings(action="ignore"), without_checkpoints():
            recorded = Recorded(whole, unmarked(call), draws=mode == "train")
            if mode == "eval":
                require_same(recorded, whole, call)
            return _read(recorded, unmarked(call), mode, replace(how, free=frozenset()))
    except DependsError as error:
        raise ExportError(
            f"`model` must compute alike on all inputs to be captured in {mode} mode, but {type(model).__name__} "
            f"decides by their values: {cause(model, error)}. {NO_PYTHON_VALUES}"
        ) from refusal
    except Exception:  # what torch.export said is as true, and says more of the model
        raise refusal from None


@contextmanager
def _plainly(model: nn.Module) -> Iterator[None]:
    """Without autocast, which a graph follows when it is run, and with tensors that can be trained on later."""
    tensors = [*model.parameters(), *model.buffers()]
    with ExitStack() as stack:
        for kind in {"cpu", *(tensor.device.type for tensor in tensors)} - {"meta"}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled() and not any(tensor.is_inference() for tensor in tensors):
            stack.enter_context(torch.inference_mode(False))
        yield


def _read(whole: TensorsOnly | Recorded, call: Call, mode: Mode, how: How) -> Capture:
    model, exported = whole.model, export(whole, call, mode, how)
    canonical(exported.graph)
    signature, labels = exported.graph_signature, labelled(call)
    batches = batch_dimensions([leaf for _, leaf in labels], how.batch_dim)
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    inputs: list[NodeInput | None] = []
    parameters: dict[Node, str] = {}
    constants: dict[Node, Any] = {}
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            parameters[node] = str(spec.target).removeprefix("model.")
        elif spec.kind is InputKind.USER_INPUT:
            number = len(inputs)
            inputs.append(_input(node, number, labels[number][0], batches[number], exported.range_constraints))
        else:
            constants[node] = exported.constants[str(spec.target)]
    for node in exported.graph.nodes:
        if node.op == "get_attr":
            constants[node] = attrgetter(str(node.target))(exported.graph_module)
    _refuse_unknown(model, parameters.values())
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
    counted = [entry.sizes[entry.batch] for entry in inputs if entry and entry.batch is not None]
    fixed = [size for size in counted if isinstance(size, int)]
    return Capture(
        model=model,
        mode=mode,
        nodes=tuple(node for node in exported.graph.nodes if node.op == "call_function"),
        inputs=tuple(inputs),
        rules=_rules([entry for entry in inputs if entry], exported),
        constants=constants,
        parameters=parameters,
        outputs=tuple(outputs),
        mutations=tuple(mutations),
        in_spec=exported.call_spec.in_spec,
        out_spec=exported.call_spec.out_spec,
        batch_size=fixed[0] if len(fixed) == len(counted) and fixed else None,
        how=how,
        recorded=isinstance(whole, Recorded),
    )


def _refuse_unknown(model: nn.Module, names: Iterable[str]) -> None:
    """Raise ExportError if the graph reads parts of a parameter that is made of several tensors."""
    own = dict(chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)))
    unknown = next((name for name in names if name not in own), None)
    if unknown is None:
        return
    kinds = {name: type(value) for name, value in own.items() if hasattr(type(value), "__tensor_flatten__")}
    name, kind = next(iter(kinds.items()), (unknown, Tensor))
    raise ExportError(
        f"`model` must hold plain tensors, but `{name}` is a {kind.__name__}, of whose parts (`{unknown}`) an exported "
        "graph is made. Unravel the model before its weights are quantised or sharded."
    )


def _input(node: Node, number: int, label: str, batch: int | None, ranges: Mapping[Any, Any]) -> NodeInput | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return NodeInput(number, label, tuple(_size(size, ranges) for size in value.shape), value.dtype, batch, node)


def _size(size: Any, ranges: Mapping[Any, Any]) -> Size:
    """A size as a number, or an expression where it is free; a free one that can have one value only is none."""
    if isinstance(size, int):
        return size
    values = ranges.get(size.node.expr)
    one = values is not None and values.lower == values.upper
    return int(values.lower) if one else size.node.expr  # type: ignore[union-attr]  # it is not None


def _rules(inputs: Sequence[NodeInput], exported: ExportedProgram) -> SizeRules:
    """What the graph accepts: the ranges of its sizes, and what it asserts of them beside that of the batch."""
    batches = {entry.sizes[entry.batch] for entry in inputs if entry.batch is not None}
    lengths = {size for entry in inputs for size in entry.sizes if isinstance(size, sympy.Symbol)} - batches
    ranges = {}
    for symbol in lengths:
        values = exported.range_constraints[symbol]
        ranges[symbol] = (int(values.lower), int(values.upper) if values.upper < 2**62 else None)
    asserted = [node.args[0].meta["val"] for node in exported.graph.nodes if op_name(node) == "_assert_scalar"]
    conditions = [value.node.expr for value in asserted if isinstance(value, torch.SymBool)]
    own = [expr for expr in dict.fromkeys(conditions) if expr.free_symbols and expr.free_symbols <= lengths]
    plain = [Input(e.leaf, e.label, e.sizes, e.dtype, e.batch) for e in inputs]
    return SizeRules(tuple(plain), ranges, tuple(own))
