"""What tests of devices share: the device, networks on it and on the CPU, and how far their numbers may be apart."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import resect
from conftest import randomise_norms
from networks import CUSTOM, Encoder
from resect.models.resnet import CifarResNet

DEVICE = os.environ.get("RESECT_TEST_DEVICE", "cuda")
Pair = tuple[resect.Unraveled, resect.Unraveled]
RELATIVE = 1e-4  # of float32 sums in another order
needs_device = pytest.mark.skipif(
    DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"
)


def placed(value: Any, device: str = DEVICE) -> Any:
    """A module's copy, or nested tensors, on a device."""
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(device)
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def both(model: nn.Module, example: Any) -> tuple[resect.Unraveled, resect.Unraveled]:
    """A model unravelled on the device and on the CPU."""
    here = resect.unravel(placed(model), placed(example))
    assert here.device.type == torch.device(DEVICE).type
    return here, resect.unravel(placed(model, "cpu"), example)


def close(got: Any, wanted: Any, relative: float = RELATIVE, what: str = "") -> None:
    """Fail unless numbers are those wanted, to a part of the largest of them."""
    one, other = (np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v, dtype=float) for v in (got, wanted))
    assert one.shape == other.shape, what
    assert np.array_equal(np.isfinite(one), np.isfinite(other)), what
    known = np.isfinite(other)
    room = relative * max(np.abs(other[known]).max(initial=0), 1e-12)
    np.testing.assert_allclose(one[known], other[known], rtol=0, atol=room, err_msg=what)


def alike(got: pd.DataFrame, wanted: pd.DataFrame, relative: float = 1e-3, but: Sequence[str] = ()) -> None:
    """Fail unless two tables say the same, their numbers to a part of the largest of a column."""
    assert list(got.columns) == list(wanted.columns)
    assert len(got) == len(wanted)
    for name in wanted.columns.difference(list(but)):
        if pd.api.types.is_float_dtype(wanted[name]):
            close(got[name], wanted[name], relative, name)
        else:
            assert list(got[name]) == list(wanted[name]), name


@pytest.fixture(autouse=True)
def float32_means_float32() -> Iterator[None]:
    """Convolutions of cuDNN round to TF32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Of a loss, by parameter."""
    model.zero_grad(set_to_none=True)
    loss().backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def images(count: int = 6, channels: int = 1, size: int = 8) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(2))


def classes(count: int = 6) -> Tensor:
    return torch.arange(count) % 10


DATA = [(images(), classes()), (images(3) + 0.5, classes(3))]


class Tables(nn.Module):
    """Residual maps of positions and masks that forward() makes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.embed(ids) + torch.sin(places * self.scale)[None, :, None]
        mask = torch.ones(ids.shape[1], ids.shape[1], device=ids.device).tril()
        for layer in self.layers:
            x = x + torch.tanh(layer(mask @ x / (places + 1)[:, None]))
        return self.head(x)


def vision_transformer() -> nn.Module:
    from torchvision.models import VisionTransformer

    torch.manual_seed(4)
    model = VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=10)
    nn.init.normal_(model.heads.head.weight, std=0.3)
    return model.eval()


def timm_transformer() -> nn.Module:
    import timm

    torch.manual_seed(4)
    made = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    return made.eval()


def language_model(kind: str) -> nn.Module:
    import transformers

    if kind == "gpt2":
        config: Any = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=32)
        model: Any = transformers.GPT2LMHeadModel
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
        config, model = (
            transformers.LlamaConfig(num_hidden_layers=2, vocab_size=50, **sizes),
            transformers.LlamaForCausalLM,
        )
    torch.manual_seed(4)
    return model(config).eval()


def resnet(depth: int = 14) -> nn.Module:
    torch.manual_seed(1)
    return randomise_norms(CifarResNet(depth, width=4, channels=1))


def tokens(count: int = 3) -> Tensor:
    return torch.randint(0, 20, (count, 7), generator=torch.Generator().manual_seed(3))


MODELS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "resnet": (lambda: resnet(20), images(3), 9),
    "encoder": (lambda: Encoder().eval(), images(3), 4),
    "highway": (lambda: CUSTOM["highway"][0]().eval(), images(3), 2),
    "two streams": (lambda: CUSTOM["two streams"][0]().eval(), images(3), 3),
    "in-place": (lambda: CUSTOM["in-place"][0]().eval(), images(3), 2),
    "tables made in forward": (lambda: Tables().eval(), tokens(), 3),
    "torchvision ViT": (vision_transformer, images(3, 3, 16), 4),
    "timm ViT": (timm_transformer, images(3, 3, 16), 4),
    "GPT-2": (lambda: language_model("gpt2"), {"input_ids": tokens()}, 4),
    "Llama": (lambda: language_model("llama"), {"input_ids": tokens()}, 4),
}


def logits(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs["logits"]


@pytest.fixture(scope="module")
def _resnets() -> Pair:
    return both(resnet(), images(2))


@pytest.fixture
def nets(_resnets: Pair) -> Pair:
    """A ResNet-14 of 6 blocks on the device and on the CPU; tests leave them as they are."""
    return _resnets


@pytest.fixture(scope="module")
def encoders() -> Pair:
    torch.manual_seed(3)
    return both(Encoder().eval(), images(2))
