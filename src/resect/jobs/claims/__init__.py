"""The paper's claims against what was measured: for each what its authors found, what is found here, and a verdict.

Tests read finished runs and nothing else; numbers become words at the thresholds that their rules name.
"""

from __future__ import annotations

from dataclasses import dataclass

from resect.jobs.claims import later as later
from resect.jobs.claims import lesions as lesions
from resect.jobs.claims import paths as paths
from resect.jobs.claims.check import CHECKS, NOT_RUN, UNKNOWN, Runs
from resect.measuring.chance import no_better_than_chance
from resect.runs.record import Record


@dataclass(frozen=True)
class Finding:
    """What a claim comes to.

    Attributes:
        theirs: what the paper's authors found, in numbers.
        here: the same from the runs, with 95 % intervals; "" if it was not measured.
        verdict: HOLDS, PARTLY, FAILS, UNKNOWN or NOT_RUN.
    """

    theirs: str
    here: str = ""
    verdict: str = NOT_RUN


def finding(number: str, runs: Runs) -> Finding:
    """What a claim comes to, given the runs that there are."""
    check = CHECKS[number]
    if (names := check.among(runs)) is None:
        return Finding(check.theirs)
    here, verdict = check.find({name: runs[name] for name in names})
    doubtful = verdict != NOT_RUN and any(_at_chance(runs[name]) for name in names)
    return Finding(check.theirs, here, UNKNOWN if doubtful else verdict)


def _at_chance(record: Record) -> bool:
    """Whether a run's network, intact, does no better than chance, so that no lesion can tell anything."""
    found = record.found
    ensemble = found.get("answers", {}).get("ensemble") or found
    error = ensemble.get("intact_error", found.get("intact", {}).get("error"))
    counted = ensemble.get("targets") or found.get("subject", found).get("samples")
    return error is not None and no_better_than_chance(error, ensemble.get("chance_error"), counted)
