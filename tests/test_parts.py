"""Models of which only a part can be captured: it is offered by name."""

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import resect
from networks import Frame, Residual
from resect.cli import main
from resect.errors import ExportError, InputError
from resect.network.parts import part


class Detector(nn.Module):
    """A backbone, a small head, and post-processing that keeps what scores above the first score."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Frame(Residual(), Residual())
        self.head = nn.Linear(10, 4)
        self.unused = nn.Linear(100, 100)

    def forward(self, images: Tensor) -> list[Tensor]:
        scores = self.head(self.backbone(images * 2)).flatten()
        return [scores[scores > scores[0].item()]] if scores.sum().item() > 0 else []


def build() -> tuple[nn.Module, Tensor]:
    """A detector and images, as `py:` factories return them."""
    torch.manual_seed(0)
    return Detector(), torch.randn(2, 1, 8, 8)


def test_the_largest_part_that_can_be_captured_is_offered() -> None:
    model, images = build()
    with pytest.raises(ExportError, match=r"Its part `backbone` can be taken apart by itself: resect\.unravel\(model"):
        resect.unravel(model, images)
    child, inputs = part(model, "backbone", images)
    assert child is model.backbone and torch.equal(inputs[0], images * 2)
    assert not any(part._forward_pre_hooks for part in model.modules()) and model.training
    net = resect.unravel(child, inputs)
    assert len(net.blocks) == 2 and net.check(inputs)


@pytest.mark.parametrize(
    ("name", "said"), [("neck", "such as backbone, head, unused; got 'neck'"), ("unused", "that Detector calls")]
)
def test_parts_that_are_none_are_refused(name: str, said: str) -> None:
    model, images = build()
    with pytest.raises(InputError, match=said):
        part(model, name, images)


def test_the_command_line_takes_a_part_by_name() -> None:
    ran = CliRunner().invoke(main, ["blocks", "py:test_parts:build", "--module", "backbone"])
    assert ran.exit_code == 0, ran.output
    assert "2 blocks" in ran.stdout
