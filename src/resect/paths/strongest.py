"""The strongest single paths: what a search has found, and what is known about all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import DataError, InputError, require_whole
from resect.figures.shown import Shown
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.measuring.results import require_alike
from resect.network.unraveled import Unraveled
from resect.paths.search import Search
from resect.paths.settings import PathSettings, PathWork, Traces, passing
from resect.words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FACTS = ("bound", "expanded", "open", "samples", "squares", "total", "total_low", "total_high")


@dataclass(frozen=True, repr=False)
class StrongPaths(Shown):
    """The strongest paths that a search has found, and what is known about all others.

    Attributes:
        table: one row a path, the strongest first: `blocks` (tuple of indices), `length`, `layers`, `norm` (root mean
            square over samples of the norm of the gradient along it), `relative` (norm over that of the whole
            gradient), `share` (of the gradient; can be negative).
        bound: no path that was not completed is stronger, as far as the operator norms are right; they come from
            power iteration, which approaches them from below.
        expanded: nodes of the search that were expanded; a node is a part of a path from the output down to a join.
        open: nodes that were left; 0 if every path was looked at.
        at: where the gradient is measured, see `PathSpectrum`.
        samples: of the search.
        squares: <g, g>, summed over them.
        total: the squared norms of all paths, summed over paths and samples; from random signs unless `open` is 0.
        total_low, total_high: its 95 % interval over signs.
    """

    table: pd.DataFrame
    bound: float
    expanded: int
    open: int
    at: str
    samples: int
    squares: float
    total: float
    total_low: float
    total_high: float

    @classmethod
    def joined(cls, parts: Sequence[StrongPaths]) -> StrongPaths:
        """Searches of one network on other samples each, as one: the paths that all of them found.

        The norm of a path over all samples is known if every part found it. Of any other path each part knows its norm
        or the part's bound, which together bound it.

        Raises:
            InputError: the parts were measured at different places, or have no path in common.
        """
        require_alike(parts, "at")
        samples, squares = sum(part.samples for part in parts), sum(part.squares for part in parts)
        norms, shares = (
            [dict(zip(part.table["blocks"], part.table[column], strict=True)) for part in parts]
            for column in ("norm", "share")
        )

        def norm_of(path: tuple[int, ...] | None) -> float:
            known = zip(norms, parts, strict=True)
            return math.sqrt(sum(own.get(path, part.bound) ** 2 * part.samples for own, part in known) / samples)

        def share_of(path: tuple[int, ...]) -> float:
            return float(sum(own[path] * part.squares for own, part in zip(shares, parts, strict=True)) / squares)

        common = set(norms[0]).intersection(*norms[1:])
        if not common:
            raise InputError("`parts` must have a path in common to be joined, but have none. Search for more paths.")
        rows = parts[0].table[parts[0].table["blocks"].isin(common)]
        table = rows.assign(norm=rows["blocks"].map(norm_of), share=rows["blocks"].map(share_of))
        table["relative"] = table["norm"] / math.sqrt(squares / samples)
        others = set().union(*norms) - common
        return cls(
            table.sort_values("norm", ascending=False, ignore_index=True),
            bound=max(map(norm_of, [None, *others])),
            expanded=sum(part.expanded for part in parts),
            open=sum(part.open for part in parts) + len(others),
            at=parts[0].at,
            samples=samples,
            squares=squares,
            total=sum(part.total for part in parts),
            total_low=sum(part.total_low for part in parts),
            total_high=sum(part.total_high for part in parts),
        )

    @property
    def proven(self) -> int:
        """How many of the paths are the strongest, in this order, if the operator norms are right: those at least as
        strong as `bound`."""
        return int((self.table["norm"] >= self.bound).sum())

    @property
    def held(self) -> tuple[float, float, float]:
        """The part of the squared norms of all paths that those of the table hold, and its 95 % interval.

        NaN where the gradients are zero, and as the interval where all signs gave the same.
        """
        own = float(self.table["norm"].pow(2).sum() * self.samples)
        whole, most, least = self.total, self.total_low, self.total_high
        part, low, high = (float(np.minimum(1.0, own / total)) if total else math.nan for total in (whole, least, most))
        return part, low, high

    def summary(self) -> str:
        """What is proven about the paths and what is not, and how much of all paths they are."""
        many, one, best = len(self.table), len(self.table) == 1, self.table["norm"].iloc[0]
        part, low, high = self.held
        hold = f"{'It holds' if one else 'They hold'} {percent(part)} of the squared norms of all paths"
        ends = f"{percent(low)} to {percent(high)}, " if math.isfinite(low + high) else ""
        if not self.open:
            which = "this one is" if one else f"these {many} are"
            return f"Every path was looked at ({self.expanded} nodes): {which} the strongest. {hold}."
        first = "The first is" if self.proven == 1 else f"The first {self.proven} are"
        known, by = "None is proven to be so", "the operator norms of the branches"
        if self.proven:
            known, by = f"{first} proven to be the strongest, if {by} are right", "these norms"
        reach = f"as strong as {self.bound / best:.3g} times the first" if best else "stronger"
        return (
            f"The {'' if one else f'{many} '}strongest path{'' if one else 's'} found in {self.expanded} nodes, with "
            f"more left. {known}: paths left open may be {reach}, by {by}, which power iteration approaches from "
            f"below. {hold} ({ends}by random signs)."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw which blocks each path goes through, with its norm and its share; returns the axes."""
        from resect.figures import carriers

        return carriers.strongest(self.table, ax=ax)


