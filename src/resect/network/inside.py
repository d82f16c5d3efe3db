"""Values inside the intact network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from resect.network.unraveled import Unraveled


def values_inside(net: Unraveled, inputs: Any, nodes: Iterable[Node]) -> dict[Node, Tensor]:
    """What nodes of the captured graph are worth on a batch, without gradients.

    Args:
        inputs: as the model takes them, on its device.
    """
    keys, slice_of = net.programs.keys, net.programs.slice_of
    wanted = {keys.of(node): node for node in nodes}
    state = dict[int, Any]()
    with torch.no_grad():
        base = net.bind(inputs)
        values = {key: base[key] for key in wanted if key in base}
        for i, program in enumerate(net.programs.fold(net.intact, also=wanted)):
            state = program.run(base, state)
            values |= {key: state[key] for key in wanted if slice_of.get(key) == i}
    return {node: values[key] for key, node in wanted.items()}
