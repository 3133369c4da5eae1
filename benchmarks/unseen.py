"""How well a table of a device and runtime predicts networks that nobody has measured: a profile, then others in one window, as `verify` does.

    python benchmarks/unseen.py FOLDER [--device localhost] [--runtime NAME] [--space ofa_mini] [--networks 40] [--seconds 60] [--json]

The table is made in FOLDER, or taken from there where the same command made it. The networks are drawn at random and differ from those of the
table. A line through the MACs, fitted to the table's networks as the table's own calibration is, stands beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.costs import macs
from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import calibrated
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.session import profile
from hwnas.profiling.window import measure_window
from hwnas.weights import random_weights


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The report: errors in percent, share of networks within 5 and 10 % of what was measured."""
    device = load_device(arguments.device)
    index = BlockIndex(registry.create("spaces", arguments.space))
    table = profile(index, device, arguments.folder, runtime=arguments.runtime, threads=device.threads, visits=arguments.visits)
    known = {index.space.encode(each.architecture.values)[0].tobytes() for each in table.networks}
    drawn = index.distinct(index.space.sample(np.random.default_rng(arguments.seed), 10 * arguments.networks))
    codes = np.asfortranarray([code for code in drawn if code.tobytes() not in known][: arguments.networks], np.int16)
    runtime: Runtime = registry.create("profiling.runtimes", device.runtime(arguments.runtime))
    models = []
    for number, code in enumerate(codes):
        graph = index.space.lower(code[None])
        models.append(runtime.build(graph, random_weights(graph, np.random.default_rng([arguments.seed, number]))))
    window = measure_window(models, device, runtime=arguments.runtime, threads=device.threads, seconds=arguments.seconds)
    measured = np.array([row.estimate_ms for row in window.rows])
    work = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    own = np.asfortranarray(np.concatenate([index.space.encode(each.architecture.values) for each in table.networks]))
    own_ms = np.array([each.p50_ms for each in table.networks])
    line = np.linalg.lstsq(np.stack([work(own), np.ones(len(own))], axis=1) / own_ms[:, None], np.ones(len(own)), rcond=None)[0]
    return {
        "conditions": str(table.conditions),
        "options": dict(table.conditions.options),
        "networks": len(codes),
        "measured_ms": [float(measured.min()), float(measured.max())],
        "table": errors(calibrated(table, index)(codes), measured),
        "macs_line": errors(work(codes) * line[0] + line[1], measured),
    }


def errors(predicted: Any, measured: Any) -> dict[str, float]:
    relative = predicted / measured - 1
    shares = {f"within_{limit}_pct": round(100 * float((np.abs(relative) <= limit / 100).mean()), 1) for limit in (5, 10)}
    return {"mean_error_pct": round(100 * float(np.abs(relative).mean()), 2), "bias_pct": round(100 * float(relative.mean()), 2), **shares}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="localhost")
    parser.add_argument("--runtime", default="")
    parser.add_argument("--space", default="ofa_mini")
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--visits", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        report = measure(arguments)
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    low, high = report["measured_ms"]
    print(f"{report['networks']} networks of {arguments.space} not in the table, {low:.4g} to {high:.4g} ms p50 on {report['conditions']}")
    for name in ("table", "macs_line"):
        each = report[name]
        print(f"{name:<10} mean error {each['mean_error_pct']:.1f} %, within 5 % {each['within_5_pct']:.0f} %, within 10 % {each['within_10_pct']:.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
