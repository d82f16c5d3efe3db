"""What a study claims of networks beside the one under study: its untrained twin, and those of --beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from patterns import P, is_percent, is_points, is_span
from resect.jobs.findings import Study


def ends(ranges: Any, by: str) -> tuple[int, int]:
    return getattr(ranges, by).low, getattr(ranges, by).high


def grew(study: Study, numbers: Sequence[str | None]) -> bool:
    """Depth before and after training, the change and its interval."""
    twin = study.untrained
    assert twin is not None and twin.effective_depth is not None and twin.depth_change is not None
    real = (twin.effective_depth, twin.effective_depth + twin.depth_change[0], *twin.depth_change)
    pairs = [(float(text.replace("−", "-")), value) for text, value in zip(numbers, real, strict=True) if text]
    return all(abs(shown - value) <= 0.0501 for shown, value in pairs) and np.isfinite(real[3]) == bool(numbers[3])


def coherences(study: Study) -> np.ndarray:
    """(lengths, 2) of the effective lengths with several paths that are known of both networks."""
    low, high = ends(study.answers.depth, "by_share")
    assert study.lengths is not None and study.untrained is not None and study.untrained.lengths is not None
    both = np.stack([t["coherence_median"].to_numpy() for t in (study.lengths, study.untrained.lengths)], axis=1)
    several = [k for k in range(low, high + 1) if 0 < k < study.subject.blocks]
    return both[[k for k in several if (both[k] > 0).all()]]


def interferes(study: Study, verb: str, numbers: Sequence[str | None]) -> bool:
    values = coherences(study)
    real = [value for column in values.T for value in (column.min(), column.max())]
    shown = [float(text.replace(",", "")) if text else None for text in numbers]
    close = all(s is None or abs(s - r) <= (0.0501 if r < 99 else 0.501) for s, r in zip(shown, real, strict=True))
    log = float(np.log(values[:, 0] / values[:, 1]).mean())
    expected = {
        "hardly changed how they add up": abs(log) <= np.log(1.5),
        "made the paths of a length reinforce each other": log > np.log(1.5) and real[1] > 1,
        "made the paths cancel less": log > np.log(1.5) and real[1] <= 1,
        "made the paths of a length reinforce each other less": log < -np.log(1.5) and real[0] > 1,
        "made the paths cancel": log < -np.log(1.5) and real[0] <= 1,
    }
    return close and expected[verb]


def trend_rows(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Steps of errors and parameters, in the order of the paths."""
    rows = sorted(study.answers.multiplicity, key=lambda row: (row.log2_effective_paths, row.error))
    return tuple(np.diff([getattr(row, name) for row in rows]) for name in ("error", "parameters"))  # type: ignore[return-value]


def sure(study: Study, i: int) -> bool:
    """Whether the intervals of error and paths of a step both leave 0 out."""
    step = study.answers.trend[i]  # type: ignore[index]
    return all(low > 0 or high < 0 for _, low, high in (step.error, step.paths))


def all_sure(study: Study) -> bool:
    return all(sure(study, i) for i in range(len(study.answers.multiplicity) - 1))


def follows(study: Study, verb: str, rest: str) -> bool:
    errors, sizes = trend_rows(study)
    size = {
        "; the parameters grow along with it": (sizes > 0).all(),
        "; the parameters never fall as it grows": (sizes >= 0).all() and sizes.any() and not (sizes > 0).all(),
        ", though the parameters do not grow in the same order": (sizes < 0).any(),
        ", at equal numbers of parameters": not sizes.any(),
    }
    signed = errors if verb == "rises" else -errors
    return all_sure(study) and (signed > 0).all() and size[rest.split(", so that")[0]]


def single(study: Study) -> bool:
    """Whether every network of the trend was trained once."""
    assert study.answers.trend
    return all(len(places) == 1 for step in study.answers.trend for places in (step.fewer, step.more))


def unclear(study: Study, first: str, second: str, what: str, change: str | None, more: str | None) -> bool:
    rows = sorted(study.answers.multiplicity, key=lambda row: (row.log2_effective_paths, row.error))
    which = [i for i in range(len(rows) - 1) if not sure(study, i)]
    step, names = study.answers.trend[which[0]], (rows[which[0]].model, rows[which[0] + 1].model)  # type: ignore[index]
    _, low, high = step.error
    right = (what == "error") == (not (low > 0 or high < 0))
    shown = change is None or is_points(change.split(" point")[0], step.error[0])
    return names == (first, second) and right and shown and int(more or 0) == len(which) - 1


