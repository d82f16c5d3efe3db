"""Designs that vary multiplicity at equal depth, parameters, norms and, but for projections, operations; and what can
be asked of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import inf, log2
from typing import Any, ClassVar, Self

from resect.errors import InputError, SpecError, closest, require_whole, said_of
from resect.jobs.asked import Asked, given_options
from resect.jobs.source import split_spec
from resect.models.names import SHIPPED, Value, parts_of
from resect.runs.command import command_line
from resect.training.recipe import Recipe
from resect.training.recipes import RecipeFile, load_recipe_file

DESIGNS = {
    "primary": ("resnet38-w8-b2-s1", "resnet38-w8-b2-s18"),
    "grid": tuple(
        f"resnet{depth}-w8-h{hidden}-b2-s{merge}"
        for depth, hidden in ((20, 16), (38, 8), (74, 4), (38, 16))
        for merge in (1, (depth - 2) // 2)
    ),
}
"""Designs by name. Blocks times hidden width is the same for the first three sizes of the grid, twice for the last."""

START = {"zero_init_last": True}  # of every arm: at birth all arms are one function, whatever their branches
_WIDTH = 16
_KNOWN = (
    "Arms are resnetN-bB-sS, such as resnet38-b2-s18: of depth N, with B towers that merge every S blocks, S a divisor "
    "of (N - 2) / 2; resnet38-w8-b2-s18 is of width 8, resnet38-w8-h4-b2-s18 has 4 channels inside its branches, too. "
    f"Designs are {', '.join(DESIGNS)}; by default the arms are those of primary, {' and '.join(DESIGNS['primary'])}."
)


@dataclass(frozen=True)
class Size:
    """What an arm has in common with those that it is set beside."""

    blocks: int
    towers: int
    hidden: int
    width: int


@dataclass(frozen=True)
class Arm:
    """One architecture of a design: b towers of n blocks that merge every s blocks.

    Attributes:
        name: the spec, without resect:.
    """

    name: str
    size: Size
    merge: int

    @classmethod
    def of(cls, text: str) -> Arm:
        """The arm of a spec; SpecError for what is no CIFAR ResNet without weights."""
        name = text.removeprefix("resect:") if isinstance(text, str) else text
        try:
            parts = parts_of(f"resect:{name}")
        except SpecError as error:
            raise SpecError(f"unknown arm {text!r}.{closest(str(text), DESIGNS)} {_KNOWN}") from error
        if name in SHIPPED or parts["kind"] != "resnet" or parts["original"] or "." in parts["depth"]:
            raise SpecError(f"an arm must be a resect:resnet without weights, such as resnet38-b2-s18, got {text}.")
        if parts["branches"]:
            raise SpecError(
                f"{text} does not vary multiplicity: branches of two layers that are added are one of so many times "
                f"the hidden width. Name {name.replace('-x', '-b')}-s1, or towers that merge later."
            )
        width = int(parts["width"] or _WIDTH)
        blocks, towers, merge = ((int(parts["depth"]) - 2) // 2, int(parts["towers"] or 1), int(parts["merge"] or 1))
        return cls(name, Size(blocks, towers, int(parts["hidden"] or width), width), merge)

    @property
    def log2_paths(self) -> float:
        """log2 of (b 2^s - b + 1)^(n/s)."""
        each = self.size.towers * (2**self.merge - 1) + 1
        return self.size.blocks / self.merge * log2(each)

    @property
    def regressors(self) -> dict[str, float]:
        """What the model of the plan explains the error by."""
        blocks, width = self.size.blocks, self.size.towers * self.size.hidden
        return {"log2 blocks": log2(blocks), "log2 width": log2(width), "bits per block": self.log2_paths / blocks}

    def row(self) -> dict[str, Any]:
        """The arm as plain values."""
        return {"arm": self.name, **asdict(self.size), "merge": self.merge, "log2_paths": self.log2_paths}


@dataclass(frozen=True)
class MultiplicityAsked(Asked):
    """An experiment: arms, each trained by one recipe with several seeds.

    Attributes:
        arms: resect: specs, e.g. "resnet38-w8-b2-s18", or the name of a design.
        seeds: trainings of each arm; the first seed is that of the source.
        recipe: a recipe or its file; None for that of the data.
        settings: of the recipe, before its own, e.g. {"epochs": 6}.
        bound: percentage points within which a difference counts as none.
        learning_rates: that are tried on every arm beforehand: it is trained with that of the least mean loss on
            training images that were held out. Without them all arms have the recipe's.
        held_out: so many of the training images, which those trainings leave out.
        pilots: seeds of those trainings, the first that are not planned for the experiment.
    """

    verb: ClassVar[str] = "multiplicity"
    arms: tuple[str, ...] = DESIGNS["primary"]
    seeds: int = 9
    recipe: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)
    bound: float = 0.25
    learning_rates: tuple[float, ...] = ()
    held_out: int = 5000
    pilots: int = 2
    batch_size: int = 500

    def __post_init__(self) -> None:
        require_whole("seeds", self.seeds, 2)
        self._require_rates()
        if not self.bound > 0:
            raise InputError(f"`bound` must be above 0, in points, got {self.bound!r}.")
        if "seed" in self.settings:
            raise InputError("`settings` must leave the seed out: every arm is trained with several. Give --seed.")
        if unknown := sorted(set(self.settings) - {*Recipe.names()}):
            raise InputError(f"`settings` must be of {', '.join(Recipe.names())}, got {unknown[0]!r}.")
        if len({arm.name for arm in self.design}) < len(self.design):
            raise InputError(f"`arms` must be of different names, got {', '.join(self.arms)}.")
        alike: dict[tuple[Size, int], str] = {}
        for arm in self.design:
            if (other := alike.setdefault((arm.size, arm.merge), arm.name)) != arm.name:
                raise InputError(f"`arms` must be different networks, got {other} and {arm.name}, which are one.")
        if not self.contrasts:
            raise InputError(
                f"`arms` must hold two that differ in their merge alone, got {', '.join(self.arms)}. Such are "
                "resnet38-b2-s1 and resnet38-b2-s18."
            )
        with said_of("recipe"):
            _ = self.recipe_file  # says what is wrong with the file
        with said_of("settings"):
            self.recipe_of(0)  # says what is wrong with it
        super().__post_init__()

    def _require_rates(self) -> None:
        rates = self.learning_rates
        if not isinstance(rates, (tuple, list)) or not all(isinstance(rate, (int, float)) for rate in rates):
            raise InputError(f"`learning_rates` must be numbers, as (0.1, 0.2), got {rates!r}.")
        require_whole("held_out", self.held_out)
        require_whole("pilots", self.pilots)
        said = ", ".join(map(str, rates))
        if not all(0 < rate < inf for rate in rates):
            raise InputError(f"`learning_rates` must be finite and above 0, got {said}.")
        if len({*rates}) != len(rates) or len(rates) == 1:
            raise InputError(
                f"`learning_rates` must be two or more that differ, got {said}. One for all arms is a setting, "
                "learning_rate."
            )
        if rates and "learning_rate" in self.settings:
            raise InputError("`settings` must leave the learning rate out where `learning_rates` are tried.")
        object.__setattr__(self, "learning_rates", tuple(sorted(map(float, rates))))

    def asked(self) -> dict[str, Any]:
        """The whole configuration, flat; of how rates are tried only where some are."""
        tried = ("learning_rates", "held_out", "pilots")
        return {name: value for name, value in super().asked().items() if self.learning_rates or name not in tried}

    def idle(self) -> dict[str, str]:
        """The options that mean nothing beside the others, and what they are options of."""
        return (
            {}
            if self.learning_rates
            else dict.fromkeys(("held_out", "pilots"), "beside `learning_rates`, which are not given")
        )

    @cached_property
    def design(self) -> tuple[Arm, ...]:
        """The arms."""
        return tuple(map(Arm.of, self.arms))

    @cached_property
    def contrasts(self) -> tuple[tuple[Arm, Arm], ...]:
        """Arms of one size: that which merges first, and each of the others, from that which merges last on. The first
        contrast is the primary one."""
        sizes = dict.fromkeys(arm.size for arm in self.design)
        groups = [sorted((a for a in self.design if a.size == size), key=lambda arm: -arm.merge) for size in sizes]
        return tuple((group[-1], other) for group in groups for other in group[:-1])

    @cached_property
    def recipe_file(self) -> RecipeFile:
        """The recipe by name or file."""
        kind = (self.source.data or "").partition(":")[0]
        return load_recipe_file(self.recipe or (kind if kind == "digits" else "cifar10"))

    def recipe_of(self, seed: int, learning_rate: float | None = None) -> Recipe:
        """How an arm is trained, with a learning rate in the place of the recipe's."""
        rate = {} if learning_rate is None else {"learning_rate": learning_rate}
        return Recipe(**{**self.recipe_file.settings, **self.settings, **rate, "seed": seed})

    @cached_property
    def trainings(self) -> tuple[tuple[Arm, int], ...]:
        """All trainings in their order: arm by arm within a seed, so that those that are over are balanced."""
        first = self.source.seed
        return tuple((arm, seed) for seed in range(first, first + self.seeds) for arm in self.design)

    @cached_property
    def pilot_trainings(self) -> tuple[tuple[Arm, int, float], ...]:
        """Arm, seed and learning rate of all trainings that choose among the rates."""
        after = self.source.seed + self.seeds
        seeds = range(after, after + self.pilots)
        return tuple((arm, seed, rate) for seed in seeds for rate in self.learning_rates for arm in self.design)

    @classmethod
    def of(cls, data: str, arms: Sequence[str], options: Mapping[str, Any]) -> Self:
        """The job for a design, or the arms of one.

        Raises:
            InputError: there is no such option.
        """
        for name in ("model_args", "module", "batch_dim", "checkpoint", "normalize", "calibrate", "dtype"):
            if name in options:
                raise InputError(f"`{name}` is no option of multiplicity, which trains its own networks.")
        for name in ("repeats", "gradient_samples", "gradient_batch"):
            if name in options:
                raise InputError(
                    f"`{name}` is of the check that trains nothing. Give --training-free, or leave it out."
                )
        named = tuple(arm for text in arms or ("primary",) for arm in DESIGNS.get(text, (text,)))
        return cls.from_options(f"resect:{Arm.of(named[0]).name}", data, {"arms": named, **options})

    def command(self) -> str:
        """The command that does the same."""
        named = [name for name, arms in DESIGNS.items() if arms == self.arms]
        options = {**given_options(self.source), **given_options(self), "arms": None}
        return command_line(self.verb, [str(self.source.data), *(named or self.arms)], options)


