"""Capture a model as a flat, functional ATen graph whose parameters are the model's own tensors."""

from __future__ import annotations

import gc
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import sympy
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
from resect.graph.ops import free_shape, op_name
from resect.graph.randomness import drawn_since, generator_states, kept_generators
from resect.graph.sequences import batch_is_dimension
from resect.graph.sizes import Input, Place, Size, SizeRules, simple_sizes
from resect.graph.traced import DependsError, Recorded, require_same
from resect.graph.untouched import Mode, untouched

Call = tuple[tuple[Any, ...], dict[str, Any]]

_NO_PYTHON_VALUES = (
    "Change that line so that it does not turn tensor values into Python values (no .item(), no `if` on a tensor, no "
    "numpy): use torch.where or torch.cond, or move the step out of forward()."
)


@dataclass(frozen=True)
class How:
    """How a model is captured.

    Attributes:
        batch_dim: the dimension of inputs and outputs that counts the samples.
        free: further dimensions that are free; all of them, or none where the export fails so.
        as_run: tell a model that asks (`torch.compiler.is_exporting`) that it is not: some compute in another way when
            they are exported, by other operators with other last bits.
    """

    batch_dim: int = 0
    free: frozenset[Place] = frozenset()
    as_run: bool = False


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


def as_call(example: Any) -> Call:
    """Turn a tensor, tuple or mapping of inputs into positional and keyword arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as users write it: "float32"."""
    return str(dtype).removeprefix("torch.")


def batch_dimensions(leaves: Sequence[Any], batch_dim: int) -> list[int | None]:
    """For each leaf of a call the dimension that counts the samples, None for what holds none.

    It is `batch_dim` wherever that has the size of the first tensor's, else the first dimension that has.
    """
    shaped = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim > batch_dim]
    batch = shaped[0].shape[batch_dim] if shaped else None

    def at(leaf: Any) -> int | None:
        sizes = tuple(leaf.shape) if isinstance(leaf, Tensor) else ()
        return next((i for i in (batch_dim, 0) if i < len(sizes) and sizes[i] == batch), None)

    return [at(leaf) for leaf in leaves]


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Let `nn.MultiheadAttention` run its own operators, as it does in an exported graph and with gradients."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def capture(model: nn.Module, example: Any, mode: Mode = "eval", how: How | None = None) -> Capture:
    """Export `model` in `mode`, functionally, with a free batch dimension where the model allows it; see `unravel`."""
    how = how or How()
    call = _unmarked(as_call(example))
    batch = _require_samples(model, example, pytree.tree_leaves(call), how.batch_dim)
    with untouched(model, mode), kept_generators(model), _plainly(model):
        _refuse_coins(model, call, mode, how.batch_dim)
        try:
            return _exported(model, call, batch, mode, how)
        except ExportError as refusal:
            return _recorded(model, call, mode, how, refusal)


def _exported(model: nn.Module, call: Call, batch: int, mode: Mode, how: How) -> Capture:
    """A batch of 0 or 1 is burnt into an exported graph, so it is widened to 2 first."""
    whole = _TensorsOnly(model, how.as_run)
    wide = _widen(call, how.batch_dim) if batch == 1 else call
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
    whole = _TensorsOnly(model, as_run=True)
    try:
        with warnings.catch_warnings(action="ignore"), without_checkpoints():
            recorded = Recorded(whole, _unmarked(call))
            if mode == "eval":
                require_same(recorded, whole, call)
            return _read(recorded, _unmarked(call), mode, replace(how, free=frozenset()))
    except DependsError as error:
        raise ExportError(
            f"`model` must compute alike on all inputs to be captured in {mode} mode, but {type(model).__name__} "
            f"decides by their values: {cause(model, error)}. {_NO_PYTHON_VALUES}"
        ) from refusal
    except Exception:  # what torch.export said is as true, and says more of the model
        raise refusal from None


