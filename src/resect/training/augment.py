"""Shift and mirror images, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from resect.errors import InputError
from resect.training.recipe import Recipe


@dataclass(frozen=True)
class Augmentation:
    """Random shifts and flips.

    Attributes:
        shift: pixels to each side.
        fill: the value that shifts bring in; None for the image, reflected.
        flip: mirror half of the images, left to right.
        layout: the memory format of what comes out.
    """

    shift: int
    fill: float | None
    flip: bool
    layout: torch.memory_format

    @classmethod
    def of(cls, recipe: Recipe, inputs: Tensor) -> Augmentation:
        """What `recipe` asks for.

        Raises:
            InputError: the inputs are no images, or too small to be reflected.
        """
        if (recipe.shift or recipe.flip or recipe.channels_last) and inputs.ndim != 4:
            raise InputError(
                f"`shift`, `flip` and `channels_last` must be off for inputs that are no images (N, C, H, W), got "
                f"{tuple(inputs.shape)}."
            )
        if recipe.shift and recipe.border == "reflect" and recipe.shift >= min(inputs.shape[2:]):
            raise InputError(f"`shift` must be below the images' {min(inputs.shape[2:])} pixels, got {recipe.shift}.")
        lowest = recipe.shift and recipe.border == "lowest"
        fill = None if recipe.border == "reflect" else float(inputs.min()) if lowest else 0.0
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        return cls(recipe.shift, fill, recipe.flip, layout)

    def __call__(self, images: Tensor, generator: torch.Generator, share: slice = slice(None)) -> Tensor:
        """Shift and mirror the images (B, C, H, W) of `share`, on their device; what is drawn for each image does not
        depend on `share`."""
        if not (self.shift or self.flip):
            return images[share]
        count, _, height, width = images.shape
        down, right = torch.randint(0, 2 * self.shift + 1, (2, count), generator=generator, device="cpu")
        mirrored = torch.randint(0, 2, (count,), generator=generator, device="cpu").bool() & self.flip
        draws = torch.stack([down, right, mirrored.long()]).to(images.device, non_blocking=True)
        images, down, right, mirrored = images[share], *draws[:, share]
        padded = F.pad(images, (self.shift,) * 4, "reflect" if self.fill is None else "constant", self.fill)
        across = torch.arange(width, device=images.device).expand(len(images), width)
        across = torch.where(mirrored[:, None] > 0, across.flip(1), across)
        rows = down[:, None, None] + torch.arange(height, device=images.device)[None, :, None]
        columns = (right[:, None] + across)[:, None, :]
        every = torch.arange(len(images), device=images.device)[:, None, None]
        moved = padded.permute(0, 2, 3, 1)[every, rows, columns]
        return moved.permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
