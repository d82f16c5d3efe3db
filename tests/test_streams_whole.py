"""Networks of transformers and timm with other streams than one: small configurations, blocks by their definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

import resect
from streams import chain, plus, through

pytestmark = pytest.mark.slow

IDS = torch.randint(1, 90, (2, 8), generator=torch.Generator().manual_seed(6))
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
RWKV = {"num_hidden_layers": 3, "hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64}
GEMMA = {"num_hidden_layers": 3, "vocab_size_per_layer_input": 99, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
GEMMA |= {"num_kv_shared_layers": 1, "intermediate_size": [64] * 3, "activation_sparsity_pattern": [0.0] * 3}
MINIMAX = {"num_local_experts": 2, "block_size": 4, "experts_implementation": "batched_mm"}
MUSE = {"num_local_experts": 2, "mlp_layer_types": ["dense"] * 2, "moe_hidden_size": 16, "moe_intermediate_size": 16}

LANGUAGE: dict[str, tuple[dict[str, Any], int]] = {  # two a layer, where nothing is said
    "doge": (TINY, 4),
    "minimax": (TINY | MINIMAX | {"layer_types": ["linear_attention", "full_attention"]}, 4),
    "muse_spark_text": (TINY | MUSE, 4),
    "beam": (TINY, 4),
    "dory": (TINY, 8),  # its layers run twice
    # 2 cycles of two runs of the low and one of the high stack, a layer each; 3 of their sums with the state before
    "hrm_text": (TINY | {"num_layers_per_stack": 1, "H_cycles": 2, "L_cycles": 2}, 15),
    # 4 short convolutions with a skip and 2 a layer; the first attention begins the stream
    "inkling2_text": (TINY | {"num_hidden_layers": 4}, 23),
    "gemma3n_text": (TINY | GEMMA | {"layer_types": ["sliding_attention", *["full_attention"] * 2]}, 18),  # 6 a layer
    "rwkv": (RWKV | {"vocab_size": 99, "context_length": 16, "use_cache": True}, 6),
    "xlnet": ({"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}, 4),
}


def taken_apart(model: nn.Module, inputs: object, blocks: int) -> resect.Unraveled:
    net = resect.unravel(model.eval(), inputs)
    assert len(net.blocks) == blocks, [block.name for block in net.blocks]
    assert net.check(inputs).identical
    return net


@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models(name: str) -> None:
    options, blocks = LANGUAGE[name]
    config = AutoConfig.for_model(name, **{"use_cache": False} | options)
    net = taken_apart(AutoModel.from_config(config), {"input_ids": IDS}, blocks)
    scaled = {block.kind for block in net.blocks} == {"scaled"}
    assert scaled == (name in ("doge", "minimax", "muse_spark_text", "beam"))
    if name in ("rwkv", "xlnet"):
        assert net.routes().counts.paths == tuple(chain(blocks))


def times(one: Sequence[int], other: Sequence[int]) -> list[int]:
    total = [0] * (len(one) + len(other) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            total[i + j] += a * b
    return total


def test_mobilevit() -> None:
    net = taken_apart(timm.create_model("mobilevit_xxs", num_classes=10), torch.randn(2, 3, 64, 64), 21)
    paths = chain(3)  # inverted residuals; then what each stage takes is concatenated with what its layers make of it
    for layers in (2, 4, 3):
        paths = times(paths, plus([1], chain(2 * layers)))
    assert net.routes().counts.paths == tuple(paths)


def test_class_attention() -> None:
    sizes = {"img_size": 32, "embed_dim": 32, "num_heads": 4, "num_classes": 10}
    net = taken_apart(timm.create_model("cait_xxs24_224", depth=2, **sizes), torch.randn(2, 3, 32, 32), 8)
    patches, token = chain(4), [0]  # the token is made of parameters
    for _ in range(2):
        token = chain(1, plus(token, through(token), through(patches)))
    assert net.routes().counts.paths == tuple(token)


@pytest.mark.parametrize("name", ["tnt_s_patch16_224", "tnt_s_legacy_patch16_224"])
def test_transformer_in_transformer(name: str) -> None:
    sizes = {"img_size": 32, "embed_dim": 32, "inner_dim": 8, "num_heads_outer": 4, "num_classes": 10}
    net = taken_apart(timm.create_model(name, depth=3, **sizes), torch.randn(2, 3, 32, 32), 15)
    assert [block.kind for block in net.blocks][2::5] == ["projection", "identity", "identity"]  # pixels to patches
