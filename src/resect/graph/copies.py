"""A capture of its own nodes, made of one that was cut: the same network can be taken apart in another way."""

from __future__ import annotations

from dataclasses import replace

from torch.fx import Graph, Node

from resect.graph.capture import Capture
from resect.graph.ops import gate


def ungated(captured: Capture) -> Capture:
    """A copy of a capture without the gates that cutting puts in; the tensors are shared."""
    graph, copies = Graph(), dict[Node, Node]()
    for node in captured.nodes[0].graph.nodes:
        is_gate = node.target is gate
        copies[node] = copies[node.args[0]] if is_gate else graph.node_copy(node, copies.__getitem__)
    return replace(
        captured,
        nodes=tuple(copies[node] for node in captured.nodes),
        inputs=tuple(entry and replace(entry, node=copies[entry.node]) for entry in captured.inputs),
        constants={copies[node]: value for node, value in captured.constants.items() if node in copies},
        parameters={copies[node]: name for node, name in captured.parameters.items() if node in copies},
        outputs=tuple(copies[value] if isinstance(value, Node) else value for value in captured.outputs),
        mutations=tuple((copies[value], name) for value, name in captured.mutations),
    )
