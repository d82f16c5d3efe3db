"""Which parameters the graph reads, and which of them at one place only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import nn
from torch.fx import Node

from resect.graph.slices import Sliced


def parameters_of(sliced: Sliced) -> Mapping[Node, nn.Parameter]:
    """The parameters by their nodes; buffers are none."""
    known = dict(sliced.captured.model.named_parameters(remove_duplicate=False))
    return {node: known[name] for node, name in sliced.captured.parameters.items() if name in known}


def read_once(sliced: Sliced) -> frozenset[Node]:
    """Those that one operator reads, and that are tied to no other."""
    homes = Counter(map(id, dict(sliced.captured.model.named_parameters(remove_duplicate=False)).values()))
    nodes = parameters_of(sliced).items()
    return frozenset(node for node, parameter in nodes if len(node.users) == homes[id(parameter)] == 1)
