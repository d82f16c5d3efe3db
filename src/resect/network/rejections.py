"""The additions that are no blocks, as users see them: one by one, and together where reason and place are alike."""

from __future__ import annotations

import re

import pandas as pd

from resect.figures.shown import first_rows
from resect.graph.joins import Rejected
from resect.words import plural


class Rejections(tuple[Rejected, ...]):
    """The additions (of a plain network, layers) that were considered and are no blocks, each with the reason."""

    __slots__ = ()

    @property
    def table(self) -> pd.DataFrame:
        """One row a reason and kind of place: `number`, `module` ("layers.*.mlp" where several have it), `reason`."""
        groups: dict[tuple[str, str], list[Rejected]] = {}
        for entry in self:
            groups.setdefault((re.sub(r"\b\d+\b", "*", entry.module), entry.reason), []).append(entry)
        rows = [
            (len(entries), place if len({entry.module for entry in entries}) > 1 else entries[0].module, reason)
            for (place, reason), entries in groups.items()
        ]
        return pd.DataFrame(rows, columns=["number", "module", "reason"])

    def summary(self) -> str:
        """How many there are, and for how many reasons."""
        reasons = len({entry.reason for entry in self})
        return f"{len(self):,} rejected, for {plural(reasons, 'reason')}" if self else "None rejected"

    def __repr__(self) -> str:
        lines = [
            f"  {number} x {module or 'the model'}: {reason}"
            for number, module, reason in self.table.itertuples(index=False)
        ]
        return "\n".join([f"<Rejections: {self.summary()}>", *lines])

    def _repr_html_(self) -> str:
        return f"<p>{self.summary()}.</p>{first_rows(self.table)}"
