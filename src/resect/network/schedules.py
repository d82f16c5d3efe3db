"""Schedules: which blocks run in which step of a training (Veit et al. 2016, section 4.4; Huang et al. 2016)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, TypeGuard

from resect.errors import InputError, require_one_of, require_whole, suggesting_settings

if TYPE_CHECKING:  # a recipe names its schedule without torch
    import torch

    from resect.network.blocks import BlockLike


class Schedule(ABC):
    """Decides which blocks run in a step. One of one's own implements `running`, and `survival` where it matters."""

    @abstractmethod
    def running(self, blocks: int, step: int, generator: torch.Generator) -> Collection[BlockLike]:
        """The blocks that run in `step`, drawn from `generator`: numbers of 0 to `blocks` - 1, or names."""

    def survival(self, blocks: int) -> tuple[float, ...]:
        """By which each branch is scaled at test time: the part of the steps in which it ran, or 1 for no scaling."""
        return (1.0,) * blocks


@dataclass(frozen=True)
class Full(Schedule):
    """Every block runs in every step."""

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        """All blocks."""
        return frozenset(range(blocks))


@suggesting_settings
@dataclass(frozen=True)
class FixedCount(Schedule):
    """Exactly `keep` random blocks run in every step: the paper's training on effective paths (23 of 54).

    Raises:
        InputError: `keep` is below 1, or (when it is drawn) above the number of blocks.
    """

    keep: int

    def __post_init__(self) -> None:
        require_whole("keep", self.keep)

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        """The blocks that run in `step`."""
        _require_keepable(self.keep, blocks)
        return _drawn(self.keep, blocks, generator)

    def survival(self, blocks: int) -> tuple[float, ...]:
        """`keep` / `blocks` for every branch."""
        return (min(self.keep / blocks, 1.0),) * blocks


@suggesting_settings
@dataclass(frozen=True)
class StochasticDepth(Schedule):
    """Block l of L (from 1) runs with probability 1 - l/L (1 - `last`), on its own (Huang et al. 2016, equation 4).

    Args:
        last: the probability of the last block, in (0, 1].

    Raises:
        InputError: `last` is no probability above 0.
    """

    last: float = 0.5

    def __post_init__(self) -> None:
        if not is_number(self.last) or not 0 < self.last <= 1:
            raise InputError(
                f"`last` (`survival` of a recipe) must be a probability above 0 and at most 1, got {self.last!r}."
            )

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        """The blocks that run in `step`."""
        import torch

        draws = torch.rand(blocks, generator=generator, dtype=torch.float64, device="cpu").tolist()
        return frozenset(i for i, (draw, p) in enumerate(zip(draws, self.survival(blocks), strict=True)) if draw < p)

    def survival(self, blocks: int) -> tuple[float, ...]:
        """The probabilities, by which the branches are scaled at test time (equation 5)."""
        return tuple(1 - (block + 1) / blocks * (1 - self.last) for block in range(blocks))


@suggesting_settings
@dataclass(frozen=True)
class Progressive(Schedule):
    """Random blocks, `keep` of them at first and evenly more up to all in the last of `steps`, and all from then on.

    Training starts on short paths and ends on the whole network, so nothing is scaled at test time.

    Raises:
        InputError: `keep` or `steps` is below 1, or (when it is drawn) `keep` is above the number of blocks.
    """

    keep: int
    steps: int

    def __post_init__(self) -> None:
        require_whole("keep", self.keep)
        require_whole("steps", self.steps)

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        """The blocks that run in `step`."""
        _require_keepable(self.keep, blocks)
        last = self.steps - 1
        count = self.keep + (blocks - self.keep) * step // last if step < last else blocks
        return _drawn(count, blocks, generator)


_TAKES = {"full": "", "fixed-count": "keep", "stochastic-depth": "survival", "progressive": "keep"}
NAMES = tuple(_TAKES)


def named(name: str, *, keep: int | None = None, survival: float | None = None, steps: int = 1) -> Schedule:
    """A schedule by its name.

    Args:
        name: "full", "fixed-count", "stochastic-depth" or "progressive".
        keep: blocks, of "fixed-count" and "progressive".
        survival: probability of the last block, of "stochastic-depth"; 0.5 by default.
        steps: of the whole training, over which "progressive" grows to its end.

    Raises:
        InputError: the name is unknown, or what belongs to it is missing or what does not is given.
    """
    require_one_of("schedule", name, NAMES)
    for setting, value in (("keep", keep), ("survival", survival)):
        if value is not None and setting != _TAKES[name]:
            owners = [other for other, taken in _TAKES.items() if taken == setting]
            raise InputError(
                f"`{setting}` belongs to the schedule{'s' if len(owners) > 1 else ''} {', '.join(owners)}, but the "
                f"schedule is {name}. Leave it out, or choose another schedule."
            )
    if name == "full":
        return Full()
    if name == "stochastic-depth":
        return StochasticDepth() if survival is None else StochasticDepth(survival)
    if keep is None:
        raise InputError(f"`keep` must say how many blocks run, for the schedule {name}; it is missing.")
    return FixedCount(keep) if name == "fixed-count" else Progressive(keep, steps)


def _drawn(count: int, blocks: int, generator: torch.Generator) -> frozenset[int]:
    """So many of the blocks, at random."""
    import torch

    return frozenset(torch.randperm(blocks, generator=generator, device="cpu")[:count].tolist())


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number, which True is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _require_keepable(keep: int, blocks: int) -> None:
    if keep > blocks:
        raise InputError(f"`keep` must be at most the number of blocks, {blocks}, got {keep}.")
