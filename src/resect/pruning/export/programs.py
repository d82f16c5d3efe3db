"""The stand-alone network as a program: an archive of `torch.export`, or ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from resect.errors import ExportError
from resect.graph.calls import as_call, widen
from resect.graph.exporting import TensorsOnly, quiet_export
from resect.graph.exporting import export as captured
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning import costs
from resect.pruning.export.child import named_outputs
from resect.pruning.export.fresh import Proof, loaded_afresh, proven, token_count, trials

_MOST = 2**31  # bytes of a file of ONNX, a message of protobuf


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
    exported = _program(net, arrangement)
    with path.open("wb") as file:
        torch.export.save(exported, file)
    return ()


def prove_torch(net: Unraveled, arrangement: Arrangement, path: Path) -> Proof:
    """Compare what a fresh process loads and runs."""
    tried = trials(net, arrangement, token_count(net.model))
    return proven("torch", tried, loaded_afresh("torch", path, net, tried.calls)["outputs"])


def require_small(net: Unraveled, arrangement: Arrangement) -> None:
    """Raise ExportError if the weights do not fit into one file of ONNX."""
    size = sum(tensor.nbytes for tensor in costs.read_parameters(net, arrangement))
    if size >= _MOST:
        raise ExportError(
            f"onnx can only hold weights of less than 2 GiB in its file, but {type(net.model).__name__} without "
            f"what goes has {size / 2**30:.1f} GiB. `torch` writes the stand-alone network of any size."
        )


def write_onnx(net: Unraveled, arrangement: Arrangement, path: Path) -> tuple[str, ...]:
    """Write what onnxruntime runs, weights inside; batch and lengths are as free as those of the network.

    Raises:
        ExportError: ONNX has no such operator.
    """
    exported = _program(net, arrangement)
    args, kwargs = as_call(net.example)
    with torch.no_grad():
        outputs = named_outputs(net(kwargs or args, arrangement))
    try:
        with quiet_export():
            program: Any = torch.onnx.export(
                exported,
                dynamo=True,
                verbose=False,
                input_names=_inputs(args, kwargs),
                output_names=[f"output_{name}" if name.isdigit() else name or "output" for name in outputs],
            )
            program.save(str(path), external_data=False)
    except Exception as error:  # its converter raises dozens of kinds
        said = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
        raise ExportError(
            f"onnx cannot express this network: {said} `torch` writes the stand-alone network of any arrangement."
        ) from error
    return ()


def _inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """What the inputs are called: as keywords are, else by their number; nested ones as the exporter likes."""
    if not all(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        return []
    return [*(f"input_{i}" if len(args) > 1 else "input" for i in range(len(args))), *kwargs]


def prove_onnx(net: Unraveled, arrangement: Arrangement, path: Path) -> Proof:
    """Compare what onnxruntime computes in a fresh process, to the rounding of the dtype."""
    tried = trials(net, arrangement, token_count(net.model))
    answer = loaded_afresh("onnx", path, net, tried.calls, outputs=list(tried.expected[0]))
    return proven("onnx", tried, answer["outputs"], rounding=True)


def _program(net: Unraveled, arrangement: Arrangement) -> ExportedProgram:
    call, how = as_call(net.example), net.sliced.captured.how
    call = call if net.batch_size is not None else widen(call, net.batch_dim)  # one sample would be a special case
    module = Plain(net.standalone(arrangement)).eval()
    return captured(TensorsOnly(module, how.as_run), call, "eval", how)
