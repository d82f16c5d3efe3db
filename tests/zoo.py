"""Networks of torchvision and timm, whole and shallow; each says how many blocks it has, by its definition."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import timm
import torchvision
from timm.models.ghostnet import GhostNet
from timm.models.hrnet import HighResolutionNet, cfg_cls
from timm.models.mlp_mixer import MlpMixer
from torch import nn
from torchvision.models import efficientnet, mobilenetv3, regnet, resnet
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import SwinTransformer


class Entry(NamedTuple):
    """A network of random weights, its number of blocks and the size of its images."""

    build: Callable[[], nn.Module]
    blocks: int
    size: int = 64


def _vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return partial(torchvision.models.get_model, name, weights=None, **options)


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return partial(timm.create_model, name, **options)


def _first(name: str, keep: int, *sequences: str) -> Callable[[], nn.Module]:
    """timm's network with the first `keep` layers of the named sequences; for what has no option for its depth."""

    def build() -> nn.Module:
        model = timm.create_model(name)
        for sequence in sequences:
            del model.get_submodule(sequence)[keep:]
        return model

    return build


def _narrow_hrnet() -> nn.Module:
    stages = deepcopy(cfg_cls["hrnet_w18_small"])
    for stage in range(1, 5):
        stages[f"stage{stage}"]["num_blocks"] = (1,) * stage
    return HighResolutionNet(stages)


def _vit(size: int, **options: Any) -> nn.Module:
    model = torchvision.models.VisionTransformer(size, 16, **options)
    nn.init.normal_(model.heads.head.weight)  # made of zeros, which would hide any difference
    return model


WHOLE = {
    "resnet34": Entry(_vision("resnet34"), 16),  # 3+4+6+3
    "resnet50": Entry(_vision("resnet50"), 16),
    "resnet152": Entry(_vision("resnet152"), 50),  # 3+8+36+3
    "wide_resnet50_2": Entry(_vision("wide_resnet50_2"), 16),
    "mobilenet_v2": Entry(_vision("mobilenet_v2"), 10),  # 17 inverted residuals, 7 of which change shape
    "mobilenet_v3_large": Entry(_vision("mobilenet_v3_large"), 10),  # 15, of which 5 change shape
    # stages of 1, 2, 2, 3, 3, 4, 1, the first of each without skip
    "efficientnet_b0": Entry(_vision("efficientnet_b0"), 9),
    # stages of 2, 4, 4, 6, 9, 15; 40, minus the first of stages 2 to 6
    "efficientnet_v2_s": Entry(_vision("efficientnet_v2_s"), 35),
    "convnext_tiny": Entry(_vision("convnext_tiny"), 18),  # 3+3+9+3
    "vit_b_16": Entry(partial(_vit, 224, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072), 24, 224),
    "swin_t": Entry(_vision("swin_t"), 24),  # 2+2+6+2 layers
    # 2+2+5+2 layers of one MBConv, two attentions and two MLPs
    "maxvit_t": Entry(_vision("maxvit_t"), 55, 224),
    "regnet_y_400mf": Entry(_vision("regnet_y_400mf"), 16),  # 1+3+6+6
    "densenet121": Entry(_vision("densenet121"), 0),
    "googlenet": Entry(_vision("googlenet", aux_logits=False, init_weights=False), 0),
    "shufflenet_v2_x1_0": Entry(_vision("shufflenet_v2_x1_0"), 0),
    "inception_resnet_v2": Entry(_timm("inception_resnet_v2"), 40, 96),  # 10 + 20 + 10
    # 1+1+3+1 pairs of spatial and channel blocks; 2 positions, attention, MLP in each
    "davit_tiny": Entry(_timm("davit_tiny"), 48, 224),
    # 1 + 2x2 + 3x2 + 4x2 in the stages, 4 in the head
    "hrnet_w18_small": Entry(_timm("hrnet_w18_small"), 23),
    # 3 stages of 1+4 layers in two streams, 2 fusions: (2x5 + 2) x 3
    "crossvit_tiny_240": Entry(_timm("crossvit_tiny_240"), 36, 240),
    "res2net50_26w_4s": Entry(_timm("res2net50_26w_4s"), 16),
    "convnextv2_nano": Entry(_timm("convnextv2_nano"), 14),  # 2+2+8+2
    "poolformer_s12": Entry(_timm("poolformer_s12"), 24),  # 2+2+6+2 layers of pooling and MLP
    # stages of 1, 2, 2, 3, 3, 5 whose first blocks have strides 1 (32 -> 16), 2, 2, 2, 1, 2
    "rexnet_100": Entry(_timm("rexnet_100"), 11),
    # 12 layers of attention, local and MLP; 2 class-attention layers of two
    "xcit_tiny_12_p16_224": Entry(_timm("xcit_tiny_12_p16_224"), 40),
    "eva02_tiny_patch14_224": Entry(_timm("eva02_tiny_patch14_224"), 24, 224),
    "focalnet_tiny_srf": Entry(_timm("focalnet_tiny_srf"), 24, 224),  # 2+2+6+2 layers
    # 2+2+10+4 layers of two, and 4 position encoders x + conv(x)
    "twins_svt_small": Entry(_timm("twins_svt_small"), 40, 224),
    "mixer_s16_224": Entry(_timm("mixer_s16_224"), 16, 224),  # 8 layers of two
    "ghostnet_100": Entry(_timm("ghostnet_100"), 16),
    "resnetv2_50": Entry(_timm("resnetv2_50"), 16),
    "resnest26d": Entry(_timm("resnest26d"), 8),  # 2+2+2+2
    "pvt_v2_b0": Entry(_timm("pvt_v2_b0"), 16),  # 2+2+2+2 layers of two
    # 2+2+4+2 layers of two; the sums of reparameterised convolutions are linear
    "fastvit_t8": Entry(_timm("fastvit_t8"), 20),
    # 3+3+9+3 layers of two; the later skips are scaled by a learned vector
    "caformer_s18": Entry(_timm("caformer_s18"), 36),
    # 1+2+7+2 layers of two; three skips are pooled and projected
    "hiera_tiny_224": Entry(_timm("hiera_tiny_224"), 24, 224),
    # 2+3+4 layers of two, and one MLP after each of the 2 downsamplings
    "levit_128s": Entry(_timm("levit_128s"), 20, 224),
}

