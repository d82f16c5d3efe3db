"""The networks whose pruning is measured, with samples that choose and samples that judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

import resect
from resect.measuring.batches import Batch, batches_of
from resect.models import minilm


@dataclass(frozen=True)
class Subject:
    """A network to be pruned.

    Attributes:
        chooses, judges: batches; no sample is in both.
        budgets: numbers of blocks that go.
        metric: by which methods are compared, on the samples that judge.
    """

    net: resect.Unraveled
    chooses: list[Batch]
    judges: list[Batch]
    budgets: tuple[int, ...]
    metric: str = "error"


def shipped(name: str, data: str, device: str = "cpu") -> tuple[resect.Unraveled, resect.Samples]:
    """A shipped network and its samples."""
    samples = resect.load_samples(data, model=f"resect:{name}")
    model = resect.load_model(f"resect:{name}").module.to(device)
    return resect.unravel(model, samples.inputs[:2].to(device)), samples


def resnet(quick: bool, kept: Path | None) -> Subject:
    """The shipped ResNet-110, on test images of CIFAR-10; on a GPU, where there is one, on more of them."""
    fast = torch.cuda.is_available()
    net, samples = shipped("resnet110-cifar10", "cifar10", "cuda" if fast else "cpu")
    chooses, judges = (512, 9488) if fast else (256, 1000)
    inputs, targets = samples.first(chooses + judges)
    return Subject(net, *_parted(net, inputs, targets, chooses), (9, 18, 27))


def vit(quick: bool, kept: Path | None, seed: int = 0) -> Subject:
    """A vision transformer of 12 layers (quickly: 4), trained on half of the digits; of each seed but 0 on others."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=48,
        depth=4 if quick else 12, num_heads=3,
    )  # fmt: skip
    train, test = (resect.load_samples("digits", split=split) for split in ("train", "test"))
    inputs, targets = (torch.cat([getattr(part, name) for part in (train, test)]) for name in ("inputs", "targets"))
    if seed:
        order = torch.randperm(len(inputs))
        inputs, targets = inputs[order], targets[order]
    seen, others, name = slice(0, 897), slice(897, None), f"vit{seed or ''}{'-quick' * quick}.safetensors"

    def loss(chosen: Tensor) -> Tensor:
        return cross_entropy(model(inputs[seen][chosen]), targets[seen][chosen])

    _trained(model, loss, 897, 250 if quick else 420, 64, 4e-3, kept and kept / name)
    net = resect.unravel(model, inputs[:2])
    return Subject(net, *_parted(net, inputs[others], targets[others], 128), (3,) if quick else (4, 8, 12))


def gpt(quick: bool, kept: Path | None) -> Subject:
    """A GPT-2 of 8 layers, trained to write Python's documentation byte by byte."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=256, n_positions=64, n_embd=48, n_layer=8, n_head=4, bos_token_id=0, eos_token_id=0,
        initializer_range=0.1, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    text = torch.tensor(list("\n".join(topics[name] for name in sorted(topics)).encode()))
    windows = text[: len(text) // 49 * 49].view(-1, 49)
    windows = windows[torch.randperm(len(windows))]
    others, seen = windows[:464], windows[464:]

    def loss(chosen: Tensor) -> Tensor:
        some = seen[chosen]
        return cross_entropy(model(input_ids=some[:, :-1]).logits.flatten(0, 1), some[:, 1:].flatten())

    _trained(model, loss, len(seen), 300, 32, 1e-2, kept and kept / "gpt.safetensors")
    inputs, targets = others[:, :-1].contiguous(), others[:, 1:].contiguous()
    net = resect.unravel(model, {"input_ids": inputs[:2]})
    return Subject(net, *_parted(net, inputs, targets, 64, lambda rows: {"input_ids": rows}), (3, 5, 8), "loss")


def sentences(quick: bool, kept: Path | None) -> Subject:
    """All-MiniLM-L6-v2, which finds the documentation of Python's functions by their names."""
    model, example = minilm.encoder()
    net = resect.unravel(model, example)
    ((inputs, _),) = minilm.functions()

    def pairs(first: int, last: int) -> tuple[dict[str, Tensor], Tensor]:
        rows = torch.cat([torch.arange(first, last), torch.arange(first, last) + minilm.PAIRS])
        wanted = torch.cat([torch.arange(last - first), torch.full((last - first,), -100)])
        return {name: tokens[rows] for name, tokens in inputs.items()}, wanted

    chooses, judges = (list(batches_of([pairs(*part)], net, "contrastive")) for part in ((0, 60), (60, minilm.PAIRS)))
    return Subject(net, chooses, judges, (2, 4, 6))


def _parted(
    net: resect.Unraveled, inputs: Tensor, targets: Tensor, chooses: int, form: Callable[[Tensor], Any] = lambda x: x
) -> tuple[list[Batch], list[Batch]]:
    """Batches that choose, four of them, and batches that judge."""

    def cut(start: int, stop: int, size: int) -> Iterator[tuple[Any, Tensor]]:
        for first in range(start, stop, size):
            yield form(inputs[first : min(first + size, stop)]), targets[first : min(first + size, stop)]

    parts = cut(0, chooses, chooses // 4), cut(chooses, len(inputs), 200)
    first, second = (list(batches_of(list(part), net)) for part in parts)
    return first, second


def _trained(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    samples: int,
    steps: int,
    size: int,
    peak: float,
    kept: Path | None,
) -> None:
    """Train in place, or read what an earlier run trained."""
    if kept is not None and kept.exists():
        model.load_state_dict(load_file(kept), strict=False)
        model.eval()
        return
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(samples, (size,))).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach() for name, tensor in model.named_parameters()}, kept)  # tied ones once


NETWORKS: dict[str, Callable[[bool, Path | None], Subject]] = {
    "ViT, digits": vit,
    "GPT-2, text": gpt,
    "all-MiniLM-L6-v2, texts": sentences,
    "ResNet-110, CIFAR-10": resnet,
}
