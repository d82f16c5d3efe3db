"""What a slot can be told to run, and how the gradient takes the gates of skips."""

from __future__ import annotations

from enum import Enum
from typing import Literal


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


Decision = int | None | Variant
"""The block whose branch a slot runs, None where it runs none, or a variant of its own block."""

Removal = Literal["zero", "mean", "other sample"]
"""What stands for a deleted branch."""

Gates = Literal["differentiated", "frozen"]
"""Whether gradients flow through what multiplies the signal on a skip and is itself computed from a signal."""
