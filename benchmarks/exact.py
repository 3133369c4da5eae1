"""Exact search on one core: the whole front of a large space, and one budget through the integer programme; the two must agree.

    python benchmarks/exact.py [--space ofa_mobilenet_v3] [--table FOLDER] [--budgets 20] [--seeds 2] [--json]

Costs are random prices that follow MACs as a device's do, drawn per seed, and with --table the prices of a measured table (its plain sum
where it has no networks to calibrate with). The objective is drawn per seed too: "rough" is worth sqrt(MACs) a block with noise of
its own, so that the best resolution stands out; "smooth" is log(1 + MACs), which every resolution reaches in its own way. Budgets are
quantiles of the cost of uniform samples. The index is built beforehand. Evolution on the same objective must never be better.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.driver import drive
from hwnas.errors import HwnasError, InputError
from hwnas.exact import pareto_front, solve
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import calibrated
from hwnas.predictors.lookup import lookup
from hwnas.problem import Objective, Problem
from hwnas.searchers.regularized_evolution import regularized_evolution
from hwnas.space import FloatArray

FRONT_TARGET_S, BUDGET_TARGET_S, DIFFERENCE_TARGET = 1.0, 2.0, 1e-9
EVOLVED_BUDGETS = 3  # of the budgets, how many evolution is tried on


def rough(work: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.sqrt(work) * np.exp(0.3 * rng.standard_normal(len(work)))


def smooth(work: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.log1p(work)


OBJECTIVES: dict[str, Callable[[FloatArray, np.random.Generator], FloatArray]] = {"rough": rough, "smooth": smooth}


def costs(index: BlockIndex, table: Path | None, seeds: int) -> Iterator[tuple[str, int, Additive]]:
    """(name, seed, latency in ms) of every cost to try."""
    work = macs(index.blocks)
    for seed in range(seeds):
        noise = np.exp(0.3 * np.random.default_rng([1, seed]).standard_normal(len(work)))
        prices = np.where(work > 0, 0.02 + work / 2e8 * noise, 0.0)
        yield f"random {seed}", seed, Additive(index, prices, name="latency", unit="ms", constant=0.3, origin="simulated")
    if table is not None:
        loaded = LatencyTable.load(table)
        try:
            metric = calibrated(loaded, index)
        except InputError:
            metric = Additive(index, lookup(loaded, index.space.name).prices(index.blocks), name="latency", unit="ms")
        yield "table", 0, metric


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def measure(index: BlockIndex, objective: Additive, cost: Additive, budgets: int, evaluations: int) -> dict[str, Any]:
    """Seconds of the front and of each budget, how far the two differ, and how far evolution stays behind."""
    times, fronts = zip(*(seconds(lambda: pareto_front(objective, cost)) for _ in range(3)), strict=True)
    front = fronts[0]
    sampled = cost(index.space.sample(np.random.default_rng(0), 10_000))
    limits = np.quantile(sampled, (np.arange(budgets) + 0.5) / budgets)
    spent, differences, gaps, behind = [], [], [], []
    for number, limit in enumerate(map(float, limits)):
        budget = (Budget("latency", limit), cost)
        took, found = seconds(lambda budget=budget: solve(objective, [budget]))
        best = float(front.within(limit).values[-1])
        spent.append(took)
        differences.append(abs(found.value - best) / abs(best))
        gaps.append(found.gap / abs(best))
        if number % max(budgets // EVOLVED_BUDGETS, 1) == 0:
            problem = Problem(index, [Objective(objective, maximize=True)], [budget])
            # Without seeds: those are the exact optimum itself here, and evolution could not but agree.
            options = {"population": 100, "tournament": 10, "children": 50, "seeds": 0}
            evolved = drive(regularized_evolution, problem, seed=0, evaluations=evaluations, options=options)
            behind.append(1 - float(evolved.scores.values[evolved.ranked()[0], 0]) / best)
    return {
        "front": len(front),
        "front_s": statistics.median(times),
        "budget_median_s": statistics.median(spent),
        "budget_max_s": max(spent),
        "largest_relative_difference": max(differences),
        "largest_relative_gap": max(gaps),
        "evolution_behind_least": min(behind),
        "evolution_behind_most": max(behind),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact search on one core.")
    parser.add_argument("--space", default="ofa_mobilenet_v3")
    parser.add_argument("--table", type=Path, help="folder of a latency table with all blocks of the space")
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2, help="random tables")
    parser.add_argument("--evaluations", type=int, default=2_000, help="of evolution, for each budget that it tries")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.budgets < 1 or given.seeds < 0 or given.evaluations < 100:
        sys.exit("--budgets must be at least 1, --seeds at least 0, --evaluations at least 100")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        index = BlockIndex(registry.create("spaces", given.space))
        work = macs(index.blocks)
        rows = []
        for name, seed, cost in costs(index, given.table, given.seeds):
            for kind, worth in OBJECTIVES.items():
                objective = Additive(index, worth(work, np.random.default_rng([2, seed])), name=kind, unit="")
                rows.append({"cost": name, "objective": kind, **measure(index, objective, cost, given.budgets, given.evaluations)})
    except HwnasError as error:
        sys.exit(str(error))
    report = {"space": index.space.name, "budgets": given.budgets, "front_target_s": FRONT_TARGET_S, "budget_target_s": BUDGET_TARGET_S, "rows": rows}
    wrong = [row for row in rows if row["largest_relative_difference"] > DIFFERENCE_TARGET or row["evolution_behind_least"] < -DIFFERENCE_TARGET]
    if given.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"{index.space.name}: {len(index.blocks)} distinct blocks; {given.budgets} budgets; one core; evolution with {given.evaluations:,} evaluations")
        print(f"targets: front <= {FRONT_TARGET_S:g} s, budget <= {BUDGET_TARGET_S:g} s (median), difference <= {DIFFERENCE_TARGET:g}, evolution never ahead")
        print("cost       objective  front  front s  budget s (largest)  difference      gap  evolution behind")
        for row in rows:
            times = f"{row['front']:6d} {row['front_s']:8.3f} {row['budget_median_s']:9.3f} ({row['budget_max_s']:.3f})"
            agreement = f"{row['largest_relative_difference']:14.1e} {row['largest_relative_gap']:8.1e}"
            behind = f"{row['evolution_behind_least']:.2%} to {row['evolution_behind_most']:.2%}"
            print(f"{row['cost']:<10} {row['objective']:<9} {times} {agreement}  {behind}")
    if wrong:
        sys.exit("front, programme and evolution disagree")


if __name__ == "__main__":
    main()
