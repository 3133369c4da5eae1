"""How well blocks and networks are predicted that nobody measured: with fewer blocks measured, and at resolutions in between.

    OPENBLAS_NUM_THREADS=1 python benchmarks/unmeasured.py [--space ofa_mobilenet_v3] [--measured 128 160 192 224] [--between 144 176 208]
        [--unseen 20] [--passes 32] [--span 120] [--device localhost] [--to DIR] [--json]

Profiles the blocks of the space at the measured resolutions, with 60 networks that calibrate; before and after it unseen random networks are measured
whole, at these resolutions and at those between. Rows are taken out of the table at random and predicted from the rest. The same command
continues an interrupted profile; unseen networks are measured anew each time.
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
from prediction import medians_ms, visits_of

from hwnas import registry
from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, Measurement, Predicted
from hwnas.measured_blocks import LEAST_BLOCKS
from hwnas.predictors.calibrated import calibrated
from hwnas.profiling.protocol import TIMING
from hwnas.profiling.session import profile
from hwnas.space import Codes, FloatArray
from hwnas.table_fill import QUALITY, filled, networks_of

SHARES = {"all": 1.0, "half": 1 / 2, "a third": 1 / 3, "a tenth": 1 / 10}
TARGET = 0.95  # of the networks at resolutions that nobody measured, within 5 %


@dataclass(frozen=True)
class Unseen:
    """Networks measured whole: codes (n, choices) and p50 (n,)."""

    codes: Codes
    p50_ms: FloatArray


def index_of(space: str, resolutions: Sequence[int]) -> BlockIndex:
    return BlockIndex(registry.create("spaces", f"{space}(resolutions=({','.join(map(str, resolutions))},))"))


def unseen(index: BlockIndex, resolutions: Sequence[int], n: int, seed: int) -> Codes:
    """n random networks of each of some resolutions."""
    space = index.space
    codes = space.sample(np.random.default_rng([seed, 0]), n * len(resolutions))
    values = [space.decode(code) | {"resolution": resolutions[i % len(resolutions)]} for i, code in enumerate(codes)]
    return np.asfortranarray(np.concatenate([space.encode(each) for each in values]))


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
        error = latency(test.codes) / test.p50_ms - 1
        shares = {f"within_{pct}pct": float((np.abs(error) <= pct / 100).mean()) for pct in (5, 10)}
        figures[name] = {"networks": len(error), "bias": float(error.mean()), "mape": float(np.abs(error).mean()), **shares}
    return figures


def told(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}/{total}   ", end="", file=sys.stderr, flush=True)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    device, index, home = load_device(given.device), index_of(given.space, sorted([*given.measured, *given.between])), index_of(given.space, given.measured)
    groups = [unseen(index, getattr(given, name), given.unseen, given.seed + i) for i, name in enumerate(("measured", "between"), start=1)]
    codes, rng = np.asfortranarray(np.concatenate(groups)), np.random.default_rng([given.seed, 3])
    before = visits_of(index, codes, given.passes // 2, given, rng)
    timing = replace(TIMING, least_span_s=given.span)
    table = profile(home, device, given.to, runtime=given.runtime, threads=device.threads, seed=given.seed, timing=timing, progress=told)
    after = visits_of(index, codes, given.passes - len(before[0]), given, rng)
    p50_ms = medians_ms([a + b for a, b in zip(before, after, strict=True)])
    both = zip(groups, np.split(p50_ms, [len(groups[0])]), strict=True)
    tests = {name: Unseen(each[~np.isnan(p50)], p50[~np.isnan(p50)]) for name, (each, p50) in zip(("measured", "between"), both, strict=True)}
    table = replace(table, networks=networks_of(table, home, index), quality={})
    figures = {name: judged(table, index, share, tests, given.seed) for name, share in SHARES.items()}
    return {"conditions": str(table.conditions), "space": given.space, "resolutions": {"measured": given.measured, "between": given.between}, "shares": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description="Predictions of what nobody measured.")
    parser.add_argument("--space", default="ofa_mobilenet_v3", help="one that takes resolutions")
    parser.add_argument("--measured", type=int, nargs="+", default=[128, 160, 192, 224])
    parser.add_argument("--between", type=int, nargs="+", default=[144, 176, 208])
    parser.add_argument("--unseen", type=int, default=20, help="unseen networks of each resolution")
    parser.add_argument("--passes", type=int, default=32, help="visits of each unseen network, half of them before the profile")
    parser.add_argument("--span", type=float, default=120.0, help="seconds over which the profile's visits are spread at least")
    parser.add_argument("--device", default="localhost")
    parser.add_argument("--runtime", default="", help="one of the device's, by default its first")
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
    print("                  others off by       networks at measured resolutions        at unmeasured ones (target 95 % within 5 %)")
    print("blocks measured    mean  expected      bias    mean   in 5 %  in 10 %        bias    mean   in 5 %  in 10 %")
    for name, each in report["shares"].items():
        off = "   ".join("     -" if each[key] is None else f"{100 * each[key]:4.1f} %" for key in ("block_mape", "block_mape_expected"))
        columns = [
            "  ".join(f"{100 * each[where][key]:5.1f} %" for key in ("bias", "mape", "within_5pct", "within_10pct")) for where in ("measured", "between")
        ]
        print(f"{name:8s} {each['kept']:5d}   {off}    {columns[0]}        {columns[1]}")
    within = report["shares"]["all"]["between"]["within_5pct"]
    print(f"target {'met' if within >= TARGET else 'MISSED'}: {100 * within:.1f} % of networks at unmeasured resolutions within 5 %")


if __name__ == "__main__":
    main()
