"""A new device from 10 and 20 measured networks and the other devices' latencies: NAS-Bench-201, each of the eleven columns of HELP's data in turn.

    HWNAS_DATA=DIR python benchmarks/few_shot.py [--seeds 20] [--json]

The unknown device is one column; every column of its hardware (other batches) is hidden from the predictor. The measured networks are random ones of the inner
80 % of its latencies, all others of these are predicted (the trimming of Lee et al., 2021). Beside it, for scale: a ridge regression on counts of operators and
the known devices, whose one strength of penalty is the same for all devices. The predictor has no such number: it takes what it needs from the known devices.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from hwnas.predictors.proxy_device import DevicePrior

SHOTS = (10, 20)
TARGETS = {10: 0.945, 20: 0.960}
OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
RIDGE = 0.3  # of the scale lines


def rows_of(name: str) -> list[list[str]]:
    folder = os.environ.get("HWNAS_DATA")
    if not folder or not (path := Path(folder) / name).is_file():
        sys.exit(f"set HWNAS_DATA to the folder that holds {name}")
    with gzip.open(path, "rt") as file:
        return list(csv.reader(file))


def load() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Counts of operators (15,625, 5) of each cell as it is written, latencies in ms (15,625, devices), names of the devices."""
    head, *rows = rows_of("help_nasbench201_latency_ms.csv.gz")
    latency = np.array([[float(value) for value in row[1:]] for row in rows])
    counts = np.zeros((len(rows), len(OPERATORS)))
    for index, cell, *_ in rows_of("nb201_accuracy.csv.gz")[1:]:
        counts[int(index)] = [cell.count(f"{operator}~") for operator in OPERATORS]
    return counts, latency, head[1:]


def hardware_of(column: str) -> str:
    """titan_rtx_256 -> titan_rtx: what stands behind the last underscore is a batch where it is a number below 1,000."""
    name, _, batch = column.rpartition("_")
    return name if batch in ("1", "32", "256") else column


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def ridge(features: np.ndarray, rows: np.ndarray, latency: np.ndarray) -> np.ndarray:
    """Predictions (N,) of a ridge regression on standardised features."""
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    x = x - x[rows].mean(axis=0)
    solved = np.linalg.solve(x[rows] @ x[rows].T / x.shape[1] + RIDGE * np.eye(len(rows)), latency[rows] - latency[rows].mean())
    return latency[rows].mean() + x @ (x[rows].T @ solved) / x.shape[1]


def judge(counts: np.ndarray, latency: np.ndarray, names: Sequence[str], device: int, seeds: int) -> dict[str, Any]:
    hardware = [hardware_of(name) for name in names]
    others = [i for i in range(len(names)) if hardware[i] != hardware[device]]
    known, truth = latency[:, others], latency[:, device]
    prior = DevicePrior(counts, known, [hardware[i] for i in others])
    order = np.argsort(truth, kind="stable")
    inner = order[len(order) // 10 : len(order) - len(order) // 10]
    figures: dict[str, Any] = {"device": names[device]}
    for shots in SHOTS:
        found: dict[str, list[float]] = {key: [] for key in ("spearman", "mape", "coverage", "ridge", "counts", "nearest")}
        for seed in range(seeds):
            rows = np.random.default_rng([seed, device]).permutation(inner)[:shots]
            rest = np.setdiff1d(inner, rows)
            fit = prior.fitted(counts[rows], known[rows], truth[rows])
            groups = prior.groups(counts[rest], known[rest])
            predicted = fit.linear(groups)
            found["spearman"].append(spearman(predicted, truth[rest]))
            found["mape"].append(float(np.abs(predicted / truth[rest] - 1).mean()))
            found["coverage"].append(float((np.abs(predicted - truth[rest]) <= 1.645 * fit.std(groups)).mean()))
            found["ridge"].append(spearman(ridge(np.concatenate([counts, known], axis=1), rows, truth)[rest], truth[rest]))
            found["counts"].append(spearman(ridge(counts, rows, truth)[rest], truth[rest]))
            fits = [np.corrcoef(known[rows, i], truth[rows])[0, 1] for i in range(known.shape[1])]
            found["nearest"].append(spearman(known[rest, int(np.argmax(fits))], truth[rest]))
        figures[str(shots)] = {key: float(np.mean(values)) for key, values in found.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Few-shot prediction of a new device.")
    parser.add_argument("--seeds", type=int, default=20, help="draws of measured networks for each device")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    counts, latency, names = load()
    devices = [judge(counts, latency, names, i, given.seeds) for i in range(len(names))]
    means = {str(n): {key: float(np.mean([each[str(n)][key] for each in devices])) for key in devices[0][str(n)]} for n in SHOTS}
    if given.json:
        print(json.dumps({"seeds": given.seeds, "devices": devices, "mean": means}, indent=1))
        return
    print("Spearman with 10 / 20 measured networks     proxy_device    ridge, all    ridge, counts  likest device   error (mean)    in 90 % interval")
    for name, each in [*((each["device"], each) for each in devices), ("mean", means)]:
        columns = ["  ".join(f"{each[str(n)][key]:.3f}" for n in SHOTS) for key in ("spearman", "ridge", "counts", "nearest")]
        columns += ["  ".join(f"{100 * each[str(n)][key]:4.1f}%" for n in SHOTS) for key in ("mape", "coverage")]
        print(f"{name:42s}  {'   '.join(columns)}")
    for n in SHOTS:
        worst = min(devices, key=lambda each: each[str(n)]["spearman"])
        value = means[str(n)]["spearman"]
        verdict = "met" if value >= TARGETS[n] else "MISSED"
        print(f"{n} networks: {value:.4f}, target {TARGETS[n]:.3f} {verdict}; worst device {worst['device']} {worst[str(n)]['spearman']:.3f}")


if __name__ == "__main__":
    main()
