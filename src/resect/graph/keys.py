"""The keys under which programs keep their values."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from torch.fx import Node

from resect.graph.slices import Sliced
from resect.graph.slots import Slot

_SKIPS, _BESIDE, _MEANS = 1, 2, 3  # the copies that are of no slot; those of the slots come after them
_BORROWED, _FIRST, _SECOND, _FROZEN = range(4)  # the copies of a slot


class Keys:
    """A key, an integer, for every value that a program of a sliced network can read or compute.

    None of them collide. The N nodes are numbered, and the value of a node has its number, 0 to N - 1. What an
    arrangement adds is the value of some node once more: copy c of it has the key c N + number, which tells both c and
    the node. Copy 1 is of the skips on their way into the joins, copy 2 of the sums of units that run side by side, up
    to the one that ends in the node, copy 3 of their means; four follow for each slot: of the branch that it borrows,
    of the first and the second run of its block, and of its skip with the factor held fixed. Values that no node
    computes have keys below 0, one each.

    Attributes:
        nodes: the nodes by number: parameters, constants, inputs, then the operators in the order of execution.
        given: how many of them are computed by no operator.
        others: the key of the samples whose values stand for those of deleted branches.
    """

    others: Final = -1

    def __init__(self, sliced: Sliced) -> None:
        captured = sliced.captured
        inputs = [entry.node for entry in captured.inputs if entry]
        given = [*captured.parameters, *captured.constants, *inputs]
        self.nodes: tuple[Node, ...] = (*given, *(node for part in sliced.slices for node in part))
        self.given = len(given)
        self._slots = len(sliced.slots)
        self._sizes: dict[Hashable, int] = {}
        self._number = {node: i for i, node in enumerate(self.nodes)}
        assert len(self._number) == len(self.nodes)

    def of(self, node: Node) -> int:
        """The value of a node."""
        return self._number[node]

    def gate(self, slot: Slot) -> int:
        """The value that enters a slot's join as the branch."""
        return self._number[slot.place.gate]

    def branch(self, slot: Slot) -> int:
        """The value that a slot's gate hands on."""
        return self._number[slot.place.gate.all_input_nodes[0]]

    def skip(self, slot: Slot) -> int:
        """The value that enters a slot's join as the skip; slots that share their join share it."""
        return _SKIPS * len(self.nodes) + self._number[slot.join.node]

    def beside(self, node: Node) -> int:
        """The outputs added up of the units that run side by side, to the one whose output is the node."""
        return _BESIDE * len(self.nodes) + self._number[node]

    def mean_beside(self, node: Node) -> int:
        """The mean of the outputs of units that run side by side, the last of which is the node."""
        return _MEANS * len(self.nodes) + self._number[node]

    def borrowed(self, slot: Slot, node: Node) -> int:
        """The value of a node of another block that runs in this slot: of its branch, or of all of it."""
        return self._copy(slot, _BORROWED, node)

    def first_run(self, slot: Slot, node: Node) -> int:
        """The value of a node in the first run of a block that runs twice; the second run ends in the node's own."""
        return self._copy(slot, _FIRST, node)

    def second_run(self, slot: Slot, node: Node) -> int:
        """The value of a node of the branch or the skip in the second run of a block that runs twice."""
        return self._copy(slot, _SECOND, node)

    def frozen(self, slot: Slot, node: Node) -> int:
        """The value of a node of the skip where what multiplies the signal on it is held fixed."""
        return self._copy(slot, _FROZEN, node)

    def mean(self, slot: Slot) -> int:
        """The mean of a slot's branch over the data."""
        return self.others - 1 - slot.index

    def size(self, size: Hashable) -> int:
        """A size that is computed from those of the inputs."""
        return self.others - 1 - self._slots - self._sizes.setdefault(size, len(self._sizes))

    @property
    def lowest(self) -> int:
        """The lowest key taken so far."""
        return self.others - self._slots - len(self._sizes)

    def _copy(self, slot: Slot, which: int, node: Node) -> int:
        copy = _MEANS + 1 + 4 * slot.index + which
        return copy * len(self.nodes) + self._number[node]
