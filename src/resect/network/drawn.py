"""What a schedule says of a step and of the blocks, checked: users write schedules of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from resect.errors import ArrangementError, InputError
from resect.network.blocks import Blocks, block_indices
from resect.network.schedules import Schedule, is_number
from resect.seeds import generator_for


def draw(schedule: Schedule, blocks: Blocks, step: int, seed: int) -> tuple[int, ...]:
    """The blocks that run in `step`, in order.

    Raises:
        InputError: the schedule, one of the user's own, draws what is no block of the network.
    """
    drawn: Any = schedule.running(len(blocks), step, generator_for(seed, "blocks", step))
    try:
        return tuple(sorted(block_indices([drawn], len(blocks), blocks.names)))
    except ArrangementError as error:
        raise InputError(
            f"`schedule` must choose blocks of this network, but {type(schedule).__name__} does not in step {step}: "
            f"{error}"
        ) from error


def survival_of(schedule: Schedule, blocks: int) -> tuple[float, ...]:
    """By which the branches are scaled at test time.

    Raises:
        InputError: the schedule, one of the user's own, says no number above 0 for some of them.
    """
    survival: Any = schedule.survival(blocks)
    if not isinstance(survival, Sequence) or len(survival) != blocks or not all(map(_is_factor, survival)):
        raise InputError(
            f"`survival` of {type(schedule).__name__} must give a finite number above 0 for each of the {blocks} "
            f"blocks, got {survival!r}."
        )
    return tuple(map(float, survival))


def _is_factor(value: object) -> bool:
    return is_number(value) and 0 < value < math.inf
