"""Do numpy, PyTorch and the exported file in ONNX Runtime compute the same? Random subnets with non-trivial batch-norm statistics.

    python benchmarks/parity.py [--space ofa_mobilenet_v3] [--precision fp32] [--n 50] [--seed 0] [--resolutions 128 176 224] [--record FILE] [--json]

Each subnet is written as an ONNX file and compared from that file. Reported is the largest difference of logits between any two of
the three, relative to the standard deviation of the reference's logits; exit code 1 above 1e-3.
With --record every subnet is a line of that file as soon as it was compared, and the same command again goes on where it was ended.

In another precision the file is compared with the reference in float32 alone, in ONNX Runtime as far as it loads there, and in ONNX's
reference evaluator, which rounds every value to its type (ONNX Runtime computes fp16 in float32 on most CPUs); int8 is calibrated on the
input. The limits are fp16 2e-2, bf16 1e-1, int8 0.9. Random weights amplify rounding more than trained ones: of 20 subnets of
`ofa_mobilenet_v3` one is at 0.10 in ideal bf16 arithmetic (every value rounded, sums exact), and over it in the evaluator.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator

from hwnas import registry
from hwnas.backends.numpy import numpy
from hwnas.backends.onnx import runner, to_onnx
from hwnas.backends.torch import torch
from hwnas.errors import InputError
from hwnas.exporter import PARITY_LIMITS, compare
from hwnas.exporters.onnx import onnx, write_model
from hwnas.graph import Graph
from hwnas.quantization import is_quantized, value_ranges
from hwnas.space import SearchSpace
from hwnas.variant import PRECISIONS, Variant
from hwnas.weights import Array, Weights, random_weights


def in_precision(graph: Graph, weights: Weights, images: Array, path: Path) -> dict[str, Array]:
    """Logits of the file of a graph that is not in float32, by what ran it."""
    model = to_onnx(graph, weights, ranges=value_ranges(graph, weights, images))
    write_model(model.SerializeToString(), path)
    logits: dict[str, Array] = {"evaluator": ReferenceEvaluator(model).run(None, {"input": images})[0]} if not is_quantized(graph) else {}
    with suppress(InputError):  # it has no bfloat16
        logits["onnx"] = runner(path)(images)
    return logits


def subnet(space: SearchSpace, resolutions: list[int], rng: np.random.Generator, path: Path) -> tuple[dict[str, float], dict[str, int]]:
    """(ratio by pair of backends, resolution and MACs) of one random subnet."""
    code = space.sample(rng)
    if resolutions:
        values = space.decode(code) | {"resolution": int(rng.choice(resolutions))}
        code = space.encode(values)
    graph = space.lower(code)
    weights, images = random_weights(graph, rng), rng.normal(0, 1, graph.input).astype(np.float32)
    logits = {"numpy": numpy(graph, weights)(images)}
    if graph.ops[0].data_type == "float32":
        onnx(graph, weights, path)
        logits |= {"torch": torch(graph, weights)(images), "onnx": runner(path)(images)}
        pairs = list(combinations(logits, 2))
    else:
        logits |= in_precision(graph, weights, images, path)
        pairs = [("numpy", other) for other in list(logits)[1:]]
    std = float(logits["numpy"].std())
    ratios = {f"{a}-{b}": compare(logits[a], logits[b]).max_abs_difference / std for a, b in pairs}
    return ratios, {"resolution": graph.input[-1], "macs": sum(op.macs for op in graph.ops)}


def recorded(path: Path | None, key: dict[str, object]) -> dict[int, dict[str, float]]:
    """Number of a subnet -> its row, as far as an earlier command came with the same options; a line that was cut short is none."""
    found = {}
    for line in path.read_text().splitlines() if path is not None and path.exists() else []:
        with suppress(ValueError):
            row = json.loads(line)
            if row["key"] == key:
                found[row["number"]] = row["row"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="ofa_mobilenet_v3")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resolutions", type=int, nargs="*", default=[], help="only these, all of the space's by default")
    parser.add_argument("--record", type=Path, help="file that keeps each subnet's figures, so that the same command goes on")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    space = Variant(arguments.precision).space(registry.create("spaces", arguments.space))
    limit = PARITY_LIMITS[PRECISIONS[arguments.precision]]
    key = {"space": arguments.space, "precision": arguments.precision, "seed": arguments.seed, "resolutions": arguments.resolutions}
    known = recorded(arguments.record, key)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(arguments.n):
            if i not in known:
                rng = np.random.default_rng([arguments.seed, i])
                ratios, facts = subnet(space, arguments.resolutions, rng, Path(folder) / "model.onnx")
                known[i] = facts | ratios
                if arguments.record is not None:
                    with arguments.record.open("a") as file:
                        file.write(json.dumps({"key": key, "number": i, "row": known[i]}) + "\n")
            rows.append(known[i])
            if sys.stderr.isatty():
                print(f"\r{i + 1}/{arguments.n}", end="", file=sys.stderr)
    pairs = [key for key in rows[0] if "-" in key]
    by_pair = {pair: np.nan_to_num([row[pair] for row in rows], nan=np.inf, posinf=np.inf) for pair in pairs}  # both where fp16 overflows
    worst = float(max(values.max() for values in by_pair.values()))
    inside = {pair: int((values <= limit).sum()) for pair, values in by_pair.items()}
    if arguments.json:
        facts = {
            "space": space.name,
            "precision": arguments.precision,
            "n": arguments.n,
            "seed": arguments.seed,
            "worst_ratio": worst,
            "limit": limit,
            "within": inside,
        }
        print(json.dumps(facts | {"subnets": rows}))
    else:
        what = f"{space.name}, {arguments.precision}, {arguments.n} random subnets, seed {arguments.seed}"
        print(f"{what}: largest difference of logits over their standard deviation")
        print(f"  {'pair':<15} {'median':>9} {'largest':>9} {'within':>7}")
        for pair, values in by_pair.items():
            print(f"  {pair:<15} {np.median(values):>9.1e} {values.max():>9.1e} {inside[pair]:>7}")
        sides = sorted({row["resolution"] for row in rows})
        print(f"  resolutions {sides[0]} to {sides[-1]}, {min(r['macs'] for r in rows) / 1e6:.0f} to {max(r['macs'] for r in rows) / 1e6:.0f} M MACs")
        print(f"  {min(inside.values())} of {len(rows)} within the limit of {limit:g}")
    return 0 if worst <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
