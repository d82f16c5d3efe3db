"""What a sweep found: per-sample outcomes, their table with intervals, and what can be read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resect.errors import InputError, whole_number
from resect.figures.shown import Shown
from resect.measuring.chance import no_better_than_chance
from resect.measuring.clusters import clustered_rate_interval
from resect.measuring.crossed import crossed_interval
from resect.measuring.many import benjamini_hochberg, holm
from resect.measuring.meaning import CLASSIFIED, Meaning
from resect.measuring.metrics import chance_error
from resect.measuring.results import require_alike
from resect.measuring.statistics import bootstrap_interval, mcnemar, paired_error_interval
from resect.sweep.plans import Plan
from resect.words import decimal, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of metrics that compare with the intact network already: its own value, the least and the largest one.
_BOUNDED = {"agreement": (1.0, 0.0, 1.0), "kl": (0.0, 0.0, np.inf)}
_BY_SAMPLE = ("values", "references", "intact")
_SATURATED = 0.95  # of the way from the intact error to that of chance


@dataclass(frozen=True, repr=False)
class LesionResult(Shown):
    """Outcomes of a plan, sample by sample. N samples; float32 throughout.

    Attributes:
        plan: what was run.
        values: per metric (lesions, N). "error": 1 where a sample is classified wrongly (for sequences, the fraction
            of wrong positions); "loss": cross-entropy in nats; "agreement": 1 where the prediction is the intact
            network's; "kl": divergence from its output distribution, nats. NaN where a lesion was stopped before.
        references: per metric (references of the plan, N).
        intact: per metric (N,), of the intact network.
        targets: (N,) classes; None for sequences, and where there is not one of them a sample.
        weights: (N,) the number of counted positions of every sample, 1 for single targets. Means over samples are
            weighted by it, so that those of sequences are means over tokens.
        meaning: what "error" and "loss" are; by default those of classification.
    """

    plan: Plan
    values: Mapping[str, np.ndarray]
    references: Mapping[str, np.ndarray]
    intact: Mapping[str, np.ndarray]
    targets: np.ndarray | None
    weights: np.ndarray
    meaning: Meaning = CLASSIFIED

    @classmethod
    def joined(cls, parts: Sequence[LesionResult]) -> LesionResult:
        """The outcomes of one plan on other samples each, as one; InputError if the plans or the metrics differ."""
        require_alike(parts, "plan", "metrics", "meaning")

        def join(field: str) -> dict[str, np.ndarray]:
            return {m: np.concatenate([getattr(p, field)[m] for p in parts], axis=-1) for m in parts[0].values}

        targets = [part.targets for part in parts if part.targets is not None]
        return cls(
            parts[0].plan,
            values=join("values"),
            references=join("references"),
            intact=join("intact"),
            targets=np.concatenate(targets) if len(targets) == len(parts) else None,
            weights=np.concatenate([part.weights for part in parts]),
            meaning=parts[0].meaning,
        )

    def on(self, samples: slice | np.ndarray) -> LesionResult:
        """The same outcomes on some of the samples."""
        parts = {name: {m: v[..., samples] for m, v in getattr(self, name).items()} for name in _BY_SAMPLE}
        targets = None if self.targets is None else self.targets[samples]
        return replace(self, **parts, targets=targets, weights=self.weights[samples])  # type: ignore[arg-type]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that were measured."""
        return tuple(self.values)

    @property
    def main_metric(self) -> str:
        """The metric by which pairs are compared: the loss, or else the first."""
        return "loss" if "loss" in self.values else self.metrics[0]

    @property
    def errors(self) -> np.ndarray:
        """(lesions, N) the values of "error"."""
        return self._of("error")

    @property
    def losses(self) -> np.ndarray:
        """(lesions, N) the values of "loss"."""
        return self._of("loss")

    @property
    def intact_error(self) -> float:
        """Mean error of the intact network, 0 to 1 if it is a rate."""
        return self.intact_mean("error")

    @property
    def intact_loss(self) -> float:
        """Mean loss of the intact network, in nats if it is a cross-entropy."""
        return self.intact_mean("loss")

    @property
    def samples(self) -> int:
        """How many samples the intact network ran on."""
        return len(self.weights)

    @property
    def cut_short(self) -> bool:
        """Whether some lesions ran on fewer samples than others, as they were sure enough."""
        return any(bool(np.isnan(values).any()) for values in self.values.values())

    def _of(self, metric: str) -> np.ndarray:
        if metric not in self.values:
            raise InputError(f"`metric` must be one that was measured, {', '.join(self.values)}, got {metric!r}.")
        return self.values[metric]

    def intact_mean(self, metric: str) -> float:
        """The mean of a metric over the samples of the intact network."""
        self._of(metric)
        return float(_mean(self.intact[metric][None], self.weights)[0])

    def means(self, metric: str) -> np.ndarray:
        """(lesions,) float64, the mean of a metric over the samples that each lesion ran on."""
        return _mean(self._of(metric), self.weights)

    def reference_means(self, metric: str) -> np.ndarray:
        """(references,) float64, the mean of a metric for each reference of the plan."""
        self._of(metric)
        return _mean(self.references[metric], self.weights)

    def by_sample(self, metric: str, rows: slice | np.ndarray) -> np.ndarray:
        """(rows, N) float64, what each sample says of the mean of some lesions, which is the weighted mean of these.

        It is the metric itself. Where a lesion was stopped before, the samples that it ran on stand for the others,
        too: they are as much farther from the mean.
        """
        values, means = self._of(metric)[rows].astype(np.float64), self.means(metric)[rows, None]
        counted = (~np.isnan(values) * self.weights).sum(1, keepdims=True)
        with np.errstate(invalid="ignore"):  # infinite losses
            return np.asarray(means + np.nan_to_num(values - means, posinf=0, neginf=0) * self.weights.sum() / counted)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a lesion: the plan's labels, `samples`, and for each metric its mean and 95 % intervals.

        Of `error`: `damage` (error minus intact error, paired on the samples that the lesion ran on), `damage_low`,
        `damage_high` (score interval; of what is no rate, bootstrap), and, where every sample is one outcome, `p_value`
        (exact McNemar test), `p_holm` and `q_bh`, which take into account how many lesions are tested. Of `loss` and of
        own metrics: `..._change` from the intact network, `..._change_low`, `..._change_high` (bootstrap over samples;
        NaN where no sample differs from another). Of `agreement` (score interval) and `kl` (bootstrap): `..._low`,
        `..._high`. For sequences also `perplexity`.
        """
        table = pd.DataFrame(list(self.plan.labels), index=range(len(self.plan)))
        first = next(iter(self.values.values()))
        table["samples"] = (~np.isnan(first) & (self.weights > 0)).sum(1)
        for metric in self.values:
            self._add(table, metric)
        if self.targets is None and "loss" in self.values and self.meaning.loss == Meaning.loss and not self._pixels:
            table["perplexity"] = np.exp(table["loss"])
        return table

    def _add(self, table: pd.DataFrame, metric: str) -> None:
        values = self.values[metric]
        table[metric] = self.means(metric)
        changes = values - self.intact[metric]
        low, high = self._rate_interval(changes) if self.meaning.is_rate(metric) else _interval(changes, self.weights)
        if metric in _BOUNDED:
            own, least, most = _BOUNDED[metric]
            table[f"{metric}_low"] = np.clip(low + own, least, most)
            table[f"{metric}_high"] = np.clip(high + own, least, most)
            return
        name = "damage" if metric == "error" else f"{metric}_change"
        table[name] = _mean(changes, self.weights)
        table[f"{name}_low"], table[f"{name}_high"] = low, high
        if metric == "error" and self.meaning.rate and self.targets is not None:
            table["p_value"] = mcnemar((changes > 0).sum(1), (changes < 0).sum(1))
            table["p_holm"], table["q_bh"] = holm(table["p_value"]), benjamini_hochberg(table["p_value"])

    @property
    def _pixels(self) -> bool:
        return self.meaning.outcome == "pixel"

    def damage_widths(self) -> np.ndarray:
        """(lesions,) half the width of the interval of every lesion's damage, as a fraction."""
        low, high = self._rate_interval(self.errors - self.intact["error"])
        return np.asarray(high - low) / 2

    def _rate_interval(self, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (lesions,) each, of the mean change of a rate; NaN without a target that counts."""
        some = self.weights > 0
        if not some.any():
            return np.full(len(changes), np.nan), np.full(len(changes), np.nan)
        if self.targets is None:
            return clustered_rate_interval(changes[:, some], self.weights[some])
        counted = (~np.isnan(changes) & some).sum(1)
        return paired_error_interval((changes > 0).sum(1), (changes < 0).sum(1), counted)

    def over_repeats(self, metric: str = "error") -> pd.DataFrame:
        """Of a plan with repeats, one row for each value of its first label: mean over repeats and 95 % interval.

        The interval is for other draws and other samples: a bootstrap over both (`crossed_interval`). NaN from a single
        repeat or sample, and where neither repeats nor samples differ.

        Columns: the label, `repeats`, the metric, `..._low`, `..._high`.
        """
        if "repeat" not in (self.plan.labels[0] if self.plan.labels else {}):
            raise InputError(f"the plan must have repeats (random, shuffled, random-repeated), got {self.plan.name!r}.")
        label, some = next(iter(self.plan.labels[0])), self.weights > 0  # the others have no target that counts
        labels = pd.Series([row[label] for row in self.plan.labels])
        most, rows = 1.0 if self.meaning.is_rate(metric) else np.inf, []
        for key in sorted(labels.unique()):
            own = np.flatnonzero(labels == key)
            means, samples = self.means(metric)[own], self.by_sample(metric, own).mean(0)
            ends = crossed_interval(means[None], samples[None, some], self.weights[some])
            low, high = np.clip(ends, 0.0 if np.isfinite(most) else -np.inf, most)[:, 0]
            rows.append((key, len(own), means.mean(), low, high))
        return pd.DataFrame(rows, columns=[label, "repeats", metric, f"{metric}_low", f"{metric}_high"])

    def by_class(self) -> pd.DataFrame:
        """Error by class: one row a lesion and a last one, "intact"; one column a class that has samples."""
        if self.targets is None or self.meaning.outcome == "query":
            raise InputError(f"`by_class` needs one target a sample, but {self._instead}.")
        classes = np.unique(self.targets[self.weights > 0])
        errors = np.vstack([self.errors, self.intact["error"]])
        columns = {int(c): _mean(errors[:, self.targets == c], self.weights[self.targets == c]) for c in classes}
        return pd.DataFrame(columns, index=[*range(len(self.plan)), "intact"])

    def flips(self, lesion: int) -> pd.DataFrame:
        """The samples that a lesion flips: `sample`, `target`, `flip` ("broken": right before; or "repaired").

        Args:
            lesion: its row of the table; from the end if it is negative.
        """
        if self.targets is None:
            raise InputError(f"`flips` needs one target a sample, but {self._instead}.")
        if whole_number(lesion) is None or not -len(self.plan) <= lesion < len(self.plan):
            raise InputError(f"`lesion` must be a row of the table, 0 to {len(self.plan) - 1}, got {lesion!r}.")
        change = self.errors[lesion] - self.intact["error"]
        samples = np.flatnonzero(np.abs(change) > 0.5)
        kinds = np.where(change[samples] > 0, "broken", "repaired")
        return pd.DataFrame({"sample": samples, "target": self.targets[samples], "flip": kinds})

    @property
    def _instead(self) -> str:
        plain = self.meaning.task == Meaning.task
        return "the targets are sequences" if plain else f"the task is {self.meaning.task}"

    def interaction(self, metric: str = "loss") -> pd.DataFrame:
        """Of the plan `pairs`: how much worse deleting both blocks is than the two alone, (n, n), symmetric.

        Entry (i, j) is m(i, j) - m(i) - m(j) + m(intact), m the mean of the metric: 0 where two blocks do their work
        independently, above 0 where each makes up for the other, below 0 where they do the same harm. NaN on the
        diagonal.
        """
        self._require_pairs("interaction")
        both, alone = self.means(metric), self.reference_means(metric)
        matrix = np.full((len(alone), len(alone)), np.nan)
        for label, value in zip(self.plan.labels, both, strict=True):
            i, j = label["first"], label["second"]
            matrix[i, j] = matrix[j, i] = value - alone[i] - alone[j] + self.intact_mean(metric)
        return pd.DataFrame(matrix)

    def saturated(self) -> pd.DataFrame:
        """Of the plan `pairs`: whether each of both blocks alone already does nearly all harm, (n, n) booleans.

        There the error cannot grow much further, so that an `interaction` below 0 says nothing of the two blocks:
        each alone brings it 95 % of the way from the intact one to that of always naming the commonest class of the
        samples (for sequences, whose targets are not kept: to 1). The diagonal is False, and so is all where the error
        is no rate.
        """
        self._require_pairs("saturated")
        if not self.meaning.rate:
            return pd.DataFrame(np.zeros((len(self.references["error"]),) * 2, dtype=bool))
        chance = 1.0 if self.targets is None else chance_error(self.targets) or 1.0
        alone = self.reference_means("error") >= self.intact_error + _SATURATED * (chance - self.intact_error)
        return pd.DataFrame(np.outer(alone, alone) & ~np.eye(len(alone), dtype=bool))

    def _require_pairs(self, what: str) -> None:
        if self.plan.name != "pairs":
            raise InputError(f"`{what}` is of the plan 'pairs', got {self.plan.name!r}.")

    def summary(self) -> str:
        """One sentence: how many lesions, the intact error, and the damage: its median, and the largest one.

        "(chance)" follows an intact error that is not significantly below that of the commonest class. Without an
        error, it is about the loss; of a task that is not plain classification, it says which.
        """
        many, own, meaning = len(self.plan), self.plan.name == "explicit", self.meaning
        ran = plural(many, "arrangement") if own else f"{plural(many, 'lesion')} ({self.plan.name})"
        ran += f" on {plural(self.samples, 'sample')}"
        ran += f", {meaning.task}" if meaning.task != Meaning.task else ""
        metric = meaning.main
        if not many or metric not in self.values:
            return f"{ran}."
        table, change = self.table, "damage" if metric == "error" else "loss_change"
        row = int(table[change].argmax())
        worst, low, high = (meaning.change(table[f"{change}{end}"][row]) for end in ("", "_low", "_high"))
        at_chance = (self.targets is not None and meaning.task == Meaning.task) and no_better_than_chance(
            self.intact_error, chance_error(self.targets), int(self.weights.sum())
        )
        known = f"intact {meaning.name} {meaning.value(self.intact_mean(metric))}{' (chance)' if at_chance else ''}"
        text, unit, word = f"{ran}: {known}, ", meaning.points, "damage" if metric == "error" else "change"
        interval = f"{unit} [{low}, {high}]"
        if many == 1 and own:
            without = self.plan.labels[0].get("without")
            return f"{text}{word} {worst}{interval}{f' without {without}' if without else ''}."
        shown = {k: decimal(v) if isinstance(v, float) else v for k, v in self.plan.labels[row].items()}
        label = ", ".join(f"{key} {value}" for key, value in shown.items())
        median = meaning.change(table[change].median())
        text += f"median {word} {median}{unit}, largest {worst}" if many > 1 else f"{word} {worst}"
        return f"{text}{interval} ({label})."

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the plan in the way that suits it, e.g. `interaction` as a heat map; returns the axes."""
        from resect.figures import lesions

        if self.plan.name == "pairs":
            saturated = self.saturated() if "error" in self.values and self.meaning.rate else None
            return lesions.interaction(self.interaction(self.main_metric), self.main_metric, saturated, ax)
        meaning = self.meaning
        measure = lesions.Measure(meaning.name, meaning.rate and bool(meaning.error))
        table = lesions.with_error(self.table)
        return lesions.by_plan(self.plan.name, table, self.intact_mean(meaning.main), ax, measure)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(L,) float64, the weighted mean of every row (L, N) over what is not NaN."""
    counted = ~np.isnan(values) * weights
    total = counted.sum(1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isnan(values), 0, values * weights).sum(1, dtype=np.float64) / total)


def _interval(changes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    some = weights > 0  # the others have no target that counts
    return bootstrap_interval(changes[:, some], None if (weights[some] == 1).all() else weights[some])
