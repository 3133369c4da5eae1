"""What elasticity costs: a training step of a subnet inside the supernet against the same network standing alone.

    python benchmarks/elastic.py            (about 4 minutes on one core)

OFA-MobileNetV3 w1.0, one thread, interleaved, median over random subnets of the median over repeats. The static network owns contiguous
copies of the weights; both are the same interpreter, fed the same batch. Training is forward and backward, evaluation forward alone; the elastic
side includes building the subnet from its code. `merge` is what adding the gradients into the supernet costs, once per optimiser step;
`recalibrated` is the re-calibration of batch norm on the batch against an evaluation of it by the same network. Also: the smallest
subnet, the extraction of a subnet's weights, and the largest difference between extracted and elastic outputs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hwnas.backends.torch import static
from hwnas.index import BlockIndex
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.supernet.recalibrate import recalibrated
from hwnas.supernet.supernet import Supernet

TARGETS = {"crops": 1.02, "transforms": 1.03}
EVALUATION, RECALIBRATION, EXTRACT_MS = 1.05, 1.3, 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subnets", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    index = BlockIndex(ofa_mobilenet_v3(resolutions=(64, 128)))
    rows = []
    for mode in TARGETS:
        supernet = Supernet(index, transforms=mode == "transforms", seed=arguments.seed)
        with torch.no_grad():
            for name, tensor in supernet.tensors.items():
                if "to" in name.rpartition(".")[2]:
                    tensor.add_(0.01 * torch.randn(tensor.shape))
        for resolution, batch in ((0, 16), (1, 8)):
            rng = np.random.default_rng(arguments.seed)
            codes = index.space.sample(rng, arguments.subnets)
            measured = [compare(supernet, _at(code, resolution), batch, arguments.repeats) for code in codes]
            smallest = compare(supernet, _at(index.space.smallest()[0], resolution), batch, arguments.repeats)
            about = {"mode": mode, "resolution": (64, 128)[resolution], "batch": batch, "target": TARGETS[mode]}
            rows.append({**about, **_medians(measured), "smallest": smallest["ratio"]})
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    heads = (f"evaluation <= {EVALUATION}", f"recalibrated <= {RECALIBRATION}", "merge/step", f"extract ms <= {EXTRACT_MS}", "difference <= 1e-6")
    print("elastic/static  res batch  training (target)  smallest  " + "  ".join(heads))
    for row in rows:
        values = (f"{row['evaluation']:.3f}", f"{row['recalibrated']:.3f}", f"{row['merge']:.3f}", f"{row['extract_ms']:.1f}", f"{row['difference']:.1e}")
        figures = "  ".join(f"{value:>{len(head)}}" for head, value in zip(heads, values, strict=True))
        print(f"{row['mode']:<14}  {row['resolution']:>3} {row['batch']:>5}  {row['ratio']:>8.3f} <= {row['target']:<5}  {row['smallest']:>8.3f}  {figures}")
    return 0


def _at(code: Any, resolution: int) -> Any:
    code = code.copy()
    code[0] = resolution
    return code


def _medians(measured: list[dict[str, float]]) -> dict[str, float]:
    largest = {"difference": max(each["difference"] for each in measured)}
    return {key: float(np.median([each[key] for each in measured])) for key in measured[0]} | largest


def compare(supernet: Supernet, code: Any, batch: int, repeats: int) -> dict[str, float]:
    graph = supernet.index.space.lower(code)
    started = time.perf_counter()
    weights = supernet.extract(code)
    extract_ms = 1e3 * (time.perf_counter() - started)
    alone = static(graph, weights)
    x, y = torch.randn(batch, *graph.input[1:]), torch.randint(1000, (batch,))
    with torch.no_grad():
        difference = float((alone.eval()(x) - supernet.subnet(code).eval()(x)).abs().max())

    def static_step() -> None:
        F.cross_entropy(alone(x), y).backward()

    def elastic_step() -> None:
        F.cross_entropy(supernet.subnet(code).train()(x), y).backward()

    @torch.no_grad()
    def static_pass() -> None:
        alone.eval()(x)

    @torch.no_grad()
    def elastic_pass() -> None:
        supernet.subnet(code).eval()(x)

    def recalibration() -> None:
        recalibrated(alone, [x])

    def clear() -> None:
        for tensor in (*alone.tensors.values(), *supernet.parameters()):
            tensor.grad = None

    work: dict[str, Callable[[], None]] = {"static": static_step, "elastic": elastic_step, "pass": static_pass, "elastic pass": elastic_pass}
    work["recalibration"] = recalibration
    times: dict[str, list[float]] = {name: [] for name in (*work, "merge")}
    for i in range(repeats + 1):  # the first one only warms up
        order = list(work.items())
        for name, act in order if i % 2 else order[::-1]:
            alone.train(name == "static")
            seconds = _seconds(act)
            if i:
                times[name].append(seconds)
        times["merge"].append(_seconds(supernet.merge))
        clear()

    def ratio(name: str, of: str) -> float:
        """Of two that ran beside each other: a machine that changes its speed changes both."""
        return float(np.median(np.array(times[name][-repeats:]) / np.array(times[of])))

    return {
        "ratio": ratio("elastic", "static"),
        "evaluation": ratio("elastic pass", "pass"),
        "recalibrated": ratio("recalibration", "pass"),
        "merge": ratio("merge", "static"),
        "extract_ms": extract_ms,
        "difference": difference,
    }


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
