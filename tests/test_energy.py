"""Energy, fair shares and coherence of paths, against brute force over all of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import resect
from by_hand import IMAGES, TARGETS, chain
from resect.paths.energy import path_energy
from resect.paths.fair import fair_shares
from resect.paths.first_order import first_order
from resect.paths.settings import PathSettings

DATA = [(IMAGES.double(), TARGETS)]
CHAINS = ["CNN of 6 blocks", "original form", "encoder of 8 blocks"]


def _paths(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(2^n, n) which blocks every path enters, and (2^n, N, D) its gradient."""
    paths = chain(name).paths
    return np.array([*paths], float), torch.stack([gradient.flatten(1) for gradient in paths.values()]).numpy()


@pytest.mark.parametrize("name", CHAINS)
def test_fair_shares_split_the_share_of_every_path_among_its_blocks(name: str) -> None:
    entered, gradients = _paths(name)
    whole = gradients.sum(0)
    along = np.einsum("pnd,nd->pn", gradients, whole)
    part = entered / np.maximum(entered.sum(1, keepdims=True), 1)
    fair = fair_shares(chain(name).net, DATA)
    np.testing.assert_allclose(fair.products, np.einsum("pn,pb->nb", along, part), rtol=1e-8, atol=1e-13)
    own = np.square(whole).sum(1)
    np.testing.assert_allclose(fair.share, (np.einsum("pn,pb->nb", along, part) / own[:, None]).mean(0), rtol=1e-8)
    assert fair.skip_share == pytest.approx((along[0] / own).mean(), rel=1e-9)
    assert fair.share.sum() + fair.skip_share == pytest.approx(1, abs=1e-12)


def test_too_few_nodes_are_seen() -> None:
    with pytest.raises(
        resect.AccuracyError, match=r"must sum to 1, but by 1 node are off by .* Give more `nodes`; 3 are exact"
    ):
        fair_shares(chain("CNN of 6 blocks").net, DATA, nodes=1)


@pytest.mark.parametrize("name", CHAINS)
def test_all_signs_together_give_the_energy_of_every_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gradients = _paths(name)
    squares = np.square(gradients).sum((1, 2))
    n = entered.shape[1]

    class EverySign:  # the mean over all signs is the expectation
        def choice(self, values: list[float], shape: tuple[int, int]) -> np.ndarray:
            return np.array([*product(values, repeat=shape[1])])

    monkeypatch.setattr("resect.paths.energy.np.random.default_rng", lambda seed: EverySign())
    energy = path_energy(chain(name).net, DATA, draws=2**n)
    np.testing.assert_allclose(energy.probability, squares @ entered / squares.sum(), rtol=1e-9)
    assert energy.squares.mean(1).sum() == pytest.approx(squares.sum(), rel=1e-9)


def test_energy_from_a_few_signs() -> None:
    entered, gradients = _paths("CNN of 6 blocks")
    squares = np.square(gradients).sum((1, 2))
    expected = squares @ entered / squares.sum()
    halves = [(IMAGES[:2].double(), TARGETS[:2]), (IMAGES[2:].double(), TARGETS[2:])]
    energy = path_energy(chain("CNN of 6 blocks").net, halves, draws=64)
    assert energy.squares.shape == (4, 64)
    low, high = energy.interval()
    assert ((low <= expected) & (expected <= high)).sum() >= 5
    entropy = -(squares / squares.sum() * np.log2(squares / squares.sum())).sum()
    assert energy.log2_effective_paths > entropy - 0.2
    whole = type(energy).joined([energy, energy])
    np.testing.assert_allclose(whole.probability, energy.probability)
    assert "draws of random signs" in energy.summary()


def test_coherence_is_that_of_all_paths() -> None:
    made, n = chain("CNN of 6 blocks"), 6
    entered, gradients = _paths("CNN of 6 blocks")
    spectrum = resect.path_spectrum(made.net, DATA)
    squares = resect.path_squares(made.net, DATA, sweeps=400)
    lengths = entered.sum(1)
    for k in range(n + 1):
        own = gradients[lengths == k]
        kappa = np.square(own.sum(0)).sum() / np.square(own).sum()
        assert squares.coherence(spectrum)[k] == pytest.approx(kappa, rel=0.25)
    assert squares.coherence(spectrum)[0] == pytest.approx(1, rel=1e-9)  # a single path
    energy = np.array([np.square(gradients[lengths == k]).sum() for k in range(n + 1)])
    np.testing.assert_allclose(squares.energy, energy / energy.sum(), atol=0.03)
    assert (squares.variation[1:n] > 0).all()
    assert squares.variation[0] == pytest.approx(0, abs=1e-12)
    elsewhere = resect.path_squares(made.net, DATA, PathSettings(at="stem"), sweeps=1)
    with pytest.raises(resect.InputError, match="`spectrum` must be of the same network and place, stem"):
        elsewhere.coherence(spectrum)


@pytest.mark.parametrize("name", CHAINS)
def test_first_order_changes_are_the_slope_of_a_closing_gate(name: str) -> None:
    made = chain(name)
    model, images = made.model, IMAGES.double()
    ends = {
        "CNN of 6 blocks": lambda: [block.c2 for block in model.blocks],
        "original form": lambda: [block.bn2 for block in model.blocks],
        "encoder of 8 blocks": lambda: [part for pair in zip(model.attention, model.mlp, strict=True) for part in pair],
    }[name]()

    def losses(branch: torch.nn.Module, gate: float) -> np.ndarray:
        def scaled(_: torch.nn.Module, __: object, output: object) -> object:
            return (output[0] * gate, None) if isinstance(output, tuple) else output * gate

        hook = branch.register_forward_hook(scaled)
        with torch.no_grad():
            values = torch.nn.functional.cross_entropy(model(images), TARGETS, reduction="none")
        hook.remove()
        return values.numpy()

    result = first_order(made.net, DATA)
    for block, branch in enumerate(ends):
        slope = (losses(branch, 1 - 1e-5) - losses(branch, 1 + 1e-5)) / 2e-5
        np.testing.assert_allclose(result.changes[:, block], slope, rtol=1e-5, atol=1e-8)
    assert (result.size >= np.abs(result.change) - 1e-15).all()
    assert result.table["size_low"].notna().all()
    assert type(result).joined([result, result]).changes.shape == (8, made.blocks)
    with pytest.raises(resect.InputError, match="`at` must be a place of the signal, got the parameter"):
        first_order(made.net, DATA, PathSettings(at=next(name for name, _ in model.named_parameters())))
