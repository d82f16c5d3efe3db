"""What a slot can be told to run, and how the gradient takes the gates of skips."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Literal, get_args

from resect.errors import ArrangementError, require_one_of


class Variant(Enum):
    """A slot that runs its own branch, but not as the network has it.

    BRANCH_ONLY deletes the skip and keeps the branch, y = branch(x): the control that tells whether it is the branch or
    the skip that a network can spare. TWICE runs the whole block again on its own result, y = block(block(x)). BYPASS
    runs nothing of it, y = x: neither the branch nor what the skip does to the signal.
    """

    BRANCH_ONLY = "branch only"
    TWICE = "twice"
    BYPASS = "bypass"

    def __repr__(self) -> str:
        return self.name


Combine = Literal["mean", "sum"]
"""What units that run side by side hand on: the mean of their outputs, or the state and all that they add to it."""


Unit = Literal["block", "layer"]
"""What is moved as one: a block, or the blocks of a layer, which stay together and in their order."""


@dataclass(frozen=True)
class Parallel:
    """Units that all start from one state, instead of each from what the one before it gives.

    Every slot of the span holds it. "mean" hands on the sum of the units' outputs, added in their order, divided by
    their number; "sum" the first one's output, to which (output - state) of the others is added in their order.

    Attributes:
        units: the first and the last slot of every unit, whose blocks run one after the other; each begins where the
            one before it ends.

    Raises:
        ArrangementError: the units are fewer than two, or do not follow each other.
    """

    units: tuple[tuple[int, int], ...]
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        in_a_row = all(before + 1 == first for (_, before), (first, _) in pairwise(self.units))
        if len(self.units) < 2 or not in_a_row or any(first > last for first, last in self.units):
            raise ArrangementError(
                "units side by side must be two or more, each from behind the one before it, such as 'mean(2..5)' or "
                f"'sum(2..3|4..5)', got {self.units} as their first and last slots."
            )
        require_one_of("combine", self.combine, get_args(Combine), ArrangementError)

    @property
    def first(self) -> int:
        """The first slot of the span."""
        return self.units[0][0]

    @property
    def last(self) -> int:
        """The last slot of the span."""
        return self.units[-1][1]

    def __str__(self) -> str:
        if all(first == last for first, last in self.units):
            return f"{self.combine}({self.first}..{self.last})"
        units = (f"{first}..{last}" if last > first else str(first) for first, last in self.units)
        return f"{self.combine}({'|'.join(units)})"


Decision = int | None | Variant | Parallel
"""The block whose branch a slot runs, None where it runs none, a variant of its own block, or what it runs beside."""


def block_run(slot: int, decision: Decision) -> int | None:
    """The block of which a slot runs the branch; None where it runs none."""
    if isinstance(decision, (Variant, Parallel)):
        return None if decision is Variant.BYPASS else slot
    return decision


Removal = Literal["zero", "mean", "other sample"]
"""What stands for a deleted branch."""

Gates = Literal["differentiated", "frozen"]
"""Whether gradients flow through what multiplies the signal on a skip and is itself computed from a signal."""
