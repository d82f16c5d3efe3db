"""Claims of papers that came later: of layers of transformers, and of the network as a sum of orders."""

from __future__ import annotations

import pandas as pd

from resect.jobs.claims.check import CHEAP, SIDE_BY_SIDE, Runs, below, check, judged, lesions_of, median_of
from resect.measuring.ranks import median_interval
from resect.runs.record import Record
from resect.words import percent, points

_LAYERS = {  # runs, and how many lesions at each end touch the first or the last layer
    "skipped": 1,
    "swapped": 1,
    "side by side": 1,
    "a block twice": 2,
}
_RUNS = ("layers-skipped", "layers-swapped", "layers-parallel", "layers-repeated")


@check(
    "13",
    *_RUNS,
    theirs="not of residual networks for images: in large language models middle layers can be skipped, swapped and "
    "run side by side at some cost, the first and the last cannot",
    on="all-MiniLM-L6-v2, 240 pairs of texts",
)
def _layers(runs: Runs) -> tuple[str, str]:
    """Holds if skipping a middle layer, swapping two, running two side by side, and running a block of one twice each
    cost less than 2 points in the median, interval included; in part if one does. Middle are all layers but the first
    and the last.
    """
    error = percent(runs[_RUNS[0]].found["intact"]["error"])
    middle = [lesions_of(runs[name]).iloc[ends:-ends] for name, ends in zip(_RUNS, _LAYERS.values(), strict=True)]
    each = ", ".join(f"{what} {median_of(damage)}" for what, damage in zip(_LAYERS, middle, strict=True))
    here = f"intact {error} of queries do not find their text first; middle layers {each}, medians over layers"
    return here, judged([below(median_interval(damage), CHEAP) for damage in middle])


@check("13b", "side-by-side", theirs="not measured: proved")
def _orders(runs: Runs) -> tuple[str, str]:
    """Holds if 2 and 4 blocks in a row that all start from one state, what they add summed up, each cost less than 2
    points in the median, interval included; in part if one of both.
    """
    damages = [_of_length(runs["side-by-side"], length) for length in SIDE_BY_SIDE]
    pairs = zip(SIDE_BY_SIDE, damages, strict=True)
    each = (f"of {n} blocks {median_of(damage)} in the median, {points(damage.max())} at most" for n, damage in pairs)
    here = f"the first order alone costs {'; '.join(each)}"
    return here, judged([below(median_interval(damage), CHEAP) for damage in damages])


def _of_length(record: Record, length: int) -> pd.Series:
    table = record.tables["lesions"]
    damage: pd.Series = table["damage"][table["length"] == length]
    return damage
