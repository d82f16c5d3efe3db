"""Whether a language model without some blocks still writes what the intact one does, which perplexity does not say.

Letters: B samples, L positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import DataError, InputError, settings_or_default
from resect.figures.shown import Shown
from resect.graph.outputs import IGNORED, logits_of
from resect.measuring.batches import AnyTask, Batch, Batches, Read, again, to_device
from resect.measuring.targets import scored_shape
from resect.measuring.tasks import Task
from resect.measuring.tokens import in_batches, tokens_of, with_tokens
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.exercises import Sequences, closing, continuing, copying, naming
from resect.pruning.settings import GenerationSettings
from resect.pruning.written import CHECKS, RATES, sentence
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROOM = 2**26  # bytes of logits that are held at one time, about
_LEAST = 4  # positions of which anything can be asked


@dataclass(frozen=True, repr=False)
class Generation(Shown):
    """What a network without some blocks writes, beside the intact one.

    Attributes:
        text: the loss on the user's text; None where it was not measured.
        continuations: of samples of it, greedy, as the intact network goes on: the error is 1 where they part, the loss
            how many tokens are lost.
        copying: of random tokens, the error over tokens; None if the sequences are too short.
        brackets: that are to be closed; None without two kinds of them, or if the sequences are too short.
        prompt, tokens: how many of the text are given, and how many follow.
    """

    text: LesionResult | None
    continuations: LesionResult
    copying: LesionResult | None
    brackets: LesionResult | None
    prompt: int
    tokens: int

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a check: `check`, `intact`, `pruned`, `change` with the 95 % interval `change_low` and `change_high`,
        and `samples`. Checks are "perplexity"; "continuations", the part that is the intact network's token by token;
        "tokens", how many of each are; "copying" and "brackets", the part of the tokens that is right.
        """  # fmt: skip
        rows = [] if self.text is None else [_perplexity(self.text)]
        rows += [_right("continuations", self.continuations), _kept(self.continuations, self.tokens)]
        rows += [_right(name, result) for name, result in self._exercises.items()]
        return pd.DataFrame(rows, columns=["check", "intact", "pruned", *_CHANGE, "samples"])

    @property
    def _exercises(self) -> Mapping[str, LesionResult]:
        named = {"copying": self.copying, "brackets": self.brackets}
        return {name: result for name, result in named.items() if result is not None}

    def summary(self) -> str:
        """How much of the writing is left."""
        return sentence(self.table, self.tokens)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw what is left of every check, with intervals; returns the axes."""
        from resect.figures.generation import generation as draw

        return draw(self.table, {check: CHECKS[check] for check in RATES}, ax)


_CHANGE = ("change", "change_low", "change_high")


def generation(
    net: Unraveled,
    data: Batches,
    arrangement: Arrangement,
    settings: GenerationSettings | None = None,
    *,
    task: AnyTask = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> Generation:
    """Let a causal language model continue text, copy and close brackets, intact and without some blocks.

    Args:
        net: an unravelled language model.
        data: batches of tokens, whose targets are the tokens that follow, or a data spec: what is continued.
        arrangement: what runs, `net.intact.without(3, 4)`.
        settings: how many samples, how many tokens, and which tokens are brackets.
        task, progress, engine: as of `lesion`.

    Raises:
        DataError: the data are no text, or its sequences are too short.

    Example:
        >>> resect.generation(net, "text:book.txt", net.intact.without(3, 4)).table
    """
    batches = Read(again(data), net, task)
    own = settings_or_default(settings, GenerationSettings)
    made = generated(net, batches, arrangement, own, engine=engine, progress=progress)
    if made is None:
        raise DataError(
            "`data` must be text for a causal language model: batches of at least "
            f"{_LEAST} tokens each, of nothing else but masks, whose targets are the tokens that follow."
        )
    plan = plans.explicit(net, [arrangement])
    return replace(made, text=lesion(net, batches, plan, LesionSettings("loss"), progress=progress, engine=engine))


def generated(
    net: Unraveled,
    batches: Iterable[Batch],
    arrangement: Arrangement,
    settings: GenerationSettings,
    text: LesionResult | None = None,
    engine: Engine = LOCAL,
    progress: Progress | None = None,
) -> Generation | None:
    """The same of batches that may be of anything; None unless they are of text.

    Args:
        text: what was measured of them, the arrangement last.
    """
    given = _prompts(net, batches, settings.samples)
    if given is None:
        return None
    first, tokens = given
    window = tokens.shape[1]
    new = min(settings.tokens, window // 2)
    prompt = min(settings.prompt, window - new)
    bench = _Exercise(net, arrangement, first, engine, progress)
    known = np.unique(tokens.cpu().numpy())
    copied = copying(known, settings.before, len(tokens), window, settings.seed)
    pairs = settings.brackets
    closed = closing(pairs, settings.before, len(tokens), window, settings.seed)
    output = first.task.output
    return Generation(
        text,
        bench(bench.continued(tokens[:, : prompt + new], prompt), continuing(output)),
        copied and bench(copied, naming("copying", output)),
        closed and bench(closed, naming("brackets", output, [close for _, close in pairs])),
        prompt,
        new,
    )


def _prompts(net: Unraveled, batches: Iterable[Batch], samples: int) -> tuple[Batch, Tensor] | None:
    """A batch, and the tokens (B, L) of the first samples, of the length of the shortest; None if they are no text."""
    first: Batch | None = None
    rows: list[Tensor] = []
    for batch in batches:
        tokens, first = tokens_of(net, batch), first or batch
        if tokens is None:
            return None
        rows.append(tokens)
        if sum(map(len, rows)) >= samples:
            break
    window = min(part.shape[1] for part in rows)
    tokens = torch.cat([part[:, :window] for part in rows])[:samples]
    whole = net.batch_size is None or len(tokens) >= net.batch_size
    return (first, tokens) if first and len(tokens) and whole and window >= _LEAST else None


@dataclass(frozen=True)
class _Exercise:
    """Runs sequences through a network, intact and under an arrangement."""

    net: Unraveled
    arrangement: Arrangement
    like: Batch
    engine: Engine
    progress: Progress | None

    def __call__(self, sequences: Sequences, task: Task) -> LesionResult:
        """What is named where something is asked for."""
        cut = enumerate(self._cut(*sequences))
        form = self.like.inputs
        batches = [Batch(number, with_tokens(self.net, form, some), wanted, task) for number, (some, wanted) in cut]
        plan, metrics = plans.explicit(self.net, [self.arrangement]), LesionSettings(("error", "loss"))
        return lesion(self.net, batches, plan, metrics, progress=self.progress, engine=self.engine)

    def continued(self, tokens: Tensor, prompt: int) -> Sequences:
        """Text with what the intact network makes of it behind the prompt, which is asked for."""
        length, cut = tokens.shape[1], enumerate(some for some, _ in self._cut(tokens, tokens))
        batches = (Batch(number, self.like.inputs, some, self.like.task) for number, some in cut)
        pieces = ((Continued(prompt, length), batch) for batch in batches)
        written = [torch.from_numpy(part["tokens"]) for part in self.engine.run(self.net, pieces, self.progress)]
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


def _right(check: str, result: LesionResult) -> dict[str, Any]:
    """The part that is right, where the error is what is wrong."""
    row, intact = result.table.iloc[-1], result.intact_error
    changes = (min(max(-row[name], intact - 1), intact) for name in ("damage", "damage_high", "damage_low"))
    return _row(check, result, 1 - intact, 1 - row["error"], changes)


def _kept(result: LesionResult, tokens: int) -> dict[str, Any]:
    row = result.table.iloc[-1]
    changes = (-row["loss_change"], -row["loss_change_high"], -row["loss_change_low"])
    return _row("tokens", result, tokens - result.intact_loss, tokens - row["loss"], changes)


def _perplexity(result: LesionResult) -> dict[str, Any]:
    row = result.table.iloc[-1]
    with np.errstate(over="ignore"):  # of a network that is broken
        intact, pruned = np.exp([result.intact_loss, row["loss"]])
        changes = [intact * np.expm1(row[f"loss_{name}"]) for name in _CHANGE]
    return _row("perplexity", result, float(intact), pruned, changes)


def _row(check: str, result: LesionResult, intact: float, pruned: float, changes: Iterable[float]) -> dict[str, Any]:
    named = {name: float(change) + 0.0 for name, change in zip(_CHANGE, changes, strict=True)}
    return {"check": check, "intact": intact, "pruned": float(pruned), **named, "samples": result.samples}
