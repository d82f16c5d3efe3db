"""The gradient along paths against the paper's protocol written with hooks, and against plain backward passes.

    python benchmarks/paths.py [--quick] [--json] [--device cuda]

`sampled`: the same sampled paths. The baseline runs forward and a full backward pass (weights included, as
`loss.backward()` does), one path at a time, with forward hooks that detach skips and branches; `sampled, input only`
spares it the gradients of the weights. `standard-error`: seconds until the whole curve of count x root mean square
norm has a relative standard error of 5 %: the baseline's time is that of one path times the paths it needs by the
variance of 200 draws a length, resect's is measured; the difference is that to all paths of length 0 to 2, one by one.
`exact`: all path lengths at once against n/2 plain backward passes to the input. Both sides have the same threads,
batch, memory format (channels last) and allocator (`resect.keep_freed_memory`). `digits` has trained weights; others
are random, with the batch norms' statistics those of the images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import combinations
from typing import Any

import numpy as np
import torch
from _harness import Case, device, main, measure, now, peak_bytes
from torch import Tensor, nn

import resect
from resect.allocator import keep_freed_memory
from resect.data import load_samples
from resect.graph.routes import Routes
from resect.models.resnet import CifarResNet
from resect.models.specs import load_model
from resect.paths.sampled import path_norms
from resect.paths.sampler import PathDraw, Route
from resect.paths.settings import PathSettings
from resect.paths.squares import path_squares
from resect.paths.target import resolve_target
from resect.paths.trace import Trace

PRECISION = 0.05  # relative standard error of every point of the curve


def resnet(depth: int, images: int) -> tuple[CifarResNet, Tensor, Tensor]:
    """A CIFAR ResNet with random weights whose batch norms have the statistics of its images."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = CifarResNet(depth)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    data = torch.randn(max(images, 32), 3, 32, 32, generator=generator).to(device())
    with torch.no_grad():
        model.train().to(device())(data)
    x = data[:images].contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (images,), generator=generator).to(device())
    return model.eval().to(memory_format=torch.channels_last), x, y


