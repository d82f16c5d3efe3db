"""The paper's four questions, answered in numbers from what was measured."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from resect.graph.outputs import IGNORED
from resect.jobs.findings import (
    DepthAnswer,
    EnsembleAnswer,
    GradientAnswer,
    MultiplicityRow,
    PlainControl,
    tau_correlation,
)
from resect.measuring.metrics import chance_error
from resect.network.unraveled import Unraveled
from resect.paths.measures import MASS
from resect.paths.sampled import PathDraws
from resect.paths.spectrum import PathSpectrum
from resect.paths.squares import PathSquares
from resect.sweep.result import LesionResult
from resect.sweep.together import together


def answer_ensemble(
    singles: LesionResult,
    random: LesionResult,
    shuffled: LesionResult | None,
    plain: PlainControl | None,
    targets: Tensor,
) -> EnsembleAnswer:
    """Question 1: what deleting and reordering blocks does (paper, sections 4.1 and 4.2)."""
    damage, by_count = singles.table["damage"], random.table.groupby("deleted")["error"].mean()
    blocks = len(singles.plan)
    tenth, half = max(1, blocks // 10), max(1, blocks // 2)
    return EnsembleAnswer(
        intact_error=singles.intact_error,
        chance_error=chance_error(targets.cpu().numpy()),
        median_damage=float(damage.median()),
        largest_damage=float(damage.max()),
        largest_damage_block=str(singles.table["name"][int(damage.argmax())]),
        plain_median_damage=plain.median_damage if plain else None,
        plain_largest_damage=plain.largest_damage if plain else None,
        tenth=tenth,
        error_without_tenth=float(by_count[tenth]),
        half=half,
        error_without_half=float(by_count[half]),
        tau_correlation=tau_correlation(shuffled.table) if shuffled else None,
        reorderings=len(shuffled.plan) if shuffled else 0,
        targets=int((targets != IGNORED).sum()),
        together=together(singles).as_dict(),
    )


def answer_depth(spectrum: PathSpectrum, paths: PathDraws, squares: PathSquares) -> DepthAnswer:
    """Question 2: which path lengths are effective (paper, section 5.2, Figure 6)."""
    share = spectrum.effective(MASS)
    return DepthAnswer(
        mass=MASS,
        by_share=share,
        by_magnitude=paths.effective(MASS),
        by_rms=squares.effective(MASS),
        longest=spectrum.longest,
        longest_layers=float(spectrum.layers[spectrum.longest]),
        missed=float(np.nanmean(spectrum.gram.residual(share.low, share.high))),
        by_energy=squares.effective_energy(MASS),
        pooled=spectrum.effective(MASS, pooled=True),
        effective_samples=spectrum.effective_samples,
    )


def answer_gradient(spectrum: PathSpectrum, paths: PathDraws) -> GradientAnswer:
    """Question 3: what very short paths carry (paper, section 5)."""
    n = spectrum.longest
    tenth, quarter = n // 10, n // 4
    magnitude = np.nan_to_num(paths.magnitude)
    return GradientAnswer(
        tenth=tenth,
        share_to_tenth=float(spectrum.share[: tenth + 1].sum()),
        quarter=quarter,
        share_to_quarter=float(spectrum.share[: quarter + 1].sum()),
        share_full=float(spectrum.share[n]),
        magnitude_to_tenth=float(magnitude[: tenth + 1].sum()),
        magnitude_to_quarter=float(magnitude[: quarter + 1].sum()),
        sum_error=spectrum.sum_error,
        missed_to_tenth=float(np.nanmean(spectrum.gram.residual(0, tenth))),
        missed_to_quarter=float(np.nanmean(spectrum.gram.residual(0, quarter))),
    )


def multiplicity_row(model: str, net: Unraveled, error: float, spectrum: PathSpectrum | None) -> MultiplicityRow:
    """Question 4 for one network (paper, section 6); without a spectrum, a plain network, which is one path."""
    size = spectrum.multiplicity() if spectrum else None
    return MultiplicityRow(
        model=model,
        blocks=len(net.blocks),
        layers=net.layers,
        parameters=sum(parameter.numel() for parameter in net.model.parameters()),
        error=error,
        log2_paths=size.log2_paths if size else 0.0,
        log2_effective_paths=size.log2_effective_paths if size else 0.0,
        effective_depth=size.effective_depth if size else float(len(net.blocks)),
        effective_depth_layers=size.effective_depth_layers if size else float(net.layers),
    )
