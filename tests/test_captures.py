"""How often a model is exported, and what shares one capture."""

import gc
import inspect
from copy import deepcopy
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import resect
from networks import Frame, Residual, Scaled
from resect.cli import main


def frame(*more: nn.Module) -> Frame:
    torch.manual_seed(0)
    return Frame(Residual(), Scaled(), *more)


class Counting(nn.Module):
    """Counts with the size in Python, in an expression that grows too long for an export."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        for divisor in range(2, 50):
            size = (3 * size + 1) // divisor
        return x + 1 if size % 7 == 5 else x


class Reading(nn.Module):
    """Reads a weight in Python, so that one pass is recorded, which is exported then."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if self.scale > 0 else x


@pytest.mark.parametrize(
    ("size", "more", "count"), [(2, (), 1), (1, (), 1), (2, (Counting(),), 2), (2, (Reading(),), 3)]
)
def test_a_model_is_exported_as_often_as_it_takes(
    exports: list[bool], size: int, more: tuple[nn.Module, ...], count: int
) -> None:
    net = resect.unravel(frame(*more), torch.randn(size, 1, 8, 8))
    assert exports == [False] * count  # with free sizes, without, and as a recording
    assert gc.isenabled()
    assert net.capture_seconds > 0 and deepcopy(net).capture_seconds == net.capture_seconds


class Named(nn.Module):
    """Takes its inputs by names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = frame()

    def forward(self, *, images: Tensor, **more: Tensor) -> Tensor:
        return self.body(images + more["shift"])


def test_keyword_arguments_are_exported_under_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, export = [], torch.export.export

    def noted(whole: nn.Module, args: Any, kwargs: Any, **settings: Any) -> Any:
        taken.append(dict(inspect.signature(whole.forward).bind(*args, **kwargs).arguments))
        return export(whole, args, kwargs, **settings)

    monkeypatch.setattr(torch.export, "export", noted)
    model, call = Named().eval(), {"shift": torch.randn(2, 1, 8, 8), "images": torch.randn(2, 1, 8, 8)}
    net = resect.unravel(model, call)
    assert [list(arguments) for arguments in taken] == [["shift", "images"]]  # torch 2.9 to 2.11 frees none of `**`
    assert not net.recorded and [entry.shape for entry in net.inputs] == [(None, 1, None, None)] * 2
    larger = {"images": torch.randn(3, 1, 6, 6), "shift": torch.randn(3, 1, 6, 6)}
    assert torch.equal(net(larger), model(**larger))


def test_layers_and_blocks_share_a_capture(exports: list[bool]) -> None:
    model, images = frame(), torch.randn(3, 1, 8, 8)
    net = resect.unravel(model, images)
    blocks, without = net(images), net(images, net.intact.without(0))
    layers, own = net.as_plain(), resect.unravel(model, images, plain=True)
    assert len(exports) == 2
    assert layers.plain and layers.as_plain() is layers
    assert layers.blocks.names == own.blocks.names == ("body.0.f.2", "body.0.f.4", "body.1.f.2", "body.1.f.4")
    assert layers.fingerprint() == own.fingerprint()
    assert (layers.blocks.table == own.blocks.table).all(axis=None)
    for size in (1, 3):
        part = images[:size]
        assert torch.equal(layers(part), model.eval()(part))
        assert torch.equal(layers(part, layers.intact.without(1)), own(part, own.intact.without(1)))
    assert torch.equal(net(images), blocks) and torch.equal(net(images, net.intact.without(0)), without)
    with torch.no_grad():
        model.fc.weight.mul_(2)
    assert torch.equal(layers(images), model(images))
    assert torch.equal(layers(torch.cat([images, images], 2)), model(torch.cat([images, images], 2)))


def test_gradients_of_a_random_network_are_those_of_the_graph_that_is_there(exports: list[bool]) -> None:
    net = resect.unravel(frame(nn.Dropout(0.5)), torch.randn(2, 1, 8, 8))
    with net.schedule(resect.schedules.FixedCount(1)):
        assert len(exports) == 2


def test_it_is_said_what_a_capture_took() -> None:
    for words in ("blocks resect:resnet8", "lesion resect:resnet8 digits --limit 8 --batch-size 8 --without 0"):
        ran = CliRunner().invoke(main, [*words.split(), "--quiet"])
        assert ran.exit_code == 0, ran.output
        assert "\nCaptured in " in ran.stdout
