"""Every sentence of a study's report, over random results: what it claims is true of its numbers.

Each sentence must be one of CLAIMS, whose check reads the tables again, without the code that wrote it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

import claims_beside
import resect
from finished import random_study
from patterns import LENGTHS, NAME, D, P, is_percent, is_points, is_span
from resect import plans
from resect.jobs.answers import answer_ensemble, answer_gradient
from resect.jobs.findings import Answers, Study
from resect.report.study.answers import answers
from resect.report.study.gallery import drawings
from resect.report.study.table import answers_table

studies = st.builds(
    random_study,
    blocks=st.one_of(st.integers(1, 5), st.integers(6, 30)),
    damage=st.sampled_from(["none", "equal", "small", "mixed", "large", "gain"]),
    unit=st.sampled_from(["block", "block", "block", "layer"]),
    seed=st.integers(0, 10**6),
)
Check = Callable[..., bool]


def is_named(study: Study, name: str, more: str, table: Any, values: Any) -> bool:
    """Whether a block, which text names, is one of those with the largest value, and the others are counted."""
    top = table[values >= values.max() - 1e-12]
    written = {row["name"]: row["block"] for row in top.to_dict("records")}
    name, _, index = name.partition(", index ")
    last = re.findall(r"\d+", name)[-1]
    counted = int(re.findall(r"\d+", more)[0]) if more else 0
    return name in written and str(written[name]) == (index or last) and counted == len(top) - 1


def damage(study: Study) -> Any:
    return study.deletions["damage"]


def chance(study: Study) -> float:
    known = study.answers.ensemble.chance_error
    return 1.0 if known is None else known


def at_chance(study: Study, error: float | None = None) -> bool:
    """Whether the upper end of Wilson's interval, in closed form, reaches the error of the commonest class."""
    ensemble = study.answers.ensemble
    n, p = ensemble.targets or study.subject.samples, ensemble.intact_error if error is None else error
    p, z = round(p * n) / n, 1.959963984540054
    high = (p + z**2 / (2 * n) + z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5) / (1 + z**2 / n)
    known = ensemble.chance_error
    return bool(p) and known is not None and bool(high >= known - 1e-12)


def mean_without(study: Study, deleted: int) -> float:
    return float(study.random["error"][study.random["deleted"] == deleted].mean())


def costs(study: Study, verb: str, number: str, value: float) -> bool:
    """What "costs" or "saves" points; a cost of zero to the eye may be either's."""
    sign = -1 if verb.startswith("save") else 1
    return is_points(number, sign * value)


def several_survive(study: Study) -> bool:
    ensemble = study.answers.ensemble
    count = ensemble.tenth if ensemble.tenth > 1 else ensemble.half
    return count == 1 or mean_without(study, count) <= (ensemble.intact_error + chance(study)) / 2


def most_cheap(study: Study) -> bool:
    return int((damage(study) < 0.02).sum()) * 2 > len(study.deletions)


def kind(study: Study, words: str) -> bool:
    """The first half of the first verdict."""
    costly = int((damage(study) > 0.1).sum())
    if words.startswith(("Not by this test", "Hardly")):
        return not most_cheap(study)
    if found := re.fullmatch(r"In part; most blocks can go, one at a time, but not (\d+) at once", words):
        return most_cheap(study) and int(found[1]) > 1 and not several_survive(study)
    if found := re.fullmatch(r"For the most part; .* but (one costs|(\d+) cost) more than 10 points", words):
        return most_cheap(study) and several_survive(study) and costly == int(found[2] or 1)
    tried = study.answers.ensemble.half > 1
    if words in ("As far as single deletions can tell, yes", "Yes; its paths do not depend strongly on each other"):
        return most_cheap(study) and several_survive(study) and not costly and tried == words.startswith("Yes")
    return most_cheap(study) and words == "It is one path, yet most layers can go, one at a time"


