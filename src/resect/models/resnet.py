"""CIFAR-style residual networks of depth 6m+2 (He et al. 2016, arXiv 1512.03385, section 4.2; 1603.05027 for
pre-activation, the form that Veit et al. use)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resect.errors import SpecError, require_whole

WIDTH = 16  # channels of the first stage, unless said


def require_stages(depths: Sequence[int]) -> None:
    """Raise SpecError if a stage has no block left."""
    if 0 in depths:
        where = f"stage {depths.index(0) + 1} of {len(depths)}"
        raise SpecError(f"every stage must keep a block, but {where} has none left.")


class CifarResNet(nn.Module):
    """A residual network of 3 stages of m basic blocks, depth 6m+2, for small images.

    Args:
        depth: weight layers, 6m+2: 8, 14, 20, 32, 44, 56, 110, 1202; or how many blocks each of the three stages has,
            e.g. (18, 5, 13).
        width: channels of the first stage; the others have 2 and 4 times as many.
        channels: of the images.
        classes: of the output.
        preactivation: batch norm and ReLU before each convolution (the paper's form), or the original form with
            them after it.
        branches: of every block, x + f1(x) + f2(x) + ... (multi-residual networks, Abdi and Nahavandi 2016, arXiv
            1609.05672). They have two layers each, so this is the network of so many times the hidden width: only the
            affine part of the first norm is not shared. It does not vary multiplicity; `merge` does.
        merge: the branches are towers of so many blocks before they are added, x + (tower1(x) - x) + (tower2(x) - x)
            + ...: (b 2^s - b + 1)^(n/s) paths with n blocks, b branches and merge s, at equal depth, parameters and
            number of norms (and but for the projections, operations). The weights, and those of a seed, are the same
            for every s. With s = n it is an explicit ensemble of b networks with a common stem and head.
        hidden: channels between the two layers of a branch in the first stage, 2 and 4 times as many in the others;
            None for as many as the stage has. The stream keeps its width.
        zero_init_last: the last layer of every branch starts at zero, so that the network begins as stem, projections
            and head alone, whatever its depth, branches and merge.

    Shapes:
        input (B, channels, H, W) float, output (B, classes) logits.

    Raises:
        SpecError: `depth` is neither 6m+2 nor three stages of at least one block, a size is below 1, or `merge` does
            not divide the number of blocks.
    """

    def __init__(
        self,
        depth: int | Sequence[int],
        width: int = WIDTH,
        channels: int = 3,
        classes: int = 10,
        preactivation: bool = True,
        branches: int = 1,
        merge: int = 1,
        hidden: int | None = None,
        zero_init_last: bool = False,
    ) -> None:
        super().__init__()
        inner = width if hidden is None else hidden
        check_sizes(width=width, channels=channels, classes=classes, branches=branches, merge=merge)
        check_sizes(hidden=inner)
        if not preactivation and (branches > 1 or hidden or zero_init_last):
            raise SpecError(
                "`branches` must be 1 in the original form, without `hidden` and `zero_init_last`, got "
                f"{branches}, {hidden} and {zero_init_last}. Only pre-activation has them."
            )
        depths = stage_depths("depth", depth, _blocks_a_stage)
        if sum(depths) % merge or (merge > 1 and branches == 1):
            raise SpecError(
                f"`merge` must divide the {sum(depths)} blocks of depth {depth}, which have two branches or more, "
                f"got {merge} with {branches}."
            )
        self.depths, self.preactivation, self.merge = depths, preactivation, merge
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inside = width
        for stage, count in enumerate(depths):
            outside = width * 2**stage
            for position in range(count):
                stride = 2 if stage and not position else 1
                if branches > 1:
                    blocks.append(MultiResidualBlock(inside, outside, stride, branches, inner * 2**stage))
                elif preactivation:
                    blocks.append(PreactivationBlock(inside, outside, stride, inner * 2**stage))
                else:
                    blocks.append(OriginalBlock(inside, outside, stride))
                inside = outside
        self.blocks = nn.ModuleList(blocks)
        self.bn = nn.BatchNorm2d(inside if preactivation else width)
        self.fc = nn.Linear(inside, classes)
        initialise(self)
        if zero_init_last:
            for part in self.modules():
                if isinstance(part, _Branch):
                    nn.init.zeros_(part.c2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        x = self.stem(x)
        if not self.preactivation:
            x = F.relu(self.bn(x))
        for start in range(0, len(self.blocks), self.merge):
            x = self.blocks[start](x) if self.merge == 1 else _towers(x, [*self.blocks[start : start + self.merge]])
        if self.preactivation:
            x = F.relu(self.bn(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits

    def shortened(self, gone: Collection[str]) -> tuple[str, CifarResNet]:
        """The spec, and a network, of the same form with fewer blocks; its weights are new.

        Args:
            gone: names of blocks, e.g. "blocks.3".

        Raises:
            SpecError: a stage would have none.
        """
        ends = [0, *accumulate(self.depths)]
        depths = tuple(sum(f"blocks.{i}" not in gone for i in range(first, end)) for first, end in pairwise(ends))
        require_stages(depths)
        first: Any = self.blocks[0]
        branches = len(first.branches) if isinstance(first, MultiResidualBlock) else 1
        width, hidden = self.stem.out_channels, (first.branches[0] if branches > 1 else first).c1.out_channels
        new = CifarResNet(
            depths,
            width,
            self.stem.in_channels,
            self.fc.out_features,
            self.preactivation,
            branches,
            self.merge,
            hidden if self.preactivation else None,
        )
        spec = f"resect:resnet{stages_text(depths, 6 * depths[0] + 2)}"
        spec += f"-w{width}" if width != WIDTH else ""
        spec += f"-h{hidden}" if hidden != width else ""
        spec += f"-b{branches}-s{self.merge}" if self.merge > 1 else f"-x{branches}" if branches > 1 else ""
        return f"{spec}{'' if self.preactivation else '-original'}", new


class _Branch(nn.Module):
    """conv(relu(bn(conv(relu(bn(x))))))."""

    def __init__(self, inside: int, outside: int, stride: int, hidden: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.c1 = nn.Conv2d(inside, hidden, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.c2 = nn.Conv2d(hidden, outside, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, outside, H/stride, W/stride)."""
        branch: Tensor = self.c2(F.relu(self.bn2(self.c1(F.relu(self.bn1(x))))))
        return branch


class PreactivationBlock(_Branch):
    """skip(x) + conv(relu(bn(conv(relu(bn(x))))))."""

    def __init__(self, inside: int, outside: int, stride: int, hidden: int) -> None:
        super().__init__(inside, outside, stride, hidden)
        self.sc = _shortcut(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, outside, H/stride, W/stride)."""
        total: Tensor = self.sc(x) + super().forward(x)
        return total


class MultiResidualBlock(nn.Module):
    """skip(x) + f1(x) + f2(x) + ..., each f a pre-activation branch of its own."""

    def __init__(self, inside: int, outside: int, stride: int, branches: int, hidden: int) -> None:
        super().__init__()
        self.sc = _shortcut(inside, outside, stride)
        self.branches = nn.ModuleList(_Branch(inside, outside, stride, hidden) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, outside, H/stride, W/stride)."""
        total: Tensor = self.sc(x)
        for branch in self.branches:
            total = total + branch(x)
        return total


def _towers(x: Tensor, blocks: Sequence[Any]) -> Tensor:
    """x + sum over towers of (tower(x) - x), where tower t runs branch t of all blocks one after another.

    Every tower gathers what its branches add, from zero on, so that x goes through once.
    """
    skips = [x]
    for block in blocks:
        skips.append(block.sc(skips[-1]))
    gathered = []
    for tower in zip(*(block.branches for block in blocks), strict=True):
        gathered.append(torch.zeros_like(x))
        for skip, block, branch in zip(skips, blocks, tower, strict=False):
            gathered[-1] = block.sc(gathered[-1]) + branch(skip + gathered[-1])
    total: Tensor = sum(gathered, start=skips[-1])
    return total


class OriginalBlock(nn.Module):
    """relu(skip(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.c2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.sc = _shortcut(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, outside, H/stride, W/stride)."""
        branch = self.bn2(self.c2(F.relu(self.bn1(self.c1(x)))))
        return F.relu(self.sc(x) + branch)


def _shortcut(inside: int, outside: int, stride: int) -> nn.Module:
    if stride == 1 and inside == outside:
        return nn.Identity()
    return nn.Conv2d(inside, outside, 1, stride=stride, bias=False)


def initialise(module: nn.Module) -> None:
    """He initialisation of all convolutions."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")


def _blocks_a_stage(depth: int) -> int:
    check_sizes(depth=depth)
    if (depth - 2) % 6 or depth < 8:
        below = max(8, depth - (depth - 2) % 6)
        raise SpecError(
            f"`depth` of a CIFAR ResNet must be 6m+2, got {depth}. The nearest are {below} and {below + 6}."
        )
    return (depth - 2) // 6


def stage_depths(name: str, given: int | Sequence[int], blocks: Callable[[int], int]) -> tuple[int, int, int]:
    """How many blocks each of the three stages has.

    Args:
        name: of the argument.
        given: those numbers, or one for all, from which `blocks` makes that of a stage.

    Raises:
        SpecError: they are not three, or one is below 1.
    """
    if not isinstance(given, (tuple, list)):
        return (blocks(given),) * 3  # type: ignore[arg-type]  # what is no number, it refuses
    if len(given) != 3:
        raise SpecError(f"`{name}` must be a number, or one for each of the three stages, got {given!r}.")
    for count in given:
        check_sizes(**{name: count})
    return given[0], given[1], given[2]


def stages_text(depths: Sequence[int], one: int) -> str:
    """The blocks of the stages as a spec says them: "18.5.13", or the one number that says equal ones."""
    return str(one) if len(set(depths)) == 1 else ".".join(map(str, depths))


def check_sizes(**sizes: int) -> None:
    """Raise SpecError unless all are whole numbers of at least 1."""
    for name, value in sizes.items():
        require_whole(name, value, error=SpecError)
