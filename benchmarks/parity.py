"""Do numpy, PyTorch and the exported file in ONNX Runtime compute the same? Random subnets with non-trivial batch-norm statistics.

    python benchmarks/parity.py [--space ofa_mobilenet_v3] [--n 50] [--seed 0] [--resolutions 128 176 224] [--json]

Each subnet is written as an ONNX file and compared from that file. Reported is the largest difference of logits between any two of
the three, relative to the standard deviation of the reference's logits; exit code 1 above 1e-3.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np

from hwnas import registry
from hwnas.backends.numpy import numpy
from hwnas.backends.onnx import runner
from hwnas.backends.torch import torch
from hwnas.exporter import PARITY_LIMIT, compare
from hwnas.exporters.onnx import onnx
from hwnas.space import SearchSpace
from hwnas.weights import random_weights


def subnet(space: SearchSpace, resolutions: list[int], rng: np.random.Generator, path: Path) -> tuple[dict[str, float], dict[str, int]]:
    """(ratio by pair of backends, resolution and MACs) of one random subnet."""
    code = space.sample(rng)
    if resolutions:
        values = space.decode(code) | {"resolution": int(rng.choice(resolutions))}
        code = space.encode(values)
    graph = space.lower(code)
    weights, images = random_weights(graph, rng), rng.normal(0, 1, graph.input).astype(np.float32)
    onnx(graph, weights, path)
    logits = {"numpy": numpy(graph, weights)(images), "torch": torch(graph, weights)(images), "onnx": runner(path)(images)}
    std = float(logits["numpy"].std())
    ratios = {f"{a}-{b}": compare(logits[a], logits[b]).max_abs_difference / std for a, b in combinations(logits, 2)}
    return ratios, {"resolution": graph.input[-1], "macs": sum(op.macs for op in graph.ops)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="ofa_mobilenet_v3")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resolutions", type=int, nargs="*", default=[], help="only these, all of the space's by default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    space, rng = registry.create("spaces", arguments.space), np.random.default_rng(arguments.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(arguments.n):
            ratios, facts = subnet(space, arguments.resolutions, rng, Path(folder) / "model.onnx")
            rows.append(facts | ratios)
            if sys.stderr.isatty():
                print(f"\r{i + 1}/{arguments.n}", end="", file=sys.stderr)
    pairs = [key for key in rows[0] if "-" in key]
    worst = max(row[pair] for row in rows for pair in pairs)
    if arguments.json:
        print(json.dumps({"space": space.name, "n": arguments.n, "seed": arguments.seed, "worst_ratio": worst, "limit": PARITY_LIMIT, "subnets": rows}))
    else:
        print(f"{space.name}: largest difference of logits over their standard deviation, {arguments.n} random subnets, seed {arguments.seed}")
        print(f"  {'pair':<12} {'median':>9} {'largest':>9}")
        for pair in pairs:
            print(f"  {pair:<12} {np.median([row[pair] for row in rows]):>9.1e} {max(row[pair] for row in rows):>9.1e}")
        sides = sorted({row["resolution"] for row in rows})
        print(f"  resolutions {sides[0]} to {sides[-1]}, {min(r['macs'] for r in rows) / 1e6:.0f} to {max(r['macs'] for r in rows) / 1e6:.0f} M MACs")
        print(f"  {'within' if worst <= PARITY_LIMIT else 'OVER'} the limit of {PARITY_LIMIT:g}")
    return 0 if worst <= PARITY_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
