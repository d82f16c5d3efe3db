"""What unravelling leaves behind in a model: nothing."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor

import resect
from small_nets import Block, Net, X, plain

RECORDED: list[Tensor] = []


def test_nothing_is_left_behind() -> None:
    class Busy(Net):
        """Caches, counts, keeps what it computed, and says so in train()."""

        def __init__(self) -> None:
            super().__init__(Block(plain), Block(plain))
            self.cache: dict[int, Tensor] = {}
            self.calls, self.modes = 0, [0]

        def train(self, mode: bool = True) -> Busy:
            if hasattr(self, "modes"):
                self.modes.append(int(mode))
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = super().forward(x)
            self.cache[len(self.cache)] = self.last
            return self.last

    model, seen = Busy(), {}
    model.blocks[0].register_forward_hook(lambda module, given, out: seen.update(out=out))
    model.blocks[1].register_forward_hook(lambda module, given, out: RECORDED.append(out))
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    net = resect.unravel(model, X)
    net.check(X)
    assert (model.cache, model.calls, model.modes, seen, RECORDED) == ({}, 0, [0], {}, [])
    assert model.training
    assert "last" not in vars(model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


def test_objects_of_a_script_are_put_back_and_loggers_left_alone() -> None:
    code = """
import logging, sys, torch, resect
from torch import nn
class Recorder:
    def __init__(self): self.items = []
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.f, self.recorder = nn.Linear(4, 4), nn.Linear(4, 4), Recorder()
        self.log = logging.getLogger("mine")
    def forward(self, x):
        x = self.stem(x)
        self.recorder.items.append(x)
        return x + self.f(x).relu()
net = Net().eval()
before = set(logging.root.manager.loggerDict)
assert len(resect.unravel(net, torch.randn(2, 4)).blocks) == 1
assert net.recorder.items == [], net.recorder.items
assert before <= set(logging.root.manager.loggerDict)
for name, module in list(sys.modules.items()):
    log = getattr(module, "log", None)
    if isinstance(log, logging.Logger) and log.name.startswith("torch."):
        assert logging.getLogger(log.name) is log, log.name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_awkward_to_put_back_hides_nothing() -> None:
    class Fixed(OrderedDict):
        def update(self, *args: object, **kwargs: object) -> None:
            raise TypeError("not this way")

    class Awkward(Net):
        def __init__(self) -> None:
            super().__init__(Block(plain))
            self.kept = Fixed(out=1)
            self.register_buffer("last", torch.tensor([float("nan"), 1.0]))
            self.fails = False

        def forward(self, x: Tensor) -> Tensor:
            self.kept["out"] = x
            self.last.zero_()
            return super().forward(x) + (float(x.sum()) if self.fails else 0)

    model = Awkward().eval()
    assert len(resect.unravel(model, X).blocks) == 1
    assert dict(model.kept) == {"out": 1}
    assert torch.equal(model.last.isnan(), torch.tensor([True, False]))
    model.fails = True
    with pytest.raises(resect.ExportError, match=r"float\(x.sum"):
        resect.unravel(model, X)
    model.fails = False
    model.register_buffer("edges", torch.eye(8).to_sparse())
    with pytest.raises(resect.ExportError, match="Sparse"):  # which torch.export cannot hold
        resect.unravel(model, X)


def test_weights_that_eval_changes_are_refused_and_restored() -> None:
    class Merging(Net):
        merged = False

        def train(self, mode: bool = True) -> Merging:
            if not mode and not self.merged:
                self.stem.weight.data += 1
                self.merged = True
            return super().train(mode)

    model = Merging(Block(plain))
    weight = model.stem.weight.clone()
    with pytest.raises(resect.ExportError, match=r"changes weights \(`stem.weight`\).*Call model.eval\(\) first"):
        resect.unravel(model, X)
    assert torch.equal(model.stem.weight, weight)
    assert not model.merged
    assert len(resect.unravel(model.eval(), X).blocks) == 1
