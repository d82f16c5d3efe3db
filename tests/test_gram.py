"""Inner products between path lengths, against brute force over all paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import resect
from by_hand import IMAGES, TARGETS, chain
from resect.paths.settings import PathSettings


def _by_length(name: str) -> torch.Tensor:
    """(n+1, N, D) the summed gradient of all paths of every length."""
    made = chain(name)
    totals = torch.zeros(made.blocks + 1, len(IMAGES), IMAGES[0].numel(), dtype=torch.float64)
    for taken, gradient in made.paths.items():
        totals[sum(taken)] += gradient.flatten(1)
    return totals


@pytest.mark.parametrize("name", ["CNN of 6 blocks", "original form", "encoder of 8 blocks"])
def test_inner_products_of_lengths_by_brute_force(name: str) -> None:
    totals, data = _by_length(name), [(IMAGES[:3].double(), TARGETS[:3]), (IMAGES[3:].double(), TARGETS[3:])]
    gram = resect.path_spectrum(chain(name).net, data).gram
    expected = torch.einsum("jnd,knd->njk", totals, totals).numpy()
    some = slice(gram.values.shape[1])
    np.testing.assert_allclose(gram.values, expected[:, some, some], atol=1e-12 * np.abs(expected).max())
    whole = totals.sum(0)
    for low, high in [(0, 0), (1, 3), (0, 2), (2, 6)]:
        part = totals[low : high + 1].sum(0)
        missed = (whole - part).norm(dim=1) / whole.norm(dim=1)
        np.testing.assert_allclose(gram.residual(low, high), missed, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(gram.cosine(low, high), torch.cosine_similarity(part, whole, dim=1), rtol=1e-7)
        pooled = (whole - part).norm() / whole.norm()
        assert gram.pooled_residual(low, high) == pytest.approx(float(pooled), rel=1e-6, abs=1e-7)
    powers = 0.3 ** torch.arange(len(totals), dtype=torch.float64)
    np.testing.assert_allclose(gram.scaled_norm(0.3), torch.einsum("k,knd->nd", powers, totals).norm(dim=1), rtol=1e-9)
    np.testing.assert_allclose(gram.scaled_norm(1), whole.norm(dim=1), rtol=1e-9)


def test_the_shortest_range_that_misses_little() -> None:
    made, data = chain("CNN of 6 blocks"), [(IMAGES.double(), TARGETS)]
    gram = resect.path_spectrum(made.net, data).gram
    low, high = gram.shortest(0.05)
    assert gram.pooled_residual(low, high) <= 0.05
    shorter = [gram.pooled_residual(start, start + high - low - 1) for start in range(6 - (high - low) + 1)]
    assert high == low or min(shorter) > 0.05
    cut = resect.path_spectrum(made.net, data, max_length=0).gram
    assert cut.values.shape == (4, 1, 1)
    assert cut.shortest(1e-6) is None
    with pytest.raises(resect.InputError, match="`residual` must lie between 0 and 1, got 2"):
        gram.shortest(2)
    with pytest.raises(resect.InputError, match="lengths from 0, in order, got 3 and 2"):
        gram.residual(3, 2)


def test_what_a_share_cannot_see_is_in_the_residual() -> None:
    # y = x + A x with A a rotation by 90 degrees: C_1 stands orthogonal to C_0, and shares 1/2 each of |g|^2.
    class Turn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Parameter(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x @ self.a

    net = resect.unravel(Turn(), torch.randn(2, 2))
    data = [(torch.randn(3, 2), torch.tensor([0, 1, 0]))]
    spectrum = resect.path_spectrum(net, data, PathSettings(of="target"))
    np.testing.assert_allclose(spectrum.share, [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(spectrum.gram.residual(0, 0), 0.5**0.5, rtol=1e-6)
    np.testing.assert_allclose(spectrum.gram.cosine(1, 1), 0.5**0.5, rtol=1e-6)
