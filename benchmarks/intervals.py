"""How often nominal 95 % intervals hold the truth, resect's beside those that are usual.

    python benchmarks/intervals.py [--quick] [--json]

A pool stands for the world: what is measured on all of it is the truth, and each simulation sees a few samples, orders
or signs of it, drawn with replacement. `depth`: effective depth, pooled over samples (gradients weigh by their squares)
and as the mean of the samples' own. `lesions`: damage and change of the loss by each of 54 deletions, one by one, and
all of them at once, by single and by simultaneous intervals. `largest`: the damage of the worst of 54 equal blocks, on
the samples that chose it and held out. `signs`: sums of squares over the paths of each length that counts, by 8 sweeps
and by as many as resect draws. `shapley`: Shapley values of the loss, with the samples held fixed and with both
resampled. In per cent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import torch
from _harness import main

import resect
from resect.measuring.crossed import crossed_interval
from resect.measuring.many import held_out_largest
from resect.measuring.statistics import bootstrap_interval, paired_error_interval
from resect.models.resnet import CifarResNet
from resect.paths.certainty import drawn_until, relative_errors, worst_error
from resect.paths.measures import effective_samples
from resect.paths.precision import PRECISION

Rows = Iterator[dict[str, Any]]
NETWORK = "resect:resnet110-digits"


def held(inside: list[np.ndarray] | np.ndarray) -> float:
    """Coverage, in per cent."""
    return round(100 * float(np.mean(inside)), 1)


def within(ends: tuple[np.ndarray, np.ndarray], truth: Any) -> np.ndarray:
    """Whether intervals hold the truth."""
    return np.asarray((ends[0] <= truth) & (truth <= ends[1]))


def shipped() -> tuple[resect.Unraveled, resect.Samples]:
    """The network and all samples."""
    samples = resect.load_samples("digits", model=NETWORK)
    return resect.unravel(resect.load_model(NETWORK), samples.inputs[:2]), samples


def depth(simulations: int, seed: int = 0) -> Rows:
    """Effective depth on few samples."""
    net, samples = shipped()
    through = resect.participation(net, samples.batches(100))
    own, weights = through.products.sum(1) / through.squares, through.squares
    draw = np.random.default_rng(seed)
    for few in (32, 64, 200):
        pooled, equal, rest_on = [], [], []
        for _ in range(simulations):
            some = draw.integers(0, len(own), few)
            pooled.append(within(bootstrap_interval(own[None, some], weights[some]), np.average(own, weights=weights)))
            equal.append(within(bootstrap_interval(own[None, some]), own.mean()))
            rest_on.append(effective_samples(weights[some]))
        yield {
            "case": f"effective depth, {few} images",
            "pooled": held(pooled),
            "mean of the images' own": held(equal),
            "effective samples when pooled": float(np.median(rest_on)),
            "simulations": simulations,
        }


def lesions(simulations: int, seed: int = 0) -> Rows:
    """All single deletions on few samples."""
    net, samples = shipped()
    result = resect.lesion(net, samples.batches(500), resect.plans.single(net))
    errors, losses = result.errors - result.intact["error"], result.losses - result.intact["loss"]
    draw, many = np.random.default_rng(seed), len(errors)
    for few in (200, 500):
        one, all_of, together, loss, loss_together = [], [], [], [], []
        for _ in range(simulations):
            some = draw.integers(0, result.samples, few)
            broken, repaired = (errors[:, some] > 0).sum(1), (errors[:, some] < 0).sum(1)
            single = within(paired_error_interval(broken, repaired, few), errors.mean(1))
            one.append(single.mean())
            all_of.append(single.all())
            together.append(within(paired_error_interval(broken, repaired, few, 1 - 0.05 / many), errors.mean(1)).all())
            changes, truth = losses[:, some], losses.mean(1, dtype=float)
            loss.append(within(bootstrap_interval(changes, resamples=400), truth).all())
            loss_together.append(within(bootstrap_interval(changes, resamples=400, simultaneous=True), truth).all())
        yield {
            "case": f"{many} deletions, {few} images",
            "one damage": held(one),
            "all damages by single intervals": held(all_of),
            "by simultaneous ones (Tango)": held(together),
            "all changes of the loss by single intervals": held(loss),
            "by simultaneous ones (largest t)": held(loss_together),
            "simulations": simulations,
        }


def largest(simulations: int, seed: int = 0) -> Rows:
    """The worst of 54 equal blocks, each of which breaks as many samples as it repairs."""
    draw = np.random.default_rng(seed)
    for few in (200, 1000):
        naive, halves, size = [], [], []
        for _ in range(simulations):
            intact = draw.random(few) < 0.5
            wrong = intact ^ (draw.random((54, few)) < 0.01)
            changes = wrong.astype(int) - intact
            worst = int(changes.sum(1).argmax())
            broken, repaired = (int((changes[worst] == sign).sum()) for sign in (1, -1))
            naive.append(within(paired_error_interval([broken], [repaired], few), 0))
            size.append((broken - repaired) / few)
            halves.append(within(held_out_largest(wrong, intact)[2:], 0))
        yield {
            "case": f"largest of 54 damages that are all 0, {few} images",
            "on the samples that chose it": held(naive),
            "held out": held(halves),
            "the largest, points": 100 * float(np.mean(size)),
            "simulations": simulations,
        }


def signs(simulations: int, sweeps: int, seed: int = 0) -> Rows:
    """Sums of squares of single paths on four images, from a pool of sweeps."""
    net, samples = shipped()
    settings = resect.PathSettings(precision=None)
    squares = resect.path_squares(net, samples.limited(4).batches(4), settings, sweeps=sweeps)
    pool, counts = np.square(squares.norms).mean(0), squares.counts
    truth, draw = pool.mean(0), np.random.default_rng(seed)
    some = (truth / truth.sum() >= 0.01) & (np.array(counts.paths) > 1)  # a single path is known from one sweep

    def error(arrays: dict[str, np.ndarray]) -> float:
        return worst_error(relative_errors([arrays["norms"][0]], [1]), arrays["norms"][0].mean(0), counts)

    def lot(many: int) -> dict[str, np.ndarray]:
        return {"norms": pool[draw.integers(0, sweeps, many)][None]}

    for first, precision in ((2, None), (8, None), (8, PRECISION), (8, 10.0)):  # of one there is no interval
        inside, used, sure, off = [], [], [], []
        for _ in range(simulations):
            arrays = drawn_until(lot, first, precision, error)
            values = arrays["norms"][0]
            inside.append(within(bootstrap_interval(values[:, some].T, resamples=400), truth[some]).mean())
            used.append(len(values))
            sure.append(error(arrays) * 100 <= (precision or PRECISION))
            off.append(np.abs(values[:, some].mean(0) / truth[some] - 1).max())
        yield {
            "case": "random signs, " + (f"until {precision:g} %" if precision else f"{first} sweeps"),
            "held": held(inside),
            "sweeps": float(np.mean(used)),
            "said to be precise": held(sure),
            "farthest off, %": 100 * float(np.median(off)),
            "variation of one sweep": float(squares.variation[some].max()),
            "simulations": simulations,
        }


def shapley(simulations: int, samples: int, seed: int = 0) -> Rows:
    """Shapley values of nine random blocks, of which all 512 sub-networks are known."""
    torch.manual_seed(seed)
    images, classes = torch.randn(samples, 1, 8, 8), torch.randint(10, (samples,))
    model = CifarResNet(20, width=8, channels=1)
    resect.calibrate(model, [(images, classes)])
    net = resect.unravel(model, images[:2])
    gone = [c for k in range(1, 10) for c in combinations(range(9), k)]
    result = resect.lesion(net, [(images, classes)], resect.plans.explicit(net, [net.intact.without(*c) for c in gone]))
    losses = np.zeros((512, samples))
    losses[0] = result.intact["loss"]
    for blocks, own in zip(gone, result.losses, strict=True):
        losses[sum(1 << block for block in blocks)] = own
    draw = np.random.default_rng(seed)
    exact = np.zeros(9)
    for mask in range(512):
        size = mask.bit_count()
        for block in set(range(9)) - {i for i in range(9) if mask >> i & 1}:
            gain = losses[mask | 1 << block].mean() - losses[mask].mean()
            exact[block] += gain * factorial(size) * factorial(8 - size) / factorial(9)
    for pairs, few in ((5, 100), (20, 100), (20, 1000)):
        fixed, both = [], []
        for _ in range(simulations):
            orders = np.stack([draw.permutation(9) for _ in range(pairs)])
            some = draw.integers(0, samples, few)
            drawn = (_marginals(losses[:, some], orders) + _marginals(losses[:, some], orders[:, ::-1])) / 2
            repeats, own = drawn.mean(2).T, drawn.mean(0)
            fixed.append(within(bootstrap_interval(repeats, resamples=400), exact))
            both.append(within(crossed_interval(repeats, own, resamples=400), exact))
        yield {
            "case": f"Shapley values, {pairs} pairs of orders, {few} images",
            "images fixed": held(fixed),
            "both resampled": held(both),
            "simulations": simulations,
        }


def _marginals(losses: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """(orders, 9, N) what deleting each block adds to the loss, in orders (orders, 9), of all sub-networks' losses."""
    masks = np.pad(np.cumsum(1 << orders, 1), ((0, 0), (1, 0)))
    marginals = np.empty((*orders.shape, losses.shape[1]))
    np.put_along_axis(marginals, orders[..., None], np.diff(losses[masks], axis=1), 1)
    return marginals


CASES: dict[str, Callable[[bool], Rows]] = {
    "depth": lambda quick: depth(20 if quick else 300),
    "lesions": lambda quick: lesions(5 if quick else 80),
    "largest": lambda quick: largest(50 if quick else 400),
    "signs": lambda quick: signs(20 if quick else 200, 10 if quick else 100),
    "shapley": lambda quick: shapley(5 if quick else 100, 50 if quick else 300),
}

if __name__ == "__main__":
    main(__file__, "intervals", list(CASES), lambda case, quick: CASES[case](quick))
