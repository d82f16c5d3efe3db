"""The independent count of the coverage benchmark, against counts from the networks' definitions."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from networks import conv
from zoo import SHALLOW

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _additions

    yield lambda model, *inputs: [
        addition.module for addition in _additions.residual_additions(model.eval(), inputs, {})
    ]
    del sys.modules["_additions"]


@pytest.mark.parametrize(
    "name", ["resnet50", "vit_b_16", "densenet121", "hrnet_w18_small", "hiera_tiny_224", "caformer_s18", "fastvit_t8"]
)
def test_the_count_is_that_of_the_definition(name: str, counted) -> None:
    entry = SHALLOW[name]
    assert len(counted(entry.build(), torch.randn(2, 3, entry.size, entry.size))) == entry.blocks


class Written(nn.Module):
    """Residual sums in several words, and sums that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(2))
        self.gate = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + (self.f(x) + self.g(x))  # 2
        x += self.f(x)  # 1
        x = 0.5 * x - self.g(x)  # 1
        t = torch.sigmoid(self.gate(x))
        x = self.f(x) * t + x * (1 - t)  # 1
        y = torch.zeros_like(x)
        y[:, :4].copy_(self.g(x)[:, :4])
        x = x + y  # 1
        return self.f(x) + self.g(x)  # two branches without a skip


def test_sums_in_other_words_count_and_two_branches_without_a_skip_do_not(counted) -> None:
    assert len(counted(Written(), torch.randn(2, 8))) == 6


def test_the_sum_of_two_branches_of_an_image_is_none(counted) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3), conv(3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.a(x)) + torch.relu(self.b(x))

    assert counted(Sum(), torch.randn(2, 3, 8, 8)) == []


def test_the_count_shares_no_code_with_discovery() -> None:
    tree = ast.parse((BENCHMARKS / "_additions.py").read_text(encoding="utf-8"))
    modules = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert "resect" not in modules
