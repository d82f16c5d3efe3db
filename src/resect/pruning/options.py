"""Which options are of which searches."""

from __future__ import annotations

OPTIONS_OF = {  # settings that some searches make nothing of
    "score": ("one-shot",),
    "width": ("beam", "exchange"),
    "generations": ("evolution",),
    "offspring": ("evolution",),
    "tried": ("pairwise",),
    "most_sets": ("exhaustive", "pairwise"),
}
OF_SEARCHES = ("search", "objective", "sweep", "candidates", "fits", *OPTIONS_OF)
"""Settings that mean nothing where what goes is given."""
