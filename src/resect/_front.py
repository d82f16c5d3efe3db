"""The front door: functions of `sweep`, `paths` and `pruning` whose data may also be a spec ("digits"), or Samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from resect.data import load_samples
from resect.data.images import Preparation, scaled
from resect.data.loaders import Again
from resect.data.samples import SampleSet
from resect.data.text import Reading
from resect.errors import DataError, InputError, require_known
from resect.measuring.batches import Batches
from resect.network.requirements import require_unraveled
from resect.network.unraveled import Unraveled
from resect.paths import energy, fair, sampled, spectrum, squares, strongest
from resect.paths import first_order as slopes
from resect.paths import participation as carriers
from resect.paths.settings import PathSettings
from resect.pruning import generation as writing
from resect.pruning import prune as pruning
from resect.pruning import scores as importance
from resect.pruning.settings import GenerationSettings, PruneSettings
from resect.sweep import ensemble as ensembles
from resect.sweep import lesion as lesions
from resect.sweep import shapley as shapley_values
from resect.sweep.settings import LesionSettings

Data = str | SampleSet | Batches
_TRAINING = 500  # samples of a batch in which training samples are read
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class _OfNet:
    """What the example of a network says of its inputs."""

    net: Unraveled

    def preparation(self) -> Preparation | None:
        """To the size of its example, where that is not free."""
        channels, height, width = shape if len(shape := self.net.inputs[0].shape[1:]) == 3 else (None, None, None)
        return None if height is None or width is None else scaled(height, width, channels)

    def reading(self) -> Reading:
        """The tokenizer that lies where transformers read the model; without one, the spec has to name it."""
        config, entry = getattr(self.net.model, "config", None), self.net.inputs[0]
        return Reading(
            getattr(config, "_name_or_path", None) or None,
            entry.shape[1] if len(entry.shape) == 2 and not entry.dtype.is_floating_point else None,
            "MaskedLM" in type(self.net.model).__name__,
            getattr(config, "vocab_size", None),
        )


def takes_specs(
    size: int, settings: type[LesionSettings | PathSettings | PruneSettings | GenerationSettings], **renamed: str
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
            require_known(function.__name__, kwargs, known)
            require_unraveled(net)
            data = load_samples(data, model=_OfNet(net)) if isinstance(data, str) else data
            if callable(read := getattr(data, "batches", None)):  # Samples, or an object of that protocol
                data = Again(read, size)
            if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
                raise DataError(
                    "`data` must be batches, a DataLoader, a spec such as 'digits', or resect.Samples, got "
                    f"{type(data).__name__}."
                )
            return function(net, cast(Any, data), *args, **kwargs)

        return cast(Callable[Concatenate[Unraveled, Data, P], R], wrapped)

    return decorate


def _trains_on_specs(function: Callable[..., R]) -> Callable[..., R]:
    """Let `training` be a spec, whose training samples are read, or Samples; by default it is the spec of `data`."""

    @wraps(function)
    def wrapped(net: Unraveled, data: Data, *args: Any, **kwargs: Any) -> R:
        training = kwargs.get("training")
        if training is None and kwargs.get("heal") is not None and isinstance(data, str):
            training = data
        if isinstance(training, str):
            require_unraveled(net)
            training = load_samples(training, split="train", model=_OfNet(net))
        if callable(read := getattr(training, "batches", None)):
            training = Again(read, _TRAINING)
        return function(net, data, *args, **(kwargs if training is None else {**kwargs, "training": training}))

    return wrapped


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
prune = _trains_on_specs(takes_specs(64, PruneSettings)(pruning.prune))
generation = takes_specs(64, GenerationSettings)(writing.generation)
