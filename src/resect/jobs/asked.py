"""What verbs can be asked: options, their defaults, and what does not go together. All of it is known without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from resect.data.names import require_data_spec
from resect.errors import InputError, SpecError, closest, require_one_of
from resect.graph.decisions import Combine, Gates, Removal, Unit
from resect.jobs.paper import CLAIMS
from resect.jobs.source import Source, split_spec
from resect.measuring.meaning import require_task
from resect.models.names import SHIPPED_FOR, SPECIFIC, control_for, is_shipped, require_model_spec, shipped_for
from resect.paths.precision import PRECISION, require_precision
from resect.runs.command import command_line
from resect.sweep.settings import PLANS, PLANS_OF, LesionSettings

_NUMBERS = tuple(claim.number for claim in CLAIMS)
MODEL, DATA = "resect:resnet110-digits", "digits"  # of a study
MEMORY_FORMATS = ("auto", "contiguous", "channels-last")


@dataclass(frozen=True)
class Asked:
    """What a verb is asked to do."""

    verb: ClassVar[str]
    source: Source

    def __post_init__(self) -> None:
        self._refuse_idle(given_options(self))

    def idle(self) -> dict[str, str]:
        """The options that mean nothing beside the others, and what they are options of."""
        return {}

    def _refuse_idle(self, given: Collection[str]) -> None:
        for name, why in self.idle().items():
            if name in given:
                raise InputError(f"`{name}` is an option {why}. Leave it out.")

    def asked(self) -> dict[str, Any]:
        """The whole configuration, flat."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "source"}
        return {**asdict(self.source), **own}

    def command(self) -> str:
        """The command that does the same; what is as by default is left out."""
        options = {**given_options(self.source), **given_options(self)}
        arguments = [self.source.model, *([self.source.data] if self.source.data else [])]
        return command_line(self.verb, arguments, options)

    @classmethod
    def from_options(cls, model: str, data: str | None, options: Mapping[str, Any]) -> Self:
        """A job from a network, data, and options of either the source or the job.

        Raises:
            InputError: there is no such option, or one is given that means nothing beside the others.
        """
        own, of_source = ({field.name for field in fields(kind)} for kind in (cls, Source))
        unknown = sorted(set(options) - (own | of_source) | ({"source", "model", "data"} & set(options)))
        if unknown:
            known = ", ".join(sorted((own | of_source) - {"source", "model", "data"}))
            likely = closest(unknown[0], own | of_source)
            raise InputError(f"`{unknown[0]}` must be an option of {cls.verb}, one of {known}.{likely}")
        source = Source(model, data, **{name: value for name, value in options.items() if name in of_source})
        asked = cls(source, **{name: value for name, value in options.items() if name in own})
        asked._refuse_idle(
            [name for name, value in options.items() if value is not None and value is not False]
        )  # as by default, too
        return asked


@dataclass(frozen=True)
class LesionAsked(Asked):
    """What a sweep runs, and in which batches.

    Attributes:
        plan: one of PLANS.
        without: delete just these blocks together, by number or name, instead of a plan.
        removal: what stands for a deleted branch.
        counts: of random and random-repeated, the numbers of blocks; of windows, reversed and parallel, the lengths; of
            shuffled, the numbers of swaps.
        unit, middle: of windows, reversed and parallel: what is counted, and whether one span of each length is enough.
        combine: of parallel, the "mean" of the outputs or the "sum" of what they add.
        repeats: of random, random-repeated and shuffled.
        orders: of shapley, pairs of orders.
        removed: of ensemble, blocks missing in every member; None for a tenth.
        members: of ensemble.
        metrics, precision, compile: as in `LesionSettings`.
        task: what the targets mean, by name; None to have it guessed.
        batch_size: None for the fastest of several.
        memory: bytes for values; None for half of what is free.
        memory_format: "auto" for the faster, "contiguous" or "channels-last".
        plain: lesion the layers of a plain network.
    """

    verb: ClassVar[str] = "lesion"
    plan: str = "single"
    without: tuple[int | str, ...] | None = None
    removal: Removal = "zero"
    counts: tuple[int, ...] | None = None
    unit: Unit = "block"
    middle: bool = False
    combine: Combine = "mean"
    repeats: int = 5
    orders: int = 20
    removed: int | None = None
    members: int = 32
    metrics: tuple[str, ...] = LesionSettings.metrics  # type: ignore[assignment]  # names only
    precision: float | None = None
    batch_size: int | None = None
    memory: int | None = None
    memory_format: str = "auto"
    compile: bool = False
    plain: bool = False
    task: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", require_task(self.task))
        if isinstance(self.metrics, str):
            object.__setattr__(self, "metrics", (self.metrics,))
        self.settings(channels_last=False)  # says what is wrong with metrics and precision
        require_one_of("plan", self.plan, PLANS)
        if self.without is not None and self.plan != "single":
            raise InputError(
                f"`without` stands in the place of a plan, but `plan` is {self.plan!r}. Leave out one of them."
            )
        super().__post_init__()

    def idle(self) -> dict[str, str]:
        """The options that this plan makes nothing of."""
        here = f"the plan is {self.plan}" if self.without is None else "`without` stands in the place of a plan"
        return {
            name: f"of the plan{'s' if len(plans) > 1 else ''} {', '.join(plans)}, but here {here}"
            for name, plans in PLANS_OF.items()
            if self.plan not in plans
        }

    def settings(self, *, channels_last: bool) -> LesionSettings:
        """How the sweep runs."""
        if any(callable(metric) for metric in self.metrics):
            raise InputError("`metrics` of a job must be names; a function of your own goes to resect.lesion.")
        return LesionSettings(self.metrics, self.precision, channels_last, self.compile, self.source.seed)


