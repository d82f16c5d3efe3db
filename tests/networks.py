"""Small networks that stand for what discovery must handle; each says how many blocks it has, by its definition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(channels: int) -> nn.Sequential:
    """A branch of two convolutions: relu(bn(conv)) twice."""
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


class Frame(nn.Module):
    """stem -> body -> mean -> linear, with 6 channels."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.f = conv(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Subtracted(Residual):
    """x - f(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x - self.f(x)


class Scaled(Residual):
    """torch.add(x, f(x), alpha=0.5)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.f(x), alpha=0.5)


class Fused(Residual):
    """torch.addcmul(x, gamma, f(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((6, 1, 1), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, self.gamma, self.f(x))


class InPlace(Residual):
    """x += f(x), then relu_: in-place operators everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x += self.f(x)
        return torch.relu_(x)


class Parallel(nn.Module):
    """x + f(x) + g(x): two blocks that read one state (multi-residual networks, GPT-J)."""

    def __init__(self, grouped: bool = False) -> None:
        super().__init__()
        self.f, self.g, self.grouped = conv(6), conv(6), grouped

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.f(x) + self.g(x)) if self.grouped else x + self.f(x) + self.g(x)


class Highway(nn.Module):
    """T(x) H(x) + (1 - T(x)) x, with a carry bias (Srivastava et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.t = conv(6), nn.Conv2d(6, 6, 3, padding=1)
        nn.init.constant_(self.t.bias, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.t(x))
        return gate * self.h(x) + (1 - gate) * x


class Restoration(nn.Module):
    """A global skip around three inner blocks: 4 blocks, the inner ones nested."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Residual(), Residual(), Residual(), nn.Conv2d(6, 6, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class TwoStreams(nn.Module):
    """Two streams with a block each that exchange values: 3 blocks, two live values between slices."""

    def __init__(self) -> None:
        super().__init__()
        self.split = nn.Conv2d(6, 6, 1)
        self.a, self.b, self.mix = Residual(), Residual(), nn.Conv2d(6, 6, 1)
        self.c = Residual()

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.a(x), self.b(F.relu(self.split(x)))
        return F.relu(self.c(one) * torch.sigmoid(self.mix(two)))


class NotJoins(nn.Module):
    """Additions without a skip: of a table, of two branches, of two linear maps, of a polynomial (GELU)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 8, 8))
        self.f, self.g = conv(6), conv(6)
        self.p, self.q = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.table
        x = self.f(x) + self.g(x)
        x = self.p(x) + self.q(x)
        return x * torch.tanh(x + 0.04 * x**3)


class PartOfChannels(nn.Module):
    """The skip reaches the first channels only (ReXNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(6, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 9, 3, padding=1))
        self.back = nn.Conv2d(9, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(x)
        y = torch.cat([y[:, :6] + x, y[:, 6:]], dim=1)
        return self.back(F.relu(y))


class GatedSkip(Residual):
    """The skip is a signal that a sigmoid has scaled before (squeeze and excitation): an identity skip all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.gate(x))
        return x + self.f(x)


class Pyramid(nn.Module):
    """A block whose value goes on by itself and into a sum of two levels: 2 blocks, none inside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.lateral, self.top = conv(6), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        deep = x + self.f(x)
        level = self.lateral(x) + self.top(deep)
        return torch.relu(level) * torch.sigmoid(deep)


class Encoder(nn.Module):
    """A pre-norm transformer on 8x8 images in patches of 4: two blocks a layer."""

    def __init__(self, layers: int = 2, width: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, stride=4)
        self.position = nn.Parameter(torch.randn(4, width) * 0.1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(layers))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)) for _ in range(layers)
        )
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        for i, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            y = self.norms[2 * i](x)
            x = x + attention(y, y, y, need_weights=False)[0]
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.fc(x.mean(1))


CUSTOM = {
    "residual": (lambda: Frame(Residual(), Residual()), 2),
    "subtracted": (lambda: Frame(Subtracted(), Subtracted()), 2),
    "scaled": (lambda: Frame(Scaled(), Scaled()), 2),
    "fused": (lambda: Frame(Fused(), Fused()), 2),
    "in-place": (lambda: Frame(InPlace(), InPlace()), 2),
    "parallel": (lambda: Frame(Parallel(), Parallel()), 4),
    "parallel, grouped": (lambda: Frame(Parallel(grouped=True), Residual()), 3),
    "highway": (lambda: Frame(Highway(), Highway()), 2),
    "restoration": (lambda: Frame(Restoration()), 4),
    "two streams": (lambda: Frame(TwoStreams()), 3),
    "not joins": (lambda: Frame(NotJoins()), 0),
    "part of the channels": (lambda: Frame(PartOfChannels(), Residual()), 2),
    "gated skip": (lambda: Frame(GatedSkip()), 1),
    "pyramid": (lambda: Frame(Pyramid()), 2),
    "encoder": (lambda: Encoder(), 4),
}
