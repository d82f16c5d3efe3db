"""Lesion sweeps against what people write today: a loop that patches the model with hooks, nnsight, and captum.

    python benchmarks/lesion.py [--quick] [--json] [--device cuda]

The baseline of every case is (a), a plain eager loop with forward hooks: it runs every lesion, and the intact network,
in full, on the same batches, threads and memory format as resect, and scores each sample alike. Where a case is eager,
the two must agree to the last bit. Further cases set nnsight and captum against resect. Models have random weights.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from _harness import Case, device, main, measure, now, peak_bytes
from torch import Tensor, nn

import resect
from resect.graph.outputs import logits_of
from resect.measuring.metrics import cross_entropy
from resect.models.resnet import CifarResNet
from resect.sweep import plans
from resect.sweep.execution import Execution
from resect.sweep.walk import Tour, walk

Batches = list[tuple[Any, Tensor]]
Removal = Callable[[nn.Module, Any, Any], Any]


@dataclass(frozen=True)
class Subject:
    """A network, its blocks as the modules to hook, in order, and what a hook returns to delete one."""

    name: str
    model: nn.Module
    blocks: list[nn.Module]
    removed: Removal
    batches: Batches

    @property
    def samples(self) -> int:
        """In all batches."""
        return sum(len(targets) for _, targets in self.batches)


def resnet(depth: int, images: int, batch: int, dtype: torch.dtype = torch.float32) -> Subject:
    """A CIFAR ResNet whose batch norms have the statistics of its images, channels last."""
    torch.manual_seed(0)
    model = CifarResNet(depth)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the running statistics become those of the one batch it sees
    data = _images(images, batch, 32)
    with torch.no_grad():
        model.train().to(device())(data[0][0])
    model = model.eval().to(dtype=dtype, memory_format=torch.channels_last)
    batches = [(x.to(dtype), y) for x, y in data]
    return Subject(f"ResNet-{depth}", model, list(model.blocks), lambda block, given, _: block.sc(given[0]), batches)


def vit(images: int, batch: int) -> Subject:
    """timm's ViT-S/16: 24 blocks."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=10).eval().to(device())
    nn.init.normal_(model.head.weight, std=0.02)
    blocks = [part for layer in model.blocks for part in (layer.attn, layer.mlp)]
    return Subject("ViT-S", model, blocks, lambda _, __, out: torch.zeros_like(out), _images(images, batch, 224))


def gpt2(sequences: int, batch: int, length: int = 64) -> Subject:
    """transformers' GPT-2 with 12 layers: 24 blocks."""
    import transformers

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)).eval().to(device())
    blocks = [part for layer in model.transformer.h for part in (layer.attn, layer.mlp)]

    def removed(_: nn.Module, __: Any, out: Any) -> Any:
        if isinstance(out, tuple):
            return torch.zeros_like(out[0]), *out[1:]
        return torch.zeros_like(out)

    ids = torch.randint(0, 50257, (sequences, length + 1)).to(device())
    pieces = ids.split(batch)
    batches = [(piece[:, :-1].contiguous(), piece[:, 1:].contiguous()) for piece in pieces]
    return Subject("GPT-2", model, blocks, removed, batches)


def _images(count: int, batch: int, size: int) -> Batches:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (count,), generator=generator).to(device())
    images = images.to(device())
    return list(zip(images.split(batch), targets.split(batch), strict=True))


@contextmanager
def hooked(subject: Subject, gone: tuple[int, ...]) -> Iterator[None]:
    """The model with some blocks deleted by hooks."""
    handles = [subject.blocks[i].register_forward_hook(subject.removed) for i in gone]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hook_loop(subject: Subject, lesions: list[tuple[int, ...]]) -> np.ndarray:
    """(lesions + 1, samples) cross-entropies; the last row is that of the intact network."""
    with torch.no_grad():
        rows = []
        for gone in [*lesions, ()]:
            with hooked(subject, gone):
                losses = [cross_entropy(logits_of(subject.model(x)), y) for x, y in subject.batches]
            rows.append(torch.cat(losses).cpu().numpy())
    return np.stack(rows)


def sweep(net: resect.Unraveled, batches: Batches, plan: plans.Plan, settings: resect.LesionSettings) -> np.ndarray:
    """The same by resect."""
    result = resect.lesion(net, batches, plan, settings)
    return np.vstack([result.losses, result.intact["loss"]])


