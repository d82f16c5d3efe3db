"""Block counts, each from the network's definition; all weights random, nothing downloaded."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
import transformers
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

import resect
from networks import CUSTOM, Frame, Residual, conv
from resect.models.resnet import CifarResNet
from resect.models.vgg import Vgg15
from zoo import SHALLOW, WHOLE, Entry

TINY = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}
GROUPED = {**TINY, "num_key_value_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
T = transformers
TRANSFORMERS = {  # 2 layers each of attention and MLP
    "GPT-2": lambda: T.GPT2LMHeadModel(T.GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=99, **TOKENS)),
    "LLaMA": lambda: T.LlamaForCausalLM(T.LlamaConfig(**GROUPED)),
    "Mistral": lambda: T.MistralForCausalLM(T.MistralConfig(**GROUPED)),
    "Gemma": lambda: T.GemmaForCausalLM(T.GemmaConfig(**GROUPED, head_dim=8)),
    "OPT": lambda: T.OPTForCausalLM(
        T.OPTConfig(
            num_hidden_layers=2,
            hidden_size=32,
            num_attention_heads=4,
            ffn_dim=64,
            vocab_size=99,
            word_embed_proj_dim=32,
        )
    ),
    "BERT": lambda: T.BertModel(T.BertConfig(**TINY)),
    "RoBERTa": lambda: T.RobertaModel(T.RobertaConfig(**TINY)),
    "DistilBERT": lambda: T.DistilBertModel(
        T.DistilBertConfig(n_layers=2, dim=32, n_heads=4, hidden_dim=64, vocab_size=99)
    ),
    "Mixtral": lambda: T.MixtralForCausalLM(T.MixtralConfig(**GROUPED, num_local_experts=4)),
    "GPT-J": lambda: T.GPTJForCausalLM(
        T.GPTJConfig(n_layer=2, n_embd=32, n_head=4, rotary_dim=4, vocab_size=99, **TOKENS)
    ),
    "GPT-NeoX": lambda: T.GPTNeoXForCausalLM(T.GPTNeoXConfig(**TINY)),
    "Phi": lambda: T.PhiForCausalLM(T.PhiConfig(**TINY)),
    "Qwen2": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**GROUPED)),
    "BLOOM": lambda: T.BloomForCausalLM(T.BloomConfig(n_layer=2, hidden_size=32, n_head=4, vocab_size=99)),
    "T5 encoder": lambda: T.T5EncoderModel(
        T.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=99)
    ),
}


def _counted(model: nn.Module, inputs: object, blocks: int) -> resect.Unraveled:
    net = resect.unravel(model.eval(), inputs)
    assert len(net.blocks) == blocks, [block.name for block in net.blocks]
    check = net.check(inputs, sizes=(1, 2))
    assert check.identical, check.differences
    return net


def _blocks_of(entry: Entry) -> None:
    _counted(entry.build(), torch.randn(2, 3, entry.size, entry.size), entry.blocks)


# Even a shallow one of these takes five seconds, and is of a kind with others; their whole networks are slow, too.
_LONG = set(
    "levit_128s twins_svt_small focalnet_tiny_srf maxvit_t caformer_s18 hrnet_w18_small crossvit_tiny_240 dla34 "
    "rexnet_100 resnest26d inception_resnet_v2 xcit_tiny_12_p16_224 fastvit_t8 convnextv2_nano pvt_v2_b0 mnasnet1_0 "
    "davit_tiny shufflenet_v2_x1_0".split()
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in _LONG else n for n in SHALLOW])
def test_networks_of_torchvision_and_timm(name: str) -> None:
    _blocks_of(SHALLOW[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks_of_torchvision_and_timm(name: str) -> None:
    _blocks_of(WHOLE[name])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    ids = torch.randint(0, 99, (2, 16))
    net = _counted(TRANSFORMERS[name](), {"input_ids": ids}, 4)
    assert {block.kind for block in net.blocks} == {"identity"}


def test_vit_of_transformers() -> None:
    config = T.ViTConfig(
        num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    _counted(T.ViTModel(config), torch.randn(2, 3, 32, 32), 4)


@pytest.mark.parametrize("name", CUSTOM)
def test_custom(name: str) -> None:
    build, blocks = CUSTOM[name]
    _counted(build(), torch.randn(2, 1, 8, 8), blocks)


@pytest.mark.parametrize("preactivation", [True, False])
@pytest.mark.parametrize("depth", [8, 14, 20])
def test_cifar_resnets_have_one_block_for_two_layers(depth: int, preactivation: bool) -> None:
    model = CifarResNet(depth, width=4, channels=1, preactivation=preactivation)
    net = _counted(model, torch.randn(2, 1, 8, 8), (depth - 2) // 2)
    per_stage = (depth - 2) // 6
    assert [block.name for block in net.blocks] == [f"blocks.{i}" for i in range(3 * per_stage)]
    assert [block.index for block in net.blocks if block.downsampling] == [per_stage, 2 * per_stage]
    assert {block.layers for block in net.blocks} == {2}
    # The projecting blocks stand alone; the others of a stage can trade places.
    alone = [per_stage, per_stage - 1, per_stage - 1, 1, 1]
    assert sorted(Counter(block.span for block in net.blocks).values()) == sorted(size for size in alone if size)


def test_names_kinds_and_layers_of_a_bottleneck_network() -> None:
    net = resect.unravel(ResNet(Bottleneck, [2, 3, 1, 2]), torch.randn(1, 3, 64, 64))
    assert [b.name for b in net.blocks][:4] == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert [b.index for b in net.blocks if b.kind == "projection"] == [0, 2, 5, 6]
    assert {b.layers for b in net.blocks} == {3}
    assert net.layers == 24
    assert net.blocks[1].parameters == sum(p.numel() for p in net.model.layer1[1].parameters())


def test_kinds_and_parents_of_custom_networks() -> None:
    images = torch.randn(1, 1, 8, 8)
    assert {b.kind for b in resect.unravel(CUSTOM["highway"][0](), images).blocks} == {"gated"}
    gated_skip = resect.unravel(CUSTOM["gated skip"][0](), images)
    assert [(b.kind, b.name) for b in gated_skip.blocks] == [("identity", "body.0")]
    pyramid = resect.unravel(CUSTOM["pyramid"][0](), images)
    assert [(b.kind, b.parent) for b in pyramid.blocks] == [("identity", None), ("projection", None)]
    restoration = resect.unravel(CUSTOM["restoration"][0](), images)
    assert [b.parent for b in restoration.blocks] == [3, 3, 3, None]
    assert [b.name for b in restoration.blocks] == ["body.0.inner.0", "body.0.inner.1", "body.0.inner.2", "body.0"]


def test_rejected_additions_say_why() -> None:
    net = resect.unravel(CUSTOM["not joins"][0](), torch.randn(1, 1, 8, 8))
    reasons = [entry.reason for entry in net.rejected]
    assert len(reasons) == 3  # the table is no signal, so it is not considered
    assert any("sum of two branches" in reason for reason in reasons)
    assert any("sum of linear maps" in reason for reason in reasons)
    assert any("no parameters" in reason for reason in reasons)
    assert {entry.module for entry in net.rejected} == {"body.0"}


def test_partial_sums_of_res2net_are_listed_under_their_block() -> None:
    model = timm.create_model("res2net50_26w_4s", layers=[1, 2, 2, 1])
    net = _counted(model, torch.randn(2, 3, 64, 64), 6)
    reason = "part of the branch of a block: it adds other channels than its own branch reads"
    assert Counter(entry.reason for entry in net.rejected) == {reason: 4}  # 2 blocks of 2 sums


def test_rejected_additions_of_one_reason_are_shown_together() -> None:
    class Twice(nn.Module):
        """Two sums of two branches, in places that differ by their numbers, and a third in another."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(CUSTOM["not joins"][0]().body[0] for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    net = resect.unravel(Frame(Twice()), torch.randn(1, 1, 8, 8))
    table = net.rejected.table
    assert table["number"].tolist() == [2, 2, 2] and set(table["module"]) == {"body.*.layers.*"}
    assert "<Rejections: 6 rejected, for 3 reasons>" in repr(net.rejected) and repr(net.rejected).count("\n") == 3
    assert "body.*.layers.*" in net.rejected._repr_html_()