def digits(images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The shipped ResNet-110, trained on handwritten digits."""
    samples = load_samples("digits", limit=images)
    model = load_model("resect:resnet110-digits", samples=samples).module
    x = samples.inputs.to(device()).contiguous(memory_format=torch.channels_last)
    model = model.eval().to(device()).to(memory_format=torch.channels_last)
    return model, x, samples.targets.to(device())


def draws(net: resect.Unraveled, repeats: int) -> list[Route]:
    """`repeats` paths of every length."""
    draw, random = PathDraw(Routes(net.sliced)), np.random.default_rng(0)
    return [route for _ in range(repeats) for route in draw(range(len(net.blocks) + 1), random)]


def by_hooks(model: nn.Module, x: Tensor, y: Tensor, drawn: list[Route], *, weights: bool) -> np.ndarray:
    """Norms (paths, images) by the paper's protocol: one forward and one backward pass a path."""
    norms = []
    for parameter in model.parameters():
        parameter.requires_grad_(weights)
    for route in drawn:
        taken = {slot for slot, _ in route.values() if slot is not None}
        images = x.clone().requires_grad_()
        with ExitStack() as hooks:
            for i, block in enumerate(model.blocks):
                cut = block.sc if i in taken else block.c2
                hook = cut.register_forward_hook(lambda module, given, output: output.detach())
                hooks.callback(hook.remove)
            loss = nn.functional.cross_entropy(model(images), y, reduction="sum")
            if weights:
                loss.backward()
                gradient = images.grad
            else:
                (gradient,) = torch.autograd.grad(loss, images)
        norms.append(gradient.flatten(1).double().norm(dim=1).cpu().numpy())
    model.zero_grad()
    return np.stack(norms)


def sampled(name: str, subject: tuple[Any, Tensor, Tensor], repeats: int, wanted: float | None, weights: bool) -> Case:
    """The same single paths on both sides."""
    model, x, y = subject
    net = resect.unravel(model, x[:2])
    drawn, target = draws(net, repeats), resolve_target(net, "input")
    routes = Routes(net.sliced)
    return Case(
        name,
        lambda: by_hooks(model, x, y, drawn, weights=weights),
        lambda: path_norms(Trace(net, x, y, target, truth=False), routes, drawn),
        lambda: by_hooks(model, x, y, drawn[:3], weights=weights),
        lambda one, other: float(np.abs(one / other - 1)[other > 1e-30].max()),
        tolerance=1e-2,  # float32 in another order; the longest paths are products of 100 small Jacobians
        wanted=wanted,
        sizes={"blocks": len(net.blocks), "paths": len(drawn), "images": len(x), "dtype": "float32"},
    )


def exact(name: str, subject: tuple[Any, Tensor, Tensor]) -> Case:
    """All lengths at once against n/2 plain backward passes of the same batch."""
    model, x, y = subject
    net = resect.unravel(model, x[:2])
    images = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(images), y, reduction="sum")
    blocks = len(net.blocks)

    def plain(times: float = blocks / 2) -> Tensor:
        for _ in range(round(times)):
            (gradient,) = torch.autograd.grad(loss, images, retain_graph=True)
        return gradient

    def difference(one: Tensor, other: resect.PathSpectrum) -> float:
        squares = one.flatten(1).square().sum(1).double().cpu().numpy()
        return max(other.sum_error, float(np.abs(other.squares / squares - 1).max()))

    return Case(
        name,
        plain,
        lambda: resect.path_spectrum(net, [(x, y)]),
        lambda: plain(2),
        difference,
        tolerance=1e-4,
        wanted=0.77,
        sizes={"blocks": blocks, "images": len(x), "dtype": "float32"},
    )


