"""The architecture of a network anew, with the random weights that its library gives it before training."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

from torch import nn

from resect.data.samples import SampleSet
from resect.errors import InputError
from resect.models.names import Value, bare_name, is_shipped
from resect.models.specs import as_trained, load_model
from resect.seeds import seeded

_WEIGHTS = ("pretrained", "checkpoint_path")  # arguments that ask a library for weights
_CLASSES = 10  # of every network that is shipped with weights


def untrained(
    model: nn.Module,
    spec: str,
    *,
    checkpoint: Path | None = None,
    model_args: Mapping[str, Value] | None = None,
    samples: SampleSet | None = None,
    seed: int = 0,
) -> nn.Module:
    """A network like `model` with fresh random weights; nothing is read or downloaded but model cards.

    Args:
        model: what `load_model` made of the spec, the checkpoint and the rest.
        spec, checkpoint, model_args, samples: as for `load_model`.
        seed: of the random weights; the global random state is left alone.

    Raises:
        InputError: it cannot be built; of a factory, which may make what it likes, that is not known.
    """
    kind, _, name = spec.partition(":")
    if kind == "py":
        raise InputError("what a py: factory builds may be trained, and how it is built anew is not known")
    if kind == "hf":
        with seeded(seed):
            try:
                twin: nn.Module = type(model)(deepcopy(model.config))
            except Exception as error:  # transformers raises whatever it likes
                raise InputError(f"transformers cannot build it from its configuration ({error})") from error
        return twin.eval()
    given = dict(model_args or {})
    if checkpoint is not None:
        given, samples = as_trained(spec, checkpoint, given, samples)
    if is_shipped(spec):
        spec, given = f"resect:{bare_name(name)}", {"classes": _CLASSES, **given}
    bare = {key: value for key, value in given.items() if key not in _WEIGHTS}
    return load_model(spec, model_args=bare, samples=samples, seed=seed).module
