"""Our ONNX files against those of `torch.onnx.export`: time to make them, nodes, and latency, measured interleaved in ONNX Runtime.

    python benchmarks/export.py [--network ofa_mobilenet_v3:largest mobilenet_v3:mobilenet_v3_large_1.0 resnet:resnet50] [--seconds 40] [--json]

Each network is also exported from PyTorch: the very subnet, by the older exporter, by the newer one (`dynamo`) where onnxscript is installed, and for
torchvision's networks from torchvision's module. Weights are random. Targets: export in 0.2 s, no more nodes, latency ratio 1.00 within noise (2 %).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import load_model_from_string

from hwnas import registry
from hwnas.backends.torch import static
from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.exporters.onnx import onnx
from hwnas.graph import Graph
from hwnas.profiling.window import measure_window
from hwnas.verbs.export_module import _exported
from hwnas.weights import random_weights
from hwnas.zoo import onnx_file

#: SPACE:REFERENCE -> torchvision's name of the same network.
TORCHVISION = {"mobilenet_v3:mobilenet_v3_large_1.0": "mobilenet_v3_large", "resnet:resnet50": "resnet50", "mnasnet:mnasnet_b1_224": "mnasnet1_0"}
NETWORKS = ("ofa_mobilenet_v3:smallest", "ofa_mobilenet_v3:largest", *TORCHVISION)
MOST_SECONDS, MOST_RATIO = 0.2, 1.02


def graph_of(name: str) -> Graph:
    space_name, _, which = name.partition(":")
    space = registry.create("spaces", space_name)
    code = {"smallest": space.smallest, "largest": space.largest}[which]() if which in ("smallest", "largest") else space.encode(space.references[which])
    return space.lower(code)


def timed(make: Any, repeats: int = 3) -> tuple[Any, float]:
    """What is made, and the least of so many times in seconds."""
    times, made = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        made = make()
        times.append(time.perf_counter() - start)
    return made, min(times)


def files(name: str, folder: Path) -> dict[str, tuple[bytes, float]]:
    """File and seconds of each way to make it."""
    graph = graph_of(name)
    weights = random_weights(graph, np.random.default_rng(0))
    network, x = static(graph, weights).eval(), torch.zeros(graph.input)
    for tensor in network.tensors.values():
        tensor.requires_grad_(False)  # its tensors are no parameters of a module: they are traced as constants

    def ours() -> bytes:
        return onnx(graph, weights, folder / "model.onnx").path.read_bytes()

    made = {"ours": timed(ours), "torch": timed(lambda: _exported(network, x, 17, False, False))}
    if find_spec("onnxscript") is not None:
        made["dynamo"] = timed(lambda: _exported(network, x, 18, False, True), repeats=2)
    if name in TORCHVISION:
        made["torchvision"] = timed(lambda: onnx_file(TORCHVISION[name]), repeats=2)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", default=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=40.0, help="of the window of each network; 0: nothing is measured but the export")
    parser.add_argument("--device", default="localhost")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    where = ""
    try:
        for name in arguments.network:
            with tempfile.TemporaryDirectory() as folder:
                made = files(name, Path(folder))
            window = (
                measure_window([model for model, _ in made.values()], load_device(arguments.device), seconds=arguments.seconds)
                if arguments.seconds > 0
                else None
            )
            where = f"{window.conditions}, {window.conditions.processor}" if window else "export only"
            for i, (kind, (model, seconds)) in enumerate(made.items()):
                row = {"network": name, "by": kind, "seconds": seconds, "nodes": len(load_model_from_string(model).graph.node), "bytes": len(model)}
                if window:
                    found = window.rows[i]
                    row |= {"p50_ms": found.estimate_ms, "p10_ms": found.p10_ms, "p90_ms": found.p90_ms, "visits": found.visits, "dropped": found.dropped}
                    row["ours_over_it"] = window.rows[0].estimate_ms / found.estimate_ms
                rows.append(row)
            print(f"{name} done", file=sys.stderr)
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"  {where}; p50 measured interleaved")
        print(f"  {'network':<34} {'by':<12} {'export s':>8} {'nodes':>6} {'p50 ms':>8} {'p10 ... p90':>18} {'ours / it':>9}")
        for row in rows:
            times = f"{row['p50_ms']:>8.3f} {row['p10_ms']:>8.3f} ... {row['p90_ms']:<6.3f} {row['ours_over_it']:>8.3f}" if "p50_ms" in row else ""
            print(f"  {row['network']:<34} {row['by']:<12} {row['seconds']:>8.3f} {row['nodes']:>6} {times}")
        print(f"  targets: export at most {MOST_SECONDS} s, no more nodes, ratio at most {MOST_RATIO}")
    slow = [row for row in rows if row["by"] == "ours" and row["seconds"] > MOST_SECONDS]
    return 1 if slow or any(row.get("ours_over_it", 0) > MOST_RATIO for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
