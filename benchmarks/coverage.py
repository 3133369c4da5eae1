"""Whether 90 % intervals cover 90 % of the networks that nobody measured, over random splits.

    HWNAS_DATA=DIR OPENBLAS_NUM_THREADS=1 python benchmarks/coverage.py [--splits 200] [--networks 40] [--table TABLE --space SPACE] [--json]

Each split draws the networks that are fitted to and that calibrate the interval, each of them left out (`hwnas.intervals`); all others are unseen. Data are the
measured columns of FBNet and Once-for-All in HELP (`network_regression`), and with `--table` the whole networks of a latency table of yours
(`calibrated`; two thirds of them calibrate). The target is on the mean over splits: one split has the coverage of its own draw.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from predictors import fbnet, ofa_codes, rows_of

from hwnas import registry
from hwnas.errors import HwnasError
from hwnas.grouped_ridge import GroupedRidge, Scaling
from hwnas.index import BlockIndex
from hwnas.intervals import LEVEL, margin
from hwnas.latency_table import LatencyTable
from hwnas.predictors.network_regression import NetworkFeatures
from hwnas.space import Codes
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.table_latency import TableLatency, measured_ms, own_networks

LOW, HIGH = 0.88, 0.92

MEASURED = {
    "fbnet": [*(f"{gpu}_{batch}" for gpu in ("1080ti", "titan_rtx") for batch in (1, 32, 64)), "gold_6226", "silver_4114", "samsung_a50"],
    "ofa": ["titan_rtx_64", "2080ti_64", "2080ti_1"],
}
DATA = (
    ("fbnet", "help_fbnet_latency_ms.csv.gz", fbnet, lambda space, rows: np.asfortranarray([list(map(int, row[1].split())) for row in rows], np.int16)),
    ("ofa", "help_ofa_latency_ms.csv.gz", ofa_mobilenet_v3, ofa_codes),
)


def of_columns(index: BlockIndex, codes: Codes, columns: dict[str, np.ndarray], n: int, splits: int) -> dict[str, dict[str, float]]:
    """Coverage of each column, mean and spread over splits, and how wide the interval is."""
    groups = NetworkFeatures(index)(codes)
    scaling = Scaling.of(groups)
    figures = {}
    for name, latency in columns.items():
        inside, widths = [], []
        for split in range(splits):
            order = np.random.default_rng([split, n]).permutation(len(codes))
            few, rest = order[:n], order[n:]
            fit = GroupedRidge(scaling, [each[few] for each in groups], latency[few])
            wide = margin(latency[few], fit.left_out(), LEVEL)
            ratio = (latency / fit.linear(groups))[rest]
            inside.append(float(((ratio <= wide) & (ratio >= 1 / wide)).mean()))
            widths.append(wide - 1)
        figures[name] = {"coverage": float(np.mean(inside)), "spread": float(np.std(inside)), "width": float(np.mean(widths)), "splits": splits}
    return figures


def of_table(folder: Path, space: str, splits: int) -> dict[str, float]:
    """Coverage of the intervals of a table's calibration, over splits of its networks."""
    table, index = LatencyTable.load(folder), BlockIndex(registry.create("spaces", space))
    own, codes = own_networks(table, index)
    truth = measured_ms(own, 0.5)
    inside, widths = [], []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(own))
        few, rest = order[: 2 * len(own) // 3], order[2 * len(own) // 3 :]
        latency = TableLatency(replace(table, networks=tuple(own[i] for i in few)), index)
        found = latency.predict(codes[rest])
        inside.append(float(((truth[rest] >= found.low_ms) & (truth[rest] <= found.high_ms)).mean()))
        widths.append(latency.margin - 1)
    return {"coverage": float(np.mean(inside)), "spread": float(np.std(inside)), "width": float(np.mean(widths)), "splits": splits, "networks": len(own)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of intervals on unseen networks.")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--networks", type=int, default=40, help="networks that are fitted to and calibrate")
    parser.add_argument("--columns", nargs="+", default=[""], help="only columns of these spaces and devices, such as 'fbnet silver_4114'")
    parser.add_argument("--table", type=Path, help="a latency table of yours, in the place of HELP's data")
    parser.add_argument("--space", default="ofa_mini")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    if given.table:
        try:
            figures[str(given.table)] = of_table(given.table, given.space, given.splits)
        except HwnasError as error:
            sys.exit(str(error))
    else:
        for space, file, index_of, codes_of in DATA:
            head, rows = rows_of(file)
            names = [name for name in head if name in MEASURED[space] and any(f"{space} {name}".startswith(each) for each in given.columns)]
            if names:
                index = BlockIndex(index_of())
                columns = {name: np.array([float(row[head.index(name)]) for row in rows]) for name in names}
                found = of_columns(index, codes_of(index.space, rows), columns, given.networks, given.splits)
                figures |= {f"{space} {name}": each for name, each in found.items()}
    if given.json:
        print(json.dumps(figures, indent=1))
        return
    print("unseen networks in 90 % intervals   mean over splits    between splits    half width")
    for name, each in figures.items():
        print(f"{name:34s}  {100 * each['coverage']:10.1f} %  {100 * each['spread']:14.1f} %  {100 * each['width']:10.1f} %")
    mean = float(np.mean([each["coverage"] for each in figures.values()]))
    print(f"mean {100 * mean:.1f} %, target {100 * LOW:.0f} to {100 * HIGH:.0f} %: {'met' if LOW <= mean <= HIGH else 'MISSED'}")


if __name__ == "__main__":
    main()
