"""How far what an unravelled network computes is from what its model does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """How far an unravelled network is from its model.

    Attributes:
        differences: the largest absolute difference of an output at each batch size.
        recorded: whether the network is a recording of one forward pass, which holds at its one batch size.
    """

    differences: dict[int, float]
    recorded: bool = False

    @property
    def identical(self) -> bool:
        """Whether every output has the same bits."""
        return all(difference == 0.0 for difference in self.differences.values())