def largest(one: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference."""
    return float(np.abs(one - other).max())


LOSS = resect.LesionSettings(metrics=("error", "loss"))


def against_hooks(name: str, subject: Subject, wanted: float | None, both: bool = False) -> Case:
    """Single deletions (or those of every two blocks), eager and bit-identical."""
    net = resect.unravel(subject.model, subject.batches[0][0][:2])
    n = len(net.blocks)
    assert n == len(subject.blocks), (n, len(subject.blocks))
    plan = plans.Plan("pairs", plans.pairs(net).arrangements, plans.pairs(net).labels) if both else plans.single(net)
    lesions = list(combinations(range(n), 2)) if both else [(i,) for i in range(n)]
    return Case(
        name,
        lambda: hook_loop(subject, lesions),
        lambda: sweep(net, subject.batches, plan, LOSS),
        lambda: hook_loop(subject, []),
        largest,
        wanted=wanted,
        sizes=_sizes(subject, len(lesions), next(subject.model.parameters()).dtype),
    )


def _sizes(subject: Subject, lesions: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "network": subject.name,
        "lesions": lesions,
        "samples": subject.samples,
        "batch": len(subject.batches[0][1]),
        "dtype": str(dtype).removeprefix("torch."),
    }


def compiled(name: str, baseline: Subject, subject: Subject, wanted: float | None, tolerance: float) -> Case:
    """Single deletions, resect compiled and perhaps in another dtype, against the eager loop in float32."""
    net = resect.unravel(subject.model, subject.batches[0][0][:2])
    lesions = [(i,) for i in range(len(net.blocks))]
    plan = plans.single(net)
    # One execution for all runs, as in one long sweep: compiling (about 13 s for 54 blocks) is paid once, before.
    execution = Execution(net, resect.LesionSettings(compile=True, channels_last=True))
    tour = Tour.of(execution.programs, [*plan.arrangements, net.intact])

    def run() -> np.ndarray:
        parts = []
        for inputs, targets in subject.batches:
            losses = torch.zeros(tour.arrangements, len(targets), device=device())

            def visit(group: Any, outputs: Any, losses: Tensor = losses, targets: Tensor = targets) -> None:
                losses[list(group)] = cross_entropy(logits_of(outputs), targets)

            walk(execution, inputs, tour, visit)
            parts.append(losses)
        return torch.cat(parts, 1).cpu().numpy()

    sizes = _sizes(subject, len(lesions), next(subject.model.parameters()).dtype)
    return Case(
        name,
        lambda: hook_loop(baseline, lesions),
        run,
        lambda: hook_loop(baseline, []),
        largest,
        tolerance,
        sweeps_to_warm=2,
        wanted=wanted,
        sizes=sizes,
    )


def branches(subject: Subject) -> list[tuple[str, nn.Module]]:
    """The module whose output is each block's branch, with its dotted name."""
    names = {module: name for name, module in subject.model.named_modules()}
    ends = [block.c2 if hasattr(block, "c2") else block for block in subject.blocks]
    return [(names[end], end) for end in ends]


def zeroed(output: Any) -> Any:
    """The same output with zeros for its (first) tensor."""
    return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)


def against_nnsight(name: str, subject: Subject) -> Case:
    """Single deletions with nnsight's tracing, which runs every lesion in full."""
    from nnsight import NNsight

    net = resect.unravel(subject.model, subject.batches[0][0][:2])
    plan, ends = plans.single(net), [end for end, _ in branches(subject)]
    wrapped = NNsight(copy.deepcopy(subject.model))

    def loop() -> np.ndarray:
        rows = []
        with torch.no_grad():
            for end in [*ends, None]:
                losses = []
                for x, y in subject.batches:
                    with wrapped.trace(x):
                        if end is not None:
                            part = wrapped.get(end)
                            part.output = zeroed(part.output)
                        outputs = wrapped.output.save()
                    losses.append(cross_entropy(logits_of(outputs), y))
                rows.append(torch.cat(losses).cpu().numpy())
        return np.stack(rows)

    return _beside(name, subject, loop, lambda: sweep(net, subject.batches, plan, LOSS))


def against_captum(name: str, subject: Subject) -> Case:
    """Single deletions with captum's LayerFeatureAblation of each branch's output, as one feature."""
    from captum.attr import LayerFeatureAblation

    model = subject.model
    net = resect.unravel(model, subject.batches[0][0][:2])
    plan = plans.single(net)

    def loop() -> np.ndarray:
        rows = []
        with torch.no_grad():
            intact = torch.cat([cross_entropy(model(x), y) for x, y in subject.batches])
            for _, end in branches(subject):
                change = []
                for x, y in subject.batches:
                    ablation = LayerFeatureAblation(lambda given, y=y: cross_entropy(model(given), y), end)
                    mask = torch.zeros(1, dtype=torch.long)
                    # The attribution of one feature is intact minus ablated, in every entry of the layer's output.
                    found = ablation.attribute(x, layer_mask=mask, perturbations_per_eval=1)
                    change.append(found.flatten(1)[:, 0])
                rows.append((intact - torch.cat(change)).cpu().numpy())
        return np.stack([*rows, intact.cpu().numpy()])

    # captum returns differences to the intact loss, which round once more
    return _beside(name, subject, loop, lambda: sweep(net, subject.batches, plan, LOSS), tolerance=1e-5)


def _beside(name: str, subject: Subject, loop: Any, run: Any, tolerance: float = 0.0) -> Case:
    sizes = _sizes(subject, len(subject.blocks), next(subject.model.parameters()).dtype)
    return Case(name, loop, run, lambda: None, largest, tolerance, sizes=sizes)


