"""Whether an exported language model generates what the pruned network does, with and without caches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resect.errors import ExportError
from resect.graph.calls import as_call
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning.export.child import GENERATED, generate, named_outputs
from resect.pruning.export.fresh import close

_MOST = 12  # steps


def prompt(net: Unraveled) -> dict[str, Any] | None:
    """What the fresh process is to continue; None for what does not generate from tokens.

    As many tokens follow as make the sequence as long as the example, so that the pruned network can be asked for them.
    """
    model: Any = net.model
    _, example = as_call(net.example)
    ids = example.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not getattr(model, "can_generate", lambda: False)():
        return None
    vocabulary = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, vocabulary, ids.shape, generator=generator).to(ids.device)
    answers = example.get("decoder_input_ids")
    if isinstance(answers, Tensor):
        start = getattr(model.config, "decoder_start_token_id", None) or 0
        return {"inputs": {"input_ids": ids}, "steps": answers.shape[1], "start": start}
    if ids.shape[1] < 2:
        return None
    steps = min(_MOST, ids.shape[1] // 2)
    return {"inputs": {"input_ids": ids[:, : ids.shape[1] - steps]}, "steps": steps, "start": None}


def proven_to_generate(
    net: Unraveled, arrangement: Arrangement, asked: dict[str, Any], answers: Mapping[str, Mapping[str, Any]], kind: str
) -> tuple[str, ...]:
    """Compare every step with the pruned network on the same tokens; returns what is to be said of it.

    Raises:
        ExportError: other logits, other tokens, or no tokens where the intact model gives some.
    """
    said = []
    for mode in GENERATED:
        answer = answers[mode]
        if "error" in answer:
            if _intact_fails(net, mode, asked):
                said.append(f"The family does not generate {mode}.")
                continue
            raise ExportError(f"what was written as {kind} cannot generate {mode}: {answer['error']}")
        wanted, got = _expected(net, arrangement, asked, answer["tokens"]), answer["logits"]
        if not close(wanted, got.to(wanted)):
            gap = float((wanted - got.to(wanted)).abs().max())
            raise ExportError(
                f"{kind} cannot express this network: {mode}, what was written generates with other logits than the "
                f"pruned network, by up to {gap:.2g}, so it is thrown away."
            )
        said.append(f"Generates {mode} what the pruned network does.")
    return tuple(said)


def _expected(net: Unraveled, arrangement: Arrangement, asked: dict[str, Any], tokens: Tensor) -> Tensor:
    """The pruned network's logits for every token that was generated, (B, steps, C)."""
    _, example = as_call(net.example)
    call, steps = dict(example), asked["steps"]
    name = "input_ids" if asked["start"] is None else "decoder_input_ids"
    call |= {"input_ids": asked["inputs"]["input_ids"], name: tokens[:, :-1]}
    if asked["start"] is None:  # of the example's length: what follows the last token changes no logits before it
        call["input_ids"] = tokens
    with torch.no_grad():
        logits = named_outputs(net(call, arrangement))["logits"]
    end = logits.shape[1] - (asked["start"] is None)
    return logits[:, end - steps : end]


def _intact_fails(net: Unraveled, mode: str, asked: dict[str, Any]) -> bool:
    """Whether the model itself cannot generate in this way."""
    try:
        with torch.no_grad():
            generate(net.model, mode, asked)
    except Exception:  # transformers raises whatever it likes for what a family does not support
        return True
    return False
