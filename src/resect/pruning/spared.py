"""What a network could do without: blocks that cost nothing measurable, from the deletions that a study has anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from resect.network.unraveled import Unraveled
from resect.sweep import plans
from resect.sweep.plans import Plan
from resect.sweep.result import LesionResult
from resect.words import decimal, plural

_SIZES = 10  # numbers of blocks that are tried


@dataclass(frozen=True)
class Spared:
    """Blocks that can go without a measurable loss; none where every one is missed.

    Attributes:
        blocks: their indices.
        of: how many the network has.
        change: of the error without them, with its 95 % interval, on the samples that did not choose them.
        samples: how many these are.
    """

    blocks: tuple[int, ...]
    of: int
    change: tuple[float, float, float]
    samples: int

    def said(self) -> str:
        """One sentence."""
        if not self.blocks:
            return "No blocks were found that could go without a measurable loss."
        value, low, high = (decimal(end * 100) for end in self.change)
        return (
            f"{len(self.blocks)} of {plural(self.of, 'block')} could go at no measurable loss: the error changes by "
            f"{value} points [{low}, {high}] on the {plural(self.samples, 'sample')} that did not choose them, so that "
            f"a loss beyond {high} points can be excluded."
        )


def spared(net: Unraveled, singles: LesionResult, run: Callable[[Plan], LesionResult]) -> Spared:
    """The most blocks whose deletion costs nothing measurable, those of the smallest growth of the loss first.

    Every other sample chooses, the others judge: the order, and the largest number that costs nothing, come from the
    first; whether zero lies in the interval of its change is judged once, by the second.

    Args:
        singles: single deletions, with errors and losses.
        run: gives the outcomes of a plan on the same samples.
    """
    n, order = len(net.blocks), np.argsort(singles.on(slice(0, None, 2)).means("loss"), kind="stable")
    sizes = sorted({round(n ** ((i + 1) / _SIZES)) for i in range(_SIZES)} - {0, n})
    sets = [tuple(sorted(order[:size].tolist())) for size in sizes]
    outcomes = run(plans.explicit(net, [net.intact.without(blocks) for blocks in sets]))
    chooses, judges = (outcomes.on(slice(start, None, 2)) for start in (0, 1))
    free = [i for i, error in enumerate(chooses.means("error")) if error <= chooses.intact_error]
    if not free:
        return Spared((), n, (0.0, 0.0, 0.0), judges.samples)
    value, low, high = (float(judges.table[f"damage{end}"][free[-1]]) for end in ("", "_low", "_high"))
    return Spared(sets[free[-1]] if low <= 0 else (), n, (value, low, high), judges.samples)


def ranges(blocks: Sequence[int]) -> tuple[str, ...]:
    """Rising numbers with those in a row as ranges, as `--without` reads them: "3", "5-9"."""
    starts = [i for i in blocks if i - 1 not in blocks]
    ends = [i for i in blocks if i + 1 not in blocks]
    return tuple(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
