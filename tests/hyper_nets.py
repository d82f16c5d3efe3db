"""Networks with hyper-connections, H x + b f(a x), in every spelling; lesioned by hand, and along single paths."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

STREAMS, WIDTH = 3, 6


class Weights(NamedTuple):
    """The mixing H (..., n, n), the read a and the write b (..., n)."""

    mix: Tensor
    read: Tensor
    write: Tensor


def matmul(w: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    return w.mix @ x, w.write[..., None] * f((w.read[..., None] * x).sum(-2))[..., None, :]


def einsum(w: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    batch = "b" if w.mix.ndim == 3 else ""
    y = f(torch.einsum(f"{batch}i,bid->bd", w.read, x))
    return torch.einsum(f"{batch}ij,bjd->bid", w.mix, x), torch.einsum(f"bd,{batch}i->bid", y, w.write)


def one_product(w: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Read and mixing in one product, as in the paper's appendix and x-transformers."""
    read, mixed = (torch.cat([w.read[..., None, :], w.mix], -2) @ x).split([1, STREAMS], -2)
    return mixed, w.write[..., None] @ f(read)


def transposed(w: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The streams last in both products."""
    return (x.mT @ w.mix.mT).mT, (f((x.mT @ w.read[..., None]).mT).mT @ w.write[..., None, :]).mT


def batched(w: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    mix, read, write = (part.expand(x.shape[0], *part.shape[-k:]) for part, k in zip(w, (2, 1, 1), strict=True))
    return torch.bmm(mix, x), torch.bmm(write[:, :, None], f(torch.bmm(read[:, None], x)[:, 0])[:, None])


def summed(w: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    y = f((w.read[..., None] * x).sum(1))
    return (w.mix[..., None] * x[:, None]).sum(2), y[:, None].expand(-1, STREAMS, -1) * w.write[..., None]


def one_write(w: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """All streams get the same, and the read is their mean."""
    return w.mix @ x, f(x.mean(1))[:, None].expand(-1, STREAMS, -1)


def residual(w: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The mixing as a change of the streams."""
    mixed, written = matmul(w, x, f)
    return x + mixed, written


SPELLINGS = {f.__name__: f for f in (matmul, einsum, one_product, transposed, batched, summed, one_write, residual)}


class Connection(nn.Module):
    """One hyper-connection around a layer.

    Args:
        dynamic: H, a and b are computed from the streams: H by Sinkhorn's normalisation, a and b by sigmoids.
    """

    def __init__(self, spelling: str, dynamic: bool) -> None:
        super().__init__()
        n = STREAMS
        self.spelling, self.dynamic = spelling, dynamic
        self.f = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH))
        self.static = nn.Parameter(torch.randn(n * n + 2 * n) * 0.5)
        self.norm, self.gates = nn.LayerNorm(n * WIDTH), nn.Linear(n * WIDTH, n * n + 2 * n, bias=False)

    def weights(self, x: Tensor) -> Weights:
        n = STREAMS
        every = self.gates(self.norm(x.flatten(1))) + self.static if self.dynamic else self.static
        mix, read, write = every.split([n * n, n, n], -1)
        mix = mix.unflatten(-1, (n, n))
        if not self.dynamic:
            return Weights(mix, read, write)
        mix = mix.softmax(-1)
        for _ in range(2):
            mix = mix / mix.sum(-2, keepdim=True)
            mix = mix / mix.sum(-1, keepdim=True)
        return Weights(mix, read.sigmoid(), 2 * write.sigmoid())

    def parts(self, x: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """What the skip and the branch bring to the sum; frozen, the mixing hands no gradient on."""
        weights, join = self.weights(x), SPELLINGS[self.spelling]
        if not frozen:
            return join(weights, x, self.f)
        held = weights._replace(mix=weights.mix.detach())
        return join(held, x, self.f)[0], join(weights, x, self.f)[1]

    def forward(self, x: Tensor) -> Tensor:
        mixed, written = self.parts(x)
        return mixed + written


class Streams(nn.Module):
    """Images (B, 1, 8, 8) to 10 classes, over hyper-connections on 3 streams."""

    def __init__(self, *connections: Connection) -> None:
        super().__init__()
        self.stem, self.start = nn.Linear(64, WIDTH), nn.Parameter(torch.randn(STREAMS, 1))
        self.body, self.fc = nn.Sequential(*connections), nn.Linear(WIDTH, 10)

    def enter(self, images: Tensor) -> Tensor:
        return self.stem(images.flatten(1))[:, None] * self.start

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(self.enter(images)).sum(1))

    def by_hand(self, images: Tensor, how: Mapping[int, str]) -> Tensor:
        """The same with blocks deleted ("mixed"), bypassed ("same"), without their skips ("written") or "twice"."""
        x = self.enter(images)
        for i, connection in enumerate(self.body):
            mixed, written = connection.parts(x)
            once = connection(x)
            x = {"mixed": mixed, "same": x, "written": written, "twice": connection(once), "": once}[how.get(i, "")]
        return self.fc(x.sum(1))

    def along(self, images: Tensor, taken: Collection[int], frozen: bool) -> Tensor:
        """The same values with the gradient of one path: through the branches that are taken, and all other skips."""
        x = self.enter(images)
        for i, connection in enumerate(self.body):
            mixed, written = connection.parts(x, frozen)
            x = mixed.detach() + written if i in taken else mixed + written.detach()
        return self.fc(x.sum(1))


def streams(*spellings: str, dynamic: bool = True) -> Streams:
    """A network of random weights, a connection in every spelling."""
    return Streams(*(Connection(spelling, dynamic) for spelling in spellings or SPELLINGS)).eval()
