"""Text as windows of tokens, each with what a language model is to predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resect.data.loaders import Loader
from resect.data.names import DataSpec
from resect.data.offline import hub_or_cache
from resect.data.samples import Samples
from resect.errors import DataError, SpecError
from resect.graph.outputs import IGNORED

BYTES = "bytes"  # the tokenizer that needs no file
_LONGEST = 1024  # of a window that nobody asked for: a model of today may read a million tokens
_UNKNOWN = 256  # where the model says nothing
_CHOSEN, _MASKED, _RANDOM = 0.15, 0.8, 0.1  # Devlin et al. 2019, section 3.1


@dataclass(frozen=True)
class Reading:
    """How a language model reads text, as far as it says so.

    Attributes:
        tokenizer: a folder, file or name that transformers reads, or "bytes"; None if there is none.
        window: the longest sequence that it takes.
        masked: it is to predict tokens that are hidden from it, not the next ones.
        vocabulary: how many tokens it knows.
    """

    tokenizer: str | None = BYTES
    window: int | None = None
    masked: bool = False
    vocabulary: int | None = None


@dataclass(frozen=True)
class Tokenizer:
    """What makes tokens of text.

    Attributes:
        encode: the numbers of the tokens of a text; with True, those that the model expects around it, too.
        size: how many tokens there are.
        mask: the token that hides another one; None if it has none.
        pad: the token that fills what is shorter than others.
        longest: the longest sequence that it is for; None if it does not say.
    """

    name: str
    encode: Callable[[str, bool], list[int]]
    size: int
    mask: int | None = None
    pad: int = 0
    longest: int | None = None

    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that stand before and behind every sequence."""
        bare, whole = self.encode("a", False), self.encode("a", True)
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:start], whole[start + len(bare) :]


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer of transformers by its folder, its tokenizer.json or its name on the Hub; or "bytes".

    Raises:
        SpecError: transformers is not installed.
        DataError: there is none.
    """
    if name == BYTES:
        return Tokenizer(BYTES, lambda text, _: list(text.encode()), 256)
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise SpecError("a tokenizer needs transformers, which is not installed: pip install 'resect[hf]'.") from error
    path = Path(name).expanduser()
    try:
        if path.is_file():
            made: Any = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        else:
            with hub_or_cache(name):
                made = transformers.AutoTokenizer.from_pretrained(str(path) if path.exists() else name)
    except Exception as error:  # transformers raises what it likes for files that are missing or wrong
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{name} must have a tokenizer that transformers reads, but: {said}. Name one: text:FILE,tokenizer=PATH, "
            "or tokenizer=bytes for a model of bytes."
        ) from error

    def encode(text: str, around: bool) -> list[int]:
        return list(made(text, add_special_tokens=around, verbose=False)["input_ids"])

    longest = made.model_max_length if made.model_max_length < 1 << 30 else None
    return Tokenizer(name, encode, len(made), made.mask_token_id, made.pad_token_id or 0, longest)


def read_text(spec: DataSpec, reading: Reading | None) -> Samples:
    """A file of text, UTF-8, as windows; see `windows`.

    Raises:
        DataError: there is no such file, it is no text, or the text or the tokenizer does not fit the model.
        SpecError: the options do not go together.
    """
    path = Path(spec.place).expanduser()
    if not path.is_file():
        hint = f" It is a folder: did you mean folder:{path}?" if path.is_dir() else ""
        raise DataError(f"there is no file {path}. text:FILE needs a file of text.{hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be text in UTF-8: {error}.") from error
    return windows(spec, text, reading)


def windows(spec: DataSpec, text: str, reading: Reading | None) -> Samples:
    """A text as samples: windows of tokens, of one length, each `stride` behind the one before; the last ends with it.

    Every token is counted once, where its window gives it the most context: what overlaps is ignored. Of next tokens,
    the target at i is the token behind input i, also of the last one of a window. Of masked tokens, 15 % are targets;
    of those 80 % are hidden, 10 % become random ones, and 10 % stay.

    Source: Hugging Face, "Perplexity of fixed-length models"; Devlin et al. 2019, section 3.1.
    """
    reading = asked(spec, reading)
    tokenizer, window = _read_with(spec, reading)
    if len(bare := tokenizer.encode(text, False)) < 2:
        raise DataError(f"{spec.text} must hold at least two tokens, got {len(bare)}.")
    tokens = np.asarray(tokenizer.encode(text, not reading.masked), dtype=np.int64)
    _require_known(tokenizer, int(tokens.max()), reading)
    make = _masked if reading.masked else _next
    inputs, targets, stride = make(spec, tokens, tokenizer, window, spec.number("stride"))
    said = (
        f"tokens of {tokenizer.name}, windows of {inputs.shape[1]:,}, stride {stride:,}, "
        f"{'masked' if reading.masked else 'next'} tokens predicted"
    )
    return Samples(
        spec.text, torch.from_numpy(inputs), torch.from_numpy(targets), reading.vocabulary or tokenizer.size, None, said
    )


def _read_with(spec: DataSpec, reading: Reading) -> tuple[Tokenizer, int]:
    """The tokenizer, and how many tokens a window has."""
    if reading.tokenizer is None:
        raise DataError(
            f"{spec.text} needs a tokenizer, and the model comes without. Name one: {spec.kind}:...,tokenizer=PATH, or "
            "tokenizer=bytes for a model of bytes."
        )
    tokenizer = load_tokenizer(reading.tokenizer)
    known = [size for size in (tokenizer.longest, reading.window) if size]
    window = spec.number("window") or (min(*known, _LONGEST) if known else _UNKNOWN)
    return tokenizer, window


def _require_known(tokenizer: Tokenizer, largest: int, reading: Reading) -> None:
    """Raise DataError if the model has no such token."""
    if reading.vocabulary and largest >= reading.vocabulary:
        raise DataError(
            f"the tokenizer {tokenizer.name} must be the model's, but gives token {largest}, and the model knows "
            f"{reading.vocabulary}."
        )


def labelled(
    spec: DataSpec,
    texts: Sequence[str],
    classes: Sequence[int],
    labels: tuple[str, ...] | None,
    reading: Reading | None,
) -> Loader:
    """Texts with a class each, as `input_ids` and `attention_mask`: cut to a window, padded behind to the longest."""
    reading = asked(spec, reading)
    tokenizer, window = _read_with(spec, reading)
    rows = [tokenizer.encode(text or "", True) for text in texts]
    _, behind = tokenizer.around()
    cut = [row if len(row) <= window else [*row[: window - len(behind)], *behind] for row in rows]
    longest = max(1, *map(len, cut))
    tokens = torch.tensor([row + [tokenizer.pad] * (longest - len(row)) for row in cut])
    _require_known(tokenizer, int(tokens.max()), reading)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in cut])
    said = f"tokens of {tokenizer.name}, texts of up to {longest:,}"
    inputs = {"input_ids": tokens, "attention_mask": mask}
    return Loader(spec.text, [(inputs, torch.tensor(classes))], prepared=said, labels=labels)


def asked(spec: DataSpec, reading: Reading | None) -> Reading:
    """What the model says, or the spec instead."""
    reading = reading or Reading()
    chosen: dict[str, Any] = {"tokenizer": spec.options["tokenizer"]} if "tokenizer" in spec.options else {}
    if "task" in spec.options:
        chosen["masked"] = spec.options["task"] == "masked-token"
    window = spec.number("window")
    if window and reading.window and window > reading.window:
        raise SpecError(
            f"`window=` must be at most {reading.window:,}, the longest that the model reads, got {window:,}."
        )
    return replace(reading, **chosen)


def _next(
    spec: DataSpec, tokens: np.ndarray, _: Tokenizer, window: int, stride: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    window = min(window, len(tokens) - 1)
    stride = _stride(stride, window)
    inputs, targets = [], []
    for start, new in _starts(len(tokens) - 1, window, stride):
        inputs.append(tokens[start : start + window])
        targets.append(np.where(np.arange(window) < new, IGNORED, tokens[start + 1 : start + window + 1]))
    return np.stack(inputs), np.stack(targets), stride


def _masked(
    spec: DataSpec, tokens: np.ndarray, tokenizer: Tokenizer, window: int, stride: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    if tokenizer.mask is None:
        raise SpecError(f"the tokenizer {tokenizer.name} has no token for a mask: leave out task=masked-token.")
    before, behind = tokenizer.around()
    room = min(window - len(before) - len(behind), len(tokens))
    if room < 1:
        raise SpecError(f"`window=` must have room for more than the tokens around it, got {window}.")
    stride = _stride(stride, room)
    inputs, targets = [], []
    for start, new in _starts(len(tokens), room, stride):
        random = np.random.default_rng([spec.number("seed") or 0, start])  # not of the number of windows
        content = tokens[start : start + room]
        chosen = (random.random(room) < _CHOSEN) & (np.arange(room) >= new)
        chosen[random.integers(new, room)] |= not chosen.any()
        fate, other = random.random(room), random.integers(0, tokenizer.size, room)
        shown = np.where(fate < _MASKED, tokenizer.mask, np.where(fate < _MASKED + _RANDOM, other, content))
        inputs.append(np.concatenate([before, np.where(chosen, shown, content), behind]))
        wanted = np.where(chosen, content, IGNORED)
        targets.append(np.pad(wanted, (len(before), len(behind)), constant_values=IGNORED))
    return np.stack(inputs).astype(np.int64), np.stack(targets), stride


def _stride(stride: int | None, window: int) -> int:
    if stride is not None and stride > window:
        raise SpecError(f"`stride=` must be at most the window, {window}, or tokens are left out, got {stride}.")
    return stride or window


def _starts(total: int, window: int, stride: int) -> Iterator[tuple[int, int]]:
    """Where windows start, and from which position on what they hold is new."""
    done = 0
    for start in [*range(0, total - window, stride), total - window]:
        yield start, done - start
        done = start + window
