"""The best candidates within a budget are healed before one of them is chosen, as healing may turn their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from resect.engines.work import Arrays
from resect.pruning.bench import Bench
from resect.pruning.healed import Candidate, Healing
from resect.pruning.problem import Choice
from resect.pruning.rerun import mean_over
from resect.pruning.treatment import Treated, Treatment
from resect.sweep.settings import LesionSettings


def heal(bench: Bench, treatment: Treatment, choices: Sequence[Choice]) -> Healing:
    """Heal some choices, take the one with the least loss on the samples that choose, and judge all on the others.

    Args:
        choices: by what the search thinks of them, the best first.
    """
    arrangements = [bench.arrangement(choice) for choice in choices]
    metrics = LesionSettings(tuple(name for name in ("error", "loss") if name in bench.task.metrics))
    before, cut = (bench.run(arrangements, batches, metrics) for batches in (bench.objective.batches, bench.judges))
    best: tuple[float, Treated] | None = None
    losses: list[float] = []
    rows: list[Arrays] = []
    for arrangement in arrangements:
        treated = treatment(arrangement)
        own = bench.rerun(treated.network, arrangement, bench.objective.batches)
        losses.append(mean_over(own["loss"], bench.objective.batches))
        rows.append(bench.rerun(treated.network, arrangement, bench.judges))
        if best is None or losses[-1] < best[0]:
            best = losses[-1], treated
    assert best is not None, "there is at least one choice"
    values = {name: np.stack([row[name] for row in rows]) for name in cut.values}
    candidates = [
        Candidate(choice, tuple(bench.groups[i].name for i in sorted(choice.removed)), arrangement, loss, healed)
        for choice, arrangement, loss, healed in zip(
            choices, arrangements, map(float, before.means("loss")), losses, strict=True
        )
    ]
    lesson = treatment.lesson
    return Healing(
        best[1].network, tuple(candidates), losses.index(best[0]), cut, replace(cut, values=values), treatment.settings,
        treatment.recipe, len(lesson), lesson.left_out, best[1].strength,
    )  # fmt: skip
