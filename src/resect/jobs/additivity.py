"""Do lesions add up? What deleting several blocks costs, beside sums over these blocks and over their pairs.

If deletions were additive, several would cost what each costs alone, added up, and nothing would be left for pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from resect.jobs import authors
from resect.paths.participation import Participation
from resect.sweep.result import LesionResult


def deleted_together(model: str, several: LesionResult, alone: pd.Series, shares: Participation) -> pd.DataFrame:
    """One row a deletion of several blocks.

    Args:
        several: deletions of several blocks.
        alone: (n,) the loss that deleting each block alone costs.
        shares: of all paths through each block, and through each pair.

    Returns:
        `model`, `unit` of costs ("nats"; "points of error", told in fractions), `count` (deleted blocks), `cost`, and
        over the deleted blocks the sums of what each costs alone (`alone`), of shares (`shares`), and over their pairs
        that of the share through both less the product of shares (`ties`); `excess`, the cost beyond `alone`.
    """
    chosen = [[i for i, run in enumerate(own) if run is None] for own in several.plan.arrangements]
    cost = several.table["loss_change"].to_numpy(float)
    return _sums(model, chosen, cost, alone.to_numpy(float), shares).assign(unit="nats")


def deleted_by_authors(model: str, blocks: pd.DataFrame, shares: Participation) -> pd.DataFrame | None:
    """The same of the paper's authors' network of the depth, in error; None if they had none.

    Args:
        blocks: of the network, with the column `downsampling`.
        shares: of this network, which stand for theirs.
    """
    network = authors.counterpart(model, blocks)
    several = None if network is None else authors.measured(network, "delete several")
    if network is None or several is None or several.empty:
        return None
    intact = authors.intact(network)
    alone = authors.measured(network, "delete").sort_values("block")["error"].to_numpy(float) - intact
    chosen = [json.loads(text) for text in several["blocks"]]
    cost = several["error"].to_numpy(float) - intact
    return _sums(f"the authors' {network}", chosen, cost, alone, shares).assign(unit="points of error")


def _sums(
    model: str, chosen: Sequence[Sequence[int]], cost: np.ndarray, alone: np.ndarray, shares: Participation
) -> pd.DataFrame:
    through, interaction = shares.share, shares.interaction
    table = pd.DataFrame(
        {
            "model": model,
            "count": [len(own) for own in chosen],
            "cost": cost,
            "alone": [float(alone[list(own)].sum()) for own in chosen],
            "shares": [float(through[list(own)].sum()) for own in chosen],
            "ties": [float(sum(interaction[i, j] for i, j in combinations(own, 2))) for own in chosen],
        }
    )
    return table.assign(excess=table["cost"] - table["alone"])
