"""What a study found about one network, as reports read it from a record: plain tables and numbers.

Errors, damages, shares and fractions are fractions of 1, never percent. Losses are mean cross-entropies in nats.
Nothing here needs a model: a report is drawn from these objects alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import nan
from typing import Any

import pandas as pd
from scipy.stats import spearmanr

from resect.paths.measures import Effective
from resect.runs.record import Record


@dataclass(frozen=True)
class StudySubject:
    """The network under study and the samples it was measured on."""

    model: str  # the spec, e.g. "resect:resnet110-digits"
    data: str  # the data spec, e.g. "digits"
    samples: int
    classes: int | None
    blocks: int
    parameters: int
    unit: str = "block"  # "layer" for a plain network, whose layers are lesioned


@dataclass(frozen=True)
class PlainControl:
    """The plain network (no skips) beside which a residual network's deletions are read (paper, section 4.1)."""

    model: str
    intact_error: float
    deletions: pd.DataFrame  # as Study.deletions
    refused: int  # layers that cannot be deleted, because they change shape
    median_damage: float
    largest_damage: float
    largest_damage_layer: str

    def numbers(self) -> dict[str, Any]:
        """Everything but the table, as plain values."""
        return {name: value for name, value in vars(self).items() if name != "deletions"}


@dataclass(frozen=True)
class UntrainedTwin:
    """The network under study before training: the same architecture with random weights, on the same samples.

    Of one that could not be measured only `why_not` is known. Weights are drawn several times; ranges and table are of
    the first draw.
    """

    why_not: str | None = None  # a clause
    seed: int = 0
    by_share: Effective | None = None
    by_magnitude: Effective | None = None
    by_rms: Effective | None = None
    effective_depth: float | None = None  # mean path length by share, in blocks, the mean over draws
    depth_change: tuple[float, float, float] | None = None  # trained minus untrained; 95 % over draws and samples
    depths: tuple[float, ...] = ()  # mean path length of each draw
    longest: tuple[int, ...] = ()  # upper end of by_magnitude of each draw
    lengths: pd.DataFrame | None = None  # as Study.lengths

    def numbers(self) -> dict[str, Any]:
        """Everything but the table, as plain values."""
        return {name: value for name, value in asdict(replace(self, lengths=None)).items() if name != "lengths"}

    @classmethod
    def of(cls, numbers: Mapping[str, Any], lengths: pd.DataFrame | None) -> UntrainedTwin:
        """The twin from `numbers` and the table."""
        names = ("by_share", "by_magnitude", "by_rms")
        ranges = {name: Effective(**numbers[name]) for name in names if numbers[name]}
        change = _known(numbers["depth_change"]) if numbers["depth_change"] else None
        every = {name: tuple(numbers.get(name, ())) for name in ("depths", "longest")}
        return cls(**{**numbers, **ranges, **every, "depth_change": change, "lengths": lengths})


@dataclass(frozen=True)
class EnsembleAnswer:
    """Question 1: does the network behave like an ensemble at test time, and of what kind?"""

    intact_error: float
    chance_error: float | None  # 1 - frequency of the commonest class
    median_damage: float  # error without one block minus intact error
    largest_damage: float
    largest_damage_block: str
    plain_median_damage: float | None
    plain_largest_damage: float | None
    tenth: int  # how many blocks a tenth is, rounded down, but at least 1
    error_without_tenth: float  # mean over repeats
    half: int
    error_without_half: float
    tau_correlation: float | None  # Spearman rank correlation of error and Kendall tau; None without reorderings
    reorderings: int
    targets: int | None = None  # how many count; None in records that do not say
    together: dict[str, Any] | None = None  # all single deletions read at once, see resect.sweep.together


