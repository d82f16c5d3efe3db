"""Studies computed by arithmetic: the frames have a study's columns and plausible curves."""

from __future__ import annotations

from dataclasses import replace
from math import comb, log2

import numpy as np
import pandas as pd

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
from resect.paths.measures import Effective

INTACT, CHANCE = 0.061, 0.9


def made_blocks(n: int, unit: str = "block") -> pd.DataFrame:
    third = max(1, n // 3)
    down = [unit == "block" and n > 3 and i in (third, 2 * third) for i in range(n)]
    plain = "layer" if unit == "layer" else "identity"
    return pd.DataFrame(
        {
            "block": range(n),
            "name": [f"stage{i // third}.{i % third}" for i in range(n)],
            "kind": ["projection" if d else plain for d in down],
            "span": [min(2, i // third) for i in range(n)],
            "layers": 2,
            "parameters": 4672,
            "downsampling": down,
        }
    )


def made_deletions(blocks: pd.DataFrame, intact: float, cost: float) -> pd.DataFrame:
    """Every block costs about `cost`; downsampling blocks 0.15 more; one in the middle helps when it goes."""
    damage = cost * (1 + 0.5 * np.sin(1.7 * np.arange(len(blocks)))) + 0.15 * blocks["downsampling"]
    if len(blocks) > 8:
        damage[5] = -0.002
    error = np.minimum(intact + damage, 1)
    frame = blocks[["block", "name", "kind", "downsampling"]]
    return frame.assign(error=error, loss=0.2 + 4 * np.maximum(damage, 0), damage=error - intact)


def made_lengths(n: int, rate: float) -> pd.DataFrame:
    """Binomial shares, every third of the long ones negative; magnitudes that decay half as fast."""
    k = np.arange(n + 1)
    counts = np.array([float(comb(n, i)) for i in k])
    share = counts * rate**k * np.where((k > 3 * n * rate) & (k % 3 == 1), -1, 1)
    single = 0.01 * (2 * rate) ** k
    weights = {name: counts * norm for name, norm in (("magnitude", single), ("magnitude_rms", single * 1.05**k))}
    return pd.DataFrame(
        {
            "length": k,
            "layers": 2.0 * k,
            "log2_paths": [log2(count) for count in counts],
            "path_fraction": counts / counts.sum(),
            "share": share / share.sum(),
            "norm": np.sqrt(np.abs(share / share.sum())),
            "path_norm": single,
            "path_norm_rms": single * 1.05**k,
            "sampled": 640,
            **{name: weight / weight.sum() for name, weight in weights.items()},
            **{f"coherence_{name}": part * (1 + k) for name, part in (("lower", 0.5), ("median", 1.0), ("upper", 2.0))},
        }
    )


def made_twin(n: int, rate: float) -> UntrainedTwin:
    """A twin whose paths are a little longer, and do not interfere."""
    lengths, depth, _ = made_paths(n, rate * 1.2)
    flat = {f"coherence_{name}": value for name, value in (("lower", 0.8), ("median", 1.0), ("upper", 1.2))}
    ranges = (depth.by_share, depth.by_magnitude, depth.by_rms)
    change, every = (-0.05 * n, -0.06 * n, -0.04 * n), {"longest": (depth.by_magnitude.high,) * 3}
    return UntrainedTwin(None, 3, *ranges, 0.15 * n, change, **every, lengths=lengths.assign(**flat))


def made_range(table: pd.DataFrame, column: str) -> Effective:
    """The shortest range that holds 95 %."""
    before = np.concatenate([[0.0], np.cumsum(table[column])])
    ranges = [(low, high) for low in range(len(table)) for high in range(low, len(table))]
    holding = [(low, high) for low, high in ranges if before[high + 1] - before[low] >= 0.95 - 1e-9]
    low, high = min(holding, key=lambda pair: pair[1] - pair[0])
    fraction = float(table["path_fraction"][low : high + 1].sum())
    return Effective(low, high, 2.0 * low, 2.0 * high, 0.95, fraction)


def made_paths(n: int, rate: float) -> tuple[pd.DataFrame, DepthAnswer, GradientAnswer]:
    table = made_lengths(n, rate)
    found = [made_range(table, column) for column in ("share", "magnitude", "magnitude_rms")]
    share, magnitude = table["share"], table["magnitude"]
    tenth, quarter = n // 10, n // 4
    gradient = GradientAnswer(
        tenth, float(share[: tenth + 1].sum()), quarter, float(share[: quarter + 1].sum()), float(share[n]),
        float(magnitude[: tenth + 1].sum()), float(magnitude[: quarter + 1].sum()), 3e-7,
    )  # fmt: skip
    return table, DepthAnswer(0.95, *found, longest=n, longest_layers=2.0 * n), gradient


def made_random(n: int, intact: float) -> pd.DataFrame:
    rows = [(d, r, 1 - np.exp(-((4 * d / n) ** 1.5)) * (1 - 0.02 * r)) for d in range(1, n // 2 + 1) for r in range(5)]
    table = pd.DataFrame(rows or [(1, 0, 0.5)], columns=["deleted", "repeat", "error"])
    return table.assign(error=intact + (CHANCE - intact) * table["error"], loss=1.0)


def made_reorderings(intact: float) -> pd.DataFrame:
    table = pd.DataFrame([(s, r, 1 - s / 50 - r / 200) for s in range(1, 13) for r in range(4)])
    table.columns = pd.Index(["swaps", "repeat", "kendall_tau"])
    return table.assign(error=intact + (CHANCE - intact) * (1 - table["kendall_tau"]), loss=1.0)


def made_control() -> PlainControl:
    deletions = made_deletions(made_blocks(15, "layer"), 0.07, 0.8)
    worst = int(deletions["damage"].argmax())
    median, largest = float(deletions["damage"].median()), float(deletions["damage"][worst])
    return PlainControl("resect:vgg15", 0.07, deletions, 3, median, largest, str(deletions["name"][worst]))


def made_row(model: str, n: int, error: float) -> MultiplicityRow:
    return MultiplicityRow(model, n, 2 * n, 30_000 * n, error, float(n), 0.4 * n, 0.1 * n, 0.2 * n)


def made_step(places: list[int], change: float) -> Step:
    """Beyond doubt."""
    return Step((places[0],), (places[1],), (change, change - 0.001, change + 0.001), (3.0, 2.5, 3.5))


def made_study(n: int = 54, *, unit: str = "block", intact: float = INTACT, cost: float = 0.004, rate: float = 0.1,
               control: bool = True, reordered: bool = True, beside: int = 0) -> Study:  # fmt: skip
    blocks = made_blocks(n, unit)
    deletions, random = made_deletions(blocks, intact, cost), made_random(n, intact)
    reorderings = made_reorderings(intact)[: None if reordered else 0]
    plain = made_control() if control else None
    means, worst = random.groupby("deleted")["error"].mean(), int(deletions["damage"].argmax())
    tenth, half = max(1, round(n / 10)), max(1, n // 2)
    ensemble = EnsembleAnswer(
        intact, CHANCE, float(deletions["damage"].median()), float(deletions["damage"][worst]),
        str(deletions["name"][worst]), plain.median_damage if plain else None, plain.largest_damage if plain else None,
        tenth, float(means[tenth]), half, float(means[half]), -0.94 if reordered else None, len(reorderings),
    )  # fmt: skip
    lengths, depth, gradient = made_paths(n, rate) if unit == "block" else (None, None, None)
    row = made_row("resect:resnet110", n, intact)
    row = row if unit == "block" else replace(row, log2_paths=0.0, log2_effective_paths=0.0)
    others = tuple(made_row(f"resect:resnet{6 * m + 2}", 3 * m, intact + 0.1 / m) for m in (1, 3, 9)[:beside])
    subject = StudySubject("resect:resnet110", "cifar10", 10_000, 10, n, 1_730_000, unit)
    order = sorted(range(1 + len(others)), key=lambda i: (row, *others)[i].log2_effective_paths)
    made = [(row, *others)[i] for i in order]
    falls = [made_step(order[i : i + 2], made[i + 1].error - made[i].error) for i in range(len(others))]
    found = Answers(ensemble, depth, gradient, (row, *others), tuple(falls))
    environment = {"python": "3.12", "cuda": None, "packages": {"torch": "2.13"}}
    asked = {"seed": 3, "limit": None, "beside": ["a", "b"], "retrain": False}
    command = "resect study resect:resnet110 cifar10 --seed 3 --control 'resect:vgg15@w w.pt' --beside a --beside b"
    tables = (blocks, deletions, random, reorderings, lengths, plain)
    twin = made_twin(n, rate) if unit == "block" else None
    return Study(subject, found, *tables, 0.2, environment, 163.0, asked, command, untrained=twin)
