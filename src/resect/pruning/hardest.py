"""Calibration samples in the order in which they tell most: those that the intact network is least sure of first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.engines.work import Engine
from resect.measuring.batches import Batch
from resect.network.unraveled import Unraveled
from resect.sweep import plans
from resect.sweep.lesion import lesion


def hardest_first(net: Unraveled, batches: Sequence[Batch], engine: Engine) -> list[Batch]:
    """The same samples in batches of the same sizes, those of the largest intact loss first.

    Most of the harm that removals do is to few samples. With these in front, a search sees after the first batch which
    sets cannot be the best. Batches that cannot be cut anew stay as they are.
    """
    if len(batches) < 2 or not _can_be_joined(net, batches):
        return list(batches)
    intact = lesion(net, batches, plans.explicit(net, []), engine=engine)
    order = torch.from_numpy(intact.intact["loss"] * intact.weights).argsort(descending=True, stable=True)
    inputs = pytree.tree_map(lambda *leaves: torch.cat(leaves, net.batch_dim), *(batch.inputs for batch in batches))
    targets = torch.cat([batch.targets for batch in batches])
    ends = accumulate(map(len, batches), initial=0)
    parts = (order[start:stop] for start, stop in pairwise(ends))
    return [
        Batch(number, net.part_of(inputs, part), targets[part], batches[0].task) for number, part in enumerate(parts)
    ]


def _can_be_joined(net: Unraveled, batches: Sequence[Batch]) -> bool:
    """Whether every input has a sample in each place of one dimension, and all batches have the same other sizes."""
    first = batches[0]
    if first.task.whole or net.batch_size is not None:
        return False
    if any(entry.batch != net.batch_dim or entry.shape[entry.batch] is not None for entry in net.inputs):
        return False
    every = [pytree.tree_leaves(batch.inputs) for batch in batches]
    if any(not isinstance(leaf, Tensor) for leaves in every for leaf in leaves) or len(every[0]) != len(net.inputs):
        return False

    def of_a_sample(batch: Batch) -> list[torch.Size]:
        inputs = [leaf.movedim(net.batch_dim, 0).shape[1:] for leaf in pytree.tree_leaves(batch.inputs)]
        return [*inputs, batch.targets.shape[1:]]

    structures = [pytree.tree_structure(batch.inputs) for batch in batches]
    return all(s == structures[0] for s in structures) and all(of_a_sample(b) == of_a_sample(first) for b in batches)
