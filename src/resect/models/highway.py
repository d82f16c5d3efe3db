"""Highway networks for small images (Srivastava, Greff and Schmidhuber 2015, arXiv 1505.00387), as they are or in the
residual form of the gate (Greff, Srivastava and Schmidhuber 2017, arXiv 1612.07771, section 3.2)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from resect.errors import SpecError
from resect.models.resnet import WIDTH, check_sizes, initialise, require_stages, stage_depths, stages_text
from resect.models.vgg import Layer


class CifarHighway(nn.Module):
    """Three stages of highway blocks; a strided convolution, which is no block, leads from one stage to the next.

    Args:
        blocks: highway blocks, a multiple of 3; or how many each of the three stages has, e.g. (9, 5, 7).
        width: channels of the first stage; the others have 2 and 4 times as many.
        channels: of the images.
        classes: of the output.
        carry: minus the initial bias of the transform gates: at first they let sigmoid(-carry) of the transform pass.
        carry_gates: write blocks with the carry gate on the skip, so that paths pass through it: see `HighwayBlock`.

    Shapes:
        input (B, channels, H, W) float, output (B, classes) logits.

    Raises:
        SpecError: `blocks` is neither a multiple of 3 nor three stages of at least one, or a size is below 1.
    """

    def __init__(
        self,
        blocks: int | Sequence[int],
        width: int = WIDTH,
        channels: int = 3,
        classes: int = 10,
        carry: float = 2.0,
        carry_gates: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(width=width, channels=channels, classes=classes)
        self.depths = stage_depths("blocks", blocks, _blocks_a_stage)
        self.carry_gates = carry_gates
        self.stem = Layer(channels, width)
        stages: list[nn.Module] = []
        for stage, count in enumerate(self.depths):
            wide = width * 2**stage
            layers: list[nn.Module] = [Layer(wide // 2, wide, stride=2)] if stage else []
            stages.append(nn.Sequential(*layers, *(HighwayBlock(wide, carry_gates) for _ in range(count))))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(width * 4, classes)
        initialise(self)
        for part in self.modules():
            if isinstance(part, HighwayBlock) and part.gate.bias is not None:
                nn.init.constant_(part.gate.bias, -carry)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        logits: Tensor = self.fc(self.stages(self.stem(x)).mean((2, 3)))
        return logits

    def shortened(self, gone: Collection[str]) -> tuple[str, CifarHighway]:
        """The spec, and a network, of the same form with fewer blocks; its weights are new.

        Args:
            gone: names of blocks, e.g. "stages.0.3".

        Raises:
            SpecError: a stage would have none, or the blocks have carry gates, which a spec cannot say.
        """
        if self.carry_gates:
            raise SpecError(
                "`carry_gates` is no part of a spec. Export the network without it: it is the same function."
            )
        stages = [f"stages.{stage}" for stage in range(3)]
        depths = tuple(
            sum(isinstance(block, HighwayBlock) and f"{stage}.{name}" not in gone for name, block in part.items())
            for stage in stages
            for part in [dict(self.get_submodule(stage).named_children())]
        )
        require_stages(depths)
        width = self.stem.conv.out_channels
        new = CifarHighway(depths, width, self.stem.conv.in_channels, self.fc.out_features)
        return f"resect:highway{stages_text(depths, sum(depths))}{f'-w{width}' if width != WIDTH else ''}", new


def _blocks_a_stage(blocks: int) -> int:
    check_sizes(blocks=blocks)
    if blocks % 3:
        below = max(3, blocks - blocks % 3)
        raise SpecError(
            f"`blocks` of a highway network must be a multiple of 3, got {blocks}. The nearest are {below} and "
            f"{below + 3}."
        )
    return blocks // 3


class HighwayBlock(nn.Module):
    """x + T(x) (H(x) - x). Without the branch, the transform gate T is closed.

    With `carry_gates` written as H(x) T(x) + x (1 - T(x)) (Veit et al., section 6): the same function, and deleted it
    is x, too, but its skip is gated. A branch T(x) (H(x) - x) takes back what the gate does not carry, so that most of
    what paths hold cancels; but its first-order change is that of the deletion.
    """

    def __init__(self, width: int, carry_gates: bool = False) -> None:
        super().__init__()
        self.carry_gates = carry_gates
        self.transform = Layer(width, width)
        self.gate = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        gate, transformed = torch.sigmoid(self.gate(x)), self.transform(x)
        total: Tensor = transformed * gate + x * (1 - gate) if self.carry_gates else x + gate * (transformed - x)
        return total
