"""The explicit ensemble test: average the outputs of random sub-networks, and compare with independent members.

Veit et al. (section 4) argue that a residual network behaves like an ensemble of its paths. If its sub-networks are
members of one, then averaging several must help, by as much as they differ from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import InputError, require_whole, settings_or_default, whole_number
from resect.figures.shown import Shown
from resect.graph.outputs import IGNORED
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.measuring.clusters import clustered_rate_interval
from resect.measuring.metrics import positions
from resect.measuring.results import require_alike
from resect.measuring.statistics import independent_vote_error
from resect.network.unraveled import Unraveled
from resect.sweep import plans
from resect.sweep.execution import Execution
from resect.sweep.outcomes import Sweep
from resect.sweep.settings import LesionSettings
from resect.sweep.walk import Tour, walk
from resect.words import percent, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = ("error", "vote_error", "loss", "member_error", "member_loss", "ambiguity", "disagreement")


@dataclass(frozen=True, repr=False)
class EnsembleResult(Shown):
    """Ensembles of sub-networks, each without `removed` random blocks. N samples (of sequences: positions).

    Attributes:
        removed: blocks removed in every member.
        sizes: the numbers of members, M, of the ensembles.
        values: per measure (sizes, N) float32, the mean over ensembles of each size, drawn from one pool so that each
            member is in equally many:
            "error" and "loss" of the ensemble, which averages log-probabilities; "vote_error" of a plurality vote;
            "member_error" and "member_loss", the mean of its members; "ambiguity", the mean divergence
            KL(ensemble || member), so that loss = member_loss - ambiguity; "disagreement", the fraction of pairs of
            members with different predictions (0 for M = 1).
        intact_error, intact_loss: (N,) of the intact network.
        classes: of the outputs.
        sample: (N,) integers; to which sample each of them belongs: positions of one sequence are not independent.
    """

    removed: int
    sizes: tuple[int, ...]
    values: dict[str, np.ndarray]
    intact_error: np.ndarray
    intact_loss: np.ndarray
    classes: int
    sample: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[EnsembleResult]) -> EnsembleResult:
        """The same ensembles on other samples each, as one result; InputError if they differ."""
        require_alike(parts, "removed", "sizes", "classes")
        before = np.cumsum([0, *(part.sample.max(initial=-1) + 1 for part in parts)])
        return replace(
            parts[0],
            values={name: np.concatenate([part.values[name] for part in parts], axis=1) for name in parts[0].values},
            intact_error=np.concatenate([part.intact_error for part in parts]),
            intact_loss=np.concatenate([part.intact_loss for part in parts]),
            sample=np.concatenate([part.sample + start for part, start in zip(parts, before, strict=False)]),
        )

    @property
    def table(self) -> pd.DataFrame:
        """One row a size: `members`, the measures, `error_low`, `error_high`, and `independent_error`.

        The score interval takes samples as clusters. `independent_error` is that of a plurality vote of as many voters
        who err as often as the members, but independently of each other, and whose wrong votes fall on all other
        classes alike.
        """
        table = pd.DataFrame(
            {"members": self.sizes, **{name: v.mean(1, dtype=float) for name, v in self.values.items()}}
        )
        table["error_low"], table["error_high"] = self._error_interval()
        alone = float(self.values["member_error"][-1].mean())
        table["independent_error"] = [independent_vote_error(alone, size, self.classes) for size in self.sizes]
        return table

    def _error_interval(self) -> tuple[np.ndarray, np.ndarray]:
        _, sample, positions = np.unique(self.sample, return_inverse=True, return_counts=True)
        errors = np.stack([np.bincount(sample, row) for row in self.values["error"]]) / positions
        ensembles = [len(runs) for runs in subsets(self.sizes[-1], 0).values()]
        low, high = clustered_rate_interval(errors, np.outer(ensembles, positions))
        return np.maximum(low, 0), high

    def summary(self) -> str:
        """What averaging gains, and what independent members would."""
        last, without = self.table.iloc[-1], plural(self.removed, "block")
        said = f"Members without {without} err on {percent(last['member_error'], 2)}"
        if last["members"] > 1:
            said += (
                f"; {last['members']:.0f} of them averaged on {percent(last['error'], 2)}, where as many independent "
                f"ones would err on {percent(last['independent_error'], 2)}. Two members disagree on "
                f"{percent(last['disagreement'], 2)} of the samples"
            )
        return f"{said}; the intact network errs on {percent(self.intact_error.mean(), 2)}."

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw error against the number of members; returns the axes."""
        from resect.figures import ensembles

        return ensembles.ensemble(self.table, self.removed, float(self.intact_error.mean()), ax)


