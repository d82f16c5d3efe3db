"""Finished runs in closed form."""

from __future__ import annotations

from math import comb, log2
from pathlib import Path

import numpy as np
import pandas as pd

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