@dataclass(frozen=True)
class DepthAnswer:
    """Question 2: how deep are the effective members?"""

    mass: float
    by_share: Effective  # exact share of the gradient
    by_magnitude: Effective  # the paper's count x mean sampled norm
    by_rms: Effective  # count x root mean square of all paths' norms, by random signs
    longest: int  # the longest path, in blocks: all of them, unless some are parallel
    longest_layers: float
    missed: float | None = None  # of the norm of a sample's gradient, by the lengths of by_share; mean over samples
    by_energy: Effective | None = None  # squared norms of single paths, by random signs
    pooled: Effective | None = None  # exact shares again, samples weighing by their squared gradients
    effective_samples: float | None = None  # on which pooled shares rest (Kish)


@dataclass(frozen=True)
class GradientAnswer:
    """Question 3: how much of the gradient comes from very short members?"""

    tenth: int  # longest length, in blocks, that is at most a tenth of the longest path
    share_to_tenth: float
    quarter: int
    share_to_quarter: float
    share_full: float  # of the longest path, through every branch
    magnitude_to_tenth: float  # the same by count x mean sampled norm
    magnitude_to_quarter: float
    sum_error: float  # relative distance between the sum over all lengths and autograd's gradient
    missed_to_tenth: float | None = None  # of the norm of a sample's gradient; mean over samples
    missed_to_quarter: float | None = None


@dataclass(frozen=True)
class MultiplicityRow:
    """Question 4, for one network: multiplicity beside depth and width."""

    model: str
    blocks: int
    layers: int
    parameters: int
    error: float  # of the intact network
    log2_paths: float  # raw multiplicity, 2^n, as its logarithm
    log2_effective_paths: float  # 2 to the power of the entropy, in bits, of the paths' shares
    effective_depth: float  # mean path length by share, in blocks
    effective_depth_layers: float


@dataclass(frozen=True)
class Step:
    """From one network of question 4 to that with the next larger effective number of paths.

    Changes are the latter minus the former, with the limits of an interval; NaN where it is not known. All changes
    of a kind, of errors or of paths, hold at once in 95 %.
    """

    fewer: tuple[int, ...]  # rows of Answers.multiplicity: several if they are the same but for the seed
    more: tuple[int, ...]
    error: tuple[float, float, float]
    paths: tuple[float, float, float]  # of log2_effective_paths

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Step:
        """The step from its plain values."""
        changes = {name: _known(numbers[name]) for name in ("error", "paths")}
        return cls(tuple(numbers["fewer"]), tuple(numbers["more"]), **changes)


@dataclass(frozen=True)
class Answers:
    """The paper's four questions, answered for the network at hand."""

    ensemble: EnsembleAnswer
    depth: DepthAnswer | None  # None for a plain network: it has one path
    gradient: GradientAnswer | None
    multiplicity: tuple[MultiplicityRow, ...]  # the network itself, then those of --beside
    trend: tuple[Step, ...] | None = None  # in the order of effective paths; None in records that do not say

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Answers:
        """The answers from the numbers of `as_dict`."""
        depth, gradient = numbers["depth"], numbers["gradient"]
        if depth:
            names = ("by_share", "by_magnitude", "by_rms", "by_energy", "pooled")
            ranges = {name: Effective(**depth[name]) for name in names if depth.get(name)}
            depth = DepthAnswer(**{**depth, **ranges})
        return cls(
            ensemble=EnsembleAnswer(**numbers["ensemble"]),
            depth=depth,
            gradient=GradientAnswer(**gradient) if gradient else None,
            multiplicity=tuple(MultiplicityRow(**row) for row in numbers["multiplicity"]),
            trend=None if numbers.get("trend") is None else tuple(map(Step.of, numbers["trend"])),
        )

    def as_dict(self) -> dict[str, Any]:
        """The same numbers as nested plain dictionaries, ready for JSON."""
        return asdict(self)


def tau_correlation(reorderings: pd.DataFrame) -> float | None:
    """Spearman's rank correlation of error and Kendall tau; None where all errors, or all orders, are equal.

    Args:
        reorderings: one row each: `kendall_tau`, `error`.
    """
    if reorderings["error"].nunique() < 2 or reorderings["kendall_tau"].nunique() < 2:
        return None
    return float(spearmanr(reorderings["kendall_tau"], reorderings["error"]).statistic)


