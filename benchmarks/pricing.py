"""Architectures priced per second: one population of a large space, MACs of every one, on one core.

    python benchmarks/pricing.py [--space ofa_mobilenet_v3] [--population 1000000] [--repeats 5] [--lowered 200] [--json]

Codes are column-major int16, prices float64; drawing the codes is not counted; the best of the repeats is reported beside all of
them. The alternative is lowering each architecture to its graph and summing over its operators; the two must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.costs import macs
from hwnas.errors import HwnasError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive

TARGET_PER_SECOND = 10_000_000


def pin() -> int | None:
    """Keep this process on one core, its number; None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def measure(space_name: str, population: int, repeats: int, lowered: int) -> dict[str, Any]:
    """The report: rates per second, how much faster than lowering, and the largest relative difference."""
    core = pin()
    space = registry.create("spaces", space_name)
    started = time.perf_counter()
    index = BlockIndex(space)
    metric = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    index_s = time.perf_counter() - started
    codes = space.sample(np.random.default_rng(0), population)
    metric(codes[:1000])
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        prices = metric(codes)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    one_by_one = [float(sum(op.macs for op in space.lower(code).ops)) for code in codes[:lowered]]
    lowered_s = time.perf_counter() - started
    return {
        "space": space.name,
        "choices": len(space.choices),
        "blocks": len(index.blocks),
        "population": population,
        "core": core,
        "machine": platform.processor() or platform.machine(),
        "index_s": index_s,
        "per_second": population / min(seconds),
        "per_second_all": [population / each for each in seconds],
        "target_per_second": TARGET_PER_SECOND,
        "lowered": lowered,
        "lowered_per_second": lowered / lowered_s,
        "largest_relative_difference": float(np.max(np.abs(prices[:lowered] - one_by_one) / one_by_one)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Architectures priced per second on one core.")
    parser.add_argument("--space", default="ofa_mobilenet_v3")
    parser.add_argument("--population", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lowered", type=int, default=200, help="architectures to lower one by one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.repeats < 1 or not 1 <= given.lowered <= given.population:
        sys.exit("--repeats must be at least 1 and --lowered within 1..population")
    try:
        report = measure(given.space, given.population, given.repeats, given.lowered)
    except HwnasError as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps(report, indent=1))
        return
    core = "one core, not pinned" if report["core"] is None else f"core {report['core']}"
    print(f"{report['space']}: {report['choices']} choices, {report['blocks']} distinct blocks, indexed in {1e3 * report['index_s']:.0f} ms; {core}")
    print("                     architectures/s")
    print(f"gathered, best of {given.repeats}   {report['per_second']:15,.0f}   target {TARGET_PER_SECOND:,}")
    print(f"gathered, all         {'  '.join(f'{each:,.0f}' for each in report['per_second_all'])}")
    print(f"lowered one by one   {report['lowered_per_second']:15,.0f}   {report['per_second'] / report['lowered_per_second']:,.0f} times slower")
    print(f"largest relative difference of the two over {report['lowered']} architectures: {report['largest_relative_difference']:.1e}")


if __name__ == "__main__":
    main()