@dataclass(frozen=True)
class PathsAsked(Asked):
    """What to measure.

    Attributes:
        draws: sampled single paths of each length and batch; 0 for none.
        sweeps: random signs a batch; 0 for none.
        strongest: how many of the strongest paths to search for; 0 for none.
        pairs: the share through each pair of blocks, too.
        max_length: the longest paths that are told apart.
        at, of, memory, gates, precision: as in `PathSettings`.
        mass: of the effective range.
        checkpoints: a folder of weights of this network, in the order of the numbers in their names.
        batch_size: samples at a time; the strongest paths are those of the first batch.
        task: what the targets mean, by name; None to have it guessed.
    """

    verb: ClassVar[str] = "paths"
    draws: int = 10
    sweeps: int = 4
    strongest: int = 10
    pairs: bool = False
    max_length: int | None = None
    at: str | int = "auto"
    of: str | int = "loss"
    mass: float = 0.95
    memory: int | None = None
    gates: Gates = "differentiated"
    precision: float | None = PRECISION
    checkpoints: Path | None = None
    batch_size: int = 32
    task: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", require_task(self.task))
        require_precision(self.precision)
        super().__post_init__()

    def idle(self) -> dict[str, str]:
        """Random signs serve all lengths at once: where shares stop, there is no room. A part has no checkpoints."""
        idle = {} if self.sweeps else {"precision": "of random signs, but `sweeps` is 0"}
        if self.max_length is not None and self.sweeps > 0:
            idle |= dict.fromkeys(("sweeps", "precision"), "of measuring all lengths, but `max_length` is given")
        if self.source.module is not None:
            idle["checkpoints"] = "for weights of the whole model, but `module` takes a part of it"
        return idle


@dataclass(frozen=True)
class StudyAsked(Asked):
    """What a study measures, and how much.

    Attributes:
        beside: SPEC or SPEC@FILE of networks to set beside it; a resect: network without weights is trained first.
        control: SPEC or SPEC@FILE of the plain network; by default the VGG-15 shipped for the data.
        untrained: measure the paths of the same architecture with random weights, too, where it can be built.
        plain: take the network as a plain one, layer by layer.
        retrain: train the shipped networks anew first.
        repeats: random deletions for each number of blocks, and reorderings for each number of swaps.
        gradient_samples: samples for the exact shares, in batches of `gradient_batch`.
        draws: sampled single paths of each length and batch.
        sweeps: random signs a batch, for the root mean square over all paths.
        path_samples: samples for both, in batches of `path_batch`.
    """

    verb: ClassVar[str] = "study"
    beside: tuple[str, ...] = ()
    control: str | None = None
    untrained: bool = True
    plain: bool = False
    retrain: bool = False
    repeats: int = 10
    gradient_samples: int = 64
    gradient_batch: int = 32
    draws: int = 20
    sweeps: int = 8
    path_samples: int = 32
    path_batch: int = 16
    batch_size: int = 500

    def __post_init__(self) -> None:
        if isinstance(self.beside, str):
            raise InputError(f"`beside` must be a tuple of networks, got the text {self.beside!r}.")
        if self.retrain and (self.source.checkpoint or self.source.model_args or self.source.normalize):
            raise InputError(
                "`--retrain` trains by the shipped recipe: leave out --checkpoint, --model-arg and --normalize."
            )
        kind = (self.source.data or "").partition(":")[0]
        if self.control is None and not self.plain:
            object.__setattr__(self, "control", control_for(kind))
        for text in self._others:
            require_model_spec(split_spec(text)[0])
        super().__post_init__()

    @property
    def _others(self) -> list[str]:
        return [*self.beside, *([self.control] if self.control else [])]

    def idle(self) -> dict[str, str]:
        """Measures of paths, where no network has more than one; and training, where no network is shipped."""
        names = ["draws", "sweeps", "path_samples", "path_batch", "untrained"] if self.plain else []
        names += ["gradient_samples", "gradient_batch"] if self.plain and not self.beside else []
        idle = dict.fromkeys(names, "of networks with residual joins, but `plain` takes this one layer by layer")
        if not any(is_shipped(split_spec(text)[0]) for text in (self.source.model, *self._others)):
            idle["retrain"] = "for shipped networks, but none is named here"
        return idle


