"""Which figures a study has, in which order, and how their panels are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from resect.figures import ensembles, lesions, paths, strip, untrained
from resect.figures.style import Panel, side_by_side
from resect.jobs import authors
from resect.jobs.findings import Study
from resect.report.study import captions
from resect.report.study.captions import Caption
from resect.report.study.untrained import untrained_caption


@dataclass(frozen=True)
class Drawing:
    """One figure of the report: one or two panels with one caption."""

    name: str
    title: str
    panels: Sequence[Panel]
    caption: Callable[[Study], Caption]
    height: float = 3.6  # inches
    widths: tuple[float, ...] | None = None  # of the panels, relative to each other

    def figure(self) -> Figure:
        """Draw it."""
        return side_by_side(self.panels, height=self.height, widths=self.widths)


def drawings(study: Study) -> list[Drawing]:
    """The figures that this study has data for, in order."""
    drawn = [*_lesions(study), *_paths(study), *_untrained(study)]
    if len(study.answers.multiplicity) > 1:
        table = pd.DataFrame([asdict(row) for row in study.answers.multiplicity])
        pair = (partial(ensembles.multiplicity, table), partial(ensembles.intact_errors, table))
        title, height = "Beside other networks", ensembles.height(len(table))
        drawn.append(Drawing("multiplicity", title, pair, captions.multiplicity_caption, height, widths=(1.6, 1.0)))
    return drawn


def _lesions(study: Study) -> list[Drawing]:
    unit, ensemble = study.subject.unit, study.answers.ensemble
    intact, chance = ensemble.intact_error, ensemble.chance_error
    blocks = partial(strip.strip, study.blocks, study.deletions, study.intact_loss)
    height = strip.height(study.subject.blocks)
    label, theirs = f"deleted {unit} (its index)", partial(authors.beside, study.subject.model, study.blocks)
    one = partial(lesions.deletions, study.deletions, intact, chance, label=label, title=study.subject.model)
    single: list[Panel] = [partial(one, behind=theirs("delete"))]
    if plain := study.plain:
        errors = (plain.intact_error, chance)
        single.append(partial(lesions.control, plain.deletions, study.deletions, *errors, title=plain.model))
    widths = (2.0, 1.0) if plain else None
    drawn = [
        Drawing("blocks", f"The network, {unit} by {unit}", [blocks], captions.strip_caption, height),
        Drawing("deletions", f"One {unit} deleted", single, captions.deletions_caption, 3.9, widths),
    ]
    if len(study.random) and study.random["deleted"].max() > 1:
        several = partial(lesions.random, study.random, intact, chance, unit=unit, behind=theirs("delete several"))
        drawn.append(Drawing("random", f"Several {unit}s deleted", [several], captions.random_caption))
    if len(study.reorderings):
        reordered = partial(lesions.reorderings, study.reorderings, intact, chance, behind=theirs("swap several"))
        title = f"{unit.capitalize()}s reordered"
        drawn.append(Drawing("reorderings", title, [reordered], captions.reordering_caption))
    return drawn


def _paths(study: Study) -> list[Drawing]:
    lengths, depth = study.lengths, study.answers.depth
    if lengths is None or depth is None:
        return []
    ranges = {"share": depth.by_share, "magnitude": depth.by_magnitude}
    pairs = paths.linear_and_log(lengths, ranges, depth.mass, "norm of the loss gradient (nats per unit)")
    return [
        Drawing(name, title, pairs[name], caption, paths.HEIGHTS[name])
        for name, title, caption in (
            ("counts", "How many paths of each length", captions.counts_caption),
            ("shares", "How much of the gradient they carry", captions.share_caption),
            ("norms", "How strong the gradient is", captions.norm_caption),
        )
    ]


def _untrained(study: Study) -> list[Drawing]:
    lengths, depth, twin = study.lengths, study.answers.depth, study.untrained
    if lengths is None or depth is None or twin is None or twin.lengths is None or twin.by_share is None:
        return []
    both, ranges = (lengths, twin.lengths), (depth.by_share, twin.by_share)
    pair = (partial(untrained.shares, both, ranges, depth.mass), partial(untrained.coherence, both))
    return [Drawing("untrained", "What training changed", pair, untrained_caption, 4.2)]
