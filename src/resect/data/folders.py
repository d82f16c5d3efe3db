"""Folders of images, one folder a class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resect.data.images import Preparation
from resect.data.names import SPLITS, DataSpec
from resect.data.streams import Images
from resect.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


@dataclass(frozen=True)
class Files:
    """Image files."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def place(self, number: int) -> str:
        """Its path."""
        return self.paths[number]

    def content(self, number: int) -> bytes:
        """Its bytes."""
        return Path(self.paths[number]).read_bytes()


def read_folder(spec: DataSpec, split: Literal["train", "test"], preparation: Preparation) -> Images:
    """The images of DIR/class/, or of DIR/train/class/, DIR/val/class/ and so on.

    Raises:
        DataError: there is no such folder or split, no class, or a class without images.
    """
    root = Path(spec.place).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}. folder:DIR needs one with a folder of images for each class.")
    folder = _split(root, spec.options.get("split"), split)
    labels = _listed(Path(spec.options["classes"])) if "classes" in spec.options else _classes(root, folder)
    if not labels:
        raise DataError(
            f"{folder} must have a folder of images for each class, got {_kept(folder)}. Move them to {folder}/CLASS/."
        )
    if unknown := sorted(set(_folders(folder)) - set(labels)):
        raise DataError(f"{folder} has the class {unknown[0]!r}, which is not one of {_words(labels)}.")
    paths: list[str] = []
    classes: list[int] = []
    for number, label in enumerate(labels):
        files = _images(folder / label)
        if not files and (folder / label).is_dir():
            raise DataError(
                f"the class folder {folder / label} must hold at least one image ({', '.join(EXTENSIONS)}), got none. "
                "Take it out, and list the classes of the model in a file: folder:DIR,classes=FILE."
            )
        paths += files
        classes += [number] * len(files)
    return Images(spec.text, Files(tuple(paths)), classes, preparation, tuple(labels))


def _split(root: Path, asked: str | None, split: Literal["train", "test"]) -> Path:
    """The folder of a split: the one asked for, else the first of its names that there is, else the root itself."""
    there = {name: root / name for names in SPLITS.values() for name in names if _folders(root / name)}
    if asked is not None:
        if not (root / asked).is_dir():
            raise DataError(f"{root} must have the split {asked!r}, a folder, but has {_words(_folders(root))}.")
        return root / asked
    if not there:
        return root
    for name in SPLITS[split]:
        if name in there:
            return there[name]
    raise DataError(
        f"{root} has {_words(sorted(there))}/, but no folder {' or '.join(SPLITS[split][:2])}. Name one: "
        f"folder:{root},split={min(there)}."
    )


def _classes(root: Path, folder: Path) -> list[str]:
    """The sorted names of the class folders of all splits: a class that one of them lacks shifts no number."""
    beside = [root / name for names in SPLITS.values() for name in names] if folder != root else []
    return sorted({label for part in (folder, *beside) for label in _folders(part)})


def _listed(file: Path) -> list[str]:
    """Class names, one a line, in the order of the model's outputs."""
    try:
        labels = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} must be a file of class folders' names, one a line: {error}") from error
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise DataError(f"{file} must name every class once, but {twice[0]!r} is there more often.")
    return labels


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[str]:
    return [
        os.path.join(place, name)
        for place, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(EXTENSIONS)
    ]


def _kept(folder: Path) -> str:
    files = sum(entry.is_file() for entry in os.scandir(folder))
    return f"{files} files and no folder" if files else "an empty folder"


def _words(names: Iterable[str]) -> str:
    some = list(names)
    return ", ".join(some[:5]) + (f", ... ({len(some)} in all)" if some[5:] else "") if some else "none"
