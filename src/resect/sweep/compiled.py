"""Programs fused by torch.compile, their weights frozen in: batch norms fold into convolutions, weights are packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from resect.graph.emit import emit
from resect.graph.program import Environment, Program, Ref
from resect.graph.resolve import Programs

Run = Callable[[Mapping[int, Any], Mapping[int, Any]], Environment]


def compiled(programs: Sequence[Program], keys: Programs, base: Mapping[int, Any], state: Mapping[int, Any]) -> Run:
    """A function that computes what programs do one after the other, on values of the shapes of `base` and `state`.

    It differs in the last bits and must run without gradients. Its first call compiles.
    """
    made = {step.key for program in programs for step in program.steps}
    reads = {key for program in programs for step in program.steps for key in step.reads}
    reads |= {source for program in programs for _, source in program.results}
    made |= {key for program in programs for key, _ in program.results}
    given = [
        key for key in sorted(reads - made | reads & state.keys()) if key in state or key in keys.input_keys or key < 0
    ]
    held = {key: base[key] for key in reads - made if key not in given}
    names = [key for key, _ in programs[-1].results]
    graph = emit(programs, given, [Ref(key) for key in names], held)
    function = torch.compile(graph, dynamic=False, options={"freezing": True})

    def run(base: Mapping[int, Any], state: Mapping[int, Any]) -> Environment:
        values = function(*[state[key] if key in state else base[key] for key in given])
        return dict(zip(names, values, strict=True))

    return run
