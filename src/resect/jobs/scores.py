"""`resect scores`: what every block is worth, by several measures."""

from __future__ import annotations

from dataclasses import dataclass

from resect.data.normalization import how_read
from resect.engines.local import Local, Memory
from resect.jobs.asked_pruning import ScoresAsked
from resect.jobs.job import Answer, Job, Lab, Subject
from resect.measuring.batches import Read
from resect.network.requirements import require_blocks
from resect.pruning.scores import Scores, angular_windows, scores, scores_of


@dataclass(frozen=True)
class ScoresJob(ScoresAsked, Job):
    """Scores of one network's blocks."""

    def prepare(self, lab: Lab) -> Subject:
        """Load and unravel the network, and load the samples."""
        return Subject(*self.source.unravel())

    def answer(self, subject: Subject, lab: Lab) -> Answer:
        """Measure them.

        Raises:
            InputError: the network has no blocks, or the task lacks what a score needs.
            DataError: the samples do not fit the network.
        """
        net, samples = subject.net, subject.samples
        require_blocks(net)
        data = Read(samples.batches(self.batch_size), net, self.task)
        engine, first = lab.engine if lab.engine.keeps else Local(Memory()), next(iter(data))
        wanted, parts = self.scores or scores_of(first.task), []
        advance = lab.track("scores", len(wanted))
        for name in wanted:
            parts.append(scores(net, data, name, task=self.task, engine=engine))
            advance(1)
        result = Scores.joined(parts)
        tables = {"scores": result.table, "correlations": result.correlations.rename_axis("score").reset_index()}
        if "angular" in result.values:
            tables["windows"] = angular_windows(net, data, engine)
        found = {
            "summary": result.summary(),
            "samples": len(samples),
            "meaning": result.meaning,
            "task": first.task.meaning(first.targets).as_dict(),
            **how_read(samples),
        }
        return Answer(found, tables, subject.warnings)
