"""The layers of a plain network, as units that can be lesioned where their input and output have one shape.

The paper's control (section 4.1) deletes single layers of VGG: a convolution with what follows it element by element.
"""

from __future__ import annotations

from torch.fx import Node

from resect.graph.capture import Capture
from resect.graph.joins import Join, Rejected
from resect.graph.ops import NORMS, POINTWISE, hint_shape, module_of, op_name
from resect.graph.reach import Reach


def find_layers(captured: Capture, reach: Reach) -> tuple[list[Join], list[Rejected]]:
    """Every weight layer with its normalisation and activation: those that can be deleted, and those that cannot."""
    layers: list[Join] = []
    refused: list[Rejected] = []
    for node in captured.nodes:
        if not reach.mixes_with_weights(node):
            continue
        entry, end = reach.dependents(node)[0], _end_of_unit(node, reach)
        before, after = hint_shape(entry), hint_shape(end)
        if before is None or after is None:
            reason = "its input or its output is not one tensor"
        elif before != after:
            change = " to ".join("x".join(map(str, shape[1:])) for shape in (before, after))
            reason = f"the layer changes the shape of a sample, {change}"
        else:
            layers.append(Join(end, "layer", entry, end, end, (entry,), entry))
            continue
        refused.append(Rejected(node.name, module_of(node), reason))
    return layers, refused


def _end_of_unit(node: Node, reach: Reach) -> Node:
    while len(node.users) == 1:
        after = next(iter(node.users))
        if op_name(after) == "getitem" and after.args[1] != 0:
            break
        if op_name(after) not in POINTWISE | NORMS | {"getitem"} or len(reach.dependents(after)) != 1:
            break
        node = after
    return node
