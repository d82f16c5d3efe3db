"""A folder that `from_pretrained` of stock transformers loads: fewer layers, or removed branches set to zero."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resect.errors import ExportError
from resect.graph.tails import tail_parameters
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.export.configs import built, shortened_config
from resect.pruning.export.fresh import Proof, loaded_afresh, proven, token_count, trials
from resect.pruning.export.generation import prompt, proven_to_generate
from resect.pruning.export.removed import ANY_NETWORK, gone_blocks, require_gone, shortened_lists
from resect.pruning.export.rules import MORE_LAYERS
from resect.pruning.export.weights import Renumbered, renumbered

BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Files of the tokenizer or the image processor that lie beside weights."""


@dataclass(frozen=True)
class Shorter:
    """A model on the meta device without the removed layers, and its weights."""

    model: Any
    weights: Renumbered


def shorter(net: Unraveled, arrangement: Arrangement) -> Shorter:
    """The network without its removed layers.

    Raises:
        ExportError: transformers has no model that computes this.
    """
    model = require_stock(net.model, "hf")
    lists = shortened_lists(net, arrangement, "hf")
    with quiet():
        new, all_lists = shortened_config(model, lists, "hf")
        weights = renumbered(model, new, all_lists, "hf")
        require_gone(net, arrangement, all_lists, weights.sources, "hf")
    return Shorter(new, weights)


def write(net: Unraveled, arrangement: Arrangement, folder: Path) -> tuple[str, ...]:
    """Write the network without its removed layers; returns what is to be said of it.

    Raises:
        ExportError: transformers has no model that computes this.
    """
    model, new = net.model, shorter(net, arrangement)
    with quiet():
        _save(model, new.model, new.weights.tensors, folder, "hf")
    said = [
        f"{name} is 0 now: the layers behind the last, which transformers does not run, are left out."
        for name in MORE_LAYERS
        if getattr(model.config, name, 0)
    ]
    return (*new.weights.notes, *said, *_beside(model, folder))


def zeros(net: Unraveled, arrangement: Arrangement) -> frozenset[str]:
    """The names of the weights that the removed branches end in.

    Raises:
        ExportError: the model is none of transformers, or a branch ends in no weights of its own.
    """
    require_stock(net.model, "hf-zero")
    gone, found = gone_blocks(arrangement, "hf-zero"), set[str]()
    for slot in (net.sliced.slots[i] for i in sorted(gone)):
        names = tail_parameters(net.sliced, slot)
        if not names:
            raise ExportError(
                f"hf-zero cannot set block {slot.index} ({slot.name}) to zero: its branch ends in no linear map of its "
                f"own. {ANY_NETWORK}"
            )
        found.update(names)
    return frozenset(found)


def write_zeroed(net: Unraveled, arrangement: Arrangement, folder: Path) -> tuple[str, ...]:
    """Write the network with all its layers, where what the removed branches end in is zero.

    Raises:
        ExportError: a branch ends in no weights of its own.
    """
    model, names = net.model, zeros(net, arrangement)
    state = {name: torch.zeros_like(v) if name in names else v for name, v in model.state_dict().items()}
    with quiet():
        _save(model, built(model, model.config.to_dict()), state, folder, "hf-zero")  # type: ignore[operator,union-attr]  # a configuration of transformers
    said = f"All layers are there, and as slow as before; zero are {', '.join(sorted(names))}."
    return (said, *_beside(model, folder))


def prove(net: Unraveled, arrangement: Arrangement, folder: Path, *, kind: str) -> Proof:
    """Compare what `from_pretrained` loads in a fresh process: outputs, and what language models generate.

    Raises:
        ExportError: it computes or generates something else.
    """
    tried, asked = trials(net, arrangement, token_count(net.model)), prompt(net)
    attention = getattr(net.model.config, "_attn_implementation", None)
    answer = loaded_afresh("hf", folder, net, tried.calls, attention=attention, generation=asked)
    proof = proven(kind, tried, answer["outputs"])
    if asked is None:
        return proof
    return Proof(proof.difference, proven_to_generate(net, arrangement, asked, answer["generated"], kind))


def load(folder: Path) -> str:
    """The lines of Python that load what lies in a folder."""
    made = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    return f'from transformers import {made}\n\nmodel = {made}.from_pretrained("DIR", dtype="auto")  # this folder'


def require_stock(model: nn.Module, kind: str) -> Any:
    """The model, if it is one of transformers itself."""
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise ExportError(
            f"{kind} can only write models of transformers, but {type(model).__name__} is none. `torch` writes the "
            "stand-alone network of any model."
        )
    if not type(model).__module__.startswith("transformers."):
        raise ExportError(
            f"{kind} can only write models that stock transformers has, but {type(model).__name__} is defined in "
            f"{type(model).__module__}. `torch` writes the stand-alone network of any model."
        )
    return model


def _save(model: Any, new: Any, tensors: Mapping[str, Tensor], folder: Path, kind: str) -> None:
    """Write configuration, weights and generation settings as transformers does."""
    new.load_state_dict(dict(tensors), assign=True)
    new.tie_weights()
    if getattr(model, "generation_config", None) is not None:
        new.generation_config = deepcopy(model.generation_config)
    try:
        new.save_pretrained(folder)
    except Exception as error:  # transformers raises whatever it likes
        raise ExportError(f"transformers cannot save this as {kind}: {error}") from error


def _beside(model: Any, folder: Path) -> tuple[str, ...]:
    """Copy the files of tokenizer and processor from where the model was read; nothing is downloaded."""
    origin = getattr(model.config, "_name_or_path", "") or ""
    if not origin:
        return ("The model does not say where it was read from, so there is no tokenizer beside it.",)
    find: Any = import_module("transformers.utils.hub").cached_file
    for name in BESIDE:
        file = Path(origin) / name
        if not Path(origin).is_dir():
            file = find(origin, name, local_files_only=True, _raise_exceptions_for_missing_entries=False) or file
        if Path(file).is_file():
            shutil.copyfile(file, folder / name)
    return ()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and remarks of transformers, which are about steps nobody asked for."""
    logging: Any = import_module("transformers").logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
