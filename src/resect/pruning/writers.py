"""Networks that write: what each names where something is asked for, and how the intact one goes on.

Letters: B samples, L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from resect.engines.work import Arrays, Engine, Progress
from resect.errors import InputError
from resect.graph.outputs import IGNORED, logits_of
from resect.measuring.batches import Batch, to_device
from resect.measuring.targets import scored_shape
from resect.measuring.tasks import Task
from resect.measuring.tokens import in_batches, with_tokens
from resect.network.unraveled import Unraveled
from resect.pruning.exercises import Sequences
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings

_ROOM = 2**26  # bytes of logits that are held at one time, about


@dataclass(frozen=True)
class Writers:
    """The intact network, and those beside it.

    Attributes:
        asked: the outcomes of both on batches of tokens.
        engine, progress: with which the intact network writes.
    """

    net: Unraveled
    asked: Callable[[Sequence[Batch], LesionSettings], LesionResult]
    engine: Engine
    progress: Progress | None


@dataclass(frozen=True)
class Exercise:
    """Runs sequences through networks.

    Attributes:
        like: a batch of their form.
    """

    writers: Writers
    like: Batch

    @property
    def net(self) -> Unraveled:
        """The intact one."""
        return self.writers.net

    def __call__(self, sequences: Sequences, task: Task) -> LesionResult:
        """What is named where something is asked for."""
        cut = enumerate(self._cut(*sequences))
        form = self.like.inputs
        batches = [Batch(number, with_tokens(self.net, form, some), wanted, task) for number, (some, wanted) in cut]
        return self.writers.asked(batches, LesionSettings(("error", "loss")))

    def continued(self, tokens: Tensor, prompt: int) -> Sequences:
        """Text with what the intact network makes of it behind the prompt, which is asked for."""
        length, cut = tokens.shape[1], enumerate(some for some, _ in self._cut(tokens, tokens))
        batches = (Batch(number, self.like.inputs, some, self.like.task) for number, some in cut)
        pieces = ((Continued(prompt, length), batch) for batch in batches)
        written = [
            torch.from_numpy(part["tokens"])
            for part in self.writers.engine.run(self.net, pieces, self.writers.progress)
        ]
        targets = torch.full_like(whole := torch.cat(written), IGNORED)
        targets[:, prompt - 1 : -1] = whole[:, prompt:]
        return whole, targets

    def _cut(self, tokens: Tensor, targets: Tensor) -> Iterator[Sequences]:
        """Sequences in batches, padded behind, where nothing is asked for, to a length that the graph holds."""
        if not self._runs_at(tokens.shape[1]):
            short = self.like.targets.shape[1] - tokens.shape[1]
            tokens, targets = pad(tokens, (0, short)), pad(targets, (0, short), value=IGNORED)
        vocabulary = scored_shape(self.net, self.like.task.output)[-1] or 1
        return in_batches(self.net, tokens, targets, max(1, _ROOM // (tokens.shape[1] * vocabulary * 4)))

    def _runs_at(self, length: int) -> bool:
        tokens = torch.zeros(self.net.batch_size or 1, length, dtype=torch.long)
        try:
            with torch.no_grad():
                self.net(to_device(with_tokens(self.net, self.like.inputs, tokens), self.net.device))
        except InputError:
            return False
        return True


@dataclass(frozen=True)
class Continued:
    """The work of continuing text behind its first tokens, each the likeliest: `tokens` (B, length).

    The text is in the targets of the batch; its inputs are a form for it. Every pass is over the whole length, so that
    the intact network names again just what it wrote.
    """

    prompt: int
    length: int

    @property
    def key(self) -> Mapping[str, Any]:
        """How much is given, and how much is made of it."""
        return {"what": "continued", "prompt": self.prompt, "length": self.length}

    def cost(self, net: Unraveled, batch: Batch) -> float:
        """Samples, as often as they run."""
        return len(batch) * (self.length - self.prompt)

    def run(self, net: Unraveled, batch: Batch, progress: Progress) -> Arrays:
        """Write them."""
        tokens = batch.targets.clone()
        with torch.no_grad():
            for at in range(self.prompt, self.length):
                outputs = net(to_device(with_tokens(net, batch.inputs, tokens), net.device))
                logits = logits_of(outputs, batch.task.output).movedim(net.batch_dim, 0)
                tokens[:, at] = logits[:, at - 1].argmax(-1).cpu()
                progress(len(batch))
        return {"tokens": tokens[:, : self.length].numpy()}
