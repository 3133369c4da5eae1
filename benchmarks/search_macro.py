"""A searcher, by default regularised evolution, against random search under a MACs budget, on trained networks: NAS-Bench-Macro, CIFAR-10.

    HWNAS_DATA=folder python benchmarks/search_macro.py [--searcher NAME] [--seeds 50] [--evaluations 50 100 200] [--set OPTION=VALUE] [--json]

HWNAS_DATA holds nas_bench_macro_cifar10.csv.gz: columns arch, acc0, acc1, acc2, mean_acc, params, flops, one row for each of the
6,561 networks (github.com/xiusu/NAS-Bench-Macro). Both searchers have the same seeds and evaluations. "validation" is what they
maximise, the accuracy of the first training of a network; "test" is the mean of its two other trainings, which they do not see.
The sign tests are over seeds, ties left out.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.driver import drive
from hwnas.errors import HwnasError, InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive, Origin
from hwnas.problem import Objective, Problem
from hwnas.searcher import Searcher, parse_options
from hwnas.searchers.random_search import random_search
from hwnas.significance import sign_test
from hwnas.space import Codes, FloatArray
from hwnas.spaces.nas_bench_macro import nas_bench_macro

FILE = "nas_bench_macro_cifar10.csv.gz"
EVERYTHING = np.asfortranarray(np.indices((3,) * 8).reshape(8, -1).T, np.int16)


class TrainedAccuracy:
    """Accuracy in percent of every network of the space, by its code."""

    name, unit, expensive = "accuracy", "%", True
    origin: Origin = "measured"

    def __init__(self, table: FloatArray):
        """table: (3,) * 8."""
        self.table = table

    def __call__(self, codes: Codes) -> FloatArray:
        values: FloatArray = self.table[tuple(codes.T)]
        return values


def read(folder: Path) -> tuple[FloatArray, FloatArray]:
    """Accuracies in percent, of the first training and the mean of the other two, each (3,) * 8."""
    if not (folder / FILE).is_file():
        raise InputError(f"{folder} has no {FILE}; set HWNAS_DATA to the folder that has it")
    validation, test = np.full((3,) * 8, np.nan), np.full((3,) * 8, np.nan)
    with gzip.open(folder / FILE, "rt") as file:
        for row in csv.DictReader(file):
            code = tuple(map(int, row["arch"]))
            validation[code], test[code] = float(row["acc0"]), (float(row["acc1"]) + float(row["acc2"])) / 2
    return validation, test


def problem(accuracy: FloatArray, share: float) -> Problem:
    """Accuracy under a share of the largest network's MACs."""
    index = BlockIndex(nas_bench_macro())
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    return Problem(index, [Objective(TrainedAccuracy(accuracy), maximize=True)], [(Budget("macs", None, share=share), cost)])


def compare(folder: Path, name: str, seeds: int, evaluations: list[int], share: float, options: list[str]) -> dict[str, Any]:
    """The report: per number of evaluations and kind of accuracy, mean and standard deviation of both searchers and the sign test."""
    searched: Searcher = registry.load("searchers", name)
    validation, test = read(folder)
    task = problem(validation, share)
    inside = task.within(EVERYTHING)
    kinds = {"validation": validation, "test": test}
    rows = []
    for n in evaluations:
        found = {searcher: np.empty((seeds, len(kinds))) for searcher in (random_search, searched)}
        for searcher, values in found.items():
            chosen = parse_options(searcher, options if searcher is searched else [])
            for seed in range(seeds):
                result = drive(searcher, task, seed=seed, evaluations=n, options=chosen)
                best = tuple(result.codes[result.ranked()[0]])
                values[seed] = [table[best] for table in kinds.values()]
        for i, kind in enumerate(kinds):
            random, other = (values[:, i] for values in found.values())
            spread = {"random_pct": random.mean(), "random_sd": random.std(ddof=1), "searcher_pct": other.mean(), "searcher_sd": other.std(ddof=1)}
            rows.append({"evaluations": n, "accuracy": kind, **{name: float(value) for name, value in spread.items()}, **asdict(sign_test(other, random))})
    best_pct = {kind: float(table.reshape(-1)[inside].max()) for kind, table in kinds.items()}
    return {
        "space": task.space.name,
        "searcher": name,
        "budget_macs": task.budgets[0][0].limit,
        "feasible": int(inside.sum()),
        "seeds": seeds,
        "options": options,
        "best_pct": best_pct,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A searcher against random search on NAS-Bench-Macro.")
    parser.add_argument("--searcher", default="regularized_evolution")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--share", type=float, default=0.5, help="budget as a share of the largest network's MACs")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="option of the searcher")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        report = compare(Path(os.environ.get("HWNAS_DATA", ".")), given.searcher, given.seeds, given.evaluations, given.share, given.set)
    except HwnasError as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['space']}: {report['feasible']} of 6561 networks within {report['budget_macs'] / 1e6:.1f} M MACs; {given.seeds} paired seeds")
    print(f"the best of them: {', '.join(f'{value:.2f} % {kind}' for kind, value in report['best_pct'].items())}")
    print(f"evaluations  accuracy     random           {given.searcher:16s} wins-losses  p (sign test)")
    for row in report["rows"]:
        print(
            f"{row['evaluations']:11d}  {row['accuracy']:10s}  {row['random_pct']:6.2f} ± {row['random_sd']:4.2f} %  "
            f"{row['searcher_pct']:6.2f} ± {row['searcher_sd']:4.2f} %  {row['wins']:5d}-{row['losses']:<6d}  {row['p']:.1e}"
        )


if __name__ == "__main__":
    main()
