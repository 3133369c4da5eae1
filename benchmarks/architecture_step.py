"""What an architecture step of ProxylessNAS costs beside a weight step on the same path: time and peak memory.

    python benchmarks/architecture_step.py            (about 3 minutes on one core)

The supernet of ProxylessNAS (21 layers of 6 or 7 paths, weights of their own), 64 pixels, batches of 16, one thread, random paths. On each path, interleaved: a
weight step (forward and backward, all gradients of the path's weights); a pass whose backward leaves weights out; derivatives by the gates of two paths a
layer, and of all; and for scale the mixture of all paths kept at once (DARTS). Median over paths of the median over repeats of the ratio to the weight step.
Peak memory is of tensors that live at once during the step, beside weights and images: from the events of PyTorch's allocator.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from hwnas.index import BlockIndex
from hwnas.searchers.proxylessnas import binary_gates
from hwnas.spaces.proxylessnas import proxylessnas
from hwnas.supernet.gates import gate_gradients, mixture_gradients
from hwnas.supernet.supernet import Supernet

#: Step -> largest ratio of time and of peak memory to the weight step.
TARGETS = {"two": (1.12, 1.03), "all": (1.6, 1.02)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--mixture", action="store_true", help="also all paths at once, on every fourth path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of every start and stop
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    index = BlockIndex(proxylessnas(widths="search", resolutions=(arguments.resolution,)))
    supernet = Supernet(index, sharing="paths", seed=arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    x = torch.randn(arguments.batch, 3, arguments.resolution, arguments.resolution)
    y = torch.randint(1000, (arguments.batch,))
    times: dict[str, list[float]] = {}
    memories: dict[str, list[float]] = {}
    absolute: dict[str, list[float]] = {"ms": [], "MB": []}
    for number, code in enumerate(index.space.sample(rng, arguments.paths)):
        work = steps_on(supernet, code, x, y, rng)
        if not arguments.mixture or number % 4:
            work.pop("mixture")
        seconds, peaks = measured(supernet, work, arguments.repeats)
        for name in work:
            times.setdefault(name, []).append(float(np.median(np.array(seconds[name]) / np.array(seconds["weights"]))))
            memories.setdefault(name, []).append(peaks[name] / peaks["weights"])
        absolute["ms"].append(1e3 * float(np.median(seconds["weights"])))
        absolute["MB"].append(peaks["weights"] / 1e6)
    rows = [
        {
            "step": name,
            "time": float(np.median(times[name])),
            "least": min(times[name]),
            "greatest": max(times[name]),
            "memory": float(np.median(memories[name])),
        }
        for name in times
    ]
    facts = {"weight_step_ms": float(np.median(absolute["ms"])), "weight_step_MB": float(np.median(absolute["MB"])), "paths": arguments.paths}
    if arguments.json:
        print(json.dumps({**facts, "rows": rows}, indent=1))
        return 0
    where = f"CPU, torch {torch.__version__}, 1 thread, {arguments.resolution} pixels, batch {arguments.batch}, {arguments.paths} random paths"
    print(f"{where}; a weight step takes {facts['weight_step_ms']:.0f} ms and {facts['weight_step_MB']:.1f} MB (measured, medians)")
    print("step                            time/weight step (least ... greatest)  target   memory/weight step  target")
    for row in rows:
        wanted = TARGETS.get(row["step"])
        target = ("", "") if wanted is None else tuple(f"<= {each}" for each in wanted)
        spread = f"{row['time']:.2f} ({row['least']:.2f} ... {row['greatest']:.2f})"
        print(f"{LABELS[row['step']]:<31} {spread:>37}  {target[0]:<7}  {row['memory']:>18.2f}  {target[1]}")
    return 0


LABELS = {
    "weights": "weight step, one path",
    "pass": "one path, weights left out",
    "two": "gates, two paths a layer",
    "all": "gates, all paths",
    "mixture": "mixture of all paths (DARTS)",
}


def steps_on(supernet: Supernet, code: Any, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """What is measured on a path."""
    index = supernet.index
    sizes = [int(n) for n in index.space.cardinalities]
    every = [np.arange(n) for n in sizes]
    pairs = [np.array([value]) if n == 1 else np.sort([value, (value + rng.integers(1, n)) % n]) for value, n in zip(code, sizes, strict=True)]
    uniform = [np.full(len(table), 1 / len(table)) for table in index.tables]

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, y)

    def weights() -> None:
        loss(supernet.subnet(code).train()(x)).backward()

    def without() -> None:
        network, images = supernet.subnet(code).train(), x.detach().requires_grad_()
        leaves = [tensor.requires_grad_(False) for tensor in network.tensors.values() if tensor.requires_grad]
        torch.autograd.grad(loss(network(images)), images)
        for tensor in leaves:
            tensor.requires_grad_(True)

    return {
        "weights": weights,
        "pass": without,
        "two": lambda: gate_gradients(supernet, binary_gates(index, code, pairs), x, loss),
        "all": lambda: gate_gradients(supernet, binary_gates(index, code, every), x, loss),
        "mixture": lambda: mixture_gradients(supernet, uniform, x, loss),
    }


def measured(supernet: Supernet, work: dict[str, Callable[[], object]], repeats: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each repeat, interleaved, and peak bytes, by step. Gradients are cleared, and moved to where they belong, outside of the times."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for i in range(repeats + 1):  # the first one only warms up
        order = list(work.items())
        for name, act in order if i % 2 else order[::-1]:
            started = time.perf_counter()
            act()
            if i:
                seconds[name].append(time.perf_counter() - started)
            _clear(supernet)
    peaks = {}
    for name, act in work.items():
        peaks[name] = _peak(act)
        _clear(supernet)
    return seconds, peaks


def _clear(supernet: Supernet) -> None:
    for tensor in (*supernet.parameters(), *supernet._views.values()):
        tensor.grad = None


def _peak(act: Callable[[], object]) -> float:
    """Most bytes that were allocated during the call and not freed yet, at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        act()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
    return float(max(np.cumsum([each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())])))


if __name__ == "__main__":
    sys.exit(main())
