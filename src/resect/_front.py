"""The front door: functions of `sweep`, `paths` and `pruning` whose data may also be a spec ("digits"), or Samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from resect.data import Samples, load_samples
from resect.errors import DataError, InputError
from resect.measuring.batches import Batches
from resect.network.unraveled import Unraveled, require_unraveled
from resect.paths import energy, fair, sampled, spectrum, squares, strongest
from resect.paths import first_order as slopes
from resect.paths import participation as carriers
from resect.paths.settings import PathSettings
from resect.pruning import scores as importance
from resect.sweep import ensemble as ensembles
from resect.sweep import lesion as lesions
from resect.sweep import shapley as shapley_values
from resect.sweep.settings import LesionSettings

Data = str | Samples | Batches
P = ParamSpec("P")
R = TypeVar("R")


def takes_specs(
    size: int, settings: type[LesionSettings | PathSettings], **renamed: str
) -> Callable[[Callable[Concatenate[Unraveled, Batches, P], R]], Callable[Concatenate[Unraveled, Data, P], R]]:
    """Let the data of a function be a spec or Samples, too; documentation and signature stay its own.

    Args:
        size: of the batches in which the samples of a spec are read.
        settings: what the function takes as `settings`.
        renamed: keyword arguments that have another name now: old name and new name.
    """

    def decorate(
        function: Callable[Concatenate[Unraveled, Batches, P], R],
    ) -> Callable[Concatenate[Unraveled, Data, P], R]:
        @wraps(function)
        def wrapped(net: Unraveled, data: Data, *args: P.args, **kwargs: P.kwargs) -> R:
            if old := next((name for name in renamed if name in kwargs), None):
                raise InputError(f"`{old}` of {function.__name__} is now `{renamed[old]}`.")
            known = signature(function).parameters
            for name in kwargs.keys() - known.keys():
                if "settings" in known and name in settings.__dataclass_fields__:
                    raise InputError(
                        f"`{name}` is a setting: give resect.{settings.__name__}({name}=...) as `settings`."
                    )
            require_unraveled(net)
            data = load_samples(data) if isinstance(data, str) else data
            if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__") and not isinstance(data, Samples):
                raise DataError(
                    "`data` must be batches, a DataLoader, a spec such as 'digits', or resect.Samples, got "
                    f"{type(data).__name__}."
                )
            batches: Any = list(data.batches(size)) if isinstance(data, Samples) else data
            return function(net, batches, *args, **kwargs)

        return cast(Callable[Concatenate[Unraveled, Data, P], R], wrapped)

    return decorate


lesion = takes_specs(500, LesionSettings)(lesions.lesion)
shapley = takes_specs(500, LesionSettings)(shapley_values.shapley)
ensemble = takes_specs(500, LesionSettings)(ensembles.ensemble)
path_spectrum = takes_specs(32, PathSettings)(spectrum.path_spectrum)
sample_paths = takes_specs(32, PathSettings, samples="draws")(sampled.sample_paths)
path_squares = takes_specs(32, PathSettings)(squares.path_squares)
participation = takes_specs(32, PathSettings)(carriers.participation)
fair_shares = takes_specs(32, PathSettings)(fair.fair_shares)
path_energy = takes_specs(32, PathSettings)(energy.path_energy)
first_order = takes_specs(32, PathSettings)(slopes.first_order)
strongest_paths = takes_specs(32, PathSettings)(strongest.strongest_paths)
scores = takes_specs(100, LesionSettings)(importance.scores)
