"""Schedules: which blocks run in which step of a training (Veit et al. 2016, section 4.4; Huang et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from resect.errors import InputError


@dataclass(frozen=True)
class Full:
    """Every block runs in every step."""

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        """The blocks, of 0 to `blocks` - 1, that run in `step`, drawn from `generator`."""
        return frozenset(range(blocks))

    def survival(self, blocks: int) -> tuple[float, ...]:
        """By which each branch is scaled at test time: the part of the steps in which it ran."""
        return (1.0,) * blocks


@dataclass(frozen=True)
class FixedCount(Full):
    """Exactly `keep` random blocks run in every step: the paper's training on effective paths (23 of 54).

    Raises:
        InputError: `keep` is below 1, or (when it is drawn) above the number of blocks.
    """

    keep: int

    def __post_init__(self) -> None:
        _require_count("keep", self.keep)

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        """The blocks that run in `step`."""
        _require_at_most("keep", self.keep, blocks)
        return frozenset(torch.randperm(blocks, generator=generator)[: self.keep].tolist())

    def survival(self, blocks: int) -> tuple[float, ...]:
        """`keep` / `blocks` for every branch."""
        return (min(self.keep / blocks, 1.0),) * blocks


@dataclass(frozen=True)
class StochasticDepth(Full):
    """Block l of L (from 1) runs with probability 1 - l/L (1 - `last`), on its own (Huang et al. 2016, equation 4).

    Args:
        last: the probability of the last block, in (0, 1].

    Raises:
        InputError: `last` is no probability above 0.
    """

    last: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.last <= 1:
            raise InputError(f"`survival` must be a probability above 0 and at most 1, got {self.last}.")

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        """The blocks that run in `step`."""
        draws = torch.rand(blocks, generator=generator, dtype=torch.float64).tolist()
        return frozenset(i for i, (draw, p) in enumerate(zip(draws, self.survival(blocks), strict=True)) if draw < p)

    def survival(self, blocks: int) -> tuple[float, ...]:
        """The probabilities, by which the branches are scaled at test time (equation 5)."""
        return tuple(1 - (block + 1) / blocks * (1 - self.last) for block in range(blocks))


@dataclass(frozen=True)
class Progressive(Full):
    """Random blocks, `keep` of them at first and evenly more up to all in the last of `steps`, and all from then on.

    Training starts on short paths and ends on the whole network, so nothing is scaled at test time.

    Raises:
        InputError: `keep` or `steps` is below 1, or (when it is drawn) `keep` is above the number of blocks.
    """

    keep: int
    steps: int

    def __post_init__(self) -> None:
        _require_count("keep", self.keep)
        _require_count("steps", self.steps)

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        """The blocks that run in `step`."""
        _require_at_most("keep", self.keep, blocks)
        last = self.steps - 1
        count = self.keep + (blocks - self.keep) * step // last if step < last else blocks
        return frozenset(torch.randperm(blocks, generator=generator)[:count].tolist())


def _full(keep: int | None, survival: float | None, steps: int) -> Full:
    _forbid("full", keep=keep, survival=survival)
    return Full()


def _fixed_count(keep: int | None, survival: float | None, steps: int) -> Full:
    _forbid("fixed-count", survival=survival)
    return FixedCount(_given("fixed-count", keep))


def _stochastic_depth(keep: int | None, survival: float | None, steps: int) -> Full:
    _forbid("stochastic-depth", keep=keep)
    return StochasticDepth(StochasticDepth.last if survival is None else survival)


def _progressive(keep: int | None, survival: float | None, steps: int) -> Full:
    _forbid("progressive", survival=survival)
    return Progressive(_given("progressive", keep), steps)


_MAKERS: dict[str, Callable[[int | None, float | None, int], Full]] = {
    "full": _full,
    "fixed-count": _fixed_count,
    "stochastic-depth": _stochastic_depth,
    "progressive": _progressive,
}
NAMES = tuple(_MAKERS)


def named(name: str, *, keep: int | None = None, survival: float | None = None, steps: int = 1) -> Full:
    """A schedule by its name.

    Args:
        name: "full", "fixed-count", "stochastic-depth" or "progressive".
        keep: blocks, of "fixed-count" and "progressive".
        survival: probability of the last block, of "stochastic-depth"; 0.5 by default.
        steps: of the whole training, over which "progressive" grows to its end.

    Raises:
        InputError: the name is unknown, or what belongs to it is missing or what does not is given.
    """
    if name not in _MAKERS:
        raise InputError(f"`schedule` must be one of {', '.join(_MAKERS)}, got {name!r}.")
    return _MAKERS[name](keep, survival, steps)


def _given(schedule: str, keep: int | None) -> int:
    if keep is None:
        raise InputError(f"`keep` must say how many blocks run, for the schedule {schedule}; it is missing.")
    return keep


def _forbid(schedule: str, **settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None:
            raise InputError(f"`{name}` must be left out for the schedule {schedule}, got {value}.")


def _require_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"`{name}` must be a whole number of at least 1, got {value!r}.")


def _require_at_most(name: str, value: int, blocks: int) -> None:
    if value > blocks:
        raise InputError(f"`{name}` must be at most the number of blocks, {blocks}, got {value}.")
