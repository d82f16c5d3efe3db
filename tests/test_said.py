"""What the reports of single verbs say, over random results: every sentence is true of its numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from finished import a_record, chain, random_paths
from patterns import LENGTHS, NAME, D, P, is_percent
from resect.jobs.compare import CompareJob
from resect.report import compare, evaluate, lesion, paths
from resect.runs.record import Record
from resect.sweep.plans import Plan
from resect.sweep.result import LesionResult

SUPERSCRIPT = str.maketrans("⁻·⁰¹²³⁴⁵⁶⁷⁸⁹", "-.0123456789")


def one(said: Sequence[str], pattern: str) -> re.Match[str] | None:
    """The only sentence that a pattern fits, if there is one."""
    found = [match for match in (re.fullmatch(pattern, sentence) for sentence in said) if match]
    assert len(found) <= 1
    return found[0] if found else None


def shown(face: Any, record: Record) -> str:
    console = Console(width=300, file=io.StringIO())
    face.show(record, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def bits(text: str) -> float:
    """The binary logarithm of a number that is written as "2⁸·³"."""
    return float(text.removeprefix("2").translate(SUPERSCRIPT) or "1")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 20), st.integers(0, 10**6))
def test_what_paths_says_is_true_of_its_numbers(blocks: int, seed: int) -> None:
    record = random_paths(blocks, seed)
    said, found, tables = paths.sentences(record), record.found, record.tables
    share, through = tables["lengths"]["share"], tables["blocks"]
    effective = one(
        said, rf"Effective lengths \(at least 95 % of the gradient, here {P}\): {LENGTHS}, {P} of all paths\."
    )
    less = one(said, r"The lengths told apart hold less than 95 % .*")
    assert (effective is None) == (found["effective"] is None) == (less is not None)
    if effective:
        held = float(share[int(effective[2]) : int(effective[3] or effective[2]) + 1].sum())
        assert held >= 0.95 - 1e-9 and is_percent(effective[1], held)
    longer = one(said, rf"All longer paths together: {P} of the gradient, exactly\.")
    assert (longer is None) == (found["known"] == blocks)
    assert longer is None or is_percent(longer[1], 1 - float(share.sum()))
    carried = one(
        said, rf"Shares of the gradient through single blocks, the largest first: (.*); over the skips alone: {P}\."
    )
    assert carried and is_percent(carried[2], share[0])
    parts = re.findall(rf"(\S+?)(?:, index (\d+))? \({P}\)", carried[1])
    best = through.sort_values("share", ascending=False, kind="stable").head(5)
    assert [name for name, _, _ in parts] == list(best["name"])
    for (name, index, part), row in zip(parts, best.to_dict("records"), strict=True):
        assert is_percent(part, row["share"]) and int(index or re.findall(r"\d+", name)[-1]) == row["block"]
    strongest = one(
        said, rf"The strongest path( found)? has {P} .* goes through (?:blocks? ([\d, ]+)|no block.*)\. All .*"
    )
    assert strongest and is_percent(strongest[2], tables["strongest"]["relative"][0])
    assert bool(strongest[1]) == (found["strongest"]["open"] > 0)
    chosen = [int(block) for block in (strongest[3] or "").split(", ") if block]
    assert chosen == list(tables["strongest"]["blocks"][0])
    tied(said, tables)
    text = shown(paths, record)
    assert not re.search(r"\bnan %|(?<!\d)(?<!to )1 (blocks|samples|gradients|layers)\b", text)


@pytest.mark.parametrize(
    ("precision", "error", "expected"),
    [
        (None, 0.2, "at most 20.0 % of them."),
        (None, 0.3, "up to 30.0 % of them, not 25 %"),
        (10, 0.2, "up to 20.0 % of them, not 10 %"),
        (10, float("nan"), "3 sweeps of random signs do not say"),
    ],
)
def test_paths_says_whether_random_signs_are_as_precise_as_asked(
    precision: float | None, error: float, expected: str
) -> None:
    record = random_paths(3, 2)
    tables = record.tables | {"lengths": record.tables["lengths"].assign(coherence=1.0)}
    found = record.found | {"sweeps": 3, "sweeps_error": error}
    record = replace(record, asked=record.asked | {"precision": precision}, found=found, tables=tables)
    assert expected in " ".join(paths.sentences(record))


def tied(said: Sequence[str], tables: Any) -> None:
    names, share = list(tables["blocks"]["name"]), tables["blocks"]["share"].to_numpy()
    values = (tables["pairs"].to_numpy() - np.outer(share, share)) * (1 - np.eye(len(share)))
    pair = one(said, rf"The pair most tied: (\S+?)(?:, index \d+)? and (\S+?)(?:, index \d+)? \(([a-z ]+), {D}\)\.")
    none = one(said, r"No two blocks are tied: .*")
    assert (pair is None) == (len(names) == 1 or none is not None)
    if none:
        assert np.abs(values).max() < 0.00005
    if pair:
        value = values[names.index(pair[1]), names.index(pair[2])]
        assert abs(value) == np.abs(values).max() and (value > 0) == (pair[3] == "together")
        assert abs(float(pair[4].replace("−", "-")) - 100 * value) <= 0.00501


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from([0.01, 0.3, 1.0, 3.0])), min_size=2, max_size=8))
def test_what_compare_says_is_true_of_its_numbers(runs: list[tuple[int, float]]) -> None:
    tables = {f"run{i}": chain(n, r) for i, (n, r) in enumerate(runs)}
    record = CompareJob(()).compared({name: a_record(table) for name, table in tables.items()})
    lines = [line for line in shown(compare, record).splitlines() if " against " in line]
    assert len(lines) == len(runs) - 1
    for i, line in enumerate(lines, 1):
        found = re.fullmatch(
            r"run0 against run(\d): effective range (\d+)(?: to (\d+))? against (\d+)(?: to (\d+))? blocks?; effective "
            rf"depth ([\d.]+) against ([\d.]+) blocks(?: \({P} against {P} of the longest path\))?; effective "
            r"paths at most (2\S*) against (2\S*), (as many|more by a factor of (.*)|fewer by a factor of (.*))\.",
            line.strip(),
        )  # fmt: skip
        assert found and int(found[1]) == i
        two = [tables["run0"], tables[f"run{i}"]]
        for table, low, high, depth in zip(two, found.group(2, 4), found.group(3, 5), found.group(6, 7), strict=True):
            assert table["share"][int(low) : int(high or low) + 1].sum() >= 0.95 - 1e-9
            assert abs(float(depth) - float((table["share"] * table["length"]).sum())) <= 0.0501
        real = [log2_paths(table) for table in two]
        assert all(abs(bits(text) - value) <= 0.0501 for text, value in zip(found.group(10, 11), real, strict=True))
        gained = real[0] - real[1]
        assert (found[12] == "as many") == (2 ** abs(gained) < 1.05) or abs(2 ** abs(gained) - 1.05) < 1e-6
        assert (gained > 0) == bool(found[13]) or found[12] == "as many"


def log2_paths(table: pd.DataFrame) -> float:
    """Entropy, in bits, of the shares of single paths."""
    share = table["share"][table["share"] > 0]
    return float((share * (table["log2_paths"][share.index] - np.log2(share))).sum())


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["single", "explicit", "pairs"]), st.integers(0, 5), st.integers(1, 9), st.integers(0, 10**6))
def test_what_a_sweep_says_is_true_of_its_numbers(name: str, lesions: int, samples: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    wrong, intact = (draw.integers(0, 2, shape).astype(np.float32) for shape in ((lesions, samples), samples))
    labels = tuple({"arrangement": i} if name == "explicit" else {"block": i} for i in range(lesions))
    plan = Plan(name, (None,) * lesions, labels)  # type: ignore[arg-type]
    targets = np.arange(samples) % 3
    result = LesionResult(plan, {"error": wrong}, {}, {"error": intact}, targets, np.ones(samples, np.float32))
    unit = "arrangement" if name == "explicit" else "lesion"
    said = result.summary()
    start = f"{lesions} {unit}{'s' * (lesions != 1)}{'' if unit == 'arrangement' else f' ({name})'} on {samples} sample"
    assert said.startswith(start + ("s" * (samples > 1)))
    damage = (wrong.mean(1) - intact.mean()) * 100 if lesions else np.array([])
    numbers = [float(text.replace("−", "-")) for text in re.findall(r"(?:damage|largest) (−?[\d.]+)", said)]
    expected = {0: [], 1: [damage.max()] if lesions else []}.get(
        lesions, [np.median(damage), damage.max()] if lesions else []
    )
    assert numbers == pytest.approx(expected, abs=0.00501)
    assert ("median" in said) == (lesions > 1)
    labelled = re.search(r"\((?:block|arrangement) (\d+)\)\.$", said)
    assert (labelled is None) == (lesions == 0 or (lesions == 1 and name == "explicit"))
    assert labelled is None or damage[int(labelled[1])] == damage.max()


@pytest.mark.parametrize(("saturated", "said"), [
    ([], None),
    ([(0, 2)], "1 of 3 pairs is saturated: each of both blocks alone"),
    ([(0, 1), (0, 2), (1, 2)], "3 of 3 pairs are saturated: each of both blocks alone"),
])  # fmt: skip
def test_saturated_pairs_are_told(saturated: list[tuple[int, int]], said: str | None) -> None:
    both = np.zeros((3, 3), bool)
    for i, j in saturated:
        both[i, j] = both[j, i] = True
    ran = {"batch_size": 1, "channels_last": False, "compile": False, "slices_run": 1, "states_kept": 1}
    found = {"summary": "3 lesions (pairs) on 1 sample, largest part[0].", "ran": ran}
    tables = {"lesions": pd.DataFrame({"damage": [1.0] * 3, "damage_low": np.nan}), "saturated": pd.DataFrame(both)}
    sentences = lesion.sentences(Record("lesion", {}, {}, {}, "", found, tables))
    assert sentences[0] == "3 lesions (pairs) on 1 sample, largest part[0]."  # no interval, so no word on brackets
    assert [text.startswith(said or "-") for text in sentences[1:-1]] == [True] * (said is not None)
    assert sentences[-1] == "Batches of 1, contiguous; 1 slice a batch, at most 1 state kept."


def test_one_sample_is_one() -> None:
    networks = pd.DataFrame({"model": ["a"], "parameters": 5, "error": 1.0, "error_low": 0.2, "error_high": 1.0,
                             "loss": 2.0, "samples": 1})  # fmt: skip
    assert "Test error on 1 sample of digits" in shown(evaluate, Record("evaluate", {"data": "digits"}, {}, {}, "", {},
                                                                        {"networks": networks}))  # fmt: skip
    assert re.fullmatch(NAME, "layers.10, index 9, and 2 more")