def standard_error(name: str, subject: tuple[Any, Tensor, Tensor], quick: bool) -> dict[str, Any]:
    """Seconds until the whole curve has a relative standard error of 5 %."""
    model, x, y = subject
    net = resect.unravel(model, x[:2])
    path_squares(net, [(x, y)], sweeps=1)
    seconds, squares, seed = 0.0, np.empty((0, len(net.blocks) + 1)), 0
    while len(squares) < 8 or _relative(squares).max() > PRECISION:
        start = now()
        found = path_squares(net, [(x, y)], PathSettings(seed=seed), sweeps=4)
        seconds += now() - start
        squares, seed = np.concatenate([squares, np.square(found.norms).mean(0)]), seed + 1
    by_path = resect.sample_paths(net, [(x, y)], draws=40 if quick else 200)
    of_one = np.square(by_path.norms).mean(0)  # (draws, lengths): what the baseline would average
    deviation = of_one.std(0, ddof=1) / of_one.mean(0) / 2  # of the root of the mean, a half
    needed = np.maximum(1, (deviation / PRECISION) ** 2)
    few = draws(net, 1)[:: max(1, len(net.blocks) // 8)]
    by_hooks(model, x, y, few[:2], weights=True)
    start = now()
    by_hooks(model, x, y, few, weights=True)
    one = (now() - start) / len(few)
    gap = np.abs(np.sqrt(squares.mean(0)[:3] / every_short_path(net, x, y)) - 1)
    return {
        "case": name,
        "baseline": "extrapolated",
        "baseline_s": one * needed.sum(),
        "resect_s": seconds,
        "ratio": one * needed.sum() / seconds,
        "spread": [one * needed.sum() / seconds] * 2,
        "wanted": 100,
        "equal": bool(gap.max() < 3 * PRECISION),
        "largest_difference": float(gap.max()),  # to all paths of length 0 to 2, one by one
        "blocks": len(net.blocks),
        "images": len(x),
        "sweeps": len(squares),
        "baseline_paths": round(needed.sum()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def every_short_path(net: resect.Unraveled, x: Tensor, y: Tensor) -> np.ndarray:
    """(3,) the sum of squared norms of all paths of length 0, 1 and 2, one by one; mean over images."""
    routes, blocks = Routes(net.sliced), range(len(net.blocks))
    trace, totals = Trace(net, x, y, resolve_target(net, "input"), truth=False), []
    for length in range(3):
        drawn = [{i: (i if i in taken else None, i - 1) for i in blocks} for taken in combinations(blocks, length)]
        totals.append(np.square(path_norms(trace, routes, drawn)).mean(1).sum())
    return np.array(totals)


def _relative(squares: np.ndarray) -> np.ndarray:
    """Relative standard error of the root of the mean of independent sweeps, (lengths,)."""
    return squares.std(0, ddof=1) / squares.mean(0) / 2 / len(squares) ** 0.5


def deep(depth: int, longest: int) -> dict[str, Any]:
    """ResNet-1202 to length 60 on 8 images."""
    model, x, y = resnet(depth, 8)
    start = now()
    net = resect.unravel(model, x[:2])
    unravelled = now() - start
    found: list[resect.PathSpectrum] = []
    start = now()
    _, most = peak_bytes(lambda: found.append(resect.path_spectrum(net, [(x, y)], max_length=longest)))
    return {
        "case": f"resnet{depth} to length {longest}, {len(x)} images",
        "seconds to unravel": unravelled,
        "seconds": now() - start,
        "peak GiB": most / 2**30,
        "sum error": found[0].sum_error,
        "share of the rest": found[0].rest_share,
        "effective depth up to there": found[0].multiplicity().effective_depth,
    }


def memory(depth: int, images: int, limit: int) -> dict[str, Any]:
    """Peak memory with and without a limit."""
    model, x, y = resnet(depth, images)
    net = resect.unravel(model, x[:2])
    resect.path_spectrum(net, [(x[:2], y[:2])])
    rows = {}
    for title, settings in (("limited", PathSettings(memory=limit)), ("free", PathSettings())):
        before, most = peak_bytes(lambda own=settings: resect.path_spectrum(net, [(x, y)], own))
        rows[f"MiB above the start, {title}"] = (most - before) / 2**20
    return {"case": f"memory, resnet{depth}, {images} images", "limit, MiB": limit / 2**20, **rows}


CASES = (
    "sampled, ResNet-56",
    "sampled, ResNet-110",
    "sampled, ResNet-110, input only",
    "standard-error, ResNet-56",
    "standard-error, ResNet-110 digits",
    "exact, ResNet-56",
    "exact, ResNet-110",
    "memory",
    "deep",
)


# These need ResNet-110, ResNet-1202 or many draws to mean anything.
NOT_QUICK = (
    "sampled, ResNet-110",
    "sampled, ResNet-110, input only",
    "standard-error, ResNet-56",
    "standard-error, ResNet-110 digits",
    "exact, ResNet-110",
    "deep",
)


def run_case(name: str, quick: bool) -> Iterator[dict[str, Any]]:
    """The rows of one case."""
    depth = 56 if "-56" in name else 110
    if name.startswith("sampled"):
        only = name.endswith("input only")
        images = 8 if quick else 16
        yield measure(sampled(name, resnet(depth, images), 10, None if only else 10.0, weights=not only), pairs=3)
    elif name.startswith("exact"):
        yield measure(exact(name, resnet(depth, 32)), pairs=3)
    elif name.startswith("standard-error"):
        yield standard_error(name, digits(16) if "digits" in name else resnet(56, 8), quick)
    elif name == "memory":
        yield memory(*((56, 32, 128 * 2**20) if quick else (110, 64, 512 * 2**20)))
    else:
        yield deep(1202, 60)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    keep_freed_memory()  # for both sides
    main(__file__, "Paths", CASES, run_case, not_quick=NOT_QUICK)