def _unmarked(call: Call) -> Call:
    """The same values in tensors of our own: torch.export marks those that it is given, models may write into them."""

    def own(leaf: Any) -> Any:
        return leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(own, call)  # type: ignore[no-any-return]  # tree_map keeps the structure it is given


def _require_samples(model: nn.Module, example: Any, leaves: Sequence[Any], batch_dim: int) -> int:
    """The number of samples in the example, 0 where it has no such dimension."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors:
        raise InputError(
            f"`example` must hold at least one tensor, got none in {type(example).__name__}. Pass one batch of the "
            "model's inputs."
        )
    batch = next((leaf.shape[batch_dim] for leaf in tensors if leaf.ndim > batch_dim), 0)
    if tensors[0].ndim > batch_dim and not batch:
        raise InputError(f"`example` must hold at least one sample, got an input of shape {tuple(tensors[0].shape)}.")
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise ExportError(
            f"`model` must be a module of Python code, but {type(model).__name__} is or holds TorchScript, which hides "
            "operators and names. Pass the module that it was made from."
        )
    return int(batch)


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


def _refuse_coins(model: nn.Module, call: Call, mode: Mode, batch_dim: int) -> None:
    """Run the model; ExportError if it is random in eval mode, or in a way that a graph would freeze."""
    before = generator_states(model)
    with batch_is_dimension(batch_dim, model, call):
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


def _widen(call: Call, batch_dim: int) -> Call:
    leaves, spec = pytree.tree_flatten(call)
    places = zip(leaves, batch_dimensions(leaves, batch_dim), strict=True)
    return pytree.tree_unflatten([leaf if at is None else torch.cat([leaf] * 2, at) for leaf, at in places], spec)  # type: ignore[no-any-return]  # of the structure that it is given


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
    """Let `torch.compiler.is_exporting` say no; `is_compiling`, which asks for operators alone, keeps its yes."""
    before = torch.compiler._is_exporting_flag
    torch.compiler._is_exporting_flag = False
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled parts, which know an export by that, too
            yield
    finally:
        torch.compiler._is_exporting_flag = before


def _export(whole: _TensorsOnly | Recorded, call: Call, mode: Mode, how: How) -> ExportedProgram:
    model = whole.model
    dynamic: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]  # torch has no annotation
    leaves = pytree.tree_leaves(call)
    for number, (leaf, at) in enumerate(zip(leaves, batch_dimensions(leaves, how.batch_dim), strict=True)):
        places = {dimension for owner, dimension in how.free if owner == number} | ({at} - {None})
        if places:
            dynamic[leaf] = dict.fromkeys(places, Dim.AUTO)
    with warnings.catch_warnings(), _quiet_export(), _uncollected(), without_checkpoints():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(
                whole,
                *call,
                dynamic_shapes=None if isinstance(whole, Recorded) else dynamic,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            keep_stopped_gradients(exported.graph_module)
            functional: ExportedProgram = exported.run_decompositions({})
        except Exception as error:  # torch.export raises dozens of kinds, and lets the model's own through
            raise ExportError(
                f"`model` must be one that torch.export can capture in {mode} mode, but {type(model).__name__} is "
                f"not: {cause(model, error)}. {_NO_PYTHON_VALUES}"
            ) from error
    return functional


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Keep torch from printing the graph it could not finish; the error that we raise says what is wrong with it."""
    before = {logger: logger.level for logger in map(logging.getLogger, ("torch", "torch.__trace"))}
    output = io.StringIO()
    for logger in before:
        logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(output), redirect_stderr(output):
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, a tenth of an export: it goes through all that is made, which is kept."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


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


def _read(whole: _TensorsOnly | Recorded, call: Call, mode: Mode, how: How) -> Capture:
    model, exported = whole.model, _export(whole, call, mode, how)
    canonical(exported.graph)
    signature, labels = exported.graph_signature, _labels(call)
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