def single(study: Study, words: str) -> bool:
    """The second half of the first verdict."""
    median, most = float(damage(study).median()), float(damage(study).max())
    if found := re.fullmatch(rf"no (?:block|layer) raises .* alone is deleted(?:, and the median saves {D})?", words):
        return most <= 0 and (found[1] is None or (median < 0 and is_points(found[1], -median)))
    found = re.fullmatch(
        rf"deleting one (?:block|layer) (cost|save)s {D} of error in the median, (and costs )?at most {D} \({NAME}\)",
        words,
    )
    assert found, words
    return (
        costs(study, found[1], found[2], median)
        and (found[1] == "save") == bool(found[3])
        and most > 0
        and is_points(found[4], most)
        and is_named(study, found[5], found[6], study.deletions, damage(study))
    )


def effective(study: Study, low: str, high: str | None, by: str = "by_share") -> bool:
    depth = study.answers.depth
    assert depth is not None and study.lengths is not None
    found = getattr(depth, by)
    column = {"by_share": "share", "by_magnitude": "magnitude"}[by]
    held = float(study.lengths[column][found.low : found.high + 1].sum())
    return is_span(low, high, (found.low, found.high)) and held >= depth.mass - 1e-9


def held(study: Study, text: str, by: str) -> bool:
    depth = study.answers.depth
    assert depth is not None and study.lengths is not None
    found = getattr(depth, by)
    return is_percent(text, float(study.lengths[by.removeprefix("by_")][found.low : found.high + 1].sum()))


def relation(study: Study, words: str) -> bool:
    depth = study.answers.depth
    assert depth is not None
    share, longest = depth.by_share, depth.longest
    few, half = share.path_fraction < 0.1, longest / 2
    return {
        "So few blocks leave no room between short and long paths": longest < 4,
        "Shallow": share.high <= half and few,
        "At most half as deep as the longest path, but no small part of all paths": share.high <= half and not few,
        "Deep, unlike in the paper": share.low > half,
        "Of middling depth, not shallow as in the paper": share.low <= half < share.high < longest,
        "Up to the full depth, unlike in the paper": share.low <= half and share.high == longest,
    }[words]


def to(study: Study, length: str, text: str) -> bool:
    assert study.lengths is not None
    return is_percent(text, float(study.lengths["share"][: int(length) + 1].sum()))


