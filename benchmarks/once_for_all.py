"""The search of Once-for-All as we run it against the official finder's algorithm, on a predictor and a latency from published measurements.

    OMP_NUM_THREADS=1 HWNAS_DATA=folder python benchmarks/once_for_all.py [--seeds 10] [--generations 500] [--predictor mlp] [--json]

HWNAS_DATA holds dynas_ofa_mbv3_w10_top1.csv.gz (ImageNet top-1 of 1,106 subnets of Once-for-All's MobileNetV3, which the predictor of accuracy is
fitted to) and help_ofa_latency_ms.csv.gz (latencies on an NVIDIA Titan RTX, batch 64; those at 224 x 224 are fitted by a sum over layers). What is
compared is therefore *predicted* accuracy within a budget on *predicted* latency: how well a finder finds, not how good networks are.

The official algorithm (ofa/nas/search_algorithm/evolution.py at f03b267) is written anew here: 100 candidates, parents the best 25, 50 mutants with
chance 0.1 of each choice to be drawn anew, 50 children of two parents, each drawn again until it is within the budget; duplicates are kept. All methods
have the same seeds and budget; `once_for_all` is asked for as many candidates as the official one scores. With `seeds=0` it begins without an exact optimum.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import FILE as ACCURACIES
from accuracy import SPACE, subnets

from hwnas import registry
from hwnas.accuracy_predictor import fit
from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import HwnasError, InputError
from hwnas.index import BlockIndex
from hwnas.problem import Objective, Problem
from hwnas.searchers.once_for_all import once_for_all
from hwnas.searchers.random_search import random_search
from hwnas.significance import sign_test
from hwnas.space import Codes, FloatArray
from hwnas.surrogate import fit_surrogate

LATENCIES, DEVICE = "help_ofa_latency_ms.csv.gz", "titan_rtx_64"
POPULATION, PARENTS, MUTANTS, MUTATION = 100, 25, 50, 0.1
QUANTILE = 0.06  # of the latencies of random subnets: the budget


def problem_of(folder: Path, predictor: str) -> tuple[Problem, dict[str, Any]]:
    """Predicted accuracy within a budget on predicted latency, and how the predictions were made."""
    index = BlockIndex(registry.create("spaces", SPACE))
    for file in (ACCURACIES, LATENCIES):
        if not (folder / file).is_file():
            raise InputError(f"{folder} has no {file}; set HWNAS_DATA to the folder that has it")
    accuracy = fit(predictor, index, *subnets(folder / ACCURACIES, index))
    with gzip.open(folder / LATENCIES, "rt") as text:
        rows = [row for row in csv.DictReader(text) if row["r"] == "224"]
    values = []
    for row in rows:
        kernels, expands, depths = ([int(each) for each in row[key].split()] for key in ("ks", "e", "d"))
        one: dict[str, int | float | str] = {"resolution": 224}
        for i, (kernel, expand) in enumerate(zip(kernels, expands, strict=True)):
            stage = f"stage{i // 4 + 1}"
            one |= {f"{stage}.block{i % 4}.kernel": kernel, f"{stage}.block{i % 4}.expand": expand, f"{stage}.depth": depths[i // 4]}
        values.append(one)
    codes = np.asfortranarray(np.concatenate([index.space.encode(each) for each in values]))
    latency = fit_surrogate(index, codes, np.array([float(row[DEVICE]) for row in rows]), name="latency", unit="ms")
    limit = float(np.quantile(latency.metric(index.space.sample(np.random.default_rng(0), 10_000)), QUANTILE))
    facts = {"predictor": predictor, "device": DEVICE, "latency_subnets": len(rows), "latency_error_ms": latency.error, "budget_ms": limit}
    return Problem(index, [Objective(accuracy, maximize=True)], [(Budget("latency", limit), latency.metric)]), facts


def official(problem: Problem, seed: int, generations: int) -> float:
    """Accuracy of the best subnet that the official algorithm finds."""
    rng, space = np.random.default_rng(seed), problem.space

    def until_valid(n: int, draw: Callable[[Any], Codes]) -> Codes:
        """draw: rows -> their codes, drawn anew for those over the budget until there are none."""
        found = draw(np.arange(n))
        over = np.flatnonzero(~problem.within(np.asfortranarray(found)))
        while len(over):
            found[over] = draw(over)
            over = over[~problem.within(np.asfortranarray(found[over]))]
        return np.asfortranarray(found)

    def picked(n: int) -> Codes:
        return np.asfortranarray(pool[rng.integers(0, len(pool), n)])

    def score(codes: Codes) -> FloatArray:
        return problem.objectives[0].metric(codes)

    pool = until_valid(POPULATION, lambda rows: space.sample(rng, len(rows)))
    scores = score(pool)
    for _ in range(generations):
        best = np.argsort(-scores, kind="stable")[:PARENTS]
        pool, scores = pool[best], scores[best]
        parent, one, other = picked(MUTANTS), picked(POPULATION - MUTANTS), picked(POPULATION - MUTANTS)
        mutants = until_valid(MUTANTS, lambda rows: np.where(rng.random((len(rows), parent.shape[1])) < MUTATION, space.sample(rng, len(rows)), parent[rows]))  # noqa: B023
        children = until_valid(len(one), lambda rows: space.crossover(one[rows], other[rows], rng))  # noqa: B023
        born = np.concatenate([mutants, children])
        pool, scores = np.concatenate([pool, born]), np.concatenate([scores, score(np.asfortranarray(born))])
    return float(scores.max())


def ours(problem: Problem, seed: int, generations: int, searcher: Any = once_for_all, **options: int) -> float:
    found = drive(searcher, problem, seed=seed, evaluations=POPULATION * (generations + 1), options=options)
    return float(found.scores.values[found.ranked()[0], 0])


def main() -> None:
    parser = argparse.ArgumentParser(description="The search of Once-for-All against the official finder's algorithm.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--generations", type=int, default=500)
    parser.add_argument("--predictor", default="mlp", help="of accuracy, fitted to the measured subnets")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.seeds < 2 or given.generations < 1:
        sys.exit("--seeds must be at least 2 and --generations at least 1")
    try:
        problem, facts = problem_of(Path(os.environ.get("HWNAS_DATA", ".")), given.predictor)
    except HwnasError as error:
        sys.exit(str(error))
    methods: dict[str, Callable[[int], float]] = {
        "official algorithm": lambda seed: official(problem, seed, given.generations),
        "once_for_all": lambda seed: ours(problem, seed, given.generations),
        "once_for_all, seeds=0": lambda seed: ours(problem, seed, given.generations, seeds=0),
        "random_search": lambda seed: ours(problem, seed, given.generations, random_search, batch=POPULATION),
    }
    found, seconds = {name: np.empty(given.seeds) for name in methods}, {name: np.empty(given.seeds) for name in methods}
    for seed in range(given.seeds):
        for name, method in methods.items():  # by turns, so that what disturbs one disturbs all
            started = time.perf_counter()
            found[name][seed] = method(seed)
            seconds[name][seed] = time.perf_counter() - started
    base = found["official algorithm"]
    rows = [
        {
            "method": name,
            "accuracy_pct": float(values.mean()),
            "sd": float(values.std(ddof=1)),
            "worst_pct": float(values.min()),
            "median_s": float(np.median(seconds[name])),
            **asdict(sign_test(values, base)),
        }
        for name, values in found.items()
    ]
    if given.json:
        print(json.dumps({**facts, "seeds": given.seeds, "generations": given.generations, "rows": rows}, indent=1))
        return
    print(
        f"{SPACE}: {POPULATION * (given.generations + 1):,} candidates scored by {facts['predictor']} (predicted accuracy), within "
        f"{facts['budget_ms']:.4g} ms predicted from {facts['latency_subnets']} latencies on {DEVICE} (off by {facts['latency_error_ms']:.2g} ms on average)"
    )
    print(f"{'method':24s} {'best, mean of ' + str(given.seeds) + ' seeds':>26s}   worst    seconds  won-lost against the official algorithm")
    for row in rows:
        print(
            f"{row['method']:24s} {row['accuracy_pct']:16.4f} ± {row['sd']:.4f} % {row['worst_pct']:8.4f} {row['median_s']:8.2f}   "
            f"{row['wins']}-{row['losses']} (p {row['p']:.1e})"
        )


if __name__ == "__main__":
    main()
