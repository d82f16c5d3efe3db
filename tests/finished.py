"""Finished runs in closed form, and studies with random results."""

from __future__ import annotations

from itertools import pairwise
from math import comb, log2
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from resect.graph.routes import Counts
from resect.jobs.findings import (
    Answers,
    DepthAnswer,
    EnsembleAnswer,
    GradientAnswer,
    MultiplicityRow,
    PlainControl,
    Step,
    Study,
    StudySubject,
    UntrainedTwin,
)
from resect.paths.measures import effective_range
from resect.runs.record import Record


def chain(n: int, r: float) -> pd.DataFrame:
    """Lengths of a chain of n blocks of two layers each."""
    counts = [comb(n, k) for k in range(n + 1)]
    share = np.array([count * r**k / (1 + r) ** n for k, count in enumerate(counts)])
    return pd.DataFrame(
        {
            "length": range(n + 1),
            "layers": [2.0 * k for k in range(n + 1)],
            "log2_paths": [log2(count) for count in counts],
            "path_fraction": [count / 2**n for count in counts],
            "share": share,
            "norm": 3 * share,
        }
    )


def sampled(n: int, r: float, norm: float) -> pd.DataFrame:
    """The same, with single paths whose norm falls by `norm` a block."""
    return chain(n, r).assign(magnitude=chain(n, norm)["share"])


def a_record(lengths: pd.DataFrame, model: str = "resect:resnet20") -> Record:
    """A run whose paths have been measured."""
    return Record("paths", {"model": model, "data": "digits"}, {}, {}, "resect paths", {}, {"lengths": lengths})


def write(folder: Path, lengths: pd.DataFrame, model: str = "resect:resnet20") -> Path:
    a_record(lengths, model).write(folder)
    return folder