def strongest_paths(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    task: AnyTask = None,
    count: int = 20,
    limit: int = 5000,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> StrongPaths:
    """Search for the single paths along which the gradient is largest.

    Where limit and memory suffice for all nodes, as for a chain of 12 blocks, the result is exact; else the most
    promising nodes are expanded until the limit is reached.

    Args:
        net, settings, task, progress, engine: as for `path_spectrum`.
        data: as for `path_spectrum`; the first batch is used, cut to what fits into the memory.
        count: paths to find; fewer if there are not so many.
        limit: nodes to expand at the most; each passes one join back. A chain of n blocks has 2^n - 1.

    Raises:
        InputError, DataError: as for `path_spectrum`; DataError, too, if no path is complete within `limit`.
    """
    require_whole("count", count)
    require_whole("limit", limit)
    traces = Traces(net, settings, task)
    work = PathWork(
        "strongest paths by the whole limit", _find, traces.settings, {"count": count, "limit": limit}, bounded=True
    )
    (batch,) = batches_of(list(islice(data, 1)), net, task)
    (arrays,) = engine.run(net, [(work, batch)], progress)
    paths = [tuple(int(block) for block in row if block >= 0) for row in arrays["blocks"]]
    table = pd.DataFrame(
        {
            "blocks": paths,
            "length": [len(path) for path in paths],
            "layers": [sum(net.blocks[i].layers for i in path) for path in paths],
            "norm": arrays["norms"],
            "relative": arrays["norms"] / float(arrays["squares"] / arrays["samples"]) ** 0.5,
            "share": arrays["shares"],
        }
    )
    return StrongPaths(table, at=traces.at, **{name: arrays[name].item() for name in _FACTS})


def _find(traces: Traces, batch: Batch, progress: Progress, count: int, limit: int) -> Arrays:
    """One search: of every path its blocks (-1 behind the last), norm and share; and what is left open."""
    trace, _ = next(traces.of(batch, 2, progress))
    search = Search(trace, traces.routes, traces.lanes_for(trace), count, limit)
    search.run(lambda part: progress(part * passing(traces.net)))
    if not search.paths:
        raise DataError(f"`limit` must be larger: no path was complete after {search.expanded} nodes.")
    paths = sorted(search.paths, key=lambda path: path.norm, reverse=True)
    best, longest = paths[:count], max(len(path.blocks) for path in paths[:count])
    bound = max([search.bound, *(path.norm for path in paths[count:])])
    facts = (bound, search.expanded, search.open, len(trace.targets), search.squares, *search.total())
    return {
        "blocks": np.array([[*path.blocks, *[-1] * (longest - len(path.blocks))] for path in best], dtype=int),
        "norms": np.array([path.norm for path in best]),
        "shares": np.array([path.share for path in best]),
        **{name: np.array(fact) for name, fact in zip(_FACTS, facts, strict=True)},
    }
