"""Models of which only a part can be captured: it is offered by name."""

import json
from pathlib import Path
from typing import Any

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


class Choosy(nn.Module):
    """A classifier behind a preparation that decides by values."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Frame(Residual(), Residual())

    def forward(self, images: Tensor) -> Tensor:
        images = images / images.abs().max().item() if images.abs().max().item() > 0 else images
        return self.net(images)  # type: ignore[no-any-return]


def build_choosy() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Choosy(), torch.randn(2, 1, 8, 8)


def ask(*arguments: str) -> Any:
    """What a verb prints as JSON."""
    ran = CliRunner().invoke(main, [*arguments, "--format", "json", "--quiet"])
    assert ran.exit_code == 0, ran.stderr
    return json.loads(ran.stdout)


def test_verbs_measure_a_part_on_what_the_model_gives_it(tmp_path: Path) -> None:
    spec, part_of = "py:test_parts:build_choosy", ("--module", "net", "--limit", "40")
    said = ask("lesion", spec, "digits", *part_of, "--batch-size", "20", "--out", str(tmp_path / "run"))
    assert said["asked"]["module"] == "net" and "--module net" in said["command"]
    model, _ = build_choosy()
    assert isinstance(model, Choosy)
    data = [(x / x.abs().max(), y) for x, y in resect.load_samples("digits", limit=40).batches(20)]
    net = resect.unravel(model.net, data[0][0][:2])
    result = resect.lesion(net, data, resect.plans.single(net))
    assert [row["loss"] for row in said["tables"]["lesions"]] == result.table["loss"].tolist()
    again = ask("lesion", spec, "digits", *part_of, "--batch-size", "20", "--out", str(tmp_path / "run"))
    assert again["tables"] == said["tables"]
    paths = ask("paths", spec, "digits", *part_of, "--sweeps", "0", "--draws", "0", "--strongest", "0")
    data = [(x / x.abs().max(), y) for x, y in resect.load_samples("digits", limit=40).batches(32)]
    share = resect.path_spectrum(net, data).share
    assert [row["share"] for row in paths["tables"]["lengths"]] == pytest.approx(list(share), rel=1e-6)


def test_what_means_nothing_beside_a_part_is_refused(tmp_path: Path) -> None:
    arguments = ["paths", "py:test_parts:build_choosy", "digits", "--module", "net", "--checkpoints", str(tmp_path)]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 2 and "weights of the whole model, but `--module` takes a part" in ran.stderr
    ran = CliRunner().invoke(main, ["lesion", "py:test_parts:build_choosy", "digits", "--module", "nets"])
    assert ran.exit_code == 2 and "such as net; got 'nets'" in ran.stderr
    with pytest.raises(InputError, match="`module` is no option of evaluate"):
        resect.evaluate("digits", "py:test_parts:build_choosy", module="net")


def test_inputs_given_by_place_and_by_name_are_taken_by_name() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scaled = Scaled()

        def forward(self, x: Tensor) -> Tensor:
            return self.scaled(x, factor=x.mean(1, keepdim=True))  # type: ignore[no-any-return]

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, factor: Tensor) -> Tensor:
            return x + factor * self.layer(x).relu()

    x = torch.randn(3, 4)
    child, inputs = part(Mixed(), "scaled", x)
    assert list(inputs) == ["x", "factor"] and len(resect.unravel(child, inputs).blocks) == 1


@pytest.mark.slow
def test_a_detector_offers_its_backbone_which_every_verb_takes() -> None:
    spec = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
    model = resect.load_model(spec, model_args={"min_size": 64, "max_size": 64}).module
    with pytest.raises(ExportError, match=r"module `rpn` .* Its part `backbone` can be taken apart by itself"):
        resect.unravel(model, ([torch.randn(3, 64, 64)],))
    said = ask("blocks", spec, "--module", "backbone", "--model-arg", "min_size=64", "--model-arg", "max_size=64")
    inverted = [name for name, child in model.backbone.body.named_children() if getattr(child, "use_res_connect", 0)]
    assert [block["name"] for block in said["blocks"] if block["kind"] == "identity"] == [f"body.{n}" for n in inverted]