def random_study(blocks: int, damage: str, unit: str, seed: int) -> Study:
    """A study with random results, of which every number is worked out from its tables.

    Args:
        damage: how deletions change the error: "none", "equal", "small", "mixed", "large" or "gain".
        unit: "layer" for a plain network.
    """
    draw = np.random.default_rng(seed)
    samples = int(draw.choice([1, 10, 500]))
    intact = float(draw.choice([0, draw.integers(0, samples + 1) / samples]))
    table = _blocks(blocks, unit, draw)
    deletions = _deletions(table, damage, intact, samples, draw)
    random, reorderings = _random(blocks, intact, draw), _reorderings(intact, draw)
    control = _control(intact, samples, draw) if draw.random() < 0.5 else None
    means, half, tenth = random.groupby("deleted")["error"].mean(), max(1, blocks // 2), max(1, blocks // 10)
    if blocks == 1:
        means[1] = deletions["error"][0]
    lengths = depth = gradient = None
    if unit == "block":
        lengths, depth, gradient = _paths(blocks, draw)
    distinct = min(reorderings["error"].nunique(), reorderings["kendall_tau"].nunique())
    tau = float(spearmanr(reorderings["kendall_tau"], reorderings["error"]).statistic) if distinct > 1 else None
    worst = int(deletions["damage"].argmax())
    ensemble = EnsembleAnswer(
        intact, draw.choice([None, 0.9, 0.5, 0.0], p=[0.2, 0.4, 0.3, 0.1]), float(deletions["damage"].median()),
        float(deletions["damage"][worst]), str(deletions["name"][worst]),
        control and control.median_damage, control and control.largest_damage,
        tenth, float(means[tenth]), half, float(means[half]), tau, len(reorderings),
        draw.choice([None, samples, 4 * samples]),
    )  # fmt: skip
    rows = tuple(_network(i, blocks, intact, unit, draw) for i in range(draw.integers(1, 5)))
    subject = StudySubject("resect:it0", "digits", samples, 10, blocks, 1_730_000, unit)
    found = Answers(ensemble, depth, gradient, rows, _steps(rows, draw))
    twin = None
    if lengths is not None and draw.random() < 0.7:
        twin = _twin(blocks, draw)
        lengths = lengths.assign(**_coherence(blocks, draw))
    parts = (table, deletions, random, reorderings, lengths, control)
    return Study(subject, found, *parts, 0.2, {}, 1.0, {}, "resect", untrained=twin)


def _steps(rows: tuple[MultiplicityRow, ...], draw: np.random.Generator) -> tuple[Step, ...] | None:
    """In the order of effective paths; of some studies, nearly every one beyond doubt, of some nothing is known."""
    if draw.random() < 0.1:
        return None
    order = sorted(range(len(rows)), key=lambda i: (rows[i].log2_effective_paths, rows[i].error))
    reach, made = draw.choice([0.001, 0.3]), []
    for i, j in pairwise(order):
        error = rows[j].error - rows[i].error
        bits = rows[j].log2_effective_paths - rows[i].log2_effective_paths
        width = np.nan if draw.random() < 0.05 else reach
        made.append(Step((i,), (j,), (error, error - width, error + width), (bits, bits - reach, bits + reach)))
    return tuple(made)


def _twin(n: int, draw: np.random.Generator) -> UntrainedTwin:
    if draw.random() < 0.2:
        return UntrainedTwin("it is of iron")
    lengths, depth, _ = _paths(n, draw)
    change, reach = draw.normal(), draw.random()
    limits = (change - reach, change + reach) if draw.random() < 0.8 else (np.nan, np.nan)
    ranges = (depth.by_share, depth.by_magnitude, depth.by_rms)
    table = lengths.assign(**_coherence(n, draw))
    return UntrainedTwin(None, 7, *ranges, 3 * draw.random(), (change, *limits), lengths=table)


def _coherence(n: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Of some studies 0 or not known, as where branches are closed."""
    median = draw.choice([1.0, 1.0, np.nan, 0.0]) * draw.choice([0.2, 1, 30]) ** draw.random(n + 1)
    return {"coherence_lower": median / 2, "coherence_median": median, "coherence_upper": 2 * median}


def _blocks(n: int, unit: str, draw: np.random.Generator) -> pd.DataFrame:
    down = (draw.random(n) < draw.choice([0, 0.2, 1])) & (unit == "block")
    names = [f"layers.{i + draw.integers(2)}.{i}" if draw.random() < 0.5 else f"part{i}.block0" for i in range(n)]
    kinds = np.where(down, "projection", "identity" if unit == "block" else "layer")
    numbers = {"block": range(n), "name": names, "kind": kinds, "span": 0, "layers": 2, "parameters": 9}
    return pd.DataFrame({**numbers, "downsampling": down})


def _deletions(blocks: pd.DataFrame, kind: str, intact: float, samples: int, draw: np.random.Generator) -> pd.DataFrame:
    n = len(blocks)
    flips = {
        "none": np.zeros(n),
        "equal": np.full(n, 0.03),
        "small": draw.normal(0, 0.01, n),
        "mixed": draw.choice([0, 0, 0, 0.05, 0.3, -0.01], n),
        "large": draw.random(n),
        "gain": -draw.random(n) * 0.1,
    }[kind]
    damage = np.round(np.clip(intact + flips, 0, 1) * samples) / samples - intact
    loss = 0.2 + draw.choice([0, 1], p=[0.2, 0.8]) * np.abs(damage) + draw.choice([0, -1e-4, 1e-4, 1e-3], n)
    if draw.random() < 0.1:
        loss[draw.integers(n)] = draw.choice([np.inf, np.nan])
    width = draw.random(n) * 0.02
    return blocks[["block", "name", "kind", "downsampling"]].assign(
        error=intact + damage, loss=loss, damage=damage, damage_low=damage - width, damage_high=damage + width
    )


def _random(blocks: int, intact: float, draw: np.random.Generator) -> pd.DataFrame:
    most, steep = max(1, blocks // 2), draw.choice([0.001, 1, 30])
    rows = [
        (k, r, 1 - np.exp(-steep * k / most * draw.random()))
        for k in range(1, most + 1)
        for r in range(draw.integers(1, 4))
    ]
    return pd.DataFrame(rows, columns=["deleted", "repeat", "error"]).assign(
        error=lambda table: intact + (1 - intact) * table["error"]
    )


def _reorderings(intact: float, draw: np.random.Generator) -> pd.DataFrame:
    count, follows = int(draw.choice([0, 1, 3, 12, 60])), draw.choice([-1, 0, 0, 1])
    tau = 1 - draw.random(count) * draw.choice([0, 1], p=[0.1, 0.9])
    error = np.clip(0.5 + 0.4 * follows * (tau - 0.5) + draw.choice([0, 0.1]) * draw.normal(size=count), 0, 1)
    return pd.DataFrame({"swaps": 1, "repeat": range(count), "kendall_tau": tau, "error": error})


def _control(intact: float, samples: int, draw: np.random.Generator) -> PlainControl:
    kind = str(draw.choice(["none", "mixed", "large", "gain"]))
    deletions = _deletions(_blocks(int(draw.integers(1, 8)), "layer", draw), kind, intact, samples, draw)
    damage = deletions["damage"]
    worst = str(deletions["name"][int(damage.argmax())])
    own = float(draw.choice([intact, 0.95]))
    return PlainControl(
        "plain", own, deletions, int(draw.integers(4)), float(damage.median()), float(damage.max()), worst
    )


def _paths(n: int, draw: np.random.Generator) -> tuple[pd.DataFrame, DepthAnswer, GradientAnswer]:
    ratio, sign = draw.choice([0.001, 0.1, 0.5, 1, 3, 50]), draw.choice([1, -1], n + 1, p=[0.8, 0.2])
    counts = np.array([float(comb(n, k)) for k in range(n + 1)])
    weights = counts * ratio ** np.arange(n + 1.0)
    weights /= weights.sum()
    share = weights * (sign if abs((weights * sign).sum()) > 0.2 else 1)
    norm = float(draw.choice([0.1, 1.0, 1.01, 2])) ** np.arange(n + 1.0) * draw.choice([0, 1], p=[0.02, 0.98])
    magnitude = counts * norm / max((counts * norm).sum(), 1e-300)
    if not magnitude.any():
        magnitude = weights
    table = chain(n, 1.0).assign(
        share=share / share.sum(), magnitude=magnitude, magnitude_rms=magnitude, norm=np.abs(share), path_norm=norm,
        path_norm_rms=norm * draw.choice([1, 2]),
    )  # fmt: skip
    of = Counts(tuple(comb(n, k) for k in range(n + 1)), tuple(2 * k * comb(n, k) for k in range(n + 1)))
    ranges = [effective_range(table[name].to_numpy(), of) for name in ("share", "magnitude", "magnitude_rms")]
    sums = [float(table[name][: end + 1].sum()) for name in ("share", "magnitude") for end in (n // 10, n // 4)]
    gradient = GradientAnswer(n // 10, sums[0], n // 4, sums[1], float(table["share"][n]), *sums[2:], 3e-7)
    return table, DepthAnswer(0.95, *ranges, n, 2.0 * n), gradient


def _network(place: int, n: int, intact: float, unit: str, draw: np.random.Generator) -> MultiplicityRow:
    error = intact if place == 0 else float(draw.choice([intact, 0.5, 0.1 * place, 1 - 0.1 * place]))
    bits = float(draw.choice([0, 1, n * (place + 1) / 4])) if unit == "block" or place else 0.0
    paths = 0.0 if unit == "layer" and place == 0 else float(n)
    return MultiplicityRow(
        f"resect:it{place}", n, 2 * n, 1000 * int(draw.integers(1, 4)), error, paths, bits, n / 4, n / 2
    )


def random_paths(blocks: int, seed: int) -> Record:
    """A run of `resect paths` with random results; of some, the longest lengths are not known."""
    draw = np.random.default_rng(seed)
    lengths, depth, _ = _paths(blocks, draw)
    known = blocks if draw.random() < 0.6 else int(draw.integers(0, blocks + 1))
    share = lengths["share"].where(lengths["length"] <= known)
    held = known == blocks or share.sum() >= depth.mass
    through = _blocks(blocks, "block", draw)[["block", "name"]].assign(share=draw.normal(0.3, 0.3, blocks))
    pairs = np.outer(through["share"], through["share"]) + draw.choice([0, 0.01]) * draw.normal(size=(blocks, blocks))
    chosen = sorted(draw.choice(blocks, int(draw.integers(0, blocks + 1)), replace=False).tolist())
    strongest = pd.DataFrame({"blocks": [chosen], "relative": draw.random(), "share": draw.normal()})
    found = {
        "at": str(draw.choice(["input", "blocks.0"])), "samples": int(draw.choice([1, 7])), "mass": 0.95,
        "longest": blocks, "known": known, "sum_of_shares": float(share.sum()), "rest": 1 - float(share.sum()),
        "sum_error": 2e-7, "effective": vars(depth.by_share) if held and known == blocks else None,
        "effective_by_magnitude": vars(depth.by_magnitude), "effective_by_rms": None,
        "multiplicity": {"log2_paths": float(blocks), "log2_effective_paths": float(draw.choice([0, blocks / 2])),
                         "effective_depth": float(draw.random() * blocks)},
        "log2_effective_paths_within": draw.choice([None, 1.5]),
        "strongest": {"summary": "All were looked at.", "proven": 1, "open": int(draw.integers(2))},
    }  # fmt: skip
    tables = {
        "lengths": lengths.assign(share=share, share_low=np.nan, share_high=np.nan),
        "blocks": through,
        "pairs": pd.DataFrame(pairs),
        "strongest": strongest,
    }
    return Record("paths", {"model": "resect:it", "data": "digits"}, {}, {}, "resect paths", found, tables)
