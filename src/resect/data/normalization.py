"""How pixels become inputs: the mean that is taken off them, and the deviation that they are divided by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from resect.errors import DataError, SpecError

if TYPE_CHECKING:  # what is asked is read without torch
    from torch import Tensor

    from resect.data.samples import SampleSet

Origin = Literal["as asked", "of the model's card", "of the model's configuration", "of the data spec"]
_NAMED = {"none": "0/1", "imagenet": "0.485,0.456,0.406/0.229,0.224,0.225"}
_FORM = (
    "`normalize` must be MEAN/STD of pixels scaled to [0, 1], each one number or one a channel (0.5/0.25 or "
    "0.49,0.48,0.45/0.25,0.24,0.26), none, imagenet, card or auto"
)


@dataclass(frozen=True)
class Normalization:
    """(pixels - mean) / std, of pixels scaled to [0, 1].

    Attributes:
        mean, std: one number for all channels, or one a channel.
        origin: who says so; a configuration that came with the model's weights counts as its card.
        floats: it is of floats in [0, 1] of a file or a factory, which are otherwise taken as they are.

    Raises:
        SpecError: a number is not finite, a deviation not above 0, or the numbers of channels differ.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: Origin = "as asked"
    floats: bool = False

    def __post_init__(self) -> None:
        sides = self.mean, self.std
        lengths = set(map(len, sides))
        if (
            not all(map(isfinite, sum(sides, ())))
            or min(self.std, default=0) <= 0
            or 0 in lengths
            or len(lengths - {1}) > 1
        ):
            raise SpecError(
                "means must be finite and deviations above 0, each one number or one a channel, got "
                f"{self.mean} and {self.std}."
            )

    @classmethod
    def parse(cls, text: str, origin: Origin = "as asked", *, floats: bool = False) -> Normalization:
        """Read MEAN/STD, "none" (pixels as they are) or "imagenet".

        Raises:
            SpecError: the text is none of them, a number is not finite, or a deviation not above 0.
        """
        try:
            mean, std = (tuple(map(float, side.split(","))) for side in _NAMED.get(text, text).split("/"))
            return cls(mean, std, origin, floats)
        except ValueError:
            raise SpecError(f"{_FORM}, with finite means and deviations above 0, got {text!r}.") from None

    def __str__(self) -> str:
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return "none"
        return "/".join(",".join(repr(value).removesuffix(".0") for value in side) for side in (self.mean, self.std))

    def fits(self, samples: SampleSet) -> bool:
        """Whether it has one number, or one for each of their channels."""
        return {len(self.mean), len(self.std)} <= {1, *samples.shape[:1]}

    def __call__(self, pixels: Tensor) -> Tensor:
        """Inputs (N, C, H, W) of pixels in [0, 1] of the same shape."""
        import torch

        mean, std = (torch.tensor(side).view(1, -1, 1, 1) for side in (self.mean, self.std))
        return (pixels - mean) / std


def normalized(
    samples: SampleSet,
    own: Normalization | str | None,
    normalize: str | None = None,
    card: Normalization | None = None,
) -> SampleSet:
    """Samples whose pixels are normalised as asked.

    Args:
        samples: images (N, C, H, W) in [0, 1]; or, where `own` is None, whatever the model takes.
        own: how the data spec, or the configuration of the model that it was made for, normalises; None for neither.
        normalize: None or "auto" for the card's, else the data spec's own; "card"; or what `Normalization.parse` reads.
        card: what the model's card or configuration says.

    Raises:
        SpecError: `normalize` is of no known form, or asks for a card that there is not.
        DataError: the samples are no images, are normalised already, or have another number of channels.
    """
    if normalize in (None, "auto"):
        if own is None and not (card and card.floats):
            return samples
        if not isinstance(own, Normalization):
            own = Normalization.parse(own or "none", "of the data spec")
        # a card with other channels is of other data: loading the model says what is wrong
        chosen = card if card and card.fits(samples) else own
    elif normalize == "card":
        if card is None:
            raise SpecError(
                "`normalize` is card, but the model has no card or configuration that says how its inputs were "
                "normalised. Give it as MEAN/STD."
            )
        chosen = card
    else:
        chosen = Normalization.parse(str(normalize))
    if samples.normalization is not None:
        raise DataError(f"{samples.name} must give pixels to be normalised, but they are, by {samples.normalization}.")
    inputs = samples.first()[0]
    if getattr(inputs, "ndim", 0) != 4 or not inputs.is_floating_point():
        kind = str(getattr(inputs, "dtype", type(inputs).__name__)).removeprefix("torch.")
        shape = (len(samples), *samples.shape)
        raise DataError(
            f"`normalize` is of images (N, C, H, W), bytes or floats in [0, 1], but {samples.name} holds {kind} "
            f"{shape}."
        )
    if not chosen.fits(samples):
        channels = samples.shape[0]
        raise DataError(
            f"`normalize` must have one number or one a channel, but is {chosen}, and {samples.name} has {channels} "
            f"channel{'s' if channels > 1 else ''}."
        )
    return samples.normalized(replace(chosen, floats=own is None))


def how_read(samples: SampleSet) -> dict[str, Any]:
    """What a record keeps of how samples became inputs: normalised and, of files, prepared.

    Its `normalization` is None if they came as the model takes them.
    """
    said: dict[str, Any] = {"normalization": kept_of(samples.normalization)}
    return said if samples.prepared is None else {**said, "prepared": samples.prepared}


def kept_of(chosen: Normalization | None) -> dict[str, Any] | None:
    """What a record keeps of a normalisation."""
    if chosen is None:
        return None
    floats = {"floats": True} if chosen.floats else {}
    return {"mean_std": str(chosen), "origin": chosen.origin, **floats}
