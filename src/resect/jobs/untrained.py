"""The untrained twin of a network: what its paths were like before training, beside what they are like."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np

from resect.errors import InputError
from resect.jobs.findings import UntrainedTwin
from resect.jobs.job import Subject
from resect.jobs.paths import lengths_table
from resect.jobs.source import Source
from resect.measuring.calibration import calibrate
from resect.measuring.contrasts import crossed_contrast
from resect.models.untrained import untrained
from resect.network.unraveled import Unraveled
from resect.paths.measures import MASS
from resect.paths.sampled import PathDraws
from resect.paths.spectrum import PathSpectrum
from resect.paths.squares import PathSquares

Measured = tuple[PathSpectrum, PathDraws, PathSquares]
DRAWS = 3  # of random weights; the first is the twin, which is shown
SAMPLES = 256  # on which its batch norms are measured, where --calibrate says nothing else


def untrained_twin(
    source: Source,
    subject: Subject,
    trained: Measured,
    batch_size: int,
    measure: Callable[[Subject], Measured],
    again: Callable[[Subject], tuple[PathSpectrum, PathDraws]],
) -> UntrainedTwin:
    """Measure the paths of the untrained twin, or say why that cannot be done.

    Args:
        source: of the network under study.
        subject: that network, its samples, and whether it is trained at all.
        trained: its paths.
        batch_size: in which batch norms are measured.
        measure: measures paths, on the same samples.
        again: measures those of further draws of random weights, by which the twin's own may differ.
    """
    if subject.untrained:
        return UntrainedTwin("the weights of the network under study are random, too, so that it is its own")
    if source.module is not None:
        return UntrainedTwin("the network under study is a part of a model, which is not built anew alone")
    try:
        spectrum, draws, squares = measure(replace(subject, net=_twin(source, subject, batch_size, source.seed)))
        others = (_twin(source, subject, batch_size, source.seed + i) for i in range(1, DRAWS))
        every = [(spectrum, draws), *(again(replace(subject, net=net)) for net in others)]
        depths = np.stack([_depths(shares) for shares, _ in every])
        change = _depths(trained[0]) - depths
        change = change[:, np.isfinite(change).all(0)]
        ends = crossed_contrast(change).interval() if change.shape[1] > 1 else (np.nan, np.nan)
        return UntrainedTwin(
            seed=source.seed,
            by_share=spectrum.effective(MASS),
            by_magnitude=draws.effective(MASS),
            by_rms=squares.effective(MASS),
            effective_depth=float(np.nanmean(depths)),
            depth_change=(float(change.mean()) if change.size else np.nan, *ends),
            depths=tuple(float(depth) for depth in np.nanmean(depths, axis=1)),
            longest=tuple(own.effective(MASS).high for _, own in every),
            lengths=lengths_table(spectrum, draws, squares),
        )
    except InputError as error:
        return UntrainedTwin(str(error).rstrip("."))


def _twin(source: Source, subject: Subject, batch_size: int, seed: int) -> Unraveled:
    """The capture of the network under study with fresh random weights, and batch norms that have seen samples.

    Raises:
        InputError: it cannot be built, or its batch norms cannot be measured.
    """
    net, samples = subject.net, subject.samples
    fresh = untrained(
        net.model, source.model, checkpoint=source.checkpoint, model_args=source.model_args, samples=samples,
        seed=seed,
    )  # fmt: skip
    net = deepcopy(net)
    try:
        net.model.load_state_dict(fresh.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"built anew, its architecture has other weights ({reason})") from error
    count = source.calibrate or SAMPLES
    calibrate(net.model, samples.limited(count).batches(min(count, batch_size)))
    return net


def _depths(spectrum: PathSpectrum) -> np.ndarray:
    """(N,) every sample's own mean path length by share, in blocks; NaN where its gradient is zero."""
    return np.asarray(spectrum.shares @ np.arange(spectrum.shares.shape[1]))
