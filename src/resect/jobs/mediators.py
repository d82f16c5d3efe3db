"""What the paths of trained arms are like, and whether errors go with that: exploratory, beside the planned test.

The numbers of a network lie in a small file beside its card, as its outcomes do, so that its weights may go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import nan, sqrt
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from resect.data.samples import SampleSet
from resect.digest import key_digest
from resect.files import write_text
from resect.network.unraveled import Unraveled
from resect.paths.energy import path_energy
from resect.paths.settings import PathSettings
from resect.paths.spectrum import path_spectrum
from resect.words import decimal

SUFFIX = ".paths.json"
IMAGES = 64  # of the test images, the first
_SCHEMA, _DRAWS = 1, 8


@dataclass(frozen=True)
class TrainedPaths:
    """Of one trained network, by the exact shares of the gradient of the first test images, and by energy.

    Attributes:
        effective_depth, log2_effective_paths: as in `measures.Multiplicity`.
        energy_depth, log2_energy_paths: mean length, and the largest entropy, of the energy over paths.
    """

    effective_depth: float
    log2_effective_paths: float
    energy_depth: float
    log2_energy_paths: float

    @classmethod
    def of(cls, net: Unraveled, samples: SampleSet, seed: int) -> Self:
        """Measure them."""
        data = samples.limited(IMAGES).batches(IMAGES)
        settings = PathSettings(seed=seed, precision=None)
        shares = path_spectrum(net, data, settings).multiplicity()
        energy = path_energy(net, data, settings, draws=_DRAWS)
        return cls(
            shares.effective_depth, shares.log2_effective_paths, energy.effective_depth, energy.log2_effective_paths
        )

    def write(self, file: Path, key: Mapping[str, str]) -> None:
        """Write them beside what they are of."""
        content = {"schema": _SCHEMA, **key, **asdict(self)}
        write_text(file, json.dumps({**content, "digest": key_digest(content)}, indent=2) + "\n")

    @classmethod
    def read(cls, file: Path, key: Mapping[str, str]) -> Self | None:
        """Read them back; None if there are none, or they are damaged or of something else."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            whole = content.pop("digest") == key_digest(content) and content.pop("schema") == _SCHEMA
            own = {name: float(content[name]) for name in MEASURES}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return cls(**own) if whole and all(content.get(name) == value for name, value in key.items()) else None


MEASURES = tuple(own.name for own in fields(TrainedPaths))
LOSS = "training_loss"  # beside them: an arm that has not converged as far as another errs for that reason, too


def mediation(trainings: pd.DataFrame, pairs: Iterable[tuple[str, str]], seeds: Sequence[int]) -> pd.DataFrame:
    """A row a contrast and measure: does the measure differ between two arms, and does that go with their errors?

    `fewer`, `more`: the arms; `measure`; `mean_fewer`, `mean_more`; `difference` of the arm with fewer paths from that
    with more, paired by seed; `slope`: of the error within arms, both taken together, a unit of the measure; `carried`:
    difference times slope, the part of the difference of errors that would go with the measure (Sobel 1982); each with
    its 95 % interval over seeds, NaN with fewer than 3. Errors are fractions.

    Args:
        trainings: columns `arm`, `seed`, `error`, `training_loss` and MEASURES, NaN where they were not measured.
        pairs: (fewer, more).
        seeds: that all arms have.
    """
    rows = []
    indexed = trainings.set_index(["arm", "seed"])
    for fewer, more in pairs:
        for measure in (*MEASURES, LOSS):
            table = indexed[["error", measure]].reindex(pd.MultiIndex.from_product([(fewer, more), seeds]))
            errors, values = (table[name].to_numpy(float).reshape(2, len(seeds)) for name in ("error", measure))
            known = np.isfinite(values).all(0)
            row = {"fewer": fewer, "more": more, "measure": measure, "seeds": int(known.sum())}
            rows.append({**row, **_mediated(errors[:, known], values[:, known])})
    return pd.DataFrame(rows)


def said_of_loss(table: pd.DataFrame) -> str:
    """That the arms of the primary contrast do not fit their training images alike, where errors go with that."""
    rows = table[table["measure"] == LOSS] if len(table) else table
    if not len(rows) or not (rows["carried_low"].iloc[0] > 0 or rows["carried_high"].iloc[0] < 0):
        return ""
    row = rows.iloc[0]
    carried, low, high = (decimal(float(row[name]) * 100) for name in ("carried", "carried_low", "carried_high"))
    more, fewer = (f"{decimal(float(row[f'mean_{of}']), 3)} for {row[of]}" for of in ("more", "fewer"))
    return (
        f" The arms do not fit their training images alike: a training loss of {more}, {fewer}, with which {carried} "
        f"points of error go by the slope within arms (95 % {low} to {high})."
    )


def _mediated(errors: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Of (2, R) errors and values of a measure."""
    seeds = values.shape[1]
    means = dict(zip(("mean_fewer", "mean_more"), values.mean(1) if seeds else (nan, nan), strict=True))
    if seeds < 3:
        return means | {
            f"{name}{end}": nan for name in ("difference", "slope", "carried") for end in ("", "_low", "_high")
        }
    apart = values[0] - values[1]
    shift, shift_error = float(apart.mean()), float(apart.std(ddof=1)) / sqrt(seeds)
    x, y = (part - part.mean(1, keepdims=True) for part in (values, errors))
    spread, freedom = float((x**2).sum()), 2 * seeds - 3
    slope = float((x * y).sum()) / spread if spread else nan
    slope_error = sqrt(float(((y - slope * x) ** 2).sum()) / freedom / spread) if spread else nan
    carried, carried_error = shift * slope, sqrt((slope * shift_error) ** 2 + (shift * slope_error) ** 2)
    return means | {
        **_with_ends("difference", shift, shift_error, seeds - 1),
        **_with_ends("slope", slope, slope_error, freedom),
        **_with_ends("carried", carried, carried_error, seeds - 1),
    }


def _with_ends(name: str, value: float, error: float, freedom: int) -> dict[str, float]:
    reach = float(stdtrit(freedom, 0.975)) * error
    return {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}


def paths_file(weights: Path) -> Path:
    """Where the numbers of a network lie, whether its weights do so or not."""
    return weights.with_suffix(SUFFIX)


def columns_of(paths: TrainedPaths | None) -> dict[str, Any]:
    """The columns of one training."""
    return dict.fromkeys(MEASURES, nan) if paths is None else asdict(paths)
