"""What a language model is asked to do that its text does not ask: continue, copy, close brackets.

Letters: B samples, L positions. Sequences are (B, L) tokens and (B, L) targets, the token that follows where it is
asked for, IGNORED elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resect.graph.outputs import IGNORED, logits_of
from resect.measuring.metrics import class_error, cross_entropy
from resect.measuring.tasks import Kind, Task

Sequences = tuple[Tensor, Tensor]
_COPIED = 16  # tokens of a sequence that is repeated
_DEPTH, _EXAMPLES = 4, 2  # brackets that are open at a time, and how often they were closed before


def copying(known: np.ndarray, before: Sequence[int], samples: int, room: int, seed: int) -> Sequences | None:
    """Random tokens and the same ones again, of which all but the first of the second time are asked for.

    Args:
        known: tokens to draw from; none is drawn twice in a sequence if there are enough.
        before: tokens that stand before every sequence.
        room: positions, at the most.

    Returns:
        None where there is no room for two tokens, or there are not two to draw from.

    Source: the induction task of Olsson et al. 2022.
    """
    size = min(_COPIED, (room - len(before)) // 2)
    if size < 2 or len(known) < 2:
        return None
    draw = np.random.default_rng([seed, 1])
    drawn = np.stack([draw.choice(known, size, replace=len(known) < size) for _ in range(samples)])
    tokens = np.concatenate([np.tile(before, (samples, 1)), drawn, drawn], 1)
    return _asked(tokens, slice(len(before) + size + 1, None))


def closing(
    pairs: Sequence[tuple[int, int]], before: Sequence[int], samples: int, room: int, seed: int
) -> Sequences | None:
    """Random open brackets that are closed in turn, a few times over; of the last time the closing ones are asked for.

    Args:
        pairs: the tokens of open and closing brackets.
        before, room: as of `copying`.

    Returns:
        None without room, or with less than two kinds of brackets, which leave nothing to choose.

    Source: after the balanced parentheses of Shrestha et al. 2026 (arXiv 2602.01997).
    """
    if len(pairs) < 2 or room < len(before) + 2 * _DEPTH * (_EXAMPLES + 1):
        return None
    kinds = np.random.default_rng([seed, 2]).integers(0, len(pairs), (samples, _EXAMPLES + 1, _DEPTH))
    opened, closed = np.asarray(pairs).T
    words = np.concatenate([opened[kinds], closed[kinds[:, :, ::-1]]], 2).reshape(samples, -1)
    return _asked(np.concatenate([np.tile(before, (samples, 1)), words], 1), slice(-_DEPTH, None))


def _asked(tokens: np.ndarray, which: slice) -> Sequences:
    """Sequences in which the tokens at some positions are asked for, each at the position before it."""
    follows = np.full(tokens.shape, IGNORED)
    follows[:, which] = tokens[:, which]
    targets = np.concatenate([follows[:, 1:], np.full((len(tokens), 1), IGNORED)], 1)
    return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(targets.astype(np.int64))


def naming(name: str, output: str | None, among: Sequence[int] = ()) -> Task:
    """The task of naming each token that is asked for.

    Args:
        output: of the model's, as of a `Task`.
        among: the tokens to choose from; all if there are none.
    """
    called = f"{name} {sorted(among)}" if among else name
    kind = Kind(outcome="token", scored=partial(_among, tokens=tuple(sorted(among))))
    return Task(called, cross_entropy, class_error, rate=True, output=output, kind=kind)


def _among(outputs: Any, output: str | None, tokens: tuple[int, ...]) -> Tensor:
    logits = logits_of(outputs, output)
    if not tokens:
        return logits
    others = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others[list(tokens)] = False
    return logits.masked_fill(others, -torch.inf)


def continuing(output: str | None) -> Task:
    """The task of going on as the targets do: the error is 1 for other tokens, the loss how many are lost by parting.

    Greedy: what is asked for behind the first other token would be asked behind another text.
    """

    def lost(outputs: Any, targets: Tensor) -> Tensor:
        counted = targets != IGNORED
        same = (logits_of(outputs, output).argmax(-1) == targets) | ~counted
        return counted.sum(1) - (same.cumprod(1) * counted).sum(1)

    return Task("continuation", lambda *given: lost(*given).float(), lambda *given: (lost(*given) > 0).float(), True)
