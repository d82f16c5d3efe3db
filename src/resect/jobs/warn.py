"""What a run warns of: weights that nobody gave, and a network that does no better than chance."""

from __future__ import annotations

import numpy as np
from torch import nn

from resect.data.samples import SampleSet
from resect.graph.outputs import IGNORED
from resect.measuring.calibration import has_untouched_norms
from resect.measuring.chance import no_better_than_chance
from resect.measuring.items import Item
from resect.measuring.meaning import number
from resect.measuring.targets import prepared
from resect.measuring.tasks import CLASSIFICATION, Task
from resect.models.specs import LoadedModel
from resect.network.requirements import recorded_message
from resect.network.unraveled import Unraveled
from resect.words import percent, plural


def random_weights(loaded: LoadedModel) -> tuple[str, ...]:
    """One sentence if weights of a network are random, with how to give them; none if they are not."""
    names, every = loaded.random, sum(1 for _ in loaded.module.parameters())
    if not names:
        return ()
    ways = {
        "resect": "train some with `resect train`, or name a network that has them, such as resect:resnet110-digits",
        "hf": "or name a model whose files have them all",
    }
    way = ways.get(loaded.spec.partition(":")[0], "or let the library fetch its own, with --model-arg pretrained=true")
    some = f" in {len(names)} of {every} places ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
    return (
        f"{loaded.spec} has random weights{'' if loaded.untrained else some}: nobody gave any. Give "
        f"--checkpoint FILE (or {loaded.spec}@FILE), {way}.",
    )


def untouched_norms(model: nn.Module) -> tuple[str, ...]:
    """One sentence if batch norms of a network have never seen a batch."""
    if not has_untouched_norms(model):
        return ()
    return (
        "Its batch norms have no statistics and do nothing: activations grow from block to block, and the gradient's "
        "paths look several times as long as they are with statistics. Measure these first, with --calibrate 256.",
    )


def recorded(net: Unraveled) -> tuple[str, ...]:
    """One sentence if a network is a recording of one forward pass."""
    said = recorded_message(net)
    return (said,) if said else ()


def chance_of(samples: SampleSet, task: Task) -> tuple[float | None, np.ndarray]:
    """The error of the best answer that does not look at the inputs, None where there is none; and the targets."""
    targets = prepared(Item(None, samples.targets_only()), None, task).cpu().numpy()
    return task.chance(targets), targets


def at_chance(
    model: str, error: float | None, samples: SampleSet, *, random: bool = False, task: Task = CLASSIFICATION
) -> tuple[str, ...]:
    """One sentence if an intact network does no better than one answer for all samples, as the commonest class.

    Args:
        model: its spec.
        error: fraction of the counted targets; None where it was not measured.
        samples: what it was measured on.
        random: the weights are known to be random, which explains it.
        task: what the targets mean.
    """
    chance, targets = chance_of(samples, task)
    if error is None or chance is None:
        return ()
    counted = int((targets != IGNORED).sum())
    if not (no_better_than_chance(error, chance, counted) if task.rate else error >= chance > 0):
        return ()
    of = plural(counted, "target" if targets.ndim > 1 else "sample")
    answer = "class" if task.classes else "state of each label"
    said = f"errs on {percent(error)} of {of} of {samples.name}, no better than always naming the commonest {answer} "
    said += f"({percent(chance)})"
    if not task.rate:
        said = f"is off by {number(error)} on {samples.name}, no better than always answering the median "
        said += f"({number(chance)})"
    said = f"{model} {said}. What is measured on such a network says nothing about trained ones."
    if not random:
        said += " Are these weights for these data"
        if samples.normalization is not None:
            said += (
                f", and were its inputs normalised by {samples.normalization} in training, too (that is "
                f"{samples.normalization.origin}; --normalize sets it)"
            )
        said += "?"
    return (said,)