_V3 = partial(mobilenetv3.InvertedResidualConfig, width_mult=1.0)
_MBConv, _Fused = efficientnet.MBConvConfig, efficientnet.FusedMBConvConfig
_STAGES = tuple(range(4))

# Networks of the same kinds with fewer layers: torch.export takes its time for each, and a second proves nothing.
SHALLOW = {
    "resnet18": Entry(_vision("resnet18"), 8),  # 2+2+2+2
    "resnet50": Entry(lambda: resnet.ResNet(resnet.Bottleneck, [1, 2, 2, 1]), 6),
    # 6 inverted residuals, 3 of which change shape
    "mobilenet_v2": Entry(
        _vision("mobilenet_v2", inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2]]), 3
    ),
    "mobilenet_v3_large": Entry(  # 5, of which 2 change shape
        lambda: mobilenetv3.MobileNetV3(
            [
                _V3(16, 3, 16, 16, False, "RE", 1, 1),
                _V3(16, 3, 64, 24, False, "RE", 2, 1),
                _V3(24, 3, 72, 24, False, "RE", 1, 1),
                _V3(24, 5, 72, 40, True, "HS", 2, 1),
                _V3(40, 5, 120, 40, True, "HS", 1, 1),
            ],
            last_channel=64,
        ),
        3,
    ),
    "mnasnet1_0": Entry(_vision("mnasnet1_0"), 10),  # stacks of 3, 3, 3, 2, 4, 1, the first of each without skip
    "efficientnet_b0": Entry(  # stages of 1, 2, 3, the first of each without skip
        lambda: efficientnet.EfficientNet(
            [_MBConv(1, 3, 1, 32, 16, 1), _MBConv(6, 3, 2, 16, 24, 2), _MBConv(6, 5, 2, 24, 40, 3)], dropout=0.2
        ),
        3,
    ),
    "efficientnet_v2_s": Entry(  # stages of 2, 2, 3, minus the first of stages 2 and 3
        lambda: efficientnet.EfficientNet(
            [_Fused(1, 3, 1, 24, 24, 2), _Fused(4, 3, 2, 24, 48, 2), _MBConv(4, 3, 2, 48, 64, 3)], dropout=0.2
        ),
        5,
    ),
    "convnext_tiny": Entry(lambda: ConvNeXt([CNBlockConfig(96, 192, 2), CNBlockConfig(192, None, 1)]), 3),
    "vit_b_16": Entry(partial(_vit, 64, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128), 4),
    "swin_t": Entry(lambda: SwinTransformer([4, 4], 96, [1, 2], [3, 6], [7, 7]), 6),  # 1+2 layers
    # 2 layers of one MBConv, two attentions and two MLPs
    "maxvit_t": Entry(lambda: MaxVit((56, 56), 64, 7, [64, 128], [1, 1], 32, 0.2), 10, 56),
    "regnet_y_400mf": Entry(
        lambda: regnet.RegNet(regnet.BlockParams([1, 2], [48, 104], [8, 8], [1.0, 1.0], [2, 2], se_ratio=0.25)), 3
    ),
    "vgg11_bn": Entry(_vision("vgg11_bn", init_weights=False), 0),
    "densenet121": Entry(lambda: torchvision.models.DenseNet(block_config=(2, 3)), 0),
    "shufflenet_v2_x1_0": Entry(lambda: torchvision.models.ShuffleNetV2([2, 2, 2], [24, 116, 232, 464, 1024]), 0),
    "squeezenet1_1": Entry(_vision("squeezenet1_1"), 0),
    "inception_resnet_v2": Entry(_first("inception_resnet_v2", 1, "repeat", "repeat_1", "repeat_2"), 4, 96),  # and 1
    "davit_tiny": Entry(  # 1+2 pairs of two blocks of 4
        _timm("davit_tiny", depths=(1, 2), embed_dims=(96, 192), num_heads=(3, 6)), 24, 56
    ),
    "hrnet_w18_small": Entry(_narrow_hrnet, 14),  # 1 + 2 + 3 + 4 in the stages, 4 in the head
    # 1 stage of 1+2 layers in two streams, 2 fusions
    "crossvit_tiny_240": Entry(_timm("crossvit_tiny_240", depth=[[1, 2, 0]]), 8, 240),
    "convnextv2_nano": Entry(_timm("convnextv2_nano", depths=(1, 2, 1, 1)), 5),
    "poolformer_s12": Entry(_first("poolformer_s12", 1, *(f"stages.{i}.blocks" for i in _STAGES)), 8),
    # stages of 1, 1, 1, 1, 1, 2 whose first blocks have strides 1 (32 -> 16), 2, 2, 2, 1, 2
    "rexnet_100": Entry(_timm("rexnet_100", depth_mult=0.3), 2),
    # 2 layers of attention, local and MLP; 2 class-attention layers of two
    "xcit_tiny_12_p16_224": Entry(_timm("xcit_tiny_12_p16_224", depth=2), 10),
    "eva02_tiny_patch14_224": Entry(_timm("eva02_tiny_patch14_224", depth=2), 4, 224),
    "focalnet_tiny_srf": Entry(_first("focalnet_tiny_srf", 1, *(f"layers.{i}.blocks" for i in _STAGES)), 8, 224),
    # 4 layers of two, and 4 position encoders x + conv(x)
    "twins_svt_small": Entry(_timm("twins_svt_small", depths=[1, 1, 1, 1]), 12, 224),
    "dla34": Entry(_timm("dla34"), 12),  # trees of 2, 4, 4, 2 basic blocks; the roots do not add
    "mixer_s16_224": Entry(lambda: MlpMixer(num_blocks=2, img_size=64, embed_dim=64), 4),
    "ghostnet_100": Entry(
        lambda: GhostNet([[[3, 16, 16, 0, 1]], [[3, 48, 24, 0, 2]], [[3, 72, 24, 0, 1]], [[5, 72, 40, 0.25, 2]]]), 4
    ),
    "resnetv2_50": Entry(_timm("resnetv2_50", layers=[1, 2, 1, 1]), 5),
    "resnest26d": Entry(_timm("resnest26d", layers=[1, 2, 1, 1]), 5),
    "pvt_v2_b0": Entry(  # 1+2 layers of two
        _timm("pvt_v2_b0", depths=(1, 2), embed_dims=(32, 64), num_heads=(1, 2)), 6
    ),
    # 1+1+2+1 layers of two; the sums of reparameterised convolutions are linear
    "fastvit_t8": Entry(_timm("fastvit_t8", layers=(1, 1, 2, 1)), 10),
    # 1+1+1+1 layers of two; the later skips are scaled by a learned vector
    "caformer_s18": Entry(_first("caformer_s18", 1, *(f"stages.{i}.blocks" for i in _STAGES)), 8),
    # 1+1+2+1 layers of two; three skips are pooled and projected
    "hiera_tiny_224": Entry(_timm("hiera_tiny_224", stages=(1, 1, 2, 1)), 10, 224),
    # 1+1+1 layers of two, and one MLP after each of the 2 downsamplings
    "levit_128s": Entry(_timm("levit_128s", depth=(1, 1, 1)), 8, 224),
}