def ensemble(
    net: Unraveled,
    data: Batches,
    removed: int,
    members: int = 32,
    settings: LesionSettings | None = None,
    *,
    task: AnyTask = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> EnsembleResult:
    """Average the outputs of 1 to `members` random sub-networks with `removed` blocks deleted.

    Args:
        net, data, task, engine: as for `lesion`; the outputs must be logits of classes.
        removed: blocks deleted in every member, drawn at random.
        members: how many are drawn, 2 or more.
        settings: the seed of the members, and how the network runs; metrics and precision have no part.
        progress: called with the number of samples that a member has run on since the last call.

    Raises:
        InputError: `removed` or `members` is out of range.
        DataError: the data are empty or do not fit the network.

    Source: Krogh, Vedelsby 1995 for the decomposition; Heskes 1998 for its form for cross-entropy.
    """
    if not 0 < (whole_number(removed) or 0) < len(net.blocks):
        raise InputError(f"`removed` must be 1 to {len(net.blocks) - 1} of the blocks, got {removed!r}.")
    require_whole("members", members, 2)
    work = Ensembles(Sweep(settings_or_default(settings, LesionSettings)), removed, members)
    parts = []
    for arrays in engine.run(net, ((work, batch) for batch in batches_of(data, net, task)), progress):
        values = {name: arrays[name] for name in MEASURES}
        intact = arrays["intact_error"], arrays["intact_loss"]
        classes, sample = int(arrays["classes"]), arrays["sample"]
        parts.append(EnsembleResult(removed, (*range(1, members + 1),), values, *intact, classes, sample))
    return EnsembleResult.joined(parts)


@dataclass(frozen=True)
class Ensembles:
    """The work of running random sub-networks on a batch and averaging some of them: what `EnsembleResult` holds."""

    sweep: Sweep
    removed: int
    members: int

    @property
    def key(self) -> dict[str, Any]:
        """All that decides the measures beside network and batch."""
        settings = self.sweep.settings
        how = {"channels_last": settings.channels_last, "compile": settings.compile, "seed": settings.seed}
        return {"what": "ensembles by sample", "removed": self.removed, "members": self.members, **how}

    def cost(self, net: Unraveled, batch: Batch) -> float:
        """Samples that a network runs on, over members and the intact one."""
        return (self.members + 1) * len(batch)

    def run(self, net: Unraveled, batch: Batch, progress: Progress) -> Arrays:
        """The measures of ensembles of every size, and error and loss of the intact network."""
        if not batch.task.classes:
            raise InputError(
                f"an ensemble averages log-probabilities, so the outputs must be logits of classes, but the task is "
                f"{batch.task.name}. resect.lesion takes it."
            )
        seed = self.sweep.settings.seed
        pool = plans.random(net, [self.removed], self.members, seed).arrangements
        tour = self.sweep.tour(net, (*pool, net.intact))
        outputs = _log_probabilities(self.sweep.execution(net), batch, tour, progress)
        counted = (batch.targets != IGNORED).reshape(-1).to(net.device)
        wanted = batch.targets.reshape(-1).to(net.device)[counted]
        outputs = outputs[:, counted]
        measured = [measure_ensembles(outputs[:-1], wanted, chosen) for chosen in subsets(self.members, seed).values()]
        wrong, loss = outputs[-1].argmax(-1) != wanted, F.nll_loss(outputs[-1], wanted, reduction="none")
        return {
            **{name: torch.stack([m[name] for m in measured]).cpu().numpy() for name in MEASURES},
            "intact_error": wrong.float().cpu().numpy(),
            "intact_loss": loss.cpu().numpy(),
            "classes": np.array(outputs.shape[-1]),
            "sample": np.repeat(np.arange(len(batch)), positions(batch.targets).int().cpu()),
        }


def subsets(members: int, seed: int) -> dict[int, list[list[int]]]:
    """Per size 1 to `members` as many subsets of the pool, in each of which every member is equally often.

    The members stand in a random circle, a new one for each size; a subset is a run of neighbours.
    """
    draw, runs = np.random.default_rng(seed), {}
    for size in range(1, members):
        circle = draw.permutation(members)
        runs[size] = [sorted(np.roll(circle, -start)[:size].tolist()) for start in range(members)]
    return runs | {members: [list(range(members))]}


def _log_probabilities(execution: Execution, batch: Batch, tour: Tour, progress: Progress) -> Tensor:
    """(arrangements, samples, classes) float32; of sequences, all positions."""
    by_position: dict[int, Tensor] = {}

    def visit(group: Sequence[int], outputs: Any) -> None:
        logits = batch.task.checked(outputs, batch.targets.to(execution.net.device))
        value = F.log_softmax(logits.reshape(-1, logits.shape[-1]).float(), -1)
        by_position.update(dict.fromkeys(group, value))
        progress(len(group) * len(batch))

    walk(execution, batch.inputs, tour, visit)
    return torch.stack([by_position[i] for i in range(tour.arrangements)])


def measure_ensembles(outputs: Tensor, targets: Tensor, chosen: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The measures of `EnsembleResult`, averaged over several ensembles of one size.

    Args:
        outputs: (members, N, C) log-probabilities.
        targets: (N,) classes.
        chosen: the members of each ensemble.

    Returns:
        Per measure (N,) float32.
    """
    ensembles = [_measure_ensemble(outputs[list(members)], targets) for members in chosen]
    return {name: torch.stack([measures[name] for measures in ensembles]).mean(0) for name in MEASURES}


def _measure_ensemble(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    average = outputs.mean(0)
    ambiguity = -average.logsumexp(-1)  # the mean of KL(ensemble || member), since exp(average) / Z is the ensemble
    predictions = outputs.argmax(-1)
    votes = F.one_hot(predictions, outputs.shape[-1]).sum(0)
    losses = -outputs.gather(-1, targets.expand(len(outputs), -1)[..., None]).squeeze(-1)
    size = len(outputs)
    tied = votes == votes.amax(-1, keepdim=True)  # a tie is broken at random: the part of it that is wrong
    alike = (votes * (votes - 1)).sum(-1) / max(size * (size - 1), 1)
    return {
        "error": (average.argmax(-1) != targets).float(),
        "vote_error": 1 - tied.gather(-1, targets[:, None]).squeeze(-1).float() / tied.sum(-1),
        "loss": F.nll_loss(F.log_softmax(average, -1), targets, reduction="none"),
        "member_error": (predictions != targets).float().mean(0),
        "member_loss": losses.mean(0),
        "ambiguity": ambiguity,
        "disagreement": (1 - alike) if size > 1 else torch.zeros_like(ambiguity),
    }
