"""How far what an unravelled network computes is from what its model does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """How far an unravelled network is from its model: the largest absolute difference at each batch size."""

    differences: dict[int, float]

    @property
    def identical(self) -> bool:
        """Whether every output has the same bits."""
        return all(difference == 0.0 for difference in self.differences.values())
