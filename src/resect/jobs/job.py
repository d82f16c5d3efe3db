"""What all jobs have in common: they say what was asked, run into a folder or not, and give a record."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from resect.data.samples import SampleSet
from resect.engines.local import Local
from resect.errors import DivergedError, DoubtfulWarning, InputError
from resect.jobs.asked import Asked
from resect.jobs.environment import environment
from resect.jobs.source import Source
from resect.network.unraveled import Unraveled
from resect.runs.folder import RunFolder
from resect.runs.record import Record

Advance = Callable[[float], None]
Track = Callable[[str, float], Advance]
"""Opens a bar, `track(what, total)`, and gives what advances it."""


def silent(what: str, total: float) -> Advance:
    """Show no progress."""
    return lambda amount: None


@dataclass(frozen=True)
class Answer:
    """What a job found, before it becomes a record: plain values, tables by name, and what to warn of."""

    found: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lab:
    """Where a job is done.

    Attributes:
        folder: the run folder; None where nothing is kept.
        track: opens bars.
        captured: networks that jobs done one after another share, by what makes them.
    """

    folder: RunFolder | None
    track: Track
    captured: dict[str, Subject] = field(default_factory=dict)

    @property
    def engine(self) -> Local:
        """The engine, whose store is the folder."""
        return Local(self.folder)

    def subject(self, source: Source, *like: SampleSet, plain: bool = False) -> Subject:
        """The network and the samples of a source, as `Source.unravel` has them; captured once."""
        key = f"{source}, plain={plain}"
        if key not in self.captured:
            self.captured[key] = Subject(*source.unravel(*like, plain=plain))
        return self.captured[key]


@dataclass(frozen=True)
class Job(Asked, ABC):
    """What a verb was asked to do, and how it is done."""

    def open(self, out: Path | str | None, track: Track) -> Lab:
        """The lab of a run in `out`, whose folder must be new, or of the same run."""
        return Lab(RunFolder(Path(out), self.verb, self.asked()) if out else None, track)

    def run(self, out: Path | str | None = None, track: Track = silent) -> Record:
        """Do it, or what a killed run has left of it; a finished run is only read.

        Args:
            out: the run folder; None keeps nothing.
            track: opens bars that show the progress.

        Raises:
            ResectError: something that was asked for cannot be done; nothing is lost or half written.
        """
        return self.run_in(self.open(out, track))

    def run_in(self, lab: Lab) -> Record:
        """The same, in a lab."""
        with lab.folder.locked() if lab.folder else nullcontext():
            new = lab.folder is not None and not lab.folder.begun
            try:
                return self._run(lab)
            except InputError as error:
                if lab.folder and new and not isinstance(error, DivergedError):
                    lab.folder.give_up()
                raise

    def _run(self, lab: Lab) -> Record:
        started = time.perf_counter()
        subject = self.prepare(lab)
        if record := self.before(lab, subject):
            return record
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            answer = self.answer(subject, lab)
        doubts: dict[str, None] = {}  # once each, as the record has them
        registry: dict[Any, Any] = {}
        for warning in heard:
            if issubclass(warning.category, DoubtfulWarning):
                doubts[str(warning.message)] = None
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno, registry=registry
                )
        seconds = {"seconds": time.perf_counter() - started, "capture_seconds": subject.capture_seconds}
        made_with = environment() | seconds
        made_of, command = subject.made_of, self.command()
        found = {**answer.found, "warnings": (*answer.warnings, *doubts)}
        record = Record(self.verb, self.asked(), made_of, made_with, command, found, answer.tables)
        if lab.folder:
            lab.folder.open()
            record.write(lab.folder.path)
        return record

    def before(self, lab: Lab, subject: Any) -> Record | None:
        """The record in the folder, if it is that of this very run, and nothing is left to do."""
        record = lab.folder.finished(subject.made_of) if lab.folder else None
        return record if record and self.over(record) else None

    def over(self, record: Record) -> bool:
        """Whether the finished run in the folder is all that is asked for."""
        return True

    @abstractmethod
    def prepare(self, lab: Lab) -> Any:
        """Load what the job works on; it has `made_of`, digests, and `capture_seconds`, None if nothing is captured."""

    @abstractmethod
    def answer(self, subject: Any, lab: Lab) -> Answer:
        """Measure it."""


@dataclass(frozen=True)
class Subject:
    """One unravelled network and its samples.

    Attributes:
        warnings: what to warn of.
        random: some weights are random.
        untrained: all are.
        more: digests of what else the job reads.
    """

    net: Unraveled
    samples: SampleSet
    warnings: tuple[str, ...] = ()
    random: bool = False
    untrained: bool = False
    more: Mapping[str, Any] | None = None

    @property
    def made_of(self) -> dict[str, Any]:
        """Digests of all."""
        return {"samples": digest_of([self.samples]), "networks": [self.net.fingerprint()], **(self.more or {})}

    @property
    def capture_seconds(self) -> float:
        """What the capture of the network took."""
        return self.net.capture_seconds


def digest_of(loaded: Sequence[SampleSet]) -> str:
    """The digest of the samples of several networks: one, unless they are normalised in several ways."""
    return " ".join(
        dict.fromkeys(samples.digest() for samples in {id(samples): samples for samples in loaded}.values())
    )
