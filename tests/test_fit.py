"""Whether the outputs of a network are of the classes of the samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import resect
from resect.jobs.fit import require_fit, require_outputs


def test_the_classes_of_pixels_are_counted_where_a_segmentation_has_them() -> None:
    module = nn.Conv2d(1, 3, 1)  # logits of three classes for every pixel
    samples = resect.Samples("pixels", torch.zeros(2, 1, 8, 6), torch.ones(2, 8, 6).long(), 3, labels=("a", "b", "c"))
    for task in (None, "segmentation"):
        assert require_fit(module, samples, task).name == "segmentation"
    require_outputs(module, samples)
    fewer = resect.Samples("pixels", samples.inputs, samples.targets, 2, labels=("a", "b"))
    for require in (require_fit, require_outputs):
        with pytest.raises(resect.DataError, match=r"has 2 classes \(a, b\), but Conv2d has 3 outputs"):
            require(module, fewer)


@pytest.mark.parametrize("classes", [3, 5])
def test_the_classes_of_images_and_tokens_are_counted_in_the_last_dimension(classes: int) -> None:
    labels = tuple("abcde"[:classes])
    images = resect.Samples("images", torch.zeros(2, 4), torch.tensor([0, 2]), classes, labels=labels)
    tokens = resect.Samples("tokens", torch.zeros(2, 7, 4), torch.ones(2, 7).long(), classes, labels=labels)
    for samples in (images, tokens):
        require_outputs(nn.Linear(4, classes), samples)
        assert require_fit(nn.Linear(4, classes), samples).name == "classification"
        with pytest.raises(resect.DataError, match=f"has {classes} classes .*, but Linear has {classes + 1} outputs"):
            require_outputs(nn.Linear(4, classes + 1), samples)
