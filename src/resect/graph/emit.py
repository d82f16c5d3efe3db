"""Programs written out as one torch.fx graph, for stand-alone modules and for torch.compile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from resect.graph.program import Program, Ref


def emit(
    folded: Sequence[Program],
    arguments: Sequence[int | None],
    results: Sequence[Any],
    held: Mapping[int, Any] | None = None,
) -> fx.GraphModule:
    """One graph that executes `folded`.

    Args:
        arguments: the keys of its positional arguments; None for one that is not read.
        results: what it returns, in a tuple: a `Ref` to a key, or a plain value.
        held: values that the graph owns, by key.
    """
    graph, root = fx.Graph(), nn.Module()
    values: dict[int, Any] = {}
    for position, argument in enumerate(arguments):
        node = graph.placeholder(f"a{position}")
        if argument is not None:
            values[argument] = node
    for key, value in (held or {}).items():
        if isinstance(value, Tensor):
            root.register_buffer(f"held_{key}", value.detach())
            values[key] = graph.get_attr(f"held_{key}")
        else:
            values[key] = value
    for program in folded:
        for step in program.steps:
            args, kwargs = step.arguments(values.__getitem__)
            values[step.key] = graph.call_function(step.target, tuple(args), kwargs)
        values |= {key: values[source] for key, source in program.results}
    graph.output(tuple(values[result.key] if isinstance(result, Ref) else result for result in results))
    return fx.GraphModule(root, graph)
