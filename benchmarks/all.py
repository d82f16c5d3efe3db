"""Run benchmarks in full and write RESULTS.md.  python benchmarks/all.py [--quick] [NAME ...]

With names, only those are run; the sections of the others stay as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _harness import machine

HERE = Path(__file__).parent
NAMES = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_") and p.stem not in ("all", "coverage"))
NOTES = {
    "lesion": """\
Sharing alone gives 1.93 for `single` of 54 blocks. The rest depends on the memory allocator: with glibc's defaults the
eager model's time varies by up to twice between processes, as memory is given back to the system and fetched again.
With `MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=1000000000`, which prevents that on both sides, 32 images
gave 2.2 for `single` and 2.3 for `single-compiled`, where they gave 2.2 and 2.6 without (AMD EPYC, 2 threads,
torch 2.14.1, 2026-11-24).

""",
    "prune": """\
A line a budget: of every method the error (of GPT-2 the loss) on samples that chose nothing, in brackets how much more
that is than of `exchange` with its paired 95 % interval, the part of the latency that stays, and the seconds of the
processor of the search for all budgets of the network. Raw rows, with blocks and intervals: `pruning.json`. The best of
the others at a budget is the one with the least error on the samples that judge, so that luck is on its side; where it
is equal, the two mostly remove the same blocks. The first batch of evolution is not that of the hardest samples, as it
is in `resect prune`. Lines of networks that are refitted (`resect prune --refit`, here on the samples that choose): in
brackets how much more that is than of `exchange` refitted, and the seconds of the fit. A quarter of the batches says
how strong its ridge is, and whether it does any good, by the divergence from the intact network; the pairs of MiniLM
are one batch, so that nothing is fitted there. On ResNet-110 256 images choose: with 64, on the same network,
`exchange` had the least divergence of all on those images (0.194 without 18 blocks, EvoPress 0.211), and on the 1,000
others 21.0 % (EvoPress 15.8, a difference of 5.2 points, 3.1 to 7.4).

""",
}
_KNOWN = set("case baseline_s resect_s ratio spread wanted equal largest_difference threads torch".split())


def main() -> None:
    """Each benchmark in a process of its own; a section and a table each."""
    options = ["--json", *(["--quick"] if "--quick" in sys.argv else [])]
    asked = [name for name in sys.argv[1:] if name != "--quick"] or NAMES
    results = HERE / "RESULTS.md"
    written = results.read_text(encoding="utf-8").split("\n## ")[1:] if results.exists() else []
    sections = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in written}
    for name in asked:
        command = [sys.executable, str(HERE / f"{name}.py"), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        sections[name] = f"{machine()}\n\n{NOTES.get(name, '')}{table(rows)}"
    parts = ["# Benchmark results\n\nMade by `make bench`; ratio above 1: resect is faster."]
    parts += [f"## {name}\n\n{sections[name].rstrip()}" for name in sorted(sections)]
    results.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Timed cases as a table, all others as a list."""
    lines = []
    if any("ratio" in row for row in rows):
        lines.append(
            "| case | baseline, s | resect, s | ratio | spread | to reach | equal | largest difference | sizes |"
        )
        lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "ratio" in row:
            low, high = row["spread"]
            sizes = ", ".join(f"{k} {v}" for k, v in row.items() if k not in _KNOWN)
            cells = [row["case"], f"{row['baseline_s']:.2f}", f"{row['resect_s']:.2f}", f"{row['ratio']:.2f}"]
            cells += [f"{low:.2f} to {high:.2f}", str(row["wanted"] or ""), "yes" if row["equal"] else "no"]
            cells += [f"{row['largest_difference']:.1e}", sizes]
            lines.append("| " + " | ".join(cells) + " |")
    if lines:
        lines.append("")
    for row in rows:
        if "ratio" not in row:
            facts = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "case"]
            lines.append(f"- {row['case']}: {', '.join(facts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
