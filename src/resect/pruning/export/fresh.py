"""The proof of an export: a fresh process loads it, and what it computes is compared with the pruned network."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from resect.errors import ExportError
from resect.graph.calls import Call, as_call, outputs_of, widen
from resect.graph.differences import largest_difference
from resect.graph.exporting import without_fused_attention
from resect.graph.untouched import untouched
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.export.child import named_outputs

_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of the largest


@dataclass(frozen=True)
class Proof:
    """What the comparison found.

    Attributes:
        difference: the largest of any output, 0 if all bits are the same; None if there is nothing to run.
        notes: what else was compared, in sentences.
    """

    difference: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trials:
    """Calls, and what the pruned network gives for each."""

    calls: Sequence[Call]
    expected: Sequence[Mapping[str, Tensor]]
    intact_agrees: bool
    """Whether the intact network has the bits of the model on them, so that an export must have those of the pruned."""


def trials(net: Unraveled, arrangement: Arrangement, tokens: int | None = None) -> Trials:
    """The example, and the same call with other values: random tokens or normal numbers, from a seed of their own.

    Args:
        tokens: how many there are; None if the network takes no tokens.
    """
    example = as_call(net.example)
    calls = [example]
    varied = _varied(example if net.batch_size is not None else widen(example, net.batch_dim), tokens)
    with torch.no_grad():
        expected = [named_outputs(net(_given(example), arrangement))]
        try:
            expected.append(named_outputs(net(_given(varied), arrangement)))
            calls.append(varied)
        except Exception:  # inputs whose values are bound to one another, as image tokens are to images
            pass
        with untouched(net.model, "eval"), without_fused_attention():
            agrees = all(largest_difference(outputs_of(net.model, c), net(_given(c))) == 0.0 for c in calls)
    return Trials(calls, expected, agrees)


def token_count(model: Any) -> int | None:
    """How many tokens a model of transformers knows; None for one that takes none."""
    try:
        table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    except NotImplementedError:  # of families that read images
        return None
    return getattr(table, "num_embeddings", None)


def _given(call: Call) -> Any:
    return call[1] or call[0]


def _varied(call: Call, tokens: int | None) -> Call:
    generator = torch.Generator().manual_seed(0)

    def other(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_floating_point():
            return torch.randn(leaf.shape, generator=generator).to(leaf)
        named = str(getattr(path[-1], "key", "")) if path else ""
        if tokens is not None and (named.endswith("input_ids") or not named) and leaf.dtype == torch.int64:
            return torch.randint(0, tokens, leaf.shape, generator=generator).to(leaf.device)
        return leaf

    varied: Call = pytree.tree_map_with_path(other, call)
    return varied


def loaded_afresh(kind: str, path: Path, net: Unraveled, calls: Sequence[Call], **more: Any) -> dict[str, Any]:
    """What a fresh process gives for calls of what lies at `path`.

    Raises:
        ExportError: it cannot be loaded or run there.
    """
    task: dict[str, Any] = {"kind": kind, "path": str(path), "calls": list(calls), "device": str(net.device)}
    task |= {"threads": torch.get_num_threads(), **more}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(task, Path(folder) / "task.pt")
        command = [sys.executable, "-m", "resect.pruning.export.child", folder]
        paths = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        result = Path(folder) / "result.pt"
        if done.returncode or not result.is_file():
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise ExportError(f"what was written as {kind} cannot be used in a fresh process, which says: {said}")
        answer: dict[str, Any] = torch.load(result, map_location=net.device, weights_only=True)
        return answer


def proven(kind: str, tried: Trials, outputs: Sequence[Mapping[str, Tensor]], *, rounding: bool = False) -> Proof:
    """Compare what was loaded with the pruned network.

    Args:
        rounding: other last bits are expected, as another library computes.

    Raises:
        ExportError: it computes something else.
    """
    difference = 0.0
    for expected, got in zip(tried.expected, outputs, strict=True):
        if len(expected) == len(got) == 1:
            got = dict(zip(expected, got.values(), strict=True))
        shared = [name for name in expected if name in got]
        if not shared:
            raise ExportError(f"what was written as {kind} returns {sorted(got)} instead of {sorted(expected)}.")
        apart = largest_difference([expected[name] for name in shared], [got[name] for name in shared])
        difference = max(difference, apart)
        within = all(close(expected[name], got[name]) for name in shared)
        if (apart and not rounding and tried.intact_agrees) or not within:
            raise ExportError(
                f"{kind} cannot express this network: what was written and loaded again differs from the pruned "
                f"network by up to {apart:.2g}, so it is thrown away."
            )
    return Proof(difference)


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by the rounding of their dtype at the most."""
    if one.shape != other.shape:
        return False
    tolerance = _ROUNDING.get(one.dtype, 0.0)
    scale = float(one.detach().abs().double().nan_to_num().max()) if one.numel() else 1.0
    return torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance * scale, equal_nan=True)
