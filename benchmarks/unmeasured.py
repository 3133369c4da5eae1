"""How well blocks and networks are predicted that nobody measured: with fewer blocks measured, and at resolutions in between.

    OPENBLAS_NUM_THREADS=1 python benchmarks/unmeasured.py [--space ofa_mobilenet_v3] [--measured 128 160 192 224] [--between 144 176 208]
        [--unseen 20] [--device localhost] [--to DIR] [--json]

Profiles the blocks of the space at the measured resolutions, with 40 networks that calibrate, and then measures unseen random networks whole, as
`verify` does, at these resolutions and at those between. Rows are taken out of the table at random and predicted from the rest. The same
command continues an interrupted profile; unseen networks are measured anew each time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.device import Device, load_device
from hwnas.errors import HwnasError
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, Measurement, Predicted
from hwnas.predictors.calibrated import calibrated
from hwnas.predictors.gaussian_process import LEAST_BLOCKS
from hwnas.profiling.session import profile
from hwnas.profiling.window import measure_window
from hwnas.space import Codes, FloatArray
from hwnas.table_fill import QUALITY, filled, networks_of
from hwnas.weights import random_weights

SHARES = {"all": 1.0, "half": 1 / 2, "a third": 1 / 3, "a tenth": 1 / 10}
TARGET = 0.95  # of the networks at resolutions that nobody measured, within 5 %


@dataclass(frozen=True)
class Unseen:
    """Networks measured whole: codes (n, choices) and p50 (n,)."""

    codes: Codes
    p50_ms: FloatArray


def index_of(space: str, resolutions: Sequence[int]) -> BlockIndex:
    return BlockIndex(registry.create("spaces", f"{space}(resolutions=({','.join(map(str, resolutions))},))"))


def unseen(index: BlockIndex, resolutions: Sequence[int], n: int, device: Device, seed: int) -> Unseen:
    """n random networks of each of some resolutions, in one window."""
    space = index.space
    runtime = registry.create("profiling.runtimes", device.runtimes[0])
    codes = space.sample(np.random.default_rng([seed, 0]), n * len(resolutions))
    values = [space.decode(code) | {"resolution": resolutions[i % len(resolutions)]} for i, code in enumerate(codes)]
    codes = np.asfortranarray(np.concatenate([space.encode(each) for each in values]))
    graphs = [space.lower(code) for code in codes]
    models = [runtime.build(graph, random_weights(graph, np.random.default_rng([seed, 1, i]))) for i, graph in enumerate(graphs)]
    window = measure_window(models, device, min_visits=8, seconds=60, threads=device.threads, progress=told)
    return Unseen(codes, np.array([row.estimate_ms for row in window.rows]))


def judged(table: LatencyTable, index: BlockIndex, share: float, tests: Mapping[str, Unseen], seed: int) -> dict[str, Any]:
    """Figures of the table with a share of its rows left."""
    texts = sorted(text for text, entry in table.entries.items() if isinstance(entry, Measurement))
    kept = np.random.default_rng(seed).permutation(len(texts))[: max(LEAST_BLOCKS, round(share * len(texts)))]
    full = filled(replace(table, entries={texts[i]: table.entries[texts[i]] for i in kept}), index.blocks)
    predicted = {text: entry.price_ms for text, entry in full.entries.items() if isinstance(entry, Predicted)}
    known = {text: entry.price_ms for text, entry in table.entries.items() if isinstance(entry, Measurement)}
    off = [price / known[text] - 1 for text, price in predicted.items() if text in known]
    figures: dict[str, Any] = {
        "kept": len(kept),
        "block_mape": float(np.abs(off).mean()) if off else None,
        "block_mape_expected": full.quality[QUALITY]["mape"] if predicted else None,
    }
    latency = calibrated(full, index)
    for name, test in tests.items():
        error = np.abs(latency(test.codes) / test.p50_ms - 1)
        shares = {f"within_{pct}pct": float((error <= pct / 100).mean()) for pct in (5, 10)}
        figures[name] = {"networks": len(error), "mape": float(error.mean()), **shares}
    return figures


def told(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}/{total}   ", end="", file=sys.stderr, flush=True)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    device, index, home = load_device(given.device), index_of(given.space, sorted([*given.measured, *given.between])), index_of(given.space, given.measured)
    table = profile(home, device, given.to, threads=device.threads, seed=given.seed, progress=told)
    tests = {name: unseen(index, getattr(given, name), given.unseen, device, given.seed + i) for i, name in enumerate(("measured", "between"), start=1)}
    table = replace(table, networks=networks_of(table, home, index), quality={})
    figures = {name: judged(table, index, share, tests, given.seed) for name, share in SHARES.items()}
    return {"conditions": str(table.conditions), "space": given.space, "resolutions": {"measured": given.measured, "between": given.between}, "shares": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description="Predictions of what nobody measured.")
    parser.add_argument("--space", default="ofa_mobilenet_v3", help="one that takes resolutions")
    parser.add_argument("--measured", type=int, nargs="+", default=[128, 160, 192, 224])
    parser.add_argument("--between", type=int, nargs="+", default=[144, 176, 208])
    parser.add_argument("--unseen", type=int, default=20, help="unseen networks of each resolution")
    parser.add_argument("--device", default="localhost")
    parser.add_argument("--to", type=Path, default=Path("runs/unmeasured"), help="folder of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        report = measure(given)
    except HwnasError as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"\n{report['space']} on {report['conditions']}; resolutions {report['resolutions']['measured']} measured, {report['resolutions']['between']} not")
    print("                  others off by       networks measured resolutions     unmeasured ones (target 95 % within 5 %)")
    print("blocks measured    mean  expected      mean   in 5 %  in 10 %             mean   in 5 %  in 10 %")
    for name, each in report["shares"].items():
        off = "   ".join("     -" if each[key] is None else f"{100 * each[key]:4.1f} %" for key in ("block_mape", "block_mape_expected"))
        columns = ["  ".join(f"{100 * each[where][key]:5.1f} %" for key in ("mape", "within_5pct", "within_10pct")) for where in ("measured", "between")]
        print(f"{name:8s} {each['kept']:5d}   {off}    {columns[0]}        {columns[1]}")
    within = report["shares"]["all"]["between"]["within_5pct"]
    print(f"target {'met' if within >= TARGET else 'MISSED'}: {100 * within:.1f} % of networks at unmeasured resolutions within 5 %")


if __name__ == "__main__":
    main()
