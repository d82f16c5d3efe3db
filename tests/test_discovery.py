"""Block counts, each from the network's definition; all weights random, nothing downloaded."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

import resect
from networks import CUSTOM, Frame, Residual, conv
from resect.models.resnet import CifarResNet
from resect.models.vgg import Vgg15

# name: (blocks, image size)
TORCHVISION = {
    "resnet18": (8, 64),  # 2+2+2+2
    "resnet34": (16, 64),  # 3+4+6+3
    "resnet50": (16, 64),
    "resnet152": (50, 64),  # 3+8+36+3
    "wide_resnet50_2": (16, 64),
    "mobilenet_v2": (10, 64),  # 17 inverted residuals, 7 of which change shape
    "mobilenet_v3_large": (10, 64),  # 15, of which 5 change shape
    "mnasnet1_0": (10, 64),  # stacks of 3, 3, 3, 2, 4, 1, the first of each without skip
    "efficientnet_b0": (9, 64),  # stages of 1, 2, 2, 3, 3, 4, 1, the first of each without skip
    "efficientnet_v2_s": (35, 64),  # stages of 2, 4, 4, 6, 9, 15; 40, minus the first of stages 2 to 6
    "convnext_tiny": (18, 64),  # 3+3+9+3
    "vit_b_16": (24, 224),
    "swin_t": (24, 64),  # 2+2+6+2 layers
    "maxvit_t": (55, 224),  # 2+2+5+2 layers of one MBConv, two attentions and two MLPs
    "regnet_y_400mf": (16, 64),  # 1+3+6+6
    "vgg11_bn": (0, 64),
    "densenet121": (0, 64),
    "googlenet": (0, 64),
    "shufflenet_v2_x1_0": (0, 64),
    "squeezenet1_1": (0, 64),
}
TIMM = {
    "inception_resnet_v2": (40, 96),  # 10 + 20 + 10
    "davit_tiny": (48, 64),  # 1+1+3+1 pairs of spatial and channel blocks; 2 positions, attention, MLP in each
    "hrnet_w18_small": (23, 64),  # 1 + 2x2 + 3x2 + 4x2 in the stages, 4 in the head
    "crossvit_tiny_240": (36, 240),  # 3 stages of 1+4 layers in two streams, 2 fusions: (2x5 + 2) x 3
    "res2net50_26w_4s": (16, 64),
    "convnextv2_nano": (14, 64),  # 2+2+8+2
    "poolformer_s12": (24, 64),  # 2+2+6+2 layers of pooling and MLP
    "rexnet_100": (11, 64),  # stages of 1, 2, 2, 3, 3, 5 whose first blocks have strides 1 (32 -> 16), 2, 2, 2, 1, 2
    "xcit_tiny_12_p16_224": (40, 64),  # 12 layers of attention, local and MLP; 2 class-attention layers of two
    "eva02_tiny_patch14_224": (24, 224),
    "focalnet_tiny_srf": (24, 64),  # 2+2+6+2 layers
    "twins_svt_small": (40, 64),  # 2+2+10+4 layers of two, and 4 position encoders x + conv(x)
    "dla34": (12, 64),  # trees of 2, 4, 4, 2 basic blocks; the roots do not add
    "mixer_s16_224": (16, 224),  # 8 layers of two
    "ghostnet_100": (16, 64),
    "resnetv2_50": (16, 64),
    "resnest26d": (8, 64),  # 2+2+2+2
    "pvt_v2_b0": (16, 64),  # 2+2+2+2 layers of two
    "fastvit_t8": (20, 64),  # 2+2+4+2 layers of two; the sums of reparameterised convolutions are linear
    "caformer_s18": (36, 64),  # 3+3+9+3 layers of two; the later skips are scaled by a learned vector
    "hiera_tiny_224": (24, 224),  # 1+2+7+2 layers of two; three skips are pooled and projected
    "levit_128s": (20, 224),  # 2+3+4 layers of two, and one MLP after each of the 2 downsamplings
}
TINY = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}
GROUPED = {**TINY, "num_key_value_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
T = transformers
TRANSFORMERS = {  # 3 layers each of attention and MLP
    "GPT-2": lambda: T.GPT2LMHeadModel(T.GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=99, **TOKENS)),
    "LLaMA": lambda: T.LlamaForCausalLM(T.LlamaConfig(**GROUPED)),
    "Mistral": lambda: T.MistralForCausalLM(T.MistralConfig(**GROUPED)),
    "Gemma": lambda: T.GemmaForCausalLM(T.GemmaConfig(**GROUPED, head_dim=8)),
    "OPT": lambda: T.OPTForCausalLM(
        T.OPTConfig(
            num_hidden_layers=3,
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
        T.DistilBertConfig(n_layers=3, dim=32, n_heads=4, hidden_dim=64, vocab_size=99)
    ),
    "Mixtral": lambda: T.MixtralForCausalLM(T.MixtralConfig(**GROUPED, num_local_experts=4)),
    "GPT-J": lambda: T.GPTJForCausalLM(
        T.GPTJConfig(n_layer=3, n_embd=32, n_head=4, rotary_dim=4, vocab_size=99, **TOKENS)
    ),
    "GPT-NeoX": lambda: T.GPTNeoXForCausalLM(T.GPTNeoXConfig(**TINY)),
    "Phi": lambda: T.PhiForCausalLM(T.PhiConfig(**TINY)),
    "Qwen2": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**GROUPED)),
    "BLOOM": lambda: T.BloomForCausalLM(T.BloomConfig(n_layer=3, hidden_size=32, n_head=4, vocab_size=99)),
    "T5 encoder": lambda: T.T5EncoderModel(
        T.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, vocab_size=99)
    ),
}


def _counted(model: nn.Module, inputs: object, blocks: int) -> resect.Unraveled:
    net = resect.unravel(model.eval(), inputs)
    assert len(net.blocks) == blocks, [block.name for block in net.blocks]
    check = net.check(inputs, sizes=(1, 2))
    assert check.identical, check.differences
    return net


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    blocks, size = TORCHVISION[name]
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    if name == "vit_b_16":
        nn.init.normal_(model.heads.head.weight)  # made of zeros, which would hide any difference
    _counted(model, torch.randn(2, 3, size, size), blocks)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    blocks, size = TIMM[name]
    fixed = size not in (64, 96) or name.startswith(("davit", "focalnet", "twins"))
    model = timm.create_model(name)
    size = model.default_cfg["input_size"][-1] if fixed else size
    _counted(model, torch.randn(2, 3, size, size), blocks)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    ids = torch.randint(0, 99, (2, 16))
    net = _counted(TRANSFORMERS[name](), {"input_ids": ids}, 6)
    assert {block.kind for block in net.blocks} == {"identity"}


def test_vit_of_transformers() -> None:
    config = T.ViTConfig(
        num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    _counted(T.ViTModel(config), torch.randn(2, 3, 32, 32), 6)


@pytest.mark.parametrize("name", CUSTOM)
def test_custom(name: str) -> None:
    build, blocks = CUSTOM[name]
    _counted(build(), torch.randn(2, 1, 8, 8), blocks)


@pytest.mark.parametrize("preactivation", [True, False])
@pytest.mark.parametrize("depth", [8, 20, 32])
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
    net = resect.unravel(torchvision.models.resnet50(weights=None), torch.randn(1, 3, 64, 64))
    assert [b.name for b in net.blocks][:4] == ["layer1.0", "layer1.1", "layer1.2", "layer2.0"]
    assert [b.index for b in net.blocks if b.kind == "projection"] == [0, 3, 7, 13]
    assert {b.layers for b in net.blocks} == {3}
    assert net.layers == 48
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
    net = resect.unravel(timm.create_model("res2net50_26w_4s"), torch.randn(1, 3, 64, 64))
    assert Counter(entry.reason for entry in net.rejected) == {
        "part of the branch of a block: it stands in that block's own module": 24  # 12 blocks of 2 sums
    }


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
