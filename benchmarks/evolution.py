"""Evolution as Once-for-All runs it, 100 candidates in 500 rounds, through the public `search` with a run folder, on one core.

    OPENBLAS_NUM_THREADS=1 python benchmarks/evolution.py [--repeats 5] [--json]

Accuracy is predicted by a perceptron with three hidden layers of 400 (random weights: only time is shown), latency by a table with a
row for every block and networks that calibrate it (simulated prices: no latency is claimed). Five resolutions; the budget is the 6 %
quantile of the latencies of uniform samples. Beside it, in the same process: the bare perceptron on as many rows, 100 at a time, and a
plain one-hot encoding before it. Published figures for the same job: 10 to 78 s with the official finders.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas import registry
from hwnas.architecture import Architecture
from hwnas.costs import macs
from hwnas.features import OneHot
from hwnas.graph import block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import Conditions, LatencyTable, Measurement, NetworkMeasurement
from hwnas.predictor import Additive
from hwnas.predictors.accuracy_mlp import AccuracyMlp
from hwnas.predictors.calibrated import calibrated
from hwnas.profiling.plan import calibration_networks

SPACE = "ofa_mobilenet_v3(resolutions=(128, 160, 176, 192, 224))"
POPULATION, ROUNDS, HIDDEN, TARGET_S = 100, 500, (400, 400, 400), 1.0
EVALUATIONS = POPULATION * (ROUNDS + 1)


def perceptron(index: BlockIndex) -> AccuracyMlp:
    rng = np.random.default_rng(0)
    sizes = [OneHot(index).width, *HIDDEN, 1]
    layers = [(rng.normal(0, (2 / n) ** 0.5, (n, m)).astype(np.float32), rng.normal(0, 0.1, m).astype(np.float32)) for n, m in pairwise(sizes)]
    return AccuracyMlp(index, layers)


def simulated_table(index: BlockIndex) -> LatencyTable:
    """A row for every block, with prices that follow MACs; 24 networks whose latency is the sum with 1 % noise."""
    rng = np.random.default_rng(1)
    work = macs(index.blocks)
    prices = np.where(work > 0, 0.02 + work / 2e8 * np.exp(0.3 * rng.standard_normal(len(work))), 0.0)
    rows = {}
    for block, price in zip(index.blocks, prices, strict=True):
        if block:
            rows[block_text(block)] = Measurement(float(price), float(price), float(price), float(price), 1, 1, 1)
    codes = calibration_networks(index, 24, rng)
    values = (Additive(index, prices, name="latency", unit="ms")(codes) + 0.3) * rng.normal(1, 0.01, len(codes))
    fingerprint = index.fingerprint
    networks = tuple(
        NetworkMeasurement(Architecture.of(index.space, code), fingerprint, ms, ms, ms, 1, 0) for code, ms in zip(codes, values.tolist(), strict=True)
    )
    conditions = Conditions("simulated", "none", "none", "0", 1, "none")
    return replace(LatencyTable(conditions, rows, networks), origin="simulated")


def bare(predictor: AccuracyMlp, codes: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Seconds of the perceptron alone on EVALUATIONS rows, and with the encoding."""
    x = predictor.features(codes)
    started = time.perf_counter()
    for _ in range(EVALUATIONS // len(codes)):
        y = x
        for weight, bias in predictor.layers[:-1]:
            y = y @ weight
            y += bias
            np.maximum(y, 0, out=y)
        y @ predictor.layers[-1][0]
    alone = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(EVALUATIONS // len(codes)):
        predictor(codes)
    return alone, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Evolution, 100 x 500, through the public search.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.repeats < 1:
        sys.exit("--repeats must be at least 1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    index = BlockIndex(registry.create("spaces", SPACE))
    predictor, table = perceptron(index), simulated_table(index)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table.save(folder / "table")
        sampled = calibrated(table, index)(index.space.sample(np.random.default_rng(0), 10_000))
        limit = float(np.quantile(sampled, 0.06))
        rows = []
        for repeat in range(given.repeats):
            started = time.perf_counter()
            found = hwnas.search(
                folder / f"run{repeat}",
                table=folder / "table",
                latency=f"<= {limit:.6f}ms p50",
                space=SPACE,
                accuracy=predictor,
                evaluations=EVALUATIONS,
                options=[f"population={POPULATION}", f"children={POPULATION}", "tournament=10"],
                baselines=False,
                seed=repeat,
                threads=1,
            )
            whole = time.perf_counter() - started
            alone, encoded = bare(predictor, index.space.sample(np.random.default_rng(repeat), POPULATION))
            rows.append({"call_s": whole, "search_s": found["seconds"], "perceptron_s": alone, "with_encoding_s": encoded})
    report = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    report |= {"evaluations": EVALUATIONS, "features": predictor.features.width, "ratio": report["search_s"] / report["perceptron_s"], "target_s": TARGET_S}
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{EVALUATIONS:,} evaluations of a {report['features']}-{'-'.join(map(str, HIDDEN))}-1 perceptron, one core, median of {given.repeats}")
    print(f"search with its run folder and the surrogate's gap   {report['search_s']:.2f} s   (target {TARGET_S:g} s)")
    print(f"the whole call, with space, table and files          {report['call_s']:.2f} s")
    print(f"the perceptron alone, 100 rows at a time             {report['perceptron_s']:.2f} s   ({report['ratio']:.2f} times as long)")
    print(f"with the encoding                                    {report['with_encoding_s']:.2f} s")


if __name__ == "__main__":
    main()