@dataclass(frozen=True)
class EvaluateAsked(Asked):
    """Networks to test on the same samples; the source is the first.

    Attributes:
        others: SPEC or SPEC@FILE of the other networks, each set beside the first.
        task: what the targets mean, by name; None to have it guessed.
    """

    verb: ClassVar[str] = "evaluate"
    others: tuple[str, ...] = ()
    batch_size: int = 500
    task: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", require_task(self.task))
        for text in self.others:
            require_model_spec(split_spec(text)[0])
        super().__post_init__()

    @classmethod
    def of(cls, data: str, models: Sequence[str], options: Mapping[str, Any]) -> Self:
        """The job for SPEC or SPEC@FILE of one network or more.

        Raises:
            SpecError: no network is named.
            InputError: there is no such option.
        """
        if not models:
            raise SpecError("`models` must name at least one network, got none.")
        for name in ("model_args", "module", "batch_dim"):
            if name in options:
                raise InputError(f"`{name}` is no option of evaluate: name networks that need none, or py: factories.")
        spec, checkpoint = split_spec(models[0])
        if isinstance(data, str) and data.partition(":")[0] in SPECIFIC:
            raise SpecError(f"evaluate takes the data first and then networks, got {data} first.")
        return cls.from_options(spec, data, {"checkpoint": checkpoint, "others": tuple(models[1:]), **options})

    @property
    def first(self) -> str:
        """The first network, as it was named."""
        checkpoint = self.source.checkpoint
        return self.source.model if checkpoint is None else f"{self.source.model}@{checkpoint}"

    def command(self) -> str:
        """The command that does the same: data first, then the networks."""
        options = {
            **given_options(self.source),
            **given_options(self),
            "checkpoint": None,
            "others": None,
        }  # named as networks
        return command_line(self.verb, [str(self.source.data), self.first, *self.others], options)


@dataclass(frozen=True)
class ReproduceAsked(Asked):
    """Which claims of the paper are measured again, on which network: by default the shipped one of the data.

    Attributes:
        claims: their numbers, e.g. ("1", "12"); a number stands for all of its parts (12a, 12b ...). All if none is
            given.
        repeats: as of a study, and random repetitions for each number of blocks.
        train: train the networks of other depths, which have no weights, into the run folder (claim 1b).
    """

    verb: ClassVar[str] = "reproduce"
    claims: tuple[str, ...] = ()
    repeats: int = 10
    batch_size: int = 500
    train: bool = False

    def __post_init__(self) -> None:
        known = {number.rstrip("abc") for number in _NUMBERS}
        if self.train and self.kind not in SHIPPED_FOR:
            raise InputError(f"`train` has recipes for {' and '.join(SHIPPED_FOR)}, but the data are {self.kind}.")
        for claim in self.claims:
            if claim not in _NUMBERS and claim not in known and claim != "all":
                raise InputError(f"`claims` must be of {', '.join(_NUMBERS)}, or all, got {claim!r}.")
        super().__post_init__()

    @property
    def kind(self) -> str:
        """Of the data: "digits", "cifar10", "folder", ..."""
        return (self.source.data or "").partition(":")[0]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The numbers of all claims that are asked for, in the order of the paper."""
        if not self.claims or "all" in self.claims:
            return _NUMBERS
        return tuple(n for n in _NUMBERS if n in self.claims or n.rstrip("abc") in self.claims)

    @classmethod
    def of(cls, claims: Sequence[str], data: str, options: Mapping[str, Any]) -> Self:
        """The job for claims and data.

        Args:
            options: of the source or the job by name, and "model", which data need for which none is shipped.

        Raises:
            InputError: no network is named for such data, or there is no such option.
        """
        require_data_spec(data)
        more = {name: value for name, value in options.items() if name != "model"}
        model = options.get("model") or shipped_for(data)
        if model is None:
            kinds = " and ".join(SHIPPED_FOR)
            raise InputError(f"`model` must name a network for {data}: they are shipped for {kinds} only.")
        return cls.from_options(model, data, {"claims": tuple(claims), **more})

    def command(self) -> str:
        """The command that does the same."""
        options = {**given_options(self.source), **given_options(self), "claims": None}
        data, model = self.source.data or "", self.source.model
        named = {"data": None if data == DATA else data, "model": None if model == shipped_for(data) else model}
        return command_line(self.verb, self.claims, {**named, **options})


def given_options(holder: Any) -> dict[str, Any]:
    """The fields of a source or a job that differ from their defaults."""
    own = [field for field in fields(holder) if field.name not in ("source", "model", "data")]
    return {field.name: getattr(holder, field.name) for field in own if getattr(holder, field.name) != _default(field)}


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
