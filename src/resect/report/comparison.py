"""The numbers of a comparison of finished runs: one summary a run, and the first against every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resect.paths.measures import log2_effective, shortest_range
from resect.report.finished_runs import Run


@dataclass(frozen=True)
class Summary:
    """What a comparison says about one run.

    Attributes:
        run, model, data: as of `Run`.
        blocks: the number of blocks.
        longest, layers: the length of the longest path in blocks and in weight layers.
        known: the greatest length, in blocks, whose share was measured.
        known_share: the part of the gradient that the lengths up to `known` hold.
        share_range: shortest range of lengths (low, high, inclusive) that holds the mass by exact share; None if the
            lengths up to `known` do not hold it.
        magnitude_range: the same by count x magnitude; None without sampled paths.
        effective_depth: mean length in blocks by share, of the lengths up to `known`.
        relative_depth: the same as a part of the longest path.
        log2_paths: binary logarithm of the number of all paths.
        log2_effective_paths: entropy, in bits, of the shares of single paths; see `resect.paths.measures`.
    """

    run: str
    model: str
    data: str
    blocks: int
    longest: int
    layers: float
    known: int
    known_share: float
    share_range: tuple[int, int] | None
    magnitude_range: tuple[int, int] | None
    effective_depth: float
    relative_depth: float
    log2_paths: float
    log2_effective_paths: float


@dataclass(frozen=True)
class Change:
    """How the first run of a comparison differs from another: its numbers minus those of the other."""

    first: str
    other: str
    share_range: tuple[int, int] | None
    effective_depth: float
    relative_depth: float
    log2_effective_paths: float


def summarise(run: Run, mass: float = 0.95) -> Summary:
    """The numbers of one run; `mass`, 0 to 1 exclusive, is what its effective ranges hold."""
    table = run.lengths
    share, log2_paths = table["share"].fillna(0).to_numpy(float), table["log2_paths"].to_numpy(float)
    depth = float(share @ np.arange(len(share)) / share.sum())
    return Summary(
        run=run.name,
        model=run.model,
        data=run.data,
        blocks=run.blocks,
        longest=run.longest,
        layers=float(table["layers"][run.longest]),
        known=min(run.known, run.longest),
        known_share=float(share.sum()),
        share_range=effective_range(run, "share", mass),
        magnitude_range=effective_range(run, "magnitude", mass) if "magnitude" in table else None,
        effective_depth=depth,
        relative_depth=depth / max(1, run.longest),
        log2_paths=float(np.logaddexp2.reduce(log2_paths)),
        log2_effective_paths=log2_effective(share, log2_paths),
    )


def effective_range(run: Run, column: str, mass: float) -> tuple[int, int] | None:
    """The shortest range of lengths (low, high, inclusive) that holds `mass` by a column; of several, the fullest.

    Args:
        column: of `Run.lengths`, parts of 1; negative ones are allowed.

    Returns:
        None if some lengths are NaN and the others do not hold that much.
    """
    weight = run.lengths[column].fillna(0).to_numpy(float)
    low, high = shortest_range(weight, mass, total=1.0)
    if weight[low : high + 1].sum() < mass and run.paths[column].isna().any():
        return None
    return low, high


def changes(summaries: Sequence[Summary]) -> tuple[Change, ...]:
    """The first run against every other."""
    first = summaries[0]
    found = []
    for other in summaries[1:]:
        here, there = first.share_range, other.share_range
        found.append(
            Change(
                first=first.run,
                other=other.run,
                share_range=(here[0] - there[0], here[1] - there[1]) if here and there else None,
                effective_depth=first.effective_depth - other.effective_depth,
                relative_depth=first.relative_depth - other.relative_depth,
                log2_effective_paths=first.log2_effective_paths - other.log2_effective_paths,
            )
        )
    return tuple(found)
