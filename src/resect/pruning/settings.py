"""What pruning can be told, known without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resect.errors import InputError, require_one_of, require_whole, said_of, suggesting_settings
from resect.training.recipe import Recipe

SEARCHES = ("greedy", "one-shot", "window", "beam", "evolution", "pairwise", "exchange", "exhaustive")
OBJECTIVES = ("kl", "loss", "error")
SCORES = (
    *("damage", "loss_change", "shapley", "share", "first_order"),
    *("kl", "block_influence", "angular", "norm_ratio"),
)
FITTED = ("hf", "hf-zero", "timm", "torchvision", "resect", "mergekit", "gguf-layers")
"""The formats of exports that cannot hold every network without some blocks; known here without torch."""
_RATE = 0.01  # a tenth of what networks are trained with from the start
_NO_PART = ("epochs", "seed", "schedule", "keep", "survival", "correction")  # of a recipe: all blocks that stay run


@suggesting_settings
@dataclass(frozen=True)
class GenerationSettings:
    """Settings of `resect.generation`.

    Attributes:
        samples: of the text that are continued, at the most, and sequences of each exercise.
        prompt: tokens of the text that are given, fewer of shorter samples.
        tokens: that are to follow.
        brackets: the tokens of open and closing brackets, in pairs; at least two for them to be asked for.
        before: tokens that stand before every sequence of an exercise, such as one for its beginning.
        seed: of what is drawn.
    """

    samples: int = 64
    prompt: int = 32
    tokens: int = 16
    brackets: tuple[tuple[int, int], ...] = ()
    before: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "prompt", "tokens"):
            require_whole(name, getattr(self, name))


@suggesting_settings
@dataclass(frozen=True)
class PruneSettings:
    """Settings of `resect.prune`.

    Attributes:
        unit: what is removed as one: "block", "layer", or groups of blocks, each a collection of numbers and names.
        protected: blocks that stay, by number or name; units that hold one are not removed.
        search: one of SEARCHES.
        objective: what the search keeps low on the calibration samples: "kl" (divergence from the intact network's
            outputs), "loss" or "error"; None for the first that the task has.
        score: of one-shot, one of SCORES.
        width: of beam, and of the beam that exchange starts from, sets that are kept of each size.
        generations, offspring: of evolution.
        tried: of pairwise, how many of its model's best sets are measured.
        most_sets: of exhaustive, the most sets; pairwise solves its model exactly up to so many.
        calibration_samples: at the most, about, of the data: whole batches are taken.
        tolerance: a loss that does not matter: in points of an error rate, else in per cent of the intact value.
        sweep: find the best for smaller budgets, too.
        timed: time the network without the units, in turn with the intact one; of a latency budget it always is.
        timing_batch, timing_length: samples, and positions of a sequence (None: as in the data), of a timed pass.
        seed: of evolution, and of the order of timings.
        generation: of language models, how what is left writes is looked at; None for not at all.
    """

    unit: str | Sequence[Any] = "block"
    protected: tuple[int | str, ...] = ()
    search: str = "exchange"
    objective: str | None = None
    score: str = "kl"
    width: int = 4
    generations: int = 30
    offspring: int = 32
    tried: int = 16
    most_sets: int = 20_000
    calibration_samples: int = 512
    tolerance: float = 1.0
    sweep: bool = False
    timed: bool = True
    timing_batch: int = 1
    timing_length: int | None = None
    seed: int = 0
    generation: GenerationSettings | None = GenerationSettings()

    def __post_init__(self) -> None:
        require_one_of("search", self.search, SEARCHES)
        require_one_of("score", self.score, SCORES)
        if self.objective is not None:
            require_one_of("objective", self.objective, OBJECTIVES)
        whole = ("width", "generations", "offspring", "tried", "most_sets", "calibration_samples", "timing_batch")
        for name in (*whole, *(["timing_length"] if self.timing_length is not None else [])):
            require_whole(name, getattr(self, name))
        if not isinstance(self.tolerance, (int, float)) or not 0 <= self.tolerance <= 100:
            raise InputError(f"`tolerance` must lie between 0 and 100, got {self.tolerance!r}.")

    @property
    def called(self) -> str:
        """What one unit is called: "block", "layer" or "group"."""
        return self.unit if isinstance(self.unit, str) else "group"


@suggesting_settings
@dataclass(frozen=True)
class HealSettings:
    """How what is left of a network is healed: by a fit to the intact one, a short training, or batch norms that are
    measured again; if by several, in this order.

    Attributes:
        epochs: how often every training sample is seen; 0 for no training.
        candidates: of the best sets within the budget, how many are healed, at the most, before one is chosen.
        distill: weight of the divergence from the intact network's outputs in the loss, 0 to 1; that of the targets has
            the rest (Hinton et al. 2015).
        temperature: by which logits are divided for it.
        refit: fit linear layers and convolutions, and batch norms that these leave out, of what is left to what the
            intact network does on training samples, by least squares, unless that does no good on a quarter of them
            (`resect.pruning.refit`).
        recalibrate: measure the statistics of batch norms again on training samples, at the end.
        recipe: what else the training is told, by the names of the options of `resect train`, before its own: a peak of
            0.01 of the learning rate, and no shifts of inputs that are no images.
        seed: of the order of the samples, shifts, flips and dropout.
    """

    epochs: int = 5
    candidates: int = 3
    distill: float = 0.0
    temperature: float = 2.0
    refit: bool = False
    recalibrate: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole("epochs", self.epochs, 0)
        require_whole("candidates", self.candidates)
        for name in ("refit", "recalibrate"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"`{name}` must be True or False, got {getattr(self, name)!r}.")
        if not isinstance(self.distill, (int, float)) or not 0 <= self.distill <= 1:
            raise InputError(f"`distill` must be a weight between 0 and 1, got {self.distill!r}.")
        if not isinstance(self.temperature, (int, float)) or not 0 < self.temperature < float("inf"):
            raise InputError(f"`temperature` must be above 0, got {self.temperature!r}.")
        if not self.epochs and not self.refit and not self.recalibrate:
            raise InputError(
                "`epochs` must be at least 1 unless `refit` or `recalibrate` is asked for, got 0: nothing would heal."
            )
        known = [name for name in Recipe.names() if name not in _NO_PART]
        for name in self.recipe:
            require_one_of("recipe", name, known)
        with said_of("recipe"):
            self.training(images=True)  # says what is wrong with it

    def training(self, *, images: bool) -> Recipe | None:
        """The recipe of the training; None for no training.

        Args:
            images: the inputs are (N, C, H, W).
        """
        own = {"learning_rate": _RATE} if images else {"learning_rate": _RATE, "shift": 0}
        settings: dict[str, Any] = {**own, **self.recipe, "epochs": self.epochs, "seed": self.seed}
        return Recipe(**settings) if self.epochs else None


@dataclass(frozen=True)
class Budget:
    """How much has to go: one of these.

    Attributes:
        remove: so many units.
        params, flops, latency: the part of them that may stay, between 0 and 1.
    """

    remove: int | None = None
    params: float | None = None
    flops: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("remove", "params", "flops", "latency") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(f"`{name}`" for name in given) or "none"
            raise InputError(f"one of `remove`, `params`, `flops` and `latency` must say how much goes, got {got}.")
        if self.remove is not None:
            require_whole("remove", self.remove)
        elif not isinstance(self.asked, (int, float)) or not 0 < self.asked < 1:
            raise InputError(f"`{self.what}` must be the part that may stay, between 0 and 1, got {self.asked!r}.")

    @property
    def what(self) -> str:
        """Which of them."""
        return next(name for name in ("remove", "params", "flops", "latency") if getattr(self, name) is not None)

    @property
    def asked(self) -> float:
        """How many units go, or which part stays."""
        return float(getattr(self, self.what))

    @property
    def need(self) -> float:
        """What has to be saved, in the unit of prices: units, or a part of the whole."""
        return self.asked if self.what == "remove" else 1 - self.asked

    def levels(self, sweep: bool) -> tuple[float, ...]:
        """What has to be saved at each point of a front, rising to `need`."""
        if not sweep:
            return (self.need,)
        steps = int(self.asked) if self.what == "remove" else 10
        return tuple(self.need * (i + 1) / steps for i in range(steps))
