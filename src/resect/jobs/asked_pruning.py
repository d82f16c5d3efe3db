"""What `resect scores` and `resect prune` can be asked, known without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from resect.data.names import require_data_spec
from resect.errors import InputError, require_one_of
from resect.graph.decisions import Unit
from resect.jobs.asked import Asked
from resect.measuring.meaning import require_task
from resect.models.names import Value
from resect.pruning.options import OF_SEARCHES, OPTIONS_OF
from resect.pruning.settings import (
    FITTED,
    SCORES,
    Budget,
    GenerationSettings,
    HealSettings,
    PruneSettings,
)

_BUDGETS = ("remove", "params", "flops", "latency")


@dataclass(frozen=True)
class ScoresAsked(Asked):
    """Which scores are set side by side.

    Attributes:
        scores: of SCORES; none for all that the task has.
        task: what the targets mean, by name; None to have it guessed.
    """

    verb: ClassVar[str] = "scores"
    scores: tuple[str, ...] = ()
    batch_size: int = 100
    task: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", require_task(self.task))
        for name in self.scores:
            require_one_of("scores", name, SCORES)
        super().__post_init__()


@dataclass(frozen=True)
class PruneAsked(Asked):
    """What has to go, and how it is looked for.

    Attributes:
        remove, params, flops, latency: the budget, one of them, as in `Budget`.
        without: blocks that are removed instead, by number or name, without a search.
        plan: a file that an earlier run wrote, whose blocks are removed instead.
        groups: of blocks, each by numbers and names, instead of `unit`.
        fits: formats of exports that have to hold what is found, of FITTED.
        calibration: a data spec whose samples choose; by default a part of those of the data does.
        unit, search, objective, score, width, generations, offspring, tried, most_sets, calibration_samples, tolerance,
            sweep, timed, timing_batch, timing_length: as in `PruneSettings`.
        heal: epochs of a training of the best candidates, before one is chosen; None for none.
        heal_data: a data spec whose training samples heal; None for those of the data.
        heal_settings: of the recipe of that training, by the names of the options of `resect train`.
        candidates: how many are healed, at the most; None for 3, or 1 where there is no search.
        distill, temperature, refit, recalibrate: as in `HealSettings`; `refit` and `recalibrate` need no training.
        prompts: how many samples of a text are continued; 0 to look at no writing.
        new_tokens: how many tokens each is continued by.
        batch_size: None for what fits into memory, at most 64.
        task: what the targets mean, by name; None to have it guessed.
    """

    verb: ClassVar[str] = "prune"
    remove: int | None = None
    params: float | None = None
    flops: float | None = None
    latency: float | None = None
    without: tuple[int | str, ...] | None = None
    plan: Path | None = None
    unit: Unit = "block"
    groups: tuple[tuple[int | str, ...], ...] = ()
    fits: tuple[str, ...] = ()
    search: str = PruneSettings.search
    objective: str | None = None
    score: str = PruneSettings.score
    width: int = PruneSettings.width
    generations: int = PruneSettings.generations
    offspring: int = PruneSettings.offspring
    tried: int = PruneSettings.tried
    most_sets: int = PruneSettings.most_sets
    calibration: str | None = None
    calibration_samples: int = PruneSettings.calibration_samples
    tolerance: float = PruneSettings.tolerance
    sweep: bool = False
    timed: bool = True
    timing_batch: int = PruneSettings.timing_batch
    timing_length: int | None = None
    heal: int | None = None
    heal_data: str | None = None
    heal_settings: Mapping[str, Value] = field(default_factory=dict)
    candidates: int | None = None
    distill: float = HealSettings.distill
    temperature: float | None = None
    refit: bool = False
    recalibrate: bool = False
    prompts: int = GenerationSettings.samples
    new_tokens: int = GenerationSettings.tokens
    batch_size: int | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", require_task(self.task))
        ways = [*_BUDGETS, "without", "plan"]
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(f"`{name}`" for name in given) or "none"
            raise InputError(f"one of {', '.join(f'`{name}`' for name in ways)} must say what goes, got {got}.")
        for data in (self.calibration, self.heal_data):
            if data is not None:
                require_data_spec(data)
        for kind in self.fits:
            require_one_of("fits", kind, FITTED)
        if self.budget is None and self.without == ():
            raise InputError("`without` must name at least one block, got none.")
        self.settings(), self.healing()  # which say what is wrong with them
        super().__post_init__()

    def idle(self) -> dict[str, str]:
        """What other searches look at, what no search needs, what times, and what heals."""
        here = f"but here it is {self.search}"
        idle = {
            name: f"of the search{'es' if len(searches) > 1 else ''} {', '.join(searches)}, {here}"
            for name, searches in OPTIONS_OF.items()
            if self.search not in searches
        }
        if self.budget is None:
            idle |= dict.fromkeys(OF_SEARCHES, "of a search, but what goes is given")
        if self.groups:
            idle["unit"] = "without groups of one's own"
        if self.calibration is not None:
            idle["calibration_samples"] = "of parting the data, but `calibration` names others"
        if not self.prompts:
            idle["new_tokens"] = "of continuing prompts, but `prompts` is 0"
        if self.heal is None:
            idle |= dict.fromkeys(("heal_settings", "distill"), "of a training, but `heal` is not given")
        if self.healing() is None:
            idle |= dict.fromkeys(
                ("heal_data", "candidates"), "of healing, which `heal`, `refit` or `recalibrate` asks for"
            )
        if not self.distill:
            idle["temperature"] = "of distillation, but `distill` is 0"
        if self.source.module is not None or self.source.batch_dim:
            whole = ("calibration", "heal", "refit", "recalibrate")
            idle |= dict.fromkeys(whole, "for whole models whose inputs have the samples first")
        if not self.timed:
            idle |= dict.fromkeys(("timing_batch", "timing_length"), "of timing, but `timed` is off")
        return idle

    @property
    def budget(self) -> Budget | None:
        """How much has to go; None where it is said what."""
        if self.without is not None or self.plan is not None:
            return None
        return Budget(self.remove, self.params, self.flops, self.latency)

    def settings(self) -> PruneSettings:
        """How it is looked for."""
        own: dict[str, Any] = {
            name: getattr(self, name) for name in PruneSettings.__dataclass_fields__ if name in vars(self)
        }
        own |= {"unit": self.groups or self.unit, "seed": self.source.seed}
        writes = GenerationSettings(self.prompts or 1, tokens=self.new_tokens, seed=self.source.seed)
        own["generation"] = writes if self.prompts else None
        return PruneSettings(**own)

    def healing(self) -> HealSettings | None:
        """How candidates are healed; None if they are not."""
        if self.heal is None and not self.refit and not self.recalibrate:
            return None
        return HealSettings(
            epochs=0 if self.heal is None else self.heal,
            candidates=HealSettings.candidates if self.candidates is None else self.candidates,
            distill=self.distill,
            temperature=HealSettings.temperature if self.temperature is None else self.temperature,
            refit=self.refit,
            recalibrate=self.recalibrate,
            recipe=self.heal_settings,
            seed=self.source.seed,
        )
