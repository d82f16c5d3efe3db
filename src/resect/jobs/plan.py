"""The plan of an experiment on multiplicity, which is written down before its first training."""

from __future__ import annotations

from typing import Any

from resect.jobs.design import START, MultiplicityAsked
from resect.jobs.verdict import DIFFERS, NONE, SMALL, UNKNOWN
from resect.measuring.contrasts import power

_DEVIATIONS = (0.2, 0.3, 0.45, 0.6)  # of the difference within a seed, points, for which the power is told


def plan_of(asked: MultiplicityAsked) -> dict[str, Any]:
    """The plan of an experiment, which is written down before its first training: plain values and sentences."""
    primary, bound = asked.contrasts[0], asked.bound
    tried = _tried(asked) if asked.learning_rates else {}
    return {
        "question": "At equal depth, width, parameters and norms, does the number of paths change the test error?",
        "data": asked.source.data,
        "arms": [arm.row() for arm in asked.design],
        "start": START,
        "recipe": {name: value for name, value in asked.recipe_of(0).as_dict().items() if name != "seed"},
        **tried,
        "seeds": [seed for arm, seed in asked.trainings if arm == asked.design[0]],
        "primary": f"error of {primary[1].name} minus error of {primary[0].name}",
        "contrasts": [[first.name, other.name] for first, other in asked.contrasts],
        "bound": bound,
        "words": {
            "order": "Arm by arm within a seed. A seed decides weights, order of the images and augmentation, alike in "
            "all arms of a size. No test image is looked at before all is decided here; "
            + (
                "the learning rate of an arm is, of those tried, the one with the least loss on training images that "
                "were held out, in the mean of the pilot seeds."
                if tried
                else "one learning rate serves all."
            ),
            "test": "Mean difference of the test errors, paired by seed and by image, with Student's t. The standard "
            "error counts seeds and test images, both as drawn from many (two-way random effects). Holm's correction "
            "over the contrasts.",
            "model": "logit(error) = b0 + b1 log2(blocks) + b2 log2(towers x hidden) + b3 log2(paths) / blocks, least "
            "squares over arms; a coefficient that the arms do not identify is not given.",
            "verdicts": {
                DIFFERS: "p below 5 %: multiplicity changes the error, by so much.",
                NONE: f"two one-sided tests below 5 % at {bound:g} points: no effect beyond {bound:g} points.",
                SMALL: "both: it changes the error, by less than that.",
                UNKNOWN: "neither, or before all seeds are trained: the data cannot tell.",
            },
            "stopping": "Judged once, when all seeds are trained. What is told before that is no verdict.",
            "power": "In points: if the difference within a seed has this deviation, a difference is shown with a "
            "probability of 80 % from `shown` on, and one of 0 is shown to lie within a bound of `excluded` or more. "
            "Small networks and short trainings cost power: two networks that err on a fifth of 10,000 test images and "
            "answer about as many differently have a deviation of 0.45 points by the choice of these images alone.",
            "training loss": "The loss of the last epoch is told by arm: an arm that has not converged as far as the "
            "other errs for that reason, too.",
        },
        "power": [
            {"deviation": p.deviation, "shown": round(p.shown, 2), "excluded": round(p.excluded, 2)}
            for p in (power(deviation, asked.seeds) for deviation in _DEVIATIONS)
        ],
    }


def _tried(asked: MultiplicityAsked) -> dict[str, Any]:
    """The learning rates that are tried, and how."""
    return {
        "learning_rates": list(asked.learning_rates),
        "held_out": asked.held_out,
        "pilot_seeds": sorted({seed for _, seed, _ in asked.pilot_trainings}),
    }
