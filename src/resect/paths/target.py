"""Where gradients are measured: the inputs, the stem's output, the state where a block starts, or a parameter."""

from __future__ import annotations

import difflib
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from torch.fx import Node

from resect.errors import ArrangementError, InputError
from resect.graph.routes import Start
from resect.graph.slots import Slot
from resect.network.blocks import block_index
from resect.network.unraveled import Unraveled

At = str | int


@dataclass(frozen=True)
class Target:
    """A place in a network.

    Attributes:
        name: what the user asked for, resolved: "input", "stem", "input of blocks.3", or a parameter's name.
        first_slice: the slice that ends in the first join of the paths to it.
        parameters: the nodes of the parameter; several where it is tied.
        slot: of the block at whose start the state is.
    """

    name: str
    kind: Literal["input", "stem", "state", "parameter"]
    first_slice: int = 1
    parameters: tuple[Node, ...] = ()
    slot: Slot | None = None

    @property
    def start(self) -> Start:
        """Where routes to it begin."""
        return Start(self.first_slice - 1, frozenset(self.parameters))


def resolve_target(net: Unraveled, at: At) -> Target:
    """The target that `at` names.

    Args:
        at: as in `PathSettings`.

    Raises:
        InputError: there is no such target, or gradients do not exist there.
    """
    floating = any(entry.dtype.is_floating_point for entry in net.inputs)
    if at == "auto":
        at = "input" if floating else "stem"
    if at == "input" and not floating:
        raise InputError("`at` must be 'stem' for a network whose inputs are integers, got 'input'.")
    if at in ("input", "stem"):
        return Target(str(at), "input" if at == "input" else "stem")
    names = net.blocks.names
    with suppress(ArrangementError):
        index = block_index(at, len(names), names)
        slot = net.sliced.slots[index]
        return Target(f"input of {names[index]}", "state", slot.place.slice, slot=slot)
    parameters = dict(net.model.named_parameters(remove_duplicate=False))
    if isinstance(at, str) and at in parameters:
        nodes = net.parameter_nodes(at)
        if nodes:
            return Target(at, "parameter", parameters=nodes)
    close = difflib.get_close_matches(str(at), [*names, *parameters], n=3)
    hint = f" Close to it: {', '.join(close)}." if close else ""
    raise InputError(
        f"`at` must be 'auto', 'input', 'stem', a block (its name, or its index below {len(names)}) or a "
        f"parameter's name, got {at!r}.{hint}"
    )
