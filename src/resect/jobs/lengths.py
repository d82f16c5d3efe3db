"""What paths carry by length: one table from all measures."""

from __future__ import annotations

import pandas as pd

from resect.paths.sampled import PathDraws
from resect.paths.spectrum import PathSpectrum
from resect.paths.squares import PathSquares

_RMS_NAMES = {  # the columns of random signs under the names that sampled root mean squares have
    "rms": "path_norm_rms",
    "rms_low": "path_norm_rms_low",
    "rms_high": "path_norm_rms_high",
    "rms_magnitude": "magnitude_rms",
}


def lengths_table(spectrum: PathSpectrum, draws: PathDraws | None, squares: PathSquares | None) -> pd.DataFrame:
    """One row a length, from all measures; root mean squares are those of all paths where signs were drawn."""
    table = spectrum.table
    if draws is not None:
        table = table.merge(draws.table, on="length")
    if squares is not None:
        table = table.drop(columns=["path_norm_rms", "magnitude_rms"], errors="ignore")
        table = table.merge(squares.table.rename(columns=_RMS_NAMES), on="length")
    return table
