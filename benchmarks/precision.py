"""What does a precision gain on this device? The smallest and the largest subnet of a space in each, measured interleaved in one window.

    python benchmarks/precision.py [--space ofa_mobilenet_v3] [--precision fp32 int8_u8s8] [--batch 1] [--device localhost] [--seconds 60] [--json]

Weights are random, int8 is calibrated on random inputs: latency depends on neither. A precision that the runtime computes in another one
is refused, as everywhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product

import numpy as np

from hwnas import registry
from hwnas.backends.onnx import to_onnx
from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.profiling.window import measure_window
from hwnas.variant import PRECISIONS, Variant
from hwnas.weights import random_weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="ofa_mobilenet_v3")
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8_u8s8"], choices=PRECISIONS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="localhost")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    space = registry.create("spaces", arguments.space)
    rows, graphs, models = [], [], []
    for (size, code), precision in product((("smallest", space.smallest()), ("largest", space.largest())), arguments.precision):
        graph = Variant(precision, arguments.batch).space(space).lower(code)
        graphs.append(graph)
        models.append(to_onnx(graph, random_weights(graph, np.random.default_rng(0))).SerializeToString())
        rows.append({"subnet": size, "precision": precision, "input": graph.input, "macs": sum(op.macs for op in graph.ops), "bytes": len(models[-1])})
    try:
        window = measure_window(models, load_device(arguments.device), seconds=arguments.seconds, graphs=graphs)
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row, found in zip(rows, window.rows, strict=True):
        first = next(each for each in rows if each["subnet"] == row["subnet"])
        row |= {"p50_ms": found.estimate_ms, "p10_ms": found.p10_ms, "p90_ms": found.p90_ms, "visits": found.visits, "dropped": found.dropped}
        row["of_first"] = row["p50_ms"] / first["p50_ms"]
    if arguments.json:
        print(json.dumps({"space": space.name, "conditions": str(window.conditions), "processor": window.conditions.processor, "subnets": rows}))
        return 0
    print(f"{space.name}, batch {arguments.batch}, on {window.conditions.processor} ({window.conditions})")
    print(f"  {'subnet':<10} {'precision':<10} {'side':>4} {'M MACs':>8} {'MB':>6} {'p50 ms':>8} {'p10 ... p90':>17} {'of ' + arguments.precision[0]:>8}")
    for row in rows:
        spread = f"{row['p10_ms']:.3f} ... {row['p90_ms']:.3f}"
        sizes = f"{row['input'][-1]:>4} {row['macs'] / 1e6:>8.1f} {row['bytes'] / 1e6:>6.1f}"
        print(f"  {row['subnet']:<10} {row['precision']:<10} {sizes} {row['p50_ms']:>8.3f} {spread:>17} {row['of_first']:>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
