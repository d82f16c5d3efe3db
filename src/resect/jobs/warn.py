"""What a run warns of: weights that nobody gave, and a network that does no better than chance."""

from __future__ import annotations

from scipy.stats import binomtest
from torch import Tensor

from resect.data import Samples
from resect.models.specs import LoadedModel
from resect.words import percent


def random_weights(loaded: LoadedModel) -> tuple[str, ...]:
    """One sentence if weights of a network are random, with how to give them; none if they are not."""
    names, every = loaded.random, sum(1 for _ in loaded.module.parameters())
    if not names:
        return ()
    ways = {
        "resect": "train some with `resect train`, or name a network that has them, such as resect:resnet110-digits",
        "torchvision": "let the library fetch its own, with --model-arg pretrained=true",
        "timm": "let the library fetch its own, with --model-arg pretrained=true",
        "hf": "name a model whose files have them all",
    }
    some = f" in {len(names)} of {every} places ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
    return (
        f"{loaded.spec} has random weights{some if len(names) < every else ''}: nobody gave any. Give "
        f"--checkpoint FILE (or {loaded.spec}@FILE), or {ways[loaded.spec.partition(':')[0]]}.",
    )


def at_chance(model: str, error: float | None, samples: Samples, *, random: bool = False) -> tuple[str, ...]:
    """One sentence if an intact network does not do significantly better than naming the commonest class always.

    Significantly: its error's 95 % Wilson interval, over the targets that count, lies below the error of that. Where
    all targets are of one class, or none is missed, there is nothing to tell.

    Args:
        model: its spec.
        error: fraction of the counted targets; None where it was not measured.
        samples: what it was measured on.
        random: the weights are known to be random, which explains it.
    """
    chance = chance_error(samples.targets)
    if not error or not chance:
        return ()
    counted = int((samples.targets >= 0).sum())
    if binomtest(round(error * counted), counted).proportion_ci(0.95, method="wilson").high < chance:
        return ()
    what = "target" if samples.targets.ndim > 1 else "sample"
    said = (
        f"{model} errs on {percent(error)} of {counted:,} {what}s of {samples.name}, no better than always naming the "
        f"commonest class ({percent(chance)}): what deleting its blocks does says nothing."
    )
    if not random:
        said += " Are these weights for these data"
        if samples.normalization is not None:
            said += (
                f", and were its inputs normalised by {samples.normalization} in training, too (that is "
                f"{samples.normalization.origin}; --normalize sets it)"
            )
        said += "?"
    return (said,)


def chance_error(targets: Tensor) -> float | None:
    """The error of always naming the commonest class; None if no target counts."""
    counted = targets[targets >= 0]
    return None if not counted.numel() else 1.0 - float(counted.bincount().max()) / counted.numel()
