"""What a network costs under an arrangement, and what every unit's removal saves of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.groups import Group, without


def parameters(net: Unraveled, arrangement: Arrangement) -> int:
    """How many parameters an arrangement reads; tied ones count once."""
    return sum(tensor.numel() for tensor in read_parameters(net, arrangement))


def read_parameters(net: Unraveled, arrangement: Arrangement) -> list[Tensor]:
    """The parameters that an arrangement reads, tied ones once."""
    names, tensors = net.programs.parameter_keys, dict(net.model.named_parameters(remove_duplicate=False))
    reads = {key for program in net.programs.fold(arrangement) for step in program.steps for key in step.reads}
    return list({id(tensors[names[key]]): tensors[names[key]] for key in reads if names.get(key) in tensors}.values())


def flops(net: Unraveled, arrangement: Arrangement, inputs: Any) -> int:
    """Floating-point operations of one pass, of matrix products, convolutions and attention, an addition counting."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(inputs, arrangement)
    return int(counter.get_total_flops())


def saved(net: Unraveled, groups: Sequence[Group], what: str, inputs: Any) -> np.ndarray:
    """(groups,) the part of all "params" or "flops" that each group's removal saves."""

    def cost(arrangement: Arrangement) -> int:
        return parameters(net, arrangement) if what == "params" else flops(net, arrangement, inputs)

    whole = cost(net.intact)
    return np.array([1 - cost(without(net, groups, [i])) / max(whole, 1) for i in range(len(groups))])
