"""How an image becomes pixels of the shape that a model takes."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resect.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from resect.data.normalization import Normalization


@dataclass(frozen=True)
class Preparation:
    """How an image becomes pixels.

    Attributes:
        said: in words, for the record.
        make: of an image of the mode "L" or "RGB", floats (C, H, W) in [0, 1].
        channels: 1 for grey images, 3 for coloured ones; None for what each image is.
        normalization: what makes inputs of the pixels, by the configuration of the model; None if it has none.
    """

    said: str
    make: Callable[[Image], Tensor]
    channels: int | None = None
    normalization: Normalization | None = None

    def sized(self, size: int) -> Preparation:
        """The same, but to another size."""
        other = scaled(size, size, self.channels)
        return replace(self, said=other.said, make=other.make)


def pixels_of(image: Image) -> Tensor:
    """(C, H, W) float32 in [0, 1]."""
    values = torch.from_numpy(np.array(image)).float() / 255
    return values.unsqueeze(0) if values.ndim == 2 else values.permute(2, 0, 1)


AS_THEY_ARE = Preparation("as they are", pixels_of)


def scaled(height: int, width: int, channels: int | None = None) -> Preparation:
    """Scale images until they cover a size, and crop what stands out of its middle."""

    def make(image: Image) -> Tensor:
        from PIL import ImageOps
        from PIL.Image import Resampling

        return pixels_of(ImageOps.fit(image, (width, height), Resampling.BILINEAR))

    said = f"scaled and centre-cropped to {width}x{height} (bilinear)"
    return Preparation(said, make, channels)


def read_image(content: Callable[[], bytes], place: str, preparation: Preparation) -> Tensor:
    """The pixels of an image file, (C, H, W) float32 in [0, 1].

    Raises:
        DataError: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content())) as image:
            grey = image.mode in ("1", "L") if preparation.channels is None else preparation.channels == 1
            converted = image.convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(place, error) from error
    return preparation.make(converted)


def require_channels(preparation: Preparation, name: str) -> None:
    """Raise DataError unless images of 1 or 3 channels are wanted, as files have them."""
    if preparation.channels not in (None, 1, 3):
        raise DataError(
            f"{name} gives images of 1 or 3 channels, but the model takes {preparation.channels}. Give arrays: "
            "npz:FILE."
        )


def unreadable(place: str, error: Exception) -> DataError:
    """The error that a file cannot be read as an image."""
    said = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{place} must be an image that can be read, but: {said.rstrip('.')}. Mend it, or take it out.")
