"""torch.export, with what has to be switched off meanwhile, and what it says of a model that it refuses."""

from __future__ import annotations

import gc
import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils.checkpoint import CheckpointFunction

from resect.errors import ExportError
from resect.graph.calls import Call, batch_dimensions, outputs_of
from resect.graph.canonical import keep_stopped_gradients
from resect.graph.functional import functional
from resect.graph.sizes import Place
from resect.graph.traced import Recorded
from resect.graph.untouched import Mode

_OURS = Path(__file__).parents[1]
NO_PYTHON_VALUES = (
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


class TensorsOnly(nn.Module):
    """A model that returns only what a graph can, see `outputs_of`; for `as_run` see `How`."""

    def __init__(self, model: nn.Module, as_run: bool) -> None:
        super().__init__()
        self.model, self.as_run = model, as_run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the model."""
        with _unaware_of_export() if self.as_run else nullcontext():
            return outputs_of(self.model, (args, kwargs))


def export(whole: TensorsOnly | Recorded, call: Call, mode: Mode, how: How) -> ExportedProgram:
    """A model as torch.export captures it, with a free batch; ExportError says why where it does not."""
    model = whole.model
    dynamic: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]  # torch has no annotation
    leaves = pytree.tree_leaves(call)
    for number, (leaf, at) in enumerate(zip(leaves, batch_dimensions(leaves, how.batch_dim), strict=True)):
        places = {dimension for owner, dimension in how.free if owner == number} | ({at} - {None})
        if places:
            dynamic[leaf] = dict.fromkeys(places, Dim.AUTO)
    with warnings.catch_warnings(), quiet_export(), _uncollected(), without_checkpoints():
        warnings.simplefilter("ignore")
        try:
            with _named(whole, call):
                exported = torch.export.export(
                    whole,
                    *call,
                    dynamic_shapes=None if isinstance(whole, Recorded) else dynamic,
                    strict=False,
                    prefer_deferred_runtime_asserts_over_guards=True,
                )
            keep_stopped_gradients(exported.graph_module)
            return functional(exported) if mode == "eval" else exported.run_decompositions({})
        except Exception as error:  # torch.export raises dozens of kinds, and lets the model's own through
            raise ExportError(
                f"`model` must be one that torch.export can capture in {mode} mode, but {type(model).__name__} is "
                f"not: {cause(model, error)}. {NO_PYTHON_VALUES}"
            ) from error


def cause(model: nn.Module, error: Exception) -> str:
    """An error and the submodule that it comes from: "module `a.b` (file.py:12: `source`) says: its first line"."""
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    place, trace = "", error.__traceback__
    for (frame, _), source in zip(traceback.walk_tb(trace), traceback.extract_tb(trace), strict=False):
        owner, file = _first_argument(frame), Path(source.filename)
        library = file.parts[-2:-1] == ("modules",) and "torch" in source.filename
        ours = file.is_relative_to(_OURS) or (library and source.name.startswith("_"))
        if owner is not None and id(owner) in names and not ours:
            place = f"module `{names[id(owner)]}` ({file.name}:{source.lineno}: `{source.line}`) says: "
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return place + (lines[0] if lines else type(error).__name__).rstrip(".")


def _first_argument(frame: FrameType) -> Any:
    """The value of the first argument of the function that a frame runs: of a method its owner, however it is named."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


@contextmanager
def _named(whole: nn.Module, call: Call) -> Iterator[None]:
    """Let the signature of forward() name the keyword arguments: older torch frees no size of what `**` takes."""
    own, (args, kwargs) = whole.forward, call
    if not all(name.isidentifier() and not iskeyword(name) and name != "args" for name in kwargs):
        yield  # a signature cannot name them
        return

    def forward(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    parameters = [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)] * bool(args)
    parameters += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it
    whole.forward = forward  # of this module, over that of its class
    try:
        yield
    finally:
        del whole.forward


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


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Let `nn.MultiheadAttention` run its own operators, as it does in an exported graph and with gradients."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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


@contextmanager
def quiet_export() -> Iterator[None]:
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
