"""The switches of x-transformers: small encoders, each with the blocks that it has by its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from x_transformers import Decoder, Encoder

import resect

X = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(5))
TARGETS = torch.arange(3)


class Net(nn.Module):
    """Two layers of attention and MLP between two linear maps; parameters that begin as constants are made random."""

    def __init__(self, *, causal: bool = False, depth: int | None = 2, **switches: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        size = {} if depth is None else {"depth": depth}
        common = {"dim": 16, "heads": 2, "attn_dim_head": 8, "ff_mult": 2, "verbose": False}
        self.stem = nn.Linear(8, 16)
        self.layers = (Decoder if causal else Encoder)(**common, **size, **switches)
        self.head = nn.Linear(16, 10)
        for parameter in self.parameters():
            if parameter.numel() and parameter.std(correction=0) == 0:
                nn.init.normal_(parameter, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).mean(1))


def unravelled(blocks: int, **switches: Any) -> resect.Unraveled:
    net = resect.unravel(Net(**switches).eval(), X)
    assert len(net.blocks) == blocks, [block.name for block in net.blocks]
    assert net.check(X).identical
    return net


STREAMS: dict[str, tuple[dict[str, Any], int]] = {
    "residual attention": ({"depth": 3, "residual_attn": True}, 6),  # logits added to logits are no block
    "U-Net skips": ({"depth": 4, "unet_skips": True}, 8),  # concatenated
    "value residuals": ({"depth": 3, "add_value_residual": True}, 6),
    "value residuals, not learned": ({"depth": 3, "add_value_residual": True, "learned_value_residual_mix": False}, 6),
    "sandwich norm": ({"sandwich_norm": True}, 4),
    "post-norm": ({"pre_norm": False}, 4),
    "pre- and post-norm": ({"pre_and_post_norm": True}, 4),
    "macaron": ({"macaron": True}, 6),  # MLP, attention, MLP
    "tied layers": ({"depth": 3, "weight_tie_layers": True}, 6),
    "orthogonal updates": ({"orthog_residual": True}, 4),
    "mean and variance split": ({"mv_split_residual": True}, 4),
    # every layer starts from x + W x0; in the first this is a skip and a linear branch, too
    "input again": ({"reinject_input": True}, 5),
    "a number that scales branches": ({"depth_scale_residual": 0.5}, 4),
    "layer scale": ({"use_layerscale": True}, 4),
}
QUICK = ("U-Net skips", "value residuals", "tied layers", "orthogonal updates", "input again")
SLOW = pytest.mark.slow
OTHERS: dict[str, tuple[dict[str, Any], int]] = {
    "decoder": ({"causal": True}, 4),
    "shifted tokens": ({"shift_tokens": 1}, 4),
    "attention, MLP, MLP, attention": ({"depth": None, "custom_layers": ("a", "f", "f", "a")}, 4),
    "layers in another order": (
        {"depth": None, "custom_layers": ("a", "f"), "layers_execute_order": (0, 1, 0, 1, 1)},
        5,
    ),
    "PAR": ({"depth": 4, "par_ratio": 4}, 8),
    "sandwich": ({"depth": 3, "sandwich_coef": 2}, 6),
    "attention only": ({"depth": 3, "only_attn": True}, 3),
    "gated values": ({"attn_gate_values": True}, 4),
    "gated heads": ({"attn_gate_value_heads": True}, 4),
    "gated MLP": ({"ff_glu": True}, 4),
    "squared ReLU": ({"ff_relu_squared": True}, 4),
    # logits + W logits: a skip of their own
    "talking heads": ({"attn_pre_talking_heads": True}, 6),
    "attention on attention": ({"attn_on_attn": True}, 4),
    "sparse attention": ({"attn_sparse_topk": 2}, 4),
    "normalised queries": ({"attn_qk_norm": True}, 4),
    "memories": ({"attn_num_mem_kv": 2}, 4),
    "scale norm": ({"use_scalenorm": True}, 4),
    "RMS norm": ({"use_rmsnorm": True}, 4),
    "dynamic tanh": ({"use_dynamic_tanh": True}, 4),
    "relative positions": ({"rel_pos_bias": True}, 4),
    "positions by an MLP": ({"dynamic_pos_bias": True}, 4),
    "ALiBi": ({"alibi_pos_bias": True}, 4),
    "rotary": ({"rotary_pos_emb": True}, 4),
    "clamped output": ({"softclamp_output": True}, 4),
    "one head of keys": ({"attn_one_kv_head": True}, 4),
    "selective attention": ({"causal": True, "attn_selective": True}, 4),
    "gated input again": ({"reinject_input": True, "learned_reinject_input_gate": True}, 5),
}


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in STREAMS])
def test_streams(name: str) -> None:
    switches, blocks = STREAMS[name]
    net = unravelled(blocks, **switches)
    assert {block.kind for block in net.blocks} == {"identity"}


@SLOW
@pytest.mark.parametrize("name", OTHERS)
def test_other_switches(name: str) -> None:
    switches, blocks = OTHERS[name]
    unravelled(blocks, **switches)


@pytest.mark.parametrize(
    "switches", [{"scale_residual": True}, {"scale_residual": True, "scale_residual_constant": 0.9}]
)
def test_scaled_skips(switches: dict[str, Any]) -> None:
    net = unravelled(4, **switches)
    assert {block.kind for block in net.blocks} == {"scaled"}
    small = net(X, net.intact.without(1))
    feed_forward = net.model.layers.layers[1][1]
    feed_forward.forward = lambda x, **_: torch.zeros_like(x)
    torch.testing.assert_close(small, net.model(X))
    assert resect.path_spectrum(net, [(X, TARGETS)]).sum_error < 1e-5


def test_a_gated_recurrent_unit_as_the_residual_is_listed() -> None:
    assert [entry.reason for entry in unravelled(0, gate_residual=True).rejected] == [
        "a cell or control flow whose additions stand inside one operator"
    ] * 4


@pytest.mark.parametrize(
    ("switches", "blocks"),
    [
        ({"integrate_layers": True}, 4),
        # and a skip around the low-rank query of each of them
        ({"attn_aggregated_residuals": True, "attn_aggregated_residual_kwargs": {"lora_rank": 4}}, 8),
    ],
)
def test_sums_over_earlier_layers_are_listed(switches: dict[str, Any], blocks: int) -> None:
    net = unravelled(blocks, **switches)
    stacks = [entry for entry in net.rejected if "stacked and read together" in entry.reason]
    assert len(stacks) == 3  # in all layers but the first, which has one value to read
