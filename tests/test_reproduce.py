"""The paper's claims, measured again: the rules of the verdicts, and what is said of what was not run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import resect
from made import made_study
from resect.cli import main
from resect.jobs.asked import ReproduceAsked
from resect.jobs.claims import Finding, finding
from resect.jobs.claims.check import CHECKS, DEPTHS, FAILS, HOLDS, NOT_RUN, PARTLY, UNKNOWN, is_of_today
from resect.jobs.findings import Study, UntrainedTwin
from resect.jobs.paper import CLAIMS
from resect.measuring.ranks import correlation_interval, median_interval
from resect.report import reproduce as face


def record_of(study: Study) -> resect.Record:
    """The run that a made study would have left."""
    found = {
        "subject": asdict(study.subject),
        "answers": study.answers.as_dict(),
        "intact_loss": study.intact_loss,
        "control": study.plain.numbers() if study.plain else None,
        "untrained": study.untrained.numbers() if study.untrained else None,
    }
    names = ("blocks", "deletions", "random", "reorderings", "lengths")
    tables = {name: getattr(study, name) for name in names} | (
        {"control": study.plain.deletions} if study.plain else {}
    )
    return resect.Record("study", study.asked, {}, {"seconds": 1.0}, study.command, found, tables)


def verdict(number: str, study: Study, **others: resect.Record) -> str:
    return finding(number, {"study": record_of(study), **others}).verdict


def lesions(damage: list[float], found: dict[str, Any] | None = None) -> resect.Record:
    table = pd.DataFrame({"damage": damage})
    return resect.Record("lesion", {}, {}, {}, "resect lesion", found or {}, {"lesions": table})


def several_twice(found: dict[str, Any] | None = None) -> resect.Record:
    table = pd.DataFrame({"repeated": [1, 1, 1, 10, 10, 10], "error": [0.07, 0.07, 0.08, 0.09, 0.1, 0.2]})
    found = found or {"intact": {"error": 0.06}}
    return resect.Record("lesion", {}, {}, {}, "resect lesion", found, {"lesions": table})


def by_length(low: int, high: int, mean: float) -> resect.Record:
    found = {"effective": {"low": low, "high": high}, "multiplicity": {"effective_depth": mean}, "samples": 32}
    return resect.Record("paths", {}, {}, {}, "resect paths", found, {})


def test_every_claim_of_the_paper_has_a_rule_and_numbers_of_the_authors() -> None:
    assert [claim.number for claim in CLAIMS] == sorted(CHECKS, key=[claim.number for claim in CLAIMS].index)
    for check in CHECKS.values():
        assert check.rule.startswith("Holds if")
        assert check.rule.endswith(".")
        assert check.theirs
    assert "0.4 points" in CHECKS["1"].theirs
    assert "50 of 54" in CHECKS["1"].theirs
    assert "6.5 %, 9.6 %, 25.1 %, 57.8 %, 73.9 %" in CHECKS["3"].theirs
    assert "-0.80" in CHECKS["4"].theirs.replace("\u2212", "-")
    assert "36.2 points, 10.0 points, 5.7 points, 3.1 points, 0.4 points" in CHECKS["1b"].theirs


def test_deletions() -> None:
    assert verdict("1", made_study()) == HOLDS
    assert verdict("1", made_study(cost=0.2)) == PARTLY  # the plain network is at chance all the same
    assert verdict("1", made_study(cost=0.2, control=False)) == FAILS
    assert verdict("1", made_study(intact=0.9)) == UNKNOWN
    study = made_study()
    for step, expected in ((9, HOLDS), (6, PARTLY)):  # of six costly blocks two downsample; of nine three
        costly = study.deletions["damage"].where(study.deletions["block"] % step > 0, 0.7)
        assert verdict("1", replace(study, deletions=study.deletions.assign(damage=costly))) == expected


def test_random_deletions_and_reorderings() -> None:
    study = made_study()
    assert verdict("3", study) == HOLDS
    abrupt = study.random.assign(error=np.where(study.random["deleted"] > 3, 0.9, 0.07))
    assert verdict("3", replace(study, random=abrupt)) == FAILS
    hit = np.random.default_rng(0).random(len(study.random)) < study.random["deleted"] / 27  # one block decides
    assert verdict("3", replace(study, random=study.random.assign(error=np.where(hit, 0.9, 0.07)))) == PARTLY
    assert verdict("3", replace(study, random=study.random.assign(error=0.061))) == FAILS
    assert verdict("4", study) == HOLDS
    for value, expected in ((-0.4, PARTLY), (-0.1, UNKNOWN), (0.5, FAILS), (None, UNKNOWN)):
        ensemble = replace(study.answers.ensemble, tau_correlation=value)
        assert verdict("4", replace(study, answers=replace(study.answers, ensemble=ensemble))) == expected


def test_paths() -> None:
    short, long = made_study(rate=0.1), made_study(rate=0.9)
    assert verdict("6", short) == HOLDS
    assert verdict("6", replace(short, lengths=short.lengths.assign(log2_paths=1.0))) == FAILS
    assert verdict("7", short) == HOLDS
    assert verdict("7", replace(short, lengths=short.lengths.assign(path_norm=1.1 ** np.arange(55)))) == FAILS
    assert [verdict("8", made_study(rate=rate)) for rate in (0.1, 0.2, 0.9)] == [HOLDS, PARTLY, FAILS]
    assert [verdict("8b", study) for study in (short, long)] == [HOLDS, FAILS]


def test_claims_of_several_runs() -> None:
    study = made_study()
    cheap = lesions([0.001] * 54)
    assert verdict("12b", study, deletions=cheap, skips=lesions([0.8] * 54)) == HOLDS
    assert verdict("12b", study, deletions=cheap, skips=lesions([0.0] * 54)) == PARTLY
    assert verdict("12b", study, deletions=cheap) == NOT_RUN
    assert verdict("12c", replace(study, untrained=None)) == NOT_RUN
    for longest, expected in (((17, 17, 18), FAILS), ((32, 30, 31), HOLDS), ((17, 18, 19), UNKNOWN)):
        assert verdict("12c", replace(study, untrained=replace(study.untrained, longest=longest))) == expected
    assert verdict("12c", replace(made_study(rate=0.9), untrained=study.untrained)) == FAILS
    none = finding("12c", {"study": record_of(replace(study, untrained=UntrainedTwin("it is of iron")))})
    assert (none.verdict, none.here) == (UNKNOWN, "there is no untrained twin: it is of iron")
    twice = finding("5", {"twice": lesions([0.001] * 50 + [0.5]), "several-twice": several_twice()})
    assert twice.verdict == HOLDS
    assert twice.here.endswith("50.0 points at most; intact 6.0 %, with 10 random blocks twice 10.0 %, 3 runs")


def test_stochastic_depth() -> None:
    ordinary = lesions([0.01 + 0.1 * (i in (0, 18, 36)) for i in range(54)])
    paths = {"paths": by_length(3, 9, 5.04), "stochastic-paths": by_length(1, 1, 1.0)}

    def found(damage: list[float]) -> Finding:
        return finding("10", {"deletions": ordinary, "stochastic": lesions(damage), **paths})

    assert found([0.0] * 54).verdict == HOLDS
    for damage in ([0.02] * 54, [0.3 * (i == 18) for i in range(54)]):  # dearer at all but the three; at one of them
        assert found(damage).verdict == PARTLY
    assert found([0.2] * 54).verdict == FAILS
    assert found([0.0] * 54).here.endswith(
        "; of the gradient, by exact share, 95 % on paths of 1 block, 1.0 in the mean; with ordinary training paths of "
        "3 to 9 blocks, 5.0 in the mean (32 samples)"
    )


def test_depths() -> None:
    def found(*medians: float, spread: float = 0.01) -> Finding:
        names = (*DEPTHS, "deletions")
        runs = {n: lesions([m - spread, m, m + spread]) for n, m in zip(names, medians, strict=True)}
        return finding("1b", runs)

    assert found(0.3, 0.1, 0.06, 0.03, 0.0).verdict == HOLDS
    assert found(0.3, 0.1, 0.15, 0.03, 0.0).verdict == PARTLY
    assert found(0.3, 0.1, 0.0, -0.002, 0.0).verdict == PARTLY  # by one image, which is less than the interval
    assert found(0.3, 0.1, 0.15, 0.01, 0.04).verdict == FAILS
    assert found(0.0, 0.1, 0.15, 0.03, 0.0).verdict == UNKNOWN
    assert found(0.3, 0.1, 0.06, 0.03, 0.0, spread=0.2).verdict == UNKNOWN
    assert "30.0 points (range 29.0 to 31.0), 10.0 points (range 9.0 to 11.0)" in found(0.3, *[0.1] * 4).here


def test_what_an_interval_leaves_open_cannot_be_said() -> None:
    open_, costly = lesions([0.0, 0.01, 0.05] * 3), lesions([0.05] * 9)
    for number, name in (("2", "imagenet"), ("5", "twice")):
        found = {"intact": {"error": 0.2}}
        runs = [replace(run, found=found) for run in (open_, costly)]
        others = {"several-twice": several_twice()}
        assert [finding(number, {name: run, **others}).verdict for run in runs] == [UNKNOWN, FAILS]
    for skips, branches, expected in ((0.05, open_, UNKNOWN), (0.8, open_, PARTLY), (0.05, costly, FAILS)):
        assert finding("12b", {"deletions": branches, "skips": lesions([skips] * 9)}).verdict == expected
    study = made_study(rate=0.1)
    noise = np.random.default_rng(0).lognormal(size=55)
    assert verdict("7", replace(study, lengths=study.lengths.assign(path_norm=noise))) == UNKNOWN
    assert verdict("7", replace(study, lengths=study.lengths.iloc[:2])) == UNKNOWN


def test_later_claims() -> None:
    intact = {"intact": {"error": 0.4}}
    costly_ends = [lesions([0.3, *[0.01] * 4, 0.3], intact) for _ in range(3)]
    twice = lesions([0.3, 0.3, *[0.0] * 8, 0.3, 0.3], intact)
    names = CHECKS["13"].runs
    assert finding("13", dict(zip(names, [*costly_ends, twice], strict=True))).verdict == HOLDS
    costly = lesions([0.05] * 6, intact)
    assert finding("13", dict(zip(names, [costly, *costly_ends[1:], twice], strict=True))).verdict == PARTLY
    assert finding("13", dict.fromkeys(names, costly)).verdict == FAILS
    for two, four, expected in ((0.0, 0.01, HOLDS), (0.0, 0.1, PARTLY), (0.1, 0.3, FAILS)):
        table = pd.DataFrame({"length": [2] * 9 + [4] * 7, "damage": [two] * 9 + [four] * 7})
        run = resect.Record("lesion", {}, {}, {}, "resect lesion", {}, {"lesions": table})
        assert finding("13b", {"side-by-side": run}).verdict == expected


def test_lesions_to_a_network_at_chance_tell_nothing() -> None:
    found = {"intact": {"error": 0.88}, "chance_error": 0.9, "samples": 50}
    for own, expected in ((found, UNKNOWN), (found | {"intact": {"error": 0.5}}, HOLDS)):
        runs = {"twice": lesions([0.0] * 9, own), "several-twice": several_twice(own)}
        assert finding("5", runs).verdict == expected


@pytest.mark.parametrize(
    ("low", "error", "high", "expected"),
    [(0.0, 0.01, 0.015, HOLDS), (0.03, 0.05, 0.07, PARTLY), (0.12, 0.13, 0.14, FAILS), (0.0, 0.04, 0.11, UNKNOWN)],
)
def test_averaged_members(low: float, error: float, high: float, expected: str) -> None:
    row = {"members": 32, "error": error, "error_low": low, "error_high": high}
    table = pd.DataFrame([{**row, "member_error": 0.16, "independent_error": 0.0}])
    run = resect.Record("lesion", {}, {}, {}, "resect lesion", {"removed": 5}, {"ensembles": table})
    assert finding("12a", {"ensemble": run}).verdict == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.06, 0.08, UNKNOWN), (-0.004, 0.004, HOLDS), (-0.01, 0.01, UNKNOWN)]
)
def test_training_on_effective_paths(low: float, high: float, expected: str) -> None:
    model = "resect:resnet110-cifar10-keep23"
    row = {"model": model, "error": 0.1, "difference": 0.0, "difference_low": low, "difference_high": high}
    table = pd.DataFrame([{"error": 0.09}, row])
    run = resect.Record("evaluate", {}, {}, {}, "resect evaluate", {}, {"networks": table})
    assert finding("9", {"effective": run}).verdict == expected


def test_intervals_cover_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    medians = [median_interval(pd.Series(draw.exponential(size=54))) for _ in range(500)]
    assert 0.93 < np.mean([low <= np.log(2) <= high for low, high in medians]) < 1
    pairs = [draw.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 60) for _ in range(400)]
    assert correlation_interval(-1.0, 5) == pytest.approx((-1, -1))
    truth = 6 / np.pi * np.arcsin(0.6 / 2)
    ends = [correlation_interval(float(pd.DataFrame(p).corr("spearman").iloc[0, 1]), 60) for p in pairs]
    assert 0.92 < np.mean([low <= truth <= high for low, high in ends]) < 0.98


def test_highway_networks() -> None:
    cases = ((6, 9, 5.0, HOLDS), (8, 4, 0.1, PARTLY), (8, 4, 14.8, FAILS), (8, 9, 0.1, FAILS))
    for magnitude, share, missed, expected in cases:
        both = ({"low": 1, "high": magnitude, "path_fraction": 0.3}, {"low": 1, "high": share})
        size = {"effective_depth": 3.0, "log2_paths": 12.0, "log2_effective_paths": 8.0}
        found = {"longest": 12, "multiplicity": size, "residual": {"missed": missed}, "samples": 32}
        found |= dict(zip(("effective_by_magnitude", "effective"), both, strict=True))
        blocks = pd.DataFrame({"carry": [0.3, 0.6, 0.6]})
        run = resect.Record("paths", {}, {}, {}, "resect paths", found, {"blocks": blocks})
        highway = finding("11", {"highway-paths": run, "highway-lesions": lesions([0.1] * 12)})
        assert highway.verdict == expected
        assert highway.here.startswith("carry gates are open to 50.0 % on average, 30.0 % to 60.0 % by block; ")
        assert (
            "; of 4,096 paths at most about 256 effectively contribute (32 samples); a block 10.0 points"
            in highway.here
        )


def test_claims_are_asked_for_by_number() -> None:
    def wanted(*claims: str) -> tuple[str, ...]:
        return ReproduceAsked.of(claims, "digits", {}).wanted

    assert wanted("12", "1b") == ("1b", "12a", "12b", "12c")
    assert wanted() == wanted("all") == tuple(claim.number for claim in CLAIMS)
    asked = ReproduceAsked.of(["3"], "cifar10:some dir", {"limit": 5})
    assert asked.command() == "resect reproduce 3 --data 'cifar10:some dir' --limit 5"
    for arguments, said in (
        (["44"], "must be of 1, 1b, 2"),
        (["--data", "npz:a"], "`--model` must name a network for npz:a: they are shipped for digits and cifar10 only"),
        (["--data", "npz:a", "--model", "resect:resnet8", "--train"], "`--train` has recipes for digits and cifar10"),
        (["--data", "digit"], "unknown data spec 'digit'"),
        (["1b", "--train", "--limit", "9"], "resect:resnet20 has no weights and is trained first, into the run folder"),
    ):
        result = CliRunner().invoke(main, ["reproduce", *arguments])
        assert (result.exit_code, said in result.output) == (2, True)


def test_what_cannot_be_measured_is_said_with_the_command_that_does(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["reproduce", "2", "9", "--limit", "9", "--out", str(tmp_path / "run"), "--quiet"]
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("not run here") == 3  # each, and both in the last line
    shown = " ".join(result.output.split())
    assert f"not run here the rule: {CHECKS['2'].rule} the authors:" in shown
    assert "to run it: resect reproduce 2 --data folder:DIR,split=val" in " ".join(result.output.split())
    assert "to run it: resect reproduce 9 --data cifar10:DIR" in result.output
    page = (tmp_path / "run" / "report.html").read_text().replace("\u00a0", " ")
    assert "57 of 66 below 1.6 points" in page
    assert "5.96 % on 23 of 54 blocks" in page
    assert "not run here |" in face.markdown([resect.Record.read(tmp_path / "run")])
    again = CliRunner().invoke(main, ["reproduce", "2", "9", "--limit", "9", "--out", str(tmp_path / "run"), "--quiet"])
    assert again.output == result.output


def test_lesions_of_the_authors_stand_behind_those_of_runs_alone() -> None:
    def theirs(plan: str, model: str, rows: int = 5, **asked: object) -> int | None:
        table = pd.DataFrame({"damage": [0.0] * rows})
        run = resect.Record("lesion", {"model": model, **asked}, {}, {}, "", {"plan": plan}, {"lesions": table})
        behind = face.theirs_of(run)
        return None if behind is None else len(behind)

    assert theirs("random", "resect:resnet110-digits") == 1232
    assert theirs("shuffled", "resect:resnet110-w8") == 2925
    assert theirs("random-repeated", "resect:resnet110-digits") == 490
    assert theirs("single", "py:own:build", 54) == 54
    for model in ("resect:resnet18.18.18", "resect:resnet26", "timm:resnet18", "resect:highway27"):
        assert theirs("random", model) is None
    assert theirs("single", "resect:vgg15", 54, plain=True) is theirs("windows", "resect:resnet110") is None


def test_claims_of_other_rules_or_runs_are_not_of_today() -> None:
    claim = {"number": "5", "rule": CHECKS["5"].rule, "verdict": HOLDS}
    assert is_of_today(claim, {"twice", "several-twice", "skips"})
    assert not is_of_today(claim, {"twice"})
    assert not is_of_today({**claim, "rule": "Holds if it does."}, {"twice", "several-twice"})
    assert is_of_today({**claim, "verdict": NOT_RUN}, {})
    assert is_of_today({"number": "1", "rule": CHECKS["1"].rule, "verdict": PARTLY}, {"deletions", "control"})


def test_the_page_of_the_documentation_is_that_of_the_records_beside_it() -> None:
    root = Path(__file__).parents[1]
    records = [resect.Record.read(file) for file in sorted((root / "benchmarks" / "paper").glob("*.json"))]
    assert (root / "docs" / "paper.md").read_text(encoding="utf-8") == face.markdown(records)


@pytest.mark.slow  # the study of the shipped ResNet-110 with all else that it is asked
def test_claims_on_the_shipped_networks(tmp_path: Path) -> None:
    arguments = [
        "reproduce",
        "1",
        "3",
        "5",
        "8",
        "12",
        "--limit",
        "60",
        "--repeats",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    result = CliRunner().invoke(main, [*arguments, "--quiet", "--format", "json"])
    assert result.exit_code == 0, result.output
    claims = {claim["number"]: claim for claim in json.loads(result.output)["found"]["claims"]}
    assert set(claims) == {"1", "1b", "3", "5", "8", "8b", "12a", "12b", "12c"}
    assert all(claims[number]["here"] for number in ("1", "3", "5", "8", "12a", "12b"))
    assert claims["12b"]["verdict"] == HOLDS
    assert (tmp_path / "run" / "figures" / "deletions.png").is_file()
    record = resect.Record.read(tmp_path / "run" / "skips")
    assert record.command == "resect lesion resect:resnet110-digits digits --limit 60 --plan skips --batch-size 500"