def two_networks(study: Study, more: str, times: str, fewer: str, here: str, there: str, chance: str | None) -> bool:
    first, second = sorted(study.answers.multiplicity, key=lambda row: (-row.log2_effective_paths, -row.error))
    _, low, high = study.answers.trend[0].error  # type: ignore[index]
    real, factor = 2 ** (first.log2_effective_paths - second.log2_effective_paths), 1.0
    if times != "as many":
        digits = times.replace("× 10", "e").translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))
        factor = float(digits.replace(" ", "").replace(",", ""))
    if (first.log2_effective_paths, first.error) == (second.log2_effective_paths, second.error):
        first, second = sorted((first, second), key=lambda row: row.model != more)  # either may come first
    right = (first.model, second.model) == (more, fewer) and (chance is None) == (low > 0 or high < 0)
    return right and abs(factor / real - 1) < 0.06 and is_percent(here, first.error) and is_percent(there, second.error)


CLAIMS: list[tuple[str, Callable[..., bool]]] = [
    (r"Untrained, as its library starts it, its branches carry nothing: all of the gradient takes the skips\.",
     lambda s: (s.untrained.lengths["share"][1:] == 0).all()),
    (r"No untrained twin stands beside it: it is of iron\.", lambda s: s.untrained.why_not == "it is of iron"),
    (r"Untrained, with random weights, it has (\d+)(?: to (\d+))? blocks? by exact share and (\d+)(?: to (\d+))? "
     r"blocks? by count × magnitude(, so that short paths do not come from training)?\.",
     lambda s, a, b, c, d, short: is_span(a, b, ends(s.untrained, "by_share"))
     and is_span(c, d, ends(s.untrained, "by_magnitude"))
     and (short is None or max(int(d or c), ends(s.answers.depth, "by_share")[1]) <= s.subject.blocks / 2)),
    (r"Untrained, the effective paths have (\d+)(?: to (\d+))? blocks? by exact share and (\d+)(?: to (\d+))? by "
     r"count × magnitude; trained, (\d+)(?: to (\d+))? blocks? and (\d+)(?: to (\d+))?\.",
     lambda s, *n: all(is_span(n[2 * i], n[2 * i + 1], ends(of, by)) for i, (of, by) in enumerate(
         [(of, by) for of in (s.untrained, s.answers.depth) for by in ("by_share", "by_magnitude")]))),
    (r"Training made them (longer|shorter): their mean length by share went from (\S+) to (\S+) blocks, by (\S+) "
     r"\(95 % interval (\S+) to (\S+)\)\.", lambda s, a, *n: grew(s, n)
     and (s.untrained.depth_change[1] > 0 if a == "longer" else s.untrained.depth_change[2] < 0)),
    (r"That training changed their mean length by share, from (\S+) to (\S+) blocks, by ([^ ,]+)(?: "
     r"\(95 % interval (\S+) to (\S+)\))?, cannot be told from chance\.",
     lambda s, *n: grew(s, n) and not (s.untrained.depth_change[1] > 0 or s.untrained.depth_change[2] < 0)),
    (r"On its effective lengths coherence is not known of both, .*\.", lambda s: not len(coherences(s))),
    (r"Training (.*): on (\d+)(?: to (\d+))? blocks? coherence is (\S+)(?: to (\S+))?, untrained (\S+)(?: to (\S+))? "
     r"\(1: no interference\)\.",
     lambda s, verb, a, b, *n: is_span(a, b, ends(s.answers.depth, "by_share")) and interferes(s, verb, n)),
    # Networks of --beside
    (r"What multiplicity does cannot be told from these (\d+) networks: the study does not hold paired intervals of "
     r"their errors\.", lambda s, n: int(n) == len(s.answers.multiplicity) and s.answers.trend is None),
    (rf"By the upper bounds (\S+) has (?:(.*) times the|(as many)) effective paths (?:of|as) (\S+); it errs on {P} "
     rf"against {P} \([^)]*\)(, which may be chance)?; two networks show no trend\.",
     lambda s, a, b, c, d, e, f, g: len(s.answers.multiplicity) == 2 and two_networks(s, a, b or c, d, e, f, g)),
    (r"Among these (\d+) networks the data cannot tell whether the error follows the effective number of paths: (\S+) "
     r"and (\S+) cannot be told apart by their (error|number of paths)(?: \((.*)\))?(?:, and (\d+) more of the \d+ "
     r"steps)?\.",
     lambda s, n, a, b, c, d, e: int(n) == len(s.answers.multiplicity) and unclear(s, a, b, c, d, e)),
    (r"Among these (\d+) networks the error does not follow the effective number of paths: it both rises .*\.",
     lambda s, n: int(n) == len(s.answers.multiplicity) and all_sure(s) and np.ptp(np.sign(trend_rows(s)[0])) == 2),
    (r"Among these (\d+) networks the error (rises|falls) as the effective number of paths \(an upper bound\) grows, "
     r"each step beyond the 95 % intervals( over images, with one training each, beside which other seeds may differ "
     r"as much)?(.*)\.",
     lambda s, n, a, alone, b: int(n) == len(s.answers.multiplicity) and follows(s, a, b) and bool(alone) == single(s)),
]  # fmt: skip
