"""`resect multiplicity --training-free`: does multiplicity, depth or coherence predict how networks bear lesions?

Between networks: robustness against what is known of their paths. Within a network: what deleting each block costs
against what goes through it, and what deleting several costs against sums over them. Raw multiplicity says that every
deletion costs the same, half of all paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import factorial, prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from resect.jobs.additivity import deleted_by_authors, deleted_together
from resect.jobs.design import RobustnessAsked
from resect.jobs.fit import require_fit
from resect.jobs.job import Answer, Job, Lab, Subject, digest_of
from resect.jobs.warn import at_chance
from resect.measuring.metrics import chance_error
from resect.measuring.ranks import correlation_interval, permuted_correlation
from resect.network.requirements import require_blocks
from resect.paths.first_order import first_order
from resect.paths.participation import participation
from resect.paths.settings import PathSettings
from resect.paths.spectrum import path_spectrum
from resect.paths.squares import path_squares
from resect.runs.record import Record
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.words import decimal, plural, points

_BETWEEN = ("log2_blocks", "log2_paths", "log2_effective_paths", "effective_depth", "log2_coherence")
_WITHIN = ("share", "first_order_size", "first_order")
_ADDED = (("cost", "alone"), ("cost", "shares"), ("excess", "ties"))
_SWEEPS = 8  # random signs a batch, for the coherence


@dataclass(frozen=True)
class RobustnessJob(RobustnessAsked, Job):
    """The check that trains nothing."""

    def prepare(self, lab: Lab) -> _Networks:
        """Load all networks, each with the samples as it takes them."""
        sources = [self.source, *(self.source.beside(text) for text in self.others)]
        subjects: list[Subject] = []
        for source in sources:
            subject = Subject(*source.unravel(*(earlier.samples for earlier in subjects)))
            require_blocks(subject.net)
            require_fit(subject.net.model, subject.samples)
            subjects.append(subject)
        return _Networks(tuple(subjects))

    def answer(self, subject: _Networks, lab: Lab) -> Answer:
        """Measure lesions and paths of all, and set them beside each other."""
        rows, blocks = [], []
        several: dict[str, pd.DataFrame] = {}  # the authors' network is that of several of ours
        warnings: tuple[str, ...] = ()
        for name, own in zip(self.networks, subject.networks, strict=True):
            row, table, together = self._measured(name, own, lab)
            rows.append(row)
            blocks.append(table)
            for one in together:
                several.setdefault(str(one["model"].iloc[0]), one)
            warnings += (*own.warnings, *at_chance(name, row["error"], own.samples, random=own.random))
        networks, every = pd.DataFrame(rows), pd.concat(blocks, ignore_index=True)
        between = [_correlated(networks, "robustness", name, list(networks["family"])) for name in _BETWEEN]
        within = [
            {"model": model, **_correlated(own, "loss_change", name)}
            for model, own in every.groupby("model", sort=False)
            for name in _WITHIN
        ]
        added = [{"model": model, **_correlated(own, *names)} for model, own in several.items() for names in _ADDED]
        tables = {
            "networks": networks,
            "blocks": every,
            "several": pd.concat(several.values(), ignore_index=True),
            "added": pd.DataFrame(added),
            "between": pd.DataFrame(between),
            "within": pd.DataFrame(within),
        }
        found = {"samples": len(subject.networks[0].samples), "data": subject.networks[0].samples.name}
        return Answer({**found, "summary": _summary(tables)}, tables, warnings)

    def _measured(
        self, name: str, subject: Subject, lab: Lab
    ) -> tuple[dict[str, Any], pd.DataFrame, list[pd.DataFrame]]:
        """One network: its row, one row a block, and one row a deletion of several, of its own and of the authors'."""
        net, samples, engine = subject.net, subject.samples, lab.engine
        tenth = max(1, len(net.blocks) // 10)
        data = samples.batches(self.batch_size)
        together = max(tenth, min(2, len(net.blocks)))  # one alone is no sum
        single = plans.single(net)
        random = {count: plans.random(net, count, self.repeats, self.source.seed) for count in (tenth, together)}
        every = sum(len(plan) + 1 for plan in (single, *random.values())) * len(samples)
        measure = partial(lesion, net, data, progress=lab.track(f"{name}, lesions", every), engine=engine)
        singles, several = measure(plan=single), {count: measure(plan=plan) for count, plan in random.items()}
        few = samples.limited(self.gradient_samples).batches(self.gradient_batch)
        settings, bar = PathSettings(seed=self.source.seed), lab.track(f"{name}, paths", 0)
        shares = participation(net, few, settings, pairs=True, progress=bar, engine=engine)
        slopes = first_order(net, few, settings, progress=bar, engine=engine)
        spectrum = path_spectrum(net, few, settings, progress=bar, engine=engine)
        rough = replace(settings, precision=None)  # ranks of medians over lengths ask for no more
        squares = path_squares(net, few, rough, sweeps=_SWEEPS, progress=bar, engine=engine)
        coherence = squares.coherence_table(spectrum)["coherence_median"]
        held = spectrum.effective(0.95)
        lengths = coherence[max(held.low, 1) : held.high + 1]
        chance, error = chance_error(samples.targets_only().cpu().numpy()) or 1.0, singles.intact_error
        without = float(several[tenth].table["error"].mean())
        row = {
            "model": name,
            "family": _family(name),
            "blocks": len(net.blocks),
            "error": error,
            "error_without_tenth": without,
            "robustness": 1 - (without - error) / (chance - error) if chance > error else np.nan,
            "log2_blocks": float(np.log2(len(net.blocks))),
            "log2_paths": float(np.logaddexp2.reduce(spectrum.table["log2_paths"])),
            "log2_effective_paths": shares.log2_effective_paths,
            "effective_depth": shares.effective_depth,
            "log2_coherence": float(np.log2(lengths[lengths > 0]).mean()),
        }
        table = singles.table[["block", "name", "damage", "loss_change"]].assign(
            model=name, share=shares.share, first_order_size=slopes.size, first_order=slopes.change
        )
        summed = deleted_together(name, several[together], singles.table["loss_change"], shares)
        theirs = deleted_by_authors(name, net.blocks.table, shares)
        return row, table, [summed, *([] if theirs is None else [theirs])]


@dataclass(frozen=True)
class _Networks:
    """The networks."""

    networks: tuple[Subject, ...]

    @property
    def made_of(self) -> dict[str, Any]:
        """Digests of samples and networks."""
        samples = digest_of([subject.samples for subject in self.networks])
        return {"samples": samples, "networks": [subject.net.fingerprint() for subject in self.networks]}

    @property
    def capture_seconds(self) -> float:
        """What the captures took."""
        return sum(subject.capture_seconds for subject in self.networks)


def _family(name: str) -> str:
    """Networks that are compared with each other: kind of spec and the letters that the name begins with."""
    kind, _, rest = name.partition(":")
    letters = next((i for i, character in enumerate(rest) if not character.isalpha()), len(rest))
    return f"{kind}:{rest[:letters]}"


def _correlated(table: pd.DataFrame, outcome: str, name: str, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """Spearman's correlation of two columns, over the rows that have both, with interval and permutation p.

    Args:
        groups: of what only its like are compared with; None for one group, or by the column `count` if there is one.
    """
    if groups is None and "count" in table and table["count"].nunique() > 1:
        groups = table["count"].astype(str).tolist()
    known = np.isfinite(table[[outcome, name]].to_numpy(float)).all(1)
    some = table[known]
    own = None if groups is None else [group for group, there in zip(groups, known, strict=True) if there]
    rho, p_value = permuted_correlation(some[name], some[outcome], own) if len(some) else (np.nan, np.nan)
    apart = groups is None and len(some) > 3  # within groups ranks are not independent: p alone holds
    low, high = correlation_interval(rho, len(some)) if apart else (np.nan, np.nan)
    return {"measure": name, "count": len(some), "spearman": rho, "low": low, "high": high, "p_value": p_value}


def _summary(tables: Mapping[str, pd.DataFrame]) -> str:
    """What predicts damage within networks, and whether anything predicts robustness between them."""
    between = _between(tables["between"], tables["networks"])
    return " ".join((_within(tables["within"]), *_together(tables), between))


def _within(within: pd.DataFrame) -> str:
    words = {"share": "its share of the gradient", "first_order_size": "its first-order size",
             "first_order": "its signed first-order change"}  # fmt: skip
    means = within.groupby("measure", sort=False)["spearman"].mean()
    said = ", ".join(f"{decimal(means[name])} with {words[name]}" for name in _WITHIN)
    return f"Within networks the loss that deleting a block costs has a mean rank correlation of {said}."


def _together(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """One sentence a network: do several deletions cost what each costs alone?"""
    added = tables["added"].set_index(["model", "measure"])["spearman"]
    said = []
    for model, own in tables["several"].groupby("model", sort=False):
        most = own[own["count"] == own["count"].max()]
        nats = own["unit"].iloc[0] == "nats"
        cost, alone = (f"{decimal(v)} nats" if nats else points(v) for v in most[["cost", "alone"]].median())
        said.append(
            f"{model}: {plural(int(most['count'].iloc[0]), 'block')} deleted together cost {cost} in the "
            f"median, each alone {alone} in sum, rank correlation {decimal(added[model, 'alone'])}, with "
            f"their shares {decimal(added[model, 'shares'])}."
        )
    return said


def _between(between: pd.DataFrame, networks: pd.DataFrame) -> str:
    families = networks.loc[np.isfinite(networks["robustness"]), "family"].value_counts()
    count, tests = int(families[families > 1].sum()), len(between)  # Bonferroni
    if count < 2:
        return "Between networks nothing can be said: that takes two of one kind that are better than chance."
    if 2 / prod(map(factorial, families)) * tests >= 0.05:  # the least p: of one order and its reverse
        return (
            f"Between networks nothing can be said: {plural(count, 'network')} with others of their kind are too few "
            "for any rank correlation to be told from chance."
        )
    sure = between[between["p_value"] * tests < 0.05]
    if sure.empty:
        return f"Between {count} networks the data cannot tell whether any of the measures predicts robustness."
    named = ", ".join(f"{row['measure']} ({decimal(row['spearman'])})" for row in sure.to_dict("records"))
    return f"Between {count} networks robustness goes with {named}."


def robustness(data: str, *networks: str, out: Path | str | None = None, **options: Any) -> Record:
    """What predicts how well trained networks bear lesions: number of paths, depth or coherence.

    Args:
        data: a data spec.
        networks: SPEC or SPEC@FILE of each; those that are shipped for the data if none is named.
        out: a run folder; None keeps nothing.
        options: repeats, gradient_samples, gradient_batch, batch_size, limit, seed, device, dtype.

    Raises:
        ResectError: something that was asked for cannot be done.
    """
    return RobustnessJob.of(data, networks, options).run(out)
