"""Twenty latency budgets in the Once-for-All space, each searched and certified on this CPU: how many are kept, and how much of them is used.

    OMP_NUM_THREADS=1 python benchmarks/twenty_budgets.py FOLDER [--minutes 8] [--budgets 20] [--seconds 90] [--top 8] [--json]

FOLDER keeps everything: the latency table of this machine (`hwnas profile`, where it is not there yet), and a run for each budget. The same command
goes on where it stopped, and --minutes ends it after the budget in progress. Budgets are spaced evenly in the logarithm between the least and the
greatest predicted p50 of the space. Each is searched by regularised evolution under a stand-in for accuracy (the sum over layers of the square root of
their MACs: what is certified here is latency), and `hwnas verify --random-weights --use 98 --top 8` measures files on ONNX Runtime as it does for any
run; latency does not depend on what weights are trained to. Used is the measured p50 over the budget. Beside it, of the same table: the best network
predicted within the budget, as a hard filter on the prediction alone would ship it, and in how many budgets its measured p50 is over.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas import registry
from hwnas.costs import macs
from hwnas.errors import HwnasError
from hwnas.files import read_json, write_json
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import calibrated

SPACE = "ofa_mobilenet_v3(resolutions=(160, 192, 224))"
ENDS = (1.15, 0.9)  # of the least and of the greatest latency: beyond, one network or none is within


def stand_in(index: BlockIndex) -> Additive:
    """Larger blocks are better, with diminishing returns."""
    return Additive(index, np.sqrt(macs(index.blocks)) / 1e3, name="stand-in", unit="%")


def measured_table(folder: Path, visits: int, networks: int) -> LatencyTable:
    if not (folder / "table.toml").is_file():
        hwnas.profile("localhost", space=SPACE, to=folder, visits=visits, networks=networks)
    return LatencyTable.load(folder)


def one_budget(folder: Path, table: Path, limit_ms: float, seconds: float, top: int) -> dict[str, Any]:
    """Searched and verified; certified or not, and the candidates of the first window."""
    me = f"{Path(__file__).resolve()}:stand_in"
    search: dict[str, Any] = {"table": table, "latency": f"<= {limit_ms:.6g}ms p50", "space": SPACE, "accuracy": me, "baselines": False}
    hwnas.search(folder, **search, searcher="regularized_evolution", evaluations=2_000)
    found = hwnas.verify(folder, top=top, seconds=seconds, use=98, random_weights=True)
    certificate, first = found["certificate"], [each for each in found["measured"] if each["role"] == "candidate" and each["round"] == 0]
    filtered = max((each for each in first if each["latency_ms"] <= limit_ms), key=lambda each: each["accuracy_pct"], default=None)
    return {
        "limit_ms": limit_ms,
        "certified": certificate is not None and certificate["verdict"] == "within",
        "measured_ms": certificate["measured_ms"] if certificate else None,
        "upper_bound_ms": certificate["upper_bound_ms"] if certificate else None,
        "confidence": certificate["confidence"] if certificate else None,
        "used": certificate["budget_used"] if certificate else None,
        "windows": 1 + max(each["round"] for each in found["measured"]),
        "candidates": sum(each["role"] == "candidate" for each in found["measured"]),
        "doubts": sorted({each["doubt"] for each in found["measured"] if each["doubt"]}),
        "filter_ms": None if filtered is None else filtered["measured_ms"],
    }


def summary(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    kept = [row for row in rows if row["certified"]]
    filtered = [row for row in rows if row["filter_ms"] is not None]
    return {
        "budgets": len(rows),
        "certified": len(kept),
        "mean_use": float(np.mean([row["used"] for row in kept])) if kept else None,
        "least_use": min((row["used"] for row in kept), default=None),
        "mean_windows": float(np.mean([row["windows"] for row in rows])) if rows else None,
        "filter_over": sum(row["filter_ms"] > row["limit_ms"] for row in filtered),
        "filter_use": float(np.mean([row["filter_ms"] / row["limit_ms"] for row in filtered])) if filtered else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=90.0, help="of each window")
    parser.add_argument("--top", type=int, default=8, help="candidates of each window")
    parser.add_argument("--visits", type=int, default=12, help="of the profile")
    parser.add_argument("--networks", type=int, default=40, help="of the profile")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    begin, kept = time.monotonic(), given.folder / "budgets.json"
    try:
        table = measured_table(given.folder / "table", given.visits, given.networks)
        index = BlockIndex(registry.create("spaces", SPACE))
        least, greatest = calibrated(table, index).bounds()
        limits = np.geomspace(ENDS[0] * least.value, ENDS[1] * greatest.value, given.budgets)
        rows: list[dict[str, Any]] = read_json(kept) if kept.is_file() else []
        for number, limit_ms in enumerate(limits.tolist()):
            if number < len(rows) or time.monotonic() - begin > 60 * given.minutes:
                continue
            rows.append(one_budget(given.folder / f"budget_{number:02}", given.folder / "table", limit_ms, given.seconds, given.top))
            write_json(kept, rows)
            print(f"{number + 1:>3} {limit_ms:8.3f} ms: {'certified' if rows[-1]['certified'] else 'NOT certified'}, used {rows[-1]['used']}", file=sys.stderr)
    except HwnasError as error:
        sys.exit(str(error))
    report = {
        "processor": table.conditions.processor,
        "conditions": str(table.conditions),
        "space_ms": [least.value, greatest.value],
        **summary(rows),
        "rows": rows,
    }
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{SPACE} on {report['processor']} ({report['conditions']}), p50 {least.value:.3g} to {greatest.value:.3g} ms")
    print(f"{'budget ms':>10} {'measured':>9} {'bound':>8} {'used':>7} {'windows':>8} {'filter alone':>13}")
    for row in rows:
        cells = ["-" if row[key] is None else f"{row[key]:.4g}" for key in ("measured_ms", "upper_bound_ms", "used", "filter_ms")]
        print(f"{row['limit_ms']:>10.4g} {cells[0]:>9} {cells[1]:>8} {cells[2]:>7} {row['windows']:>8} {cells[3]:>13} {' '.join(row['doubts'])[:60]}")
    if rows:
        use = "-" if report["mean_use"] is None else f"{100 * report['mean_use']:.1f} %"
        print(f"certified {report['certified']} of {report['budgets']} (target all), mean use {use} (target 97 %), windows {report['mean_windows']:.1f}")
        print(f"filter by prediction alone: over in {report['filter_over']} of {report['budgets']}, mean use {100 * (report['filter_use'] or 0):.1f} %")


if __name__ == "__main__":
    main()
