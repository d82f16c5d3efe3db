"""What a schedule says of a step and of the blocks, checked: users write schedules of their own."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from resect.errors import InputError
from resect.network.schedules import Schedule, is_number
from resect.seeds import generator_for


def draw(schedule: Schedule, blocks: int, step: int, seed: int) -> tuple[int, ...]:
    """The blocks that run in `step`, in order.

    Raises:
        InputError: the schedule, one of the user's own, draws what is no block of the network.
    """
    drawn: Any = schedule.running(blocks, step, generator_for(seed, "blocks", step))
    try:
        chosen = {operator.index(block) for block in drawn}
        unknown = [block for block in chosen if not 0 <= block < blocks]
    except TypeError:
        chosen, unknown = set(), [drawn]
    if unknown:
        raise InputError(
            f"`schedule` must choose blocks of this network, but {type(schedule).__name__} does not in step {step}: "
            f"they are whole numbers from 0 to {blocks - 1}, got {', '.join(map(str, unknown))}."
        )
    return tuple(sorted(chosen))


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
