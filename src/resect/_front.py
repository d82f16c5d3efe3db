"""The front door: the functions of `sweep` and `paths`, for which data may also be a spec such as "digits"."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from resect.data import load_samples
from resect.network.unraveled import Unraveled
from resect.paths import participation as carriers
from resect.paths import samples as sampling
from resect.paths import spectrum, squares, strongest
from resect.paths.settings import PathSettings
from resect.sweep import ensemble as ensembles
from resect.sweep import lesion as sweep
from resect.sweep import shapley as shapley_values
from resect.sweep.ensemble import EnsembleResult
from resect.sweep.plans import Plan
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings
from resect.sweep.shapley import ShapleyResult

Data = str | Iterable[tuple[Any, Tensor]]
Progress = Callable[[float], None] | None
_LESION_BATCH, _PATH_BATCH = 500, 32


def _batches(data: Data, size: int) -> Iterable[tuple[Any, Tensor]]:
    """Batches that can be read more than once where the data are a spec."""
    return list(load_samples(data).batches(size)) if isinstance(data, str) else data


def lesion(
    net: Unraveled, data: Data, plan: Plan, settings: LesionSettings | None = None, *, progress: Progress = None
) -> LesionResult:
    """`resect.sweep.lesion.lesion`, for (inputs, targets) batches or a data spec.

    Example:
        >>> result = resect.lesion(net, "digits", resect.plans.single(net))
        >>> result.table
    """
    return sweep.lesion(net, _batches(data, _LESION_BATCH), plan, settings, progress=progress)


def shapley(
    net: Unraveled, data: Data, orders: int = 20, settings: LesionSettings | None = None, *, progress: Progress = None
) -> ShapleyResult:
    """`resect.sweep.shapley.shapley`, for (inputs, targets) batches or a data spec."""
    return shapley_values.shapley(net, _batches(data, _LESION_BATCH), orders, settings, progress=progress)


def ensemble(
    net: Unraveled,
    data: Data,
    removed: int,
    members: int = 32,
    settings: LesionSettings | None = None,
    *,
    progress: Progress = None,
) -> EnsembleResult:
    """`resect.sweep.ensemble.ensemble`, for (inputs, targets) batches or a data spec."""
    return ensembles.ensemble(net, _batches(data, _LESION_BATCH), removed, members, settings, progress=progress)


def path_spectrum(
    net: Unraveled,
    data: Data,
    settings: PathSettings | None = None,
    *,
    max_length: int | None = None,
    progress: Progress = None,
) -> spectrum.PathSpectrum:
    """`resect.paths.spectrum.path_spectrum`, for (inputs, targets) batches or a data spec.

    Example:
        >>> resect.path_spectrum(net, "digits").effective(0.95)
    """
    return spectrum.path_spectrum(net, _batches(data, _PATH_BATCH), settings, max_length=max_length, progress=progress)


def sample_paths(
    net: Unraveled,
    data: Data,
    settings: PathSettings | None = None,
    *,
    samples: int = 20,
    progress: Progress = None,
) -> sampling.PathSamples:
    """`resect.paths.samples.sample_paths`, for (inputs, targets) batches or a data spec."""
    return sampling.sample_paths(net, _batches(data, _PATH_BATCH), settings, samples=samples, progress=progress)


def path_squares(
    net: Unraveled, data: Data, settings: PathSettings | None = None, *, sweeps: int = 8, progress: Progress = None
) -> squares.PathSquares:
    """`resect.paths.squares.path_squares`, for (inputs, targets) batches or a data spec."""
    return squares.path_squares(net, _batches(data, _PATH_BATCH), settings, sweeps=sweeps, progress=progress)


def participation(
    net: Unraveled, data: Data, settings: PathSettings | None = None, *, pairs: bool = False, progress: Progress = None
) -> carriers.Participation:
    """`resect.paths.participation.participation`, for (inputs, targets) batches or a data spec."""
    return carriers.participation(net, _batches(data, _PATH_BATCH), settings, pairs=pairs, progress=progress)


def strongest_paths(
    net: Unraveled,
    data: Data,
    settings: PathSettings | None = None,
    *,
    count: int = 20,
    limit: int = 5000,
    progress: Progress = None,
) -> strongest.StrongPaths:
    """`resect.paths.strongest.strongest_paths`, for (inputs, targets) batches or a data spec."""
    batches = _batches(data, _PATH_BATCH)
    return strongest.strongest_paths(net, batches, settings, count=count, limit=limit, progress=progress)
