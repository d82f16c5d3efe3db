"""The front door: functions of `sweep`, `paths` and `pruning` whose data may also be a spec ("digits"), or Samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from resect.data import Samples, load_samples
from resect.errors import InputError
from resect.measuring.batches import Batches
from resect.network.unraveled import Unraveled
from resect.paths import participation as carriers
from resect.paths import sampled, spectrum, squares, strongest
from resect.pruning import scores as importance
from resect.sweep import ensemble as ensembles
from resect.sweep import lesion as lesions
from resect.sweep import shapley as shapley_values

Data = str | Samples | Batches
P = ParamSpec("P")
R = TypeVar("R")


def takes_specs(
    size: int, **renamed: str
) -> Callable[[Callable[Concatenate[Unraveled, Batches, P], R]], Callable[Concatenate[Unraveled, Data, P], R]]:
    """Let the data of a function be a spec or Samples, too; documentation and signature stay its own.

    Args:
        size: of the batches in which the samples of a spec are read.
        renamed: keyword arguments that have another name now: old name and new name.
    """

    def decorate(
        function: Callable[Concatenate[Unraveled, Batches, P], R],
    ) -> Callable[Concatenate[Unraveled, Data, P], R]:
        @wraps(function)
        def wrapped(net: Unraveled, data: Data, *args: P.args, **kwargs: P.kwargs) -> R:
            if old := next((name for name in renamed if name in kwargs), None):
                raise InputError(f"`{old}` of {function.__name__} is now `{renamed[old]}`.")
            data = load_samples(data) if isinstance(data, str) else data
            batches: Any = list(data.batches(size)) if isinstance(data, Samples) else data
            return function(net, batches, *args, **kwargs)

        return cast(Callable[Concatenate[Unraveled, Data, P], R], wrapped)

    return decorate


lesion = takes_specs(500)(lesions.lesion)
shapley = takes_specs(500)(shapley_values.shapley)
ensemble = takes_specs(500)(ensembles.ensemble)
path_spectrum = takes_specs(32)(spectrum.path_spectrum)
sample_paths = takes_specs(32, samples="draws")(sampled.sample_paths)
path_squares = takes_specs(32)(squares.path_squares)
participation = takes_specs(32)(carriers.participation)
strongest_paths = takes_specs(32)(strongest.strongest_paths)
scores = takes_specs(100)(importance.scores)
