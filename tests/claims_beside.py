"""What a study claims of networks beside the one under study: its untrained twin, and those of --beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from patterns import is_span
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
    shown = [float(text) if text else None for text in numbers]
    close = all(s is None or abs(s - r) <= 0.0501 for s, r in zip(shown, real, strict=True))
    log = float(np.log(values[:, 0] / values[:, 1]).mean())
    expected = {
        "hardly changed how they add up": abs(log) <= np.log(1.5),
        "made the paths of a length reinforce each other": log > np.log(1.5) and real[1] > 1,
        "made the paths cancel less": log > np.log(1.5) and real[1] <= 1,
        "made the paths of a length reinforce each other less": log < -np.log(1.5) and real[0] > 1,
        "made the paths cancel": log < -np.log(1.5) and real[0] <= 1,
    }
    return close and expected[verb]


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
]  # fmt: skip
