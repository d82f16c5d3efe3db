"""Checkpoints of transformers without some layers: configuration and weights, family by family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import resect
from hf_families import FAMILIES, Family, logits, silent_layers
from resect.pruning.export.configs import shortened_config
from resect.pruning.export.hugging_face import quiet
from resect.pruning.export.removed import Shortened
from resect.pruning.export.weights import renumbered

FAST = ("gpt2", "gemma2", "qwen2_moe", "t5", "vit")
REFUSED = {
    ("diffllama", None): "lambda_init is",  # arithmetic on the number of the layer
    ("gpt2 by index", None): "attn.scaling is",
    ("jamba", (1,)): "the rule attn_layer_period=2, attn_layer_offset=1 of the configuration cannot tell",
    ("jamba", (0, 2)): "the rule attn_layer_period=2, attn_layer_offset=1 of the configuration cannot tell",
    ("gemma3n", (1, 2)): "store_full_length_kv is False in the network and True where layer 0",  # the producer goes
    ("gemma3n", (0, 2)): "layer types producing a cache is different",
    ("swin", (1,)): "shift_size is 0 in the network and 2 where layer 2 becomes 1",
    ("swin", (0, 2)): "shift_size is 2 in the network and 0 where layer 1 becomes 0",
}
CASES = [
    pytest.param(name, gone, id=f"{name}-{gone}", marks=() if name in FAST else pytest.mark.slow)
    for name in FAMILIES
    for gone in ((1,), (1, 2), (0, 2))
    if name not in FAST or gone != (1,)
]


def lists_of(model: Any, family: Family, gone: tuple[int, ...]) -> list[Shortened]:
    lists = []
    for path in family.lists:
        names = tuple(name for name, _ in model.get_submodule(path).named_children())
        lists.append(Shortened(path, names, tuple(i for i in range(len(names)) if i not in gone)))
    return lists


@pytest.mark.parametrize(("name", "gone"), CASES)
def test_what_from_pretrained_loads_is_the_model_with_silent_layers(
    name: str, gone: tuple[int, ...], tmp_path: Path
) -> None:
    family = FAMILIES[name]
    model, example = family.make(), family.example()
    lists = lists_of(model, family, gone)
    if reason := REFUSED.get((name, gone)) or REFUSED.get((name, None)):
        with pytest.raises(resect.ExportError, match=reason), quiet():
            shortened_config(model, lists, "hf")
        return
    with quiet():
        new, shorter = shortened_config(model, lists, "hf")
        new.load_state_dict(dict(renumbered(model, new, shorter, "hf").tensors), assign=True)
        new.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path).eval()
    layers = [model.get_submodule(entry.path)[i] for entry in lists for i in entry.removed]
    with silent_layers(layers):
        assert torch.equal(logits(loaded, example), logits(model, example))
    assert not torch.equal(logits(loaded, example), logits(model, example))
    for entry in lists:
        assert len(loaded.get_submodule(entry.path)) == len(entry.kept)