def growth(images: int, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Time against the number of slices that a sweep of single deletions runs."""
    for blocks in sizes:
        subject = resnet(2 * blocks + 2, images, images)
        net = resect.unravel(subject.model, subject.batches[0][0][:2])
        plan = plans.single(net)
        slices = len(Tour.of(net.programs, [*plan.arrangements, net.intact]).stops)
        times = []
        for _ in range(3):
            start = now()
            sweep(net, subject.batches, plan, LOSS)
            times.append(now() - start)
        yield {
            "case": f"growth, {blocks} blocks",
            "network": subject.name,
            "slices": slices,
            "in full": (blocks + 1) * (blocks + 2),
            "seconds": min(times),
            "milliseconds a slice": min(times) / slices * 1e3,
        }


def useful_rate(subject: Subject) -> dict[str, Any]:
    """The rate of useful FLOPs of a sweep of single deletions, beside that of large matrix products on this machine."""
    from torch.utils.flop_counter import FlopCounterMode

    net = resect.unravel(subject.model, subject.batches[0][0][:2])
    plan = plans.single(net)
    with FlopCounterMode(display=False) as counter:
        sweep(net, [(x[:2], y[:2]) for x, y in subject.batches[:1]], plan, LOSS)
    useful = counter.get_total_flops() / 2 * subject.samples
    times = []
    for _ in range(3):
        start = now()
        sweep(net, subject.batches, plan, LOSS)
        times.append(now() - start)
    a, b = (torch.randn(2048, 2048, device=device()) for _ in range(2))
    a @ b
    products = []
    for _ in range(5):
        start = now()
        a @ b
        products.append(now() - start)
    rate = 2 * 2048**3 / min(products)
    return {
        "case": "useful FLOPs, single",
        "network": subject.name,
        "useful GFLOP/s": useful / min(times) / 1e9,
        "matrix product GFLOP/s": rate / 1e9,
        "fraction": useful / min(times) / rate,
    }


def peak(side: str, depth: int, batch: int) -> dict[str, Any]:
    """Resident memory of one side's sweep, before and at its peak."""
    subject = resnet(depth, batch, batch)
    net = resect.unravel(subject.model, subject.batches[0][0][:2])
    plan = plans.single(net)
    lesions = [(i,) for i in range(len(plan))]
    run = {"baseline": lambda: hook_loop(subject, lesions), "resect": lambda: sweep(net, subject.batches, plan, LOSS)}
    run[side]()  # what is imported and cached at the first run belongs to neither side
    before, most = peak_bytes(run[side])
    return {
        "case": f"peak memory, {side}",
        "network": subject.name,
        "MiB": most / 2**20,
        "MiB above the start": (most - before) / 2**20,
    }


CASES = (
    "single",
    "pairs",
    "single-compiled",
    "single-bfloat16",
    "single, ViT-S",
    "single, GPT-2",
    "single, nnsight",
    "single, captum",
    "single, ViT-S, nnsight",
    "single, ViT-S, captum",
    "single, GPT-2, nnsight",
    "peak memory, baseline",
    "peak memory, resect",
    "useful FLOPs, single",
    "growth",
)


# Compiling, and loading what these are, takes longer than they measure.
NOT_QUICK = tuple(name for name in CASES if name.startswith(("single-", "single, ViT-S", "single, GPT-2")))


def run_case(name: str, quick: bool) -> Iterator[dict[str, Any]]:
    """The rows of one case; the ratios to reach are those of ResNet-110."""
    depth, images, batch = (56, 32, 32) if quick else (110, 256, 64)

    def goal(ratio: float) -> float | None:
        return None if quick else ratio

    timed: dict[str, Callable[[], Case]] = {
        "single": lambda: against_hooks(name, resnet(depth, images, batch), goal(1.9)),
        "pairs": lambda: against_hooks(name, resnet(20 if quick else 32, images, batch), goal(2.8), both=True),
        "single-compiled": lambda: compiled(name, *(resnet(depth, images, batch),) * 2, 2.6, 1e-3),
        "single-bfloat16": lambda: compiled(
            name, resnet(depth, images, batch), resnet(depth, images, batch, torch.bfloat16), 4.0, 0.5
        ),
        "single, ViT-S": lambda: against_hooks(name, vit(8, 4), None),
        "single, GPT-2": lambda: against_hooks(name, gpt2(8, 4), None),
        "single, nnsight": lambda: against_nnsight(name, resnet(20 if quick else depth, images, batch)),
        "single, captum": lambda: against_captum(name, resnet(20 if quick else depth, images, batch)),
        "single, ViT-S, nnsight": lambda: against_nnsight(name, vit(8, 4)),
        "single, ViT-S, captum": lambda: against_captum(name, vit(8, 4)),
        "single, GPT-2, nnsight": lambda: against_nnsight(name, gpt2(8, 4)),  # captum was not tried
    }
    if name in timed:
        yield measure(timed[name](), pairs=3)
    elif name.startswith("peak memory"):
        yield peak(name.rpartition(" ")[2], depth, batch)
    elif name == "growth":
        yield from growth(batch, (9, 18, 27) if quick else (9, 18, 27, 54))
    else:
        yield useful_rate(resnet(depth, images, batch))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(__file__, "Lesion sweeps", CASES, run_case, not_quick=NOT_QUICK)