def short_parts(study: Study) -> list[float]:
    assert study.lengths is not None
    n, share = study.subject.blocks, study.lengths["share"].to_numpy()
    return [share[: n // 10 + 1].sum(), share[: n // 4 + 1].sum(), share[n]]


def rise(study: Study) -> tuple[float, list[int]]:
    """How far the mean error rises, and where it has a tenth and nine tenths of that."""
    means = study.random.groupby("deleted")["error"].mean() - study.answers.ensemble.intact_error
    top = float(means.max())
    return top, [int(means.index[(means >= part * top).to_numpy().argmax()]) for part in (0.1, 0.9)]


def grown(study: Study) -> Any:
    return study.deletions["loss"].fillna(np.inf) - study.intact_loss


def is_nats(text: str, value: float) -> bool:
    return text == "∞" if np.isinf(value) else abs(float(text) / value - 1) < 0.06


def of_all(study: Study, count: str, real: int) -> bool:
    n = study.subject.blocks
    return count.lower() == (
        "both" if real == n == 2 else "all" if real == n else "none of" if real == 0 else f"{real} of"
    )


def down_and_others(study: Study) -> tuple[Any, Any]:
    table = study.deletions
    return table["damage"][table["downsampling"]], table["damage"][~table["downsampling"]]


def downsampling(study: Study, verb: str, number: str, verb2: str | None, number2: str) -> bool:
    down, others = down_and_others(study)
    return costs(study, verb, number, down.mean()) and costs(study, verb2 or verb, number2, others.mean())


def control(study: Study, verb: str, median: str, most: str, name: str, more: str) -> bool:
    plain = study.plain
    assert plain is not None
    table = plain.deletions
    right = costs(study, verb, median, float(table["damage"].median())) and is_points(most, table["damage"].max())
    return right and is_named(study, name, more, table, table["damage"])


def single_norm(study: Study, how: str, factor: str | None, low: str, high: str) -> bool:
    assert study.lengths is not None
    norm = study.lengths["path_norm"]
    known = study.lengths[norm > 0]
    first, last = known.iloc[0], known.iloc[-1]
    ratio = first["path_norm"] / last["path_norm"]
    ends = (int(low), int(high)) == (first["length"], last["length"])
    if how.startswith("hardly"):
        return ends and 0.95 < ratio < 1.051
    falls = how.startswith("falls")
    size = float(
        re.sub(r" × 10(.*)", lambda m: "e" + m[1].translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")), factor)
    )
    return ends and (ratio > 1) == falls and abs(size / max(ratio, 1 / ratio) - 1) < 0.06


def enough_to_tell(study: Study) -> bool:
    ensemble = study.answers.ensemble
    return abs(ensemble.tau_correlation or 0) > max(0.3, 2 / ensemble.reorderings**0.5)


def reorderings(study: Study, tau: str, words: str, worst: str, intact: str) -> bool:
    table, ensemble = study.reorderings, study.answers.ensemble
    real = float(np.corrcoef(table["kendall_tau"].rank(), table["error"].rank())[0, 1])
    words, _, in_paper = words.partition(", as in" if "as in the" in words else ", unlike in")
    told = {
        "the more disorder, the more error": enough_to_tell(study) and real < 0,
        "the error falls with disorder": enough_to_tell(study) and real > 0,
        "the error does not follow the disorder": not enough_to_tell(study) and len(table) >= 40,
        "no clear relation": not enough_to_tell(study) and len(table) < 40,
    }[words] and (bool(in_paper) == (study.subject.unit == "block") or words == "no clear relation")
    right = abs(float(tau.replace("−", "-")) - real) < 0.0051 and is_percent(worst, table["error"].max())
    return right and told and is_percent(intact, ensemble.intact_error)


CLAIMS: list[tuple[str, Check]] = [
    # Question 1
    (rf"This cannot be told: the intact network errs on {P} .* commonest class errs on {P}\.",
     lambda s, a, b: at_chance(s) and is_percent(a, s.answers.ensemble.intact_error) and is_percent(b, chance(s))),
    (rf"It has a single (?:block|layer); without it the error is {P}, with it {P}\.",
     lambda s, a, b: len(s.deletions) == 1 and is_percent(a, s.deletions["error"][0])
     and is_percent(b, s.answers.ensemble.intact_error)),
    (r"One deletion cannot show an ensemble\.", lambda s: len(s.deletions) == 1),
    (r"((?:Not|Hardly|In part|For|As|Yes|It is)[^:]*): (.*)\.", lambda s, a, b: kind(s, a) and single(s, b)),
    (rf"Without (\d+) (?:block|layer)s? drawn at random the error is {P} on average(?:, without (\d+) it is {P})?\.",
     lambda s, a, b, c, d: is_percent(b, mean_without(s, int(a))) and int(a) == max(1, s.subject.blocks // 10)
     and (c is None or (is_percent(d, mean_without(s, int(c))) and int(c) == s.subject.blocks // 2))),
    # Question 2
    (r"A plain network has one path, through (?:its layer|all (\d+) layers)\.",
     lambda s, n: s.lengths is None and int(n or 1) == len(s.blocks)),
    (rf"([^:]+): the longest path has (\d+) blocks?, and {P} of the gradient runs through paths of {LENGTHS}, "
     rf"{P} of all "
     rf"paths; by the paper's count × magnitude, {P} through paths of {LENGTHS}\.",
     lambda s, a, n, h, b, c, p, m, d, e: relation(s, a) and int(n) == s.subject.blocks and effective(s, b, c)
     and held(s, h, "by_share") and held(s, m, "by_magnitude") and effective(s, d, e, "by_magnitude")
     and is_percent(p, s.lengths["path_fraction"][int(b) : int(c or b) + 1].sum())),
    # Question 3
    (r"None: all of it comes over the one path there is\.", lambda s: s.lengths is None),
    (rf"(?:The path that takes no branch at all carries {P} of it|Paths of at most a tenth of the depth, (\d+) "
     rf"blocks?, "
     rf"carry {P} of it)(?:, (?:paths )?of at most a quarter(?: of the depth)?, (\d+) blocks?, {P})?; the longest, of "
     rf"(\d+) blocks?, {P}\.",
     lambda s, a, b, c, d, e, f, g: (to(s, "0", a) and f != "" and s.subject.blocks < 10 if a else to(s, b, c)
                                     and int(b) <= s.subject.blocks / 10 < int(b) + 1)
     and (d is None or (to(s, d, e) and int(d) <= s.subject.blocks / 4 < int(d) + 1))
     and is_percent(g, s.lengths["share"].iloc[-1]) and int(f) == s.subject.blocks),
    (r"Most of it comes from longer paths, unlike in the paper\.", lambda s: 1 - short_parts(s)[1] > 0.5),
    (r"More than 100 % means that the other paths pull against the whole\.", lambda s: max(short_parts(s)) > 1),
    (r"What is negative pulls against the whole\.", lambda s: min(short_parts(s)) < 0),
    # Question 4
    (r"It has a single path(?:: a plain network has depth and width, but no multiplicity)?\.",
     lambda s: s.lengths is None),
    (r"Of its .* paths at most about (.*) effectively contribute(s?); by share they are ([−\d.]+) blocks deep on "
     r"average\.",
     lambda s, a, b, c: (a == "1") == bool(b)
     and abs(float(c.replace("−", "-")) - s.answers.multiplicity[0].effective_depth) <= 0.0501),
    (r"What multiplicity does .* with --beside\.", lambda s: len(s.answers.multiplicity) == 1),
    # Captions of lesions
    (r"As the intact network is no better than chance, this says nothing about what its (?:block|layer)s do\.",
     at_chance),
    (rf"Without {NAME} the loss grows by (less than 0\.001 nats, if at all|(\S+) nats)\.",
     lambda s, a, m, b, c: len(s.deletions) == 1 and (is_nats(c, grown(s)[0]) if c else grown(s)[0] < 0.001)),
    (r"No single (?:block|layer) matters: .*\.", lambda s: grown(s).max() < 0.001),
    (rf"(None of|\d+ of) (\d+) (?:block|layer)s? can be deleted alone at a cost below 0\.001 nats; the loss "
     rf"grows most, by "
     rf"(\S+) nats, without {NAME}\.",
     lambda s, a, n, b, c, m: of_all(s, a, int((grown(s) < 0.001).sum())) and is_nats(b, grown(s).max())
     and is_named(s, c, m, s.deletions, grown(s))),
    (rf"Deleting {NAME} (cost|save)s {D}\.", lambda s, a, m, v, b: costs(s, v, b, damage(s)[0])),
    (rf"(None of|\d+ of|All|Both)(?: (\d+))? (?:block|layer)s costs? less than one point(?:; the largest cost is {D} "
     rf"\({NAME}\))?\.",
     lambda s, a, n, b, c, m: of_all(s, a, int((damage(s) < 0.01).sum())) and (damage(s).max() <= 0) == (b is None)
     and (b is None or (is_points(b, damage(s).max()) and is_named(s, c, m, s.deletions, damage(s))))),
    (rf"The downsampling blocks? (cost|save)s? {D}(?: on average)?, the others? (?:(cost|save)s? )?{D}\.",
     downsampling),
    (r"In the paper's ResNet-110 downsampling blocks stand out; here they do not\.",
     lambda s: down_and_others(s)[0].mean() <= down_and_others(s)[1].mean()),
    (r"In the paper's ResNet-110 downsampling blocks cost most; here another block does\.",
     lambda s: not s.deletions["downsampling"][damage(s) == damage(s).max()].any()),
    (rf"Deleting one layer of the plain network (cost|save)s {D} in the median and at most {D} \({NAME}\)\.", control),
    (rf"As it errs on {P} when intact, this says nothing of plain networks\.",
     lambda s, a: is_percent(a, s.plain.intact_error) and at_chance(s, s.plain.intact_error)),
    (r"Unlike in the paper, that is in the median no more than for the network under study\.",
     lambda s: s.plain.deletions["damage"].median() <= damage(s).median()),
    (r"(\d+) layers? of it changes? the shape.*\.", lambda s, a: int(a) == s.plain.refused),
    (r"(?:Unlike in the paper, the|The) mean error hardly rises, if at all\.", lambda s: rise(s)[0] < 0.02),
    (r"The error rises (over many numbers|abruptly).*: a tenth of the rise of the mean is reached at (\d+) "
     r"(?:block|layer)s?, "
     r"nine tenths at (\d+)\.",
     lambda s, how, a, b: [int(a), int(b)] == rise(s)[1] and rise(s)[0] >= 0.02
     and (int(b) - int(a) >= s.random["deleted"].max() / 4) == how.startswith("over")),
    (r"All errors are equal, so that there is no correlation to speak of\.",
     lambda s: np.ptp(s.reorderings["error"]) == 0),
    (r"All are equally disordered, so that .*\.", lambda s: np.ptp(s.reorderings["kendall_tau"]) == 0),
    (r"There is one reordering only, so that .*\.", lambda s: len(s.reorderings) == 1),
    (rf"The rank correlation of error and Kendall tau is (\S+): ([^.]*)\. The worst of them errs on {P}, the "
     rf"intact network "
     rf"on {P}\.", reorderings),
    # Captions of paths
    (rf"{P} of the paths have (\d+)(?: to (\d+))? blocks?; {P} of the gradient runs in those of {LENGTHS}, {P} "
     rf"of all paths\.",
     lambda s, p, a, b, h, c, d, q: is_percent(p, s.lengths["path_fraction"][int(a) : int(b or a) + 1].sum())
     and effective(s, c, d) and held(s, h, "by_share")
     and is_percent(q, s.lengths["path_fraction"][int(c) : int(d or c) + 1].sum())),
    (rf"By exact share the effective paths have {LENGTHS}, by count × magnitude {LENGTHS}\.",
     lambda s, a, b, c, d: effective(s, a, b) and effective(s, c, d, "by_magnitude")),
    (r"Count × magnitude, a bound, is what would arrive if all paths were parallel; the exact range ends earlier\.",
     lambda s: s.answers.depth.by_share.high < s.answers.depth.by_magnitude.high),
    (r"Both ranges end .*\.", lambda s: s.answers.depth.by_share.high == s.answers.depth.by_magnitude.high),
    (r"The exact range reaches .*\.", lambda s: s.answers.depth.by_share.high > s.answers.depth.by_magnitude.high),
    (rf"Shares are negative where .*, most at length (\d+) \({P}\)\.",
     lambda s, a, b: s.lengths["share"].min() < 0 and int(a) == int(s.lengths["share"].argmin())
     and is_percent(b, s.lengths["share"].min())),
    (r"The sum over all lengths differs .*\.", lambda s: True),
    (r"Too few lengths .*\.", lambda s: int((s.lengths["path_norm"] > 0).sum()) < 2),
    (r"The norm of a single path (falls|grows, unlike in the paper,|hardly changes, unlike in the paper,)(?: by "
     r"a factor of "
     r"([^f]+))? from length (\d+) to (\d+)\.", single_norm),
    (r"The root mean square over all paths is up to (\S+) times the sampled mean: .*\.",
     lambda s, a: abs(float(a) / (s.lengths["path_norm_rms"] / s.lengths["path_norm"]).max() - 1) < 0.06),
    *claims_beside.CLAIMS,
]  # fmt: skip


def unclaimed(study: Study, text: str) -> list[str]:
    """The sentences of a text that are no claim, or whose claim is not true."""
    wrong, sentences = [], re.split(r"(?<=\.) (?=[A-Z\d]|resect:)", text)
    while sentences:
        for count in (1, 2):  # a claim has one sentence or two
            sentence = " ".join(sentences[:count])
            found = [(re.fullmatch(pattern, sentence), check) for pattern, check in CLAIMS]
            checks = [check(study, *match.groups()) for match, check in found if match]
            if checks or count == 2:
                wrong += [] if checks and all(checks) else [sentence]
                del sentences[:count]
                break
    return wrong


def sayings(study: Study) -> list[str]:
    """Every verdict, and what every caption says a figure means."""
    return [answer.verdict for answer in answers(study)] + [drawing.caption(study)[1] for drawing in drawings(study)]


@settings(deadline=None, max_examples=100)
@given(studies)
def test_every_sentence_of_a_study_is_true_of_its_numbers(study: Study) -> None:
    for text in sayings(study):
        assert unclaimed(study, text) == []


@settings(deadline=None, max_examples=20)
@given(studies)
def test_every_text_of_a_study_is_well_formed(study: Study) -> None:
    captions = [text for drawing in drawings(study) for text in drawing.caption(study)]
    measures = [f"{m.what} {m.here}" for answer in answers(study) for m in (*answer.measures, answer.headline)]
    console = Console(width=100, file=io.StringIO())
    console.print(answers_table(study))
    for text in [*sayings(study), *captions, *measures, console.file.getvalue()]:  # type: ignore[attr-defined]
        assert not re.search(r"\bnan\b|None\b(?! of|:)|\binf\b|−0\.0\b|  \S.*\.$|\.\.", text), text
        assert not re.search(
            r"(?<![\d.,⁰-⁹])(?<!to\s)1 (blocks|layers|samples|draws|networks|reorderings|paths)\b", text
        ), text
    prose = " ".join([*sayings(study), *captions])
    assert not re.search(r"× 10\S* %", prose)


@settings(deadline=None, max_examples=30)
@given(studies)
def test_a_network_at_chance_is_said_to_be(study: Study) -> None:
    assert sayings(study)[0].startswith("This cannot be told") == at_chance(study)


@pytest.mark.parametrize(("samples", "error", "tells"), [(10_000, 0.85, True), (10, 0.8, False), (10, 0.0, True)])
def test_records_that_do_not_say_how_many_targets_count_are_told_by_their_samples(
    samples: int, error: float, tells: bool
) -> None:
    study = random_study(12, "none", "block", 1)
    numbers = study.answers.as_dict()
    del numbers["ensemble"]["targets"]
    numbers["ensemble"] |= {"intact_error": error, "chance_error": 0.9}
    older = replace(study, answers=Answers.of(numbers), subject=replace(study.subject, samples=samples))
    assert sayings(older)[0].startswith("This cannot be told") != tells


def test_a_false_sentence_is_found() -> None:
    study = random_study(12, "mixed", "block", 1)
    verdict, *_ = sayings(study)
    assert unclaimed(study, verdict) == []
    assert unclaimed(study, "It is a forest.") == ["It is a forest."]
    worse = replace(study, deletions=study.deletions.assign(damage=study.deletions["damage"] + 0.3))
    assert unclaimed(worse, verdict) != []


class Chain(nn.Module):
    """Residual blocks on two numbers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.parametrize(("blocks", "tenth"), [(9, 0), (27, 2)])
def test_a_tenth_means_the_same_in_all_questions(blocks: int, tenth: int) -> None:
    targets = torch.tensor([0, 1, 1])
    data, net = [(torch.eye(2)[targets], targets)], resect.unravel(Chain(blocks), torch.zeros(1, 2))
    singles, random = (resect.lesion(net, data, plan) for plan in (plans.single(net), plans.random(net, repeats=1)))
    gradient = answer_gradient(resect.path_spectrum(net, data), resect.sample_paths(net, data, draws=1))
    ensemble = answer_ensemble(singles, random, None, None, targets)
    assert gradient.tenth == tenth and ensemble.tenth == max(1, tenth) and ensemble.targets == 3
