"""Whether a language model without some blocks still writes what the intact one does, which perplexity does not say.

Letters: B samples, L positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from resect.engines.local import LOCAL
from resect.engines.work import Engine, Progress
from resect.errors import DataError, settings_or_default
from resect.figures.shown import Shown
from resect.measuring.batches import AnyTask, Batch, Batches, Read, again
from resect.measuring.tokens import tokens_of
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.exercises import closing, continuing, copying, naming
from resect.pruning.settings import GenerationSettings
from resect.pruning.writers import Exercise, Writers
from resect.pruning.written import CHECKS, RATES, sentence
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST = 4  # positions of which anything can be asked


@dataclass(frozen=True, repr=False)
class Generation(Shown):
    """What a network without some blocks writes, beside the intact one.

    Each result has a row of the network that was cut and, if it was healed, another.

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
        and `samples`. Of a network that was healed `pruned` is the healed one; what it was before is `cut`, with
        `cut_change` and its ends. Checks are "perplexity"; "continuations", the part that is the intact network's
        token by token; "tokens", how many of each are; "copying" and "brackets", the part of the tokens that is right.
        """  # fmt: skip
        table, cut = self._table(-1), self._table(0)
        if len(self.continuations.plan) > 1:
            for place, name in enumerate(("pruned", *_CHANGE), start=2):
                table.insert(place, name.replace("pruned", "cut").replace("change", "cut_change"), cut[name])
        return table

    def _table(self, row: int) -> pd.DataFrame:
        """That of the network in one row."""
        rows = [] if self.text is None else [_perplexity(self.text, row)]
        rows += [_right("continuations", self.continuations, row), _kept(self.continuations, self.tokens, row)]
        rows += [_right(name, result, row) for name, result in self._exercises.items()]
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
    plan = plans.explicit(net, [arrangement])

    def asked(batches: Iterable[Batch], metrics: LesionSettings) -> LesionResult:
        return lesion(net, batches, plan, metrics, progress=progress, engine=engine)

    made = generated(Writers(net, asked, engine, progress), batches, own)
    if made is None:
        raise DataError(
            "`data` must be text for a causal language model: batches of at least "
            f"{_LEAST} tokens each, of nothing else but masks, whose targets are the tokens that follow."
        )
    return replace(made, text=asked(batches, LesionSettings("loss")))


def generated(
    writers: Writers, batches: Iterable[Batch], settings: GenerationSettings, text: LesionResult | None = None
) -> Generation | None:
    """The same of batches that may be of anything; None unless they are of text.

    Args:
        text: what was measured of them, with the rows of what `writers` are asked; where there are more, the last.
    """
    given = _prompts(writers.net, batches, settings.samples)
    if given is None:
        return None
    first, tokens = given
    window = tokens.shape[1]
    new = min(settings.tokens, window // 2)
    prompt = min(settings.prompt, window - new)
    bench = Exercise(writers, first)
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


def _right(check: str, result: LesionResult, which: int) -> dict[str, Any]:
    """The part that is right, where the error is what is wrong."""
    row, intact = result.table.iloc[which], result.intact_error
    changes = (min(max(-row[name], intact - 1), intact) for name in ("damage", "damage_high", "damage_low"))
    return _row(check, result, 1 - intact, 1 - row["error"], changes)


def _kept(result: LesionResult, tokens: int, which: int) -> dict[str, Any]:
    row = result.table.iloc[which]
    changes = (-row["loss_change"], -row["loss_change_high"], -row["loss_change_low"])
    return _row("tokens", result, tokens - result.intact_loss, tokens - row["loss"], changes)


def _perplexity(result: LesionResult, which: int) -> dict[str, Any]:
    row = result.table.iloc[which]
    with np.errstate(over="ignore"):  # of a network that is broken
        intact, pruned = np.exp([result.intact_loss, row["loss"]])
        changes = [intact * np.expm1(row[f"loss_{name}"]) for name in _CHANGE]
    return _row("perplexity", result, float(intact), pruned, changes)


def _row(check: str, result: LesionResult, intact: float, pruned: float, changes: Iterable[float]) -> dict[str, Any]:
    named = {name: float(change) + 0.0 for name, change in zip(_CHANGE, changes, strict=True)}
    return {"check": check, "intact": intact, "pruned": float(pruned), **named, "samples": result.samples}
