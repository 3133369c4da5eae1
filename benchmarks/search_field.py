"""Every registered searcher on the tabular benchmarks, over many seeds: the stored field of `hwnas bench-search`, and the published table.

    HWNAS_DATA=DIR python benchmarks/search_field.py [--benchmark NAME ...] [--searcher NAME ...] [--seeds 100] [--minutes 2] [--table] [--json]

What is stored already (hwnas/search_field.csv, or --to FILE) is not run again: the same command goes on where it stopped, for at most so many
minutes. --again runs it again, after a searcher was changed. --table only prints what is stored. A search is run once for the largest number
of --evaluations: its first 100 are those of a search of 100. A searcher that cannot search a table (it trains weights, or asks for parts of
an evaluation) is named with its reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from hwnas import __version__, registry
from hwnas.errors import HwnasError
from hwnas.search_field import FILE, FieldRow, best_of, read_field, write_field
from hwnas.searcher import trains
from hwnas.tabular_benchmark import TabularBenchmark, traced
from hwnas.verbs.bench_search import BASELINE, BENCHMARKS, compared, standing, stored_searches

NOT_STORED = {"uniform_scaling": "nothing in it is random, and these spaces have nothing that is scaled together"}
TOGETHER = 10  # seeds of one searcher before the next one's turn


def run_on(benchmarks: dict[str, TabularBenchmark], searchers: list[str], given: argparse.Namespace) -> tuple[int, dict[str, str]]:
    """Run what is missing until the time is over: how many searches are left, and reasons of those that cannot be run."""
    until = time.monotonic() + 60 * given.minutes
    rows = {row.key: row for row in read_field(given.to)}
    left, refused, new = 0, dict[str, str](), 0
    for first in range(0, given.seeds, TOGETHER):
        for text, made in benchmarks.items():
            for name in searchers:
                searcher = registry.load("searchers", name)
                if trains(searcher) or name in NOT_STORED:
                    refused[name] = NOT_STORED.get(name, "it trains shared weights")
                for seed in range(first, min(first + TOGETHER, given.seeds)):
                    known = rows.get((text, name, seed))
                    fresh = known and known.data == made.data and known.hwnas == __version__ and known.evaluations >= max(given.evaluations)
                    if name in refused or f"{name} on {text}" in refused or (fresh and not given.again):
                        continue
                    if time.monotonic() > until:
                        left += 1
                        continue
                    try:
                        trace = traced(made, searcher, seed=seed, evaluations=max(given.evaluations))
                    except HwnasError as error:
                        refused[f"{name} on {text}"] = str(error)
                        continue
                    row = FieldRow(text, name, seed, max(given.evaluations), __version__, made.data, best_of(trace, made.problem.space))
                    rows[row.key] = row
                    new += 1
    if new:
        write_field(rows.values(), given.to)
    return left, refused


def printed(text: str, made: TabularBenchmark, rows: list[dict[str, Any]]) -> str:
    """A table in Markdown."""
    points = [at["evaluations"] for at in rows[0]["at"]]
    lines = [f"`{text}`: {made.about}. The best known has {made.best_pct:.2f} %.", "", f"| searcher | {' | '.join(map(str, points))} | against random | |"]
    lines.append(f"|---|{'---|' * len(points)}---|---|")
    for row in rows:
        figures = [f"{at['mean_pct']:.2f} ± {at['sd']:.2f} [{at['low_pct']:.2f}, {at['high_pct']:.2f}]" for at in row["at"]]
        tests = [f"{at['wins']}-{at['losses']}" + (f" p {at['p']:.0e}" if at is row["at"][-1] else "") for at in row["at"]]
        tests = [] if row["searcher"] == BASELINE else tests
        lines.append(f"| {row['searcher']} ({row['seeds']}) | {' | '.join(figures)} | {', '.join(tests)} | {standing(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Every registered searcher on the tabular benchmarks.")
    parser.add_argument("--benchmark", action="append", default=[], help="of the stored field's by default")
    parser.add_argument("--searcher", action="append", default=[], help="all that are registered by default")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[100, 150, 300])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--to", type=Path, default=FILE)
    parser.add_argument("--again", action="store_true", help="also what is stored")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        benchmarks = {text: registry.create("tabular_benchmarks", text) for text in given.benchmark or BENCHMARKS}
        names = given.searcher or registry.names("searchers")
        left, refused = (0, {}) if given.table else run_on(benchmarks, names, given)
        report = {}
        for text, made in benchmarks.items():
            runs = stored_searches(text, made, given.seeds, max(given.evaluations), given.to)
            baseline = next((each.traces for each in runs if each.label == BASELINE), None)
            if baseline is not None:
                report[text] = compared(made, runs, baseline, sorted(given.evaluations))
    except HwnasError as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps({"left": left, "refused": refused, "benchmarks": report}, indent=1))
        return
    for text, rows in report.items():
        print(f"{printed(text, benchmarks[text], rows)}\n")
    for name, reason in refused.items():
        print(f"not run: {name}: {reason}")
    if left:
        print(f"{left} searches are left; the same command goes on")


if __name__ == "__main__":
    main()