def rise_of(random: pd.DataFrame, intact: float) -> tuple[int, int]:
    """The numbers of random deletions by which the mean error has reached a tenth, and nine tenths, of its whole rise.

    Args:
        random: one row a deletion: `deleted`, `error`.
        intact: the error without any.
    """
    means = random.groupby("deleted")["error"].mean()
    reached = (means.to_numpy() - intact) / (float(means.max()) - intact)
    early, late = (int(means.index[int((reached >= part).argmax())]) for part in (0.1, 0.9))
    return early, late


@dataclass(frozen=True)
class Study:
    """Everything one study measured.

    Attributes:
        blocks: one row a block: `block` (index), `name`, `kind` ("identity", "scaled", "projection", "gated", "hyper",
            "layer"), `span`, `layers`, `parameters`, `downsampling` (bool: a projection that changes the shape).
        deletions: one row a block: `block`, `name`, `kind`, `downsampling`, `error`, `loss`, `damage`.
        random: one row a random deletion: `deleted` (how many blocks), `repeat`, `error`, `loss`.
        reorderings: one row a reordering: `swaps`, `repeat`, `kendall_tau`, `error`, `loss`.
        lengths: one row a path length 0..n: `length` (blocks), `layers`, `log2_paths`, `path_fraction`, `share`
            (exact, may be negative), `norm` (mean over samples of the norm of the summed gradient of all paths of
            this length), from sampled single paths `path_norm` (mean), `sampled` (norms) and `magnitude` (count x mean
            norm, normalised to sum to 1), and from random signs `path_norm_rms` and `magnitude_rms`; `..._low` and
            `..._high` are 95 % intervals. None for a plain network.
    """

    subject: StudySubject
    answers: Answers
    blocks: pd.DataFrame
    deletions: pd.DataFrame
    random: pd.DataFrame
    reorderings: pd.DataFrame
    lengths: pd.DataFrame | None
    plain: PlainControl | None
    intact_loss: float
    environment: dict[str, Any]
    seconds: float
    asked: dict[str, Any]
    command: str
    warnings: tuple[str, ...] = ()
    capture_seconds: float | None = None
    untrained: UntrainedTwin | None = None  # None where nobody asked, and of a plain network
    spared: tuple[str, str | None] | None = None  # what could go, and the command; None of a plain network

    @classmethod
    def of(cls, record: Record) -> Study:
        """The study that a record holds."""
        found, tables = record.found, record.tables
        control, twin = found["control"], found.get("untrained")
        environment, used = dict(record.environment), found.get("normalization")
        read = {"normalize": f"{used['mean_std']}, {used['origin']}"} if used else {}
        read |= {"prepared": found["prepared"]} if "prepared" in found else {}
        return cls(
            subject=StudySubject(**found["subject"]),
            answers=Answers.of(found["answers"]),
            blocks=tables["blocks"],
            deletions=tables["deletions"],
            random=tables["random"],
            reorderings=tables["reorderings"],
            lengths=tables.get("lengths"),
            plain=PlainControl(deletions=tables["control"], **control) if control else None,
            intact_loss=found["intact_loss"],
            seconds=environment.pop("seconds"),
            capture_seconds=environment.pop("capture_seconds", None),
            environment=environment,
            asked={**record.asked, **read},
            command=record.command,
            warnings=record.warnings,
            untrained=UntrainedTwin.of(twin, tables.get("untrained")) if twin else None,
            spared=(spare["said"], spare["command"]) if (spare := found.get("spared")) else None,
        )


def _known(change: Sequence[float | None]) -> tuple[float, float, float]:
    """A change with its limits; JSON has None for NaN."""
    value, low, high = (nan if number is None else number for number in change)
    return value, low, high