def test_plain_layers_of_vgg() -> None:
    net = resect.unravel(Vgg15(width=4, channels=1, size=8), torch.randn(2, 1, 8, 8), plain=True)
    # 13 convolutions and 2 linear layers; 5 widen and the classifier narrows, unless width and channels agree.
    assert [block.name for block in net.blocks] == [f"layers.{i}" for i in (1, 3, 5, 6, 8, 9, 10, 11, 12)] + ["hidden"]
    assert {block.kind for block in net.blocks} == {"layer"}
    assert len(net.rejected) == 5
    assert all("changes the shape" in entry.reason for entry in net.rejected)
    assert net.check(torch.randn(3, 1, 8, 8)).identical


def test_pythons_sum_of_branches_and_a_subtracted_skip() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.g = conv(6), conv(6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum([x, self.f(x), self.g(x)])

    class Negated(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.f(x) - x

    net = _counted(Frame(Summed()), torch.randn(2, 1, 8, 8), 2)
    assert {block.kind for block in net.blocks} == {"identity"}
    assert [r.reason for r in _counted(Frame(Negated()), torch.randn(2, 1, 8, 8), 0).rejected] == [
        "the skip would be subtracted or scaled"
    ]


def test_layers_of_several_outputs_are_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.lstm(x[:, 0])[1][0][0])

    net = resect.unravel(Recurrent().eval(), torch.randn(2, 1, 8, 8), plain=True)
    assert net.blocks == ()
    assert any("not one tensor" in entry.reason for entry in net.rejected)
