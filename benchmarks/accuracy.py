"""Predictors of accuracy on measured subnets of Once-for-All's MobileNetV3 (w1.0, ImageNet top-1; DyNAS-T, Apache-2.0), read through HWNAS_DATA.

    OMP_NUM_THREADS=1 HWNAS_DATA=FOLDER python benchmarks/accuracy.py [--seeds 10] [--train 500] [--only NAME ...] [--json]

The file lists some subnets twice, under other values for layers that are skipped; each counts once, so that none is in both halves. For every seed
each predictor is fitted to 500 random subnets and says the accuracy of all others. Shown are means over seeds; in brackets the 95 % interval of a
single seed, a bootstrap over the subnets left out, its ends averaged over seeds, and the worst seed. Coverage is that of 90 % intervals on the subnets
left out, whose width comes from five folds of the 500 alone. MACs and parameters are lines through a logarithm, ridge is one-hot with both.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.accuracy_predictor import LEVEL, calibrated, fit, left_out
from hwnas.accuracy_quality import accuracy_quality
from hwnas.index import BlockIndex
from hwnas.space import Codes, FloatArray

SPACE = "ofa_mobilenet_v3(resolutions=(224,))"
FILE = "dynas_ofa_mbv3_w10_top1.csv.gz"
TARGETS = {"kendall": 0.95, "mae": 0.07}  # at least, at most


def subnets(path: Path, index: BlockIndex) -> tuple[Codes, FloatArray]:
    """Distinct subnets of the file: codes (n, choices), ImageNet top-1 in %, (n,)."""
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    codes = []
    for row in rows:
        kernels, expands, depths = ([int(each) for each in row[key].split()] for key in ("ks", "e", "d"))
        values: dict[str, int | float | str] = {"resolution": int(row["r"])}
        for i, (kernel, expand) in enumerate(zip(kernels, expands, strict=True)):
            stage, block = f"stage{i // 4 + 1}", i % 4
            values |= {f"{stage}.block{block}.kernel": kernel, f"{stage}.block{block}.expand": expand, f"{stage}.depth": depths[i // 4]}
        codes.append(index.space.encode(values)[0])
    found, top1 = np.array(codes), np.array([float(row["imagenet_top1"]) for row in rows])
    kept = index.first_rows(found)
    return np.asfortranarray(found[kept]), top1[kept]


def of_seed(name: str, index: BlockIndex, codes: Codes, top1: FloatArray, train: int, seed: int) -> dict[str, Any]:
    """Figures of one predictor on what one seed leaves out."""
    order = np.random.default_rng(seed).permutation(len(codes))
    known, rest = np.asfortranarray(codes[order[:train]]), np.asfortranarray(codes[order[train:]])
    started = time.perf_counter()
    metric = fit(name, index, known, top1[order[:train]])
    seconds = time.perf_counter() - started
    predictor = calibrated(metric, top1[order[:train]], left_out(name, index, known, top1[order[:train]], seed=seed))
    truth = top1[order[train:]]
    low, high = predictor.interval(rest)
    found = accuracy_quality(truth, metric(rest), inside=(low <= truth) & (truth <= high), seed=seed)
    figures = {key: getattr(found, key) for key in ("kendall", "spearman", "mae", "coverage")}
    return {key: (each.value, each.low, each.high) for key, each in figures.items()} | {"width": float((high - low).mean()), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description="Predictors of accuracy on measured subnets of Once-for-All.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    data = os.environ.get("HWNAS_DATA")
    if not data:
        sys.exit(f"HWNAS_DATA names no folder with {FILE}")
    index = BlockIndex(registry.create("spaces", SPACE))
    codes, top1 = subnets(Path(data) / FILE, index)
    if given.seeds < 1 or not 20 <= given.train <= len(codes) - 20:
        sys.exit(f"--seeds must be at least 1 and --train from 20 to {len(codes) - 20}")
    rows = {}
    for name in given.only or registry.names("accuracy_predictors"):
        each = [of_seed(name, index, codes, top1, given.train, seed) for seed in range(given.seeds)]
        rows[name] = {key: np.mean([one[key] for one in each], axis=0).tolist() for key in each[0]}
        rows[name] |= {"worst_kendall": min(one["kendall"][0] for one in each), "worst_mae": max(one["mae"][0] for one in each)}
        print(f"{name} done", file=sys.stderr, flush=True)
    report = {"subnets": len(codes), "train": given.train, "seeds": given.seeds, "level": LEVEL, "targets": TARGETS, "predictors": rows}
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{given.train} of {len(codes)} measured subnets fitted, the rest predicted, {given.seeds} seeds")
    print(f"targets: Kendall >= {TARGETS['kendall']}, mean error <= {TARGETS['mae']} points of top-1")
    heads = (("predictor", 18), ("Kendall", 27), ("worst", 6), ("Spearman", 27), ("mean error", 27), ("worst", 6), ("90 % intervals hold", 22), ("width", 6))
    print(*(f"{head:{width}s}" for head, width in heads), "fit s met")
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["kendall"][0]):
        met = "yes" if row["kendall"][0] >= TARGETS["kendall"] and row["mae"][0] <= TARGETS["mae"] else "no"
        kendall, spearman, mae, coverage = (row[key] for key in ("kendall", "spearman", "mae", "coverage"))
        print(
            f"{name:18s} {_shown(kendall):27s} {row['worst_kendall']:.4f} {_shown(spearman):27s} {_shown(mae):27s} {row['worst_mae']:.4f} "
            f"{_shown([100 * x for x in coverage], '.1f'):22s} {row['width']:6.3f} {row['seconds']:5.1f} {met}"
        )


def _shown(figure: Any, digits: str = ".4f") -> str:
    value, low, high = (format(x, digits) for x in figure)
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
