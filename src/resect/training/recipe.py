"""How to train: everything that decides the weights beside network and data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from resect.errors import InputError, require_one_of, require_whole
from resect.network import schedules

Decay = Literal["one-cycle", "step"]
Border = Literal["lowest", "reflect", "zero"]
Precision = Literal["float32", "bfloat16"]
_LATER = ("drops", "compile", "graphs")  # settings that older cards and checkpoints do not have


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: how often every sample is seen.
        batch_size: samples of a step, over all processes together.
        learning_rate: the peak.
        decay: "one-cycle" (Smith 2018: up for `warmup` of all steps, down along a cosine), or "step" (up for `warmup`,
            then a tenth of it at each of `drops`, as He et al. 2016).
        drops: parts of all steps, rising, after which "step" goes on with a tenth.
        warmup: part of all steps, 0 to 1.
        momentum: of SGD, below 1; with "one-cycle" the middle of its cycle: 0.05 less at the peak of the learning
            rate, 0.05 more at its ends, above 0.9 half of what is left to 1.
        nesterov: take the gradient where the momentum leads.
        weight_decay: of SGD, on all parameters.
        shift: random shifts of images, in pixels to each side.
        border: what shifts bring in: the data's "lowest" value, the image, reflected, or "zero", the mean of normalised
            images.
        flip: mirror half of the images, left to right.
        schedule: which blocks run: "full", "fixed-count", "stochastic-depth" or "progressive" (`resect.schedules`).
        keep: blocks that run, of "fixed-count" and, at the start, of "progressive".
        survival: probability of the last block, of "stochastic-depth"; 0.5 if it is None.
        correction: scale the branches at the end by the part of the steps in which they ran.
        precision: of the operators under autocast; weights are float32.
        channels_last: the memory format of images and weights.
        compile: fuse a network whose blocks all run by torch.compile, on a GPU into CUDA graphs; changes the last bits.
            Without effect on a schedule, where every step runs another graph.
        graphs: on one GPU, launch whole batches as CUDA graphs: one of each pass of what `compile` has not fused, on a
            schedule one of each pass of every slice of the network. Batches of another size run as ever.
        seed: of the weights, the order of the samples, shifts, flips, dropout and the schedule.

    Raises:
        InputError: a value is of no use.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.1
    decay: Decay = "one-cycle"
    drops: tuple[float, ...] = (0.5, 0.75)
    warmup: float = 0.25
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    shift: int = 1
    border: Border = "lowest"
    flip: bool = False
    schedule: str = "full"
    keep: int | None = None
    survival: float | None = None
    correction: bool = True
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    graphs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.blocks_schedule(1)
        object.__setattr__(self, "drops", _rising_parts(self.drops))
        choices: dict[str, tuple[str, ...]] = {"decay": get_args(Decay), "border": get_args(Border)}
        for name, known in (choices | {"precision": get_args(Precision)}).items():
            require_one_of(name, getattr(self, name), known)
        for name, least in (("epochs", 1), ("batch_size", 2), ("shift", 0), ("seed", 0)):
            require_whole(name, getattr(self, name), least)
        for name, low, high in (("warmup", 0, 1), ("momentum", 0, 1), ("weight_decay", 0, float("inf"))):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must be between {low} and {high}, got {getattr(self, name)!r}.")
        if self.momentum == 1:
            raise InputError("`momentum` must be below 1, got 1: nothing would ever slow down.")
        if not self.learning_rate > 0:
            raise InputError(f"`learning_rate` must be above 0, got {self.learning_rate!r}.")
        if self.nesterov and not self.momentum:
            raise InputError("`momentum` must be above 0 with `nesterov`, got 0.")

    def blocks_schedule(self, steps: int) -> schedules.Schedule:
        """Which blocks run, in a training of `steps` steps."""
        return schedules.named(self.schedule, keep=self.keep, survival=self.survival, steps=steps)

    def as_dict(self, *, every: bool = False) -> dict[str, Any]:
        """The recipe as a dictionary of plain values, without NumPy's numbers.

        Args:
            every: also what cards and checkpoints leave out at its default, as older ones do not have it.
        """
        values = {name: value.item() if hasattr(value, "item") else value for name, value in asdict(self).items()}
        values["drops"] = list(self.drops)
        idle = () if every else [name for name in _LATER if getattr(self, name) == getattr(type(self), name)]
        return {name: value for name, value in values.items() if name not in idle}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of everything that a recipe says."""
        return tuple(field.name for field in fields(cls))


def _rising_parts(drops: Any) -> tuple[float, ...]:
    numbers = tuple(drops) if isinstance(drops, (tuple, list)) else ()
    known = all(isinstance(part, (int, float)) and 0 < part < 1 for part in numbers)
    if not numbers or not known or list(numbers) != sorted(set(numbers)):
        raise InputError(f"`drops` must be parts of all steps, rising, between 0 and 1 (0.5, 0.75), got {drops!r}.")
    return numbers
