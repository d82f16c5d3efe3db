"""What training changed: the network under study beside its untrained twin, in sentences and numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from resect.jobs.findings import DepthAnswer, Study, UntrainedTwin
from resect.words import decimal, ratio, span

Caption = tuple[str, str]
_CHANGED = 1.5  # times: coherence that differs by less is the same, as random signs estimate it


def untrained(study: Study) -> str:
    """The untrained twin in a sentence, or why there is none; nothing where nobody asked for it."""
    twin = study.untrained
    if twin is None:
        return ""
    if twin.by_share is None or twin.by_magnitude is None:
        return f"No untrained twin stands beside it: {twin.why_not}."
    if twin.lengths is not None and not twin.lengths["norm"][1:].any():
        return "Untrained, as its library starts it, its branches carry nothing: all of the gradient takes the skips."
    share, magnitude = (span(each.low, each.high, "block") for each in (twin.by_share, twin.by_magnitude))
    depth, short = study.answers.depth, ""
    if (
        depth
        and depth.longest >= 4
        and max(depth.by_share.high, twin.by_magnitude.high, *twin.longest) <= depth.longest / 2
    ):
        short = ", so that short paths do not come from training"
    return f"Untrained, with random weights, it has {share} by exact share and {magnitude} by count × magnitude{short}."


def untrained_caption(study: Study) -> Caption:
    """Of the figure that sets both side by side."""
    twin, depth = study.untrained, study.answers.depth
    assert twin is not None and depth is not None
    draws = f", the first of {len(twin.depths)} draws that the mean length is over" if len(twin.depths) > 1 else ""
    shows = (
        f"Blue: the network under study. Orange: the same architecture with fresh random weights (seed {twin.seed}"
        f"{draws}), its batch norms, if it has any, measured on these data. Left: exact share, with 95 % intervals "
        "over samples, and count × magnitude. Right: coherence, the squared norm of what the paths of a length "
        "carry together over the sum of their own squared norms: the median of the samples' own, and the middle half "
        "of them."
    )
    return shows, f"{_ranges(twin, depth)} {_lengths(twin)} {_coherence(study, depth)}"


def _ranges(twin: UntrainedTwin, depth: DepthAnswer) -> str:
    """The effective ranges of both."""
    assert twin.by_share is not None and twin.by_magnitude is not None
    there, here = (
        (span(share.low, share.high, "block"), span(magnitude.low, magnitude.high))
        for share, magnitude in ((twin.by_share, twin.by_magnitude), (depth.by_share, depth.by_magnitude))
    )
    return (
        f"Untrained, the effective paths have {there[0]} by exact share and {there[1]} by count × magnitude; trained, "
        f"{here[0]} and {here[1]}."
    )


def _lengths(twin: UntrainedTwin) -> str:
    """What training did to the mean length of the paths."""
    assert twin.depth_change is not None and twin.effective_depth is not None
    change, low, high = twin.depth_change
    before, after = (decimal(depth, 1) for depth in (twin.effective_depth, twin.effective_depth + change))
    interval = f" (95 % interval {decimal(low)} to {decimal(high)})" if np.isfinite(low + high) else ""
    sizes = f"from {before} to {after} blocks, by {decimal(change)}{interval}"
    if not (low > 0 or high < 0):
        return f"That training changed their mean length by share, {sizes}, cannot be told from chance."
    return f"Training made them {'longer' if change > 0 else 'shorter'}: their mean length by share went {sizes}."


def coherence_of(study: Study) -> tuple[tuple[float, float], tuple[float, float], float] | None:
    """Least and largest coherence, trained and untrained, on the effective lengths of the trained network, and by which
    factor they differ (geometric mean); None where no such length has several paths that carry anything."""
    twin, depth = study.untrained, study.answers.depth
    if twin is None or twin.lengths is None or depth is None or study.lengths is None:
        return None
    both = [table.set_index("length")["coherence_median"] for table in (study.lengths, twin.lengths)]
    several = study.lengths.set_index("length")["log2_paths"] > 0
    some = pd.concat(both, axis=1, keys=("trained", "untrained"))[several]
    some = some.loc[depth.by_share.low : depth.by_share.high].dropna()
    some = some[(some > 0).all(axis=1)]
    if not len(some):
        return None
    ends = [(float(some[name].min()), float(some[name].max())) for name in some]
    return ends[0], ends[1], float(np.exp(np.log(some["trained"] / some["untrained"]).mean()))


def _coherence(study: Study, depth: DepthAnswer) -> str:
    """What training did to the interference of paths."""
    coherence = coherence_of(study)
    if coherence is None:
        return "On its effective lengths coherence is not known of both, as the untrained branches carry nothing."
    here, there, factor = coherence
    verb = "hardly changed how they add up"
    if factor > _CHANGED:
        verb = "made the paths of a length reinforce each other" if here[1] > 1 else "made the paths cancel less"
    elif factor < 1 / _CHANGED:
        verb = "made the paths of a length reinforce each other less" if here[0] > 1 else "made the paths cancel"
    lengths = span(depth.by_share.low, depth.by_share.high, "block")
    return f"Training {verb}: on {lengths} coherence is {ends(here)}, untrained {ends(there)} (1: no interference)."


def ends(pair: tuple[float, float]) -> str:
    """ "1.3 to 25.1"."""
    return " to ".join(dict.fromkeys(map(ratio, pair)))
