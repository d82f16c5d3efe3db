"""Plain VGG-15 with batch norm for small images: the paper's control, a network without skips (section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from resect.errors import SpecError
from resect.models.resnet import check_sizes, initialise

_STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))  # convolutions, width factor


class Vgg15(nn.Module):
    """13 convolutions in 5 stages, a hidden linear layer and a classifier, each with batch norm but the last.

    Args:
        width: channels of the first stage; the stages have 1, 2, 4, 8 and 8 times as many.
        channels: of the images.
        classes: of the output.
        size: height and width of the images, in pixels. Below 32, the first stages are not followed by a pool, so
            that the last one still ends at 1x1.

    Shapes:
        input (B, channels, size, size) float, output (B, classes) logits.
    """

    def __init__(self, width: int = 64, channels: int = 3, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        check_sizes(width=width, channels=channels, classes=classes, size=size)
        if size & (size - 1) or size > 32:
            raise SpecError(f"`size` must be 1, 2, 4, 8, 16 or 32, got {size}.")
        unpooled = len(_STAGES) - (size.bit_length() - 1)
        layers: list[nn.Module] = []
        self.pooled_after: set[int] = set()
        inside = channels
        for stage, (convolutions, factor) in enumerate(_STAGES):
            for _ in range(convolutions):
                layers.append(Layer(inside, width * factor))
                inside = width * factor
            if stage >= unpooled:
                self.pooled_after.add(len(layers) - 1)
        self.layers = nn.ModuleList(layers)
        self.hidden = nn.Linear(inside, inside, bias=False)
        self.bn = nn.BatchNorm1d(inside)
        self.fc = nn.Linear(inside, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, size, size)."""
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.pooled_after:
                x = F.max_pool2d(x, 2)
        logits: Tensor = self.fc(F.relu(self.bn(self.hidden(x.flatten(1)))))
        return logits


class Layer(nn.Module):
    """relu(bn(conv(x)))."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, outside, H/stride, W/stride)."""
        return F.relu(self.bn(self.conv(x)))
