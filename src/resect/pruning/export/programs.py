"""The stand-alone network as a program: an archive of `torch.export`, or ONNX."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from resect.errors import ExportError
from resect.graph.calls import Call, as_call, widen
from resect.graph.exporting import cause
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.export.child import named_outputs
from resect.pruning.export.fresh import Proof, loaded_afresh, proven, token_count, trials

_ONNX = ("onnx", "onnxscript", "onnxruntime")


class Plain(nn.Module):
    """A stand-alone network that returns a tensor, or tensors by name: containers that need no library."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs by name; the one tensor if there is no more."""
        outputs = named_outputs(self.network(*args, **kwargs))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def write_torch(net: Unraveled, arrangement: Arrangement, path: Path) -> tuple[str, ...]:
    """Write what `torch.export.load(path).module()` runs; batch and lengths are as free as those of the network."""
    module, call, shapes = _program(net, arrangement)
    exported = _captured(lambda: torch.export.export(module, *call, dynamic_shapes=shapes, strict=False), module)
    with path.open("wb") as file:
        torch.export.save(exported.run_decompositions({}), file)  # in which regions without gradients are no calls
    return ()


def prove_torch(net: Unraveled, arrangement: Arrangement, path: Path) -> Proof:
    """Compare what a fresh process loads and runs."""
    tried = trials(net, arrangement, token_count(net.model))
    return proven("torch", tried, loaded_afresh("torch", path, net, tried.calls)["outputs"])


def write_onnx(net: Unraveled, arrangement: Arrangement, path: Path) -> tuple[str, ...]:
    """Write what onnxruntime runs, weights inside; batch and lengths are as free as those of the network."""
    missing = [name for name in _ONNX if find_spec(name) is None]
    if missing:
        raise ExportError(f"onnx needs {missing[0]}, which is not installed: pip install 'resect[onnx]'.")
    module, (args, kwargs), shapes = _program(net, arrangement)
    dynamic = shapes.dynamic_shapes(module, args, kwargs)

    def export() -> Any:
        return torch.onnx.export(module, args, kwargs=kwargs, dynamic_shapes=dynamic, dynamo=True, verbose=False)

    _captured(export, module).save(str(path), external_data=False)
    return ()


def prove_onnx(net: Unraveled, arrangement: Arrangement, path: Path) -> Proof:
    """Compare what onnxruntime computes in a fresh process, to the rounding of the dtype."""
    tried = trials(net, arrangement, token_count(net.model))
    answer = loaded_afresh("onnx", path, net, tried.calls, outputs=list(tried.expected[0]))
    return proven("onnx", tried, answer["outputs"], rounding=True)


def _program(net: Unraveled, arrangement: Arrangement) -> tuple[nn.Module, Call, Any]:
    """The module to export, a call of it that is no special case of its sizes, and which sizes are free."""
    call = as_call(net.example)
    call = call if net.batch_size is not None else widen(call, net.batch_dim)
    leaves, shapes = pytree.tree_leaves(call), torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for entry in net.inputs:
        free = {d: Dim.AUTO for d, size in enumerate(entry.shape) if size is None}
        if free and isinstance(leaves[entry.leaf], Tensor):
            shapes[leaves[entry.leaf]] = free
    return Plain(net.standalone(arrangement)), call, shapes


def _captured(export: Any, module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return export()
        except Exception as error:  # torch.export raises dozens of kinds
            raise ExportError(f"the stand-alone network cannot be exported: {cause(module, error)}.") from error