@dataclass(frozen=True)
class RobustnessAsked(Asked):
    """The check that trains nothing: what predicts how well trained networks bear lesions. The source is the first.

    Attributes:
        others: SPEC or SPEC@FILE of the other networks.
        repeats: random deletions of a tenth of the blocks.
        gradient_samples: samples for the paths, in batches of `gradient_batch`.
    """

    verb: ClassVar[str] = "robustness"
    others: tuple[str, ...] = ()
    repeats: int = 20
    gradient_samples: int = 32
    gradient_batch: int = 32
    batch_size: int = 500

    @classmethod
    def of(cls, data: str, networks: Sequence[str], options: Mapping[str, Any]) -> Self:
        """The job for networks, by default those that are shipped for the data.

        Raises:
            SpecError: none is shipped for them.
            InputError: there is no such option.
        """
        for name in (
            "trainings",
            "at_once",
            "seeds",
            "recipe",
            "settings",
            "bound",
            "learning_rates",
            "held_out",
            "pilots",
        ):
            if name in options:
                raise InputError(f"`{name}` is of trainings, but the check trains nothing. Leave it out.")
        named = tuple(networks) or _shipped(data.partition(":")[0])
        if not named:
            raise SpecError(f"networks must be named for {data}, as none is shipped for it: SPEC or SPEC@FILE.")
        spec, checkpoint = split_spec(named[0])
        return cls.from_options(spec, data, {"checkpoint": checkpoint, "others": named[1:], **options})

    @property
    def networks(self) -> tuple[str, ...]:
        """All, as they were named."""
        at = "" if self.source.checkpoint is None else f"@{self.source.checkpoint}"
        return f"{self.source.model}{at}", *self.others

    def command(self) -> str:
        """The command that does the same."""
        options = {**given_options(self.source), **given_options(self), "checkpoint": None, "others": None}
        arguments = [str(self.source.data), *self.networks]
        return command_line("multiplicity", arguments, {"training_free": True, **options})


def _shipped(kind: str) -> tuple[str, ...]:
    """The residual networks that are shipped with weights for data."""
    parts = {name: parts_of(f"resect:{name}") for name in SHIPPED}
    return tuple(f"resect:{name}" for name, own in parts.items() if own["kind"] and own["data"] == kind)
