"""Several networks in the order of their effective paths: which steps from one to the next their samples can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import sqrt

import numpy as np
from scipy.special import stdtrit

from resect.digest import key_digest
from resect.jobs.findings import MultiplicityRow, Step
from resect.jobs.source import Source
from resect.measuring.statistics import bootstrap_interval, paired_error_interval
from resect.models.names import bare_name, is_shipped
from resect.models.specs import card_beside, load_card
from resect.paths.measures import log2_counts, log2_effective
from resect.paths.spectrum import PathSpectrum

_RESAMPLES = 1000


@dataclass(frozen=True)
class Compared:
    """One network of a study.

    Attributes:
        row: its numbers.
        training: the same for networks that are the same but for the seed of their training.
        errors: (N,) of the intact network, on the samples that all networks see.
        weights: (N,) how many targets of each count.
        spectrum: None of a plain network, which has one path.
    """

    row: MultiplicityRow
    training: str
    errors: np.ndarray
    weights: np.ndarray
    spectrum: PathSpectrum | None

    def log2_paths(self, counts: np.ndarray) -> np.ndarray:
        """(R,) the logarithm of the effective number of paths if sample i counts counts[r, i] times."""
        if self.spectrum is None:
            return np.zeros(len(counts))
        shares, within = self.spectrum.shares, log2_counts(self.spectrum.counts)
        known = np.isfinite(shares).all(1)
        sums = counts[:, known] @ shares[known]
        return np.array([log2_effective(own, within) if own.sum() > 0 else np.nan for own in sums])


def training_of(source: Source) -> str:
    """What is the same for all networks of one architecture and one training, whatever its seed."""
    spec, card = source.model, None
    if is_shipped(spec):
        card = load_card(spec.removeprefix("resect:"))
        spec = f"resect:{bare_name(spec.removeprefix('resect:'))}"
    elif source.checkpoint:
        card = card_beside(source.checkpoint)
    asked = dict(card.asked) if card else {}
    if isinstance(recipe := asked.get("recipe"), dict):
        asked["recipe"] = {name: value for name, value in recipe.items() if name != "seed"}
    return key_digest({"model": spec, "model_args": source.model_args, "asked": asked})


def steps(networks: Sequence[Compared], level: float = 0.95) -> tuple[Step, ...]:
    """The changes from each network to the one with the next larger effective number of paths.

    Networks that are the same but for the seed count as one, whose numbers are their means. All intervals of a kind
    hold at once with the probability `level` (Bonferroni). They are paired over samples and, where a network was
    trained several times, reach as far as Student's t interval over trainings with a pooled variance does.
    """
    places: dict[str, list[int]] = {}
    for i, network in enumerate(networks):
        places.setdefault(network.training, []).append(i)
    groups = [_Group(tuple(own), [networks[i] for i in own]) for own in places.values()]
    groups.sort(key=lambda group: (group.paths.mean(), group.error.mean()))
    each = 1 - (1 - level) / max(1, len(groups) - 1)
    samples = next((len(n.spectrum.shares) for n in networks if n.spectrum), 1)
    draw = np.random.default_rng(0)
    counts = draw.multinomial(samples, np.full(samples, 1 / samples), size=_RESAMPLES)
    return tuple(Step(a.rows, b.rows, _error(a, b, each), _paths(a, b, each, counts)) for a, b in pairwise(groups))


@dataclass(frozen=True)
class _Group:
    """Networks that are the same but for the seed, and which rows of the comparison they are."""

    rows: tuple[int, ...]
    networks: Sequence[Compared]

    @cached_property
    def errors(self) -> np.ndarray:
        """(trainings, N) of the samples with targets that count."""
        return np.stack([network.errors[network.weights > 0] for network in self.networks])

    @cached_property
    def weights(self) -> np.ndarray:
        """(N,) how many those are."""
        every = self.networks[0].weights
        return np.asarray(every[every > 0], dtype=np.float64)

    @cached_property
    def error(self) -> np.ndarray:
        """(trainings,)"""
        return np.array([network.row.error for network in self.networks])

    @cached_property
    def paths(self) -> np.ndarray:
        """(trainings,) log2 of the effective number of paths."""
        return np.array([network.row.log2_effective_paths for network in self.networks])

    def drawn(self, counts: np.ndarray) -> np.ndarray:
        """(R,) the same on resamples, the mean over trainings."""
        return np.asarray(np.mean([network.log2_paths(counts) for network in self.networks], axis=0))


def _error(fewer: _Group, more: _Group, level: float) -> tuple[float, float, float]:
    changes = more.errors.mean(0) - fewer.errors.mean(0)
    whole = set(np.unique(changes)) <= {-1.0, 0.0, 1.0} and np.ptp(more.weights) == 0
    if len(fewer.rows) == len(more.rows) == 1 and whole:
        low, high = paired_error_interval([(changes > 0).sum()], [(changes < 0).sum()], len(changes), level)
    else:
        low, high = bootstrap_interval(changes[None], more.weights, level)
    change = float(more.error.mean() - fewer.error.mean())
    return _wider(change, float(low[0]), float(high[0]), fewer.error, more.error, level)


def _paths(fewer: _Group, more: _Group, level: float, counts: np.ndarray) -> tuple[float, float, float]:
    drawn, low, high = more.drawn(counts) - fewer.drawn(counts), np.nan, np.nan
    if counts.shape[1] > 1 and np.isfinite(drawn).all():
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    change = float(more.paths.mean() - fewer.paths.mean())
    return _wider(change, float(low), float(high), fewer.paths, more.paths, level)


def _wider(
    change: float, low: float, high: float, fewer: np.ndarray, more: np.ndarray, level: float
) -> tuple[float, float, float]:
    """A change with its interval over samples, as wide as that over trainings where that is wider."""
    freedom = len(fewer) + len(more) - 2
    if freedom:
        squares = sum(float(np.square(own - own.mean()).sum()) for own in (fewer, more))
        reach = float(stdtrit(freedom, (1 + level) / 2)) * sqrt(squares / freedom * (1 / len(fewer) + 1 / len(more)))
        low, high = min(low, change - reach), max(high, change + reach)
    return change, low, high
