"""The agents in Python and in C++ on the same models, visited in turn on this machine: medians of single runs, and their ratio.

python benchmarks/agents.py FOLDER      a folder with the program hwnas_onnxruntime_agent; devices/agents/cpp/README.md builds it

Both are started several times: a process keeps the memory that it got, and some of it is slower.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwnas.device import load_device
from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d
from hwnas.profiling.agent import Burst, started_agent
from hwnas.profiling.protocol import is_disturbed
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.weights import random_weights

STARTS, ROUNDS, BURST = 8, 20, Burst(3, 20)


def models():
    """Name -> model: from one where the call is most of it to whole networks."""
    space, runtime = ofa_mini(), onnxruntime()
    conv = {f"conv {size}x{size}": Graph.of_block((Node("conv", Conv2d((1, 16, size, size), out=16, kernel=3), ("in0",)),)) for size in (4, 16, 56)}
    graphs = conv | {"ofa_mini, smallest": space.lower(space.smallest()), "ofa_mini, largest": space.lower(space.largest())}
    return {name: runtime.build(graph, random_weights(graph, np.random.default_rng(0))) for name, graph in graphs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["HWNAS_LEASE"] = ""  # two agents at once, of which one stands still
    localhost, runtime = load_device("localhost"), onnxruntime()
    named = models()
    starts = {name: [] for name in named}  # of each: medians in Python and in C++, least number of visits
    for _ in range(STARTS):
        with (
            started_agent(localhost, runtime, threads=1, seed=0) as python,
            started_agent(replace(localhost, agent=str(options.folder)), runtime, threads=1, seed=0) as cpp,
        ):
            for name, model in named.items():
                python.load(name, model)
                cpp.load(name, model)
            taken = {name: {python: [], cpp: []} for name in named}
            for number in range(ROUNDS):
                for name in named:
                    for agent in (python, cpp)[:: 1 if number % 2 else -1]:
                        (visit,) = agent.visit([name], {name: BURST})
                        if not isinstance(visit, str) and not is_disturbed(visit):
                            taken[name][agent].append(np.median(visit.ns) / 1e3)
            for name, each in taken.items():
                if all(each.values()):
                    starts[name].append((np.median(each[python]), np.median(each[cpp]), min(map(len, each.values()))))
    rows = []
    for name, each in starts.items():
        us = np.array(each).reshape(-1, 3)
        ratios = us[:, 1] / us[:, 0]
        medians = {"python_us": float(np.median(us[:, 0])), "cpp_us": float(np.median(us[:, 1])), "ratio": float(np.median(ratios))}
        rows.append({"model": name, **medians, "least_ratio": float(ratios.min()), "greatest_ratio": float(ratios.max()), "visits": int(us[:, 2].sum())})
    if options.json:
        print(json.dumps({"starts": STARTS, "models": rows}, indent=2))
        return
    print(f"{'model':20} {'Python':>10} {'C++':>10}   {f'ratio, median of {STARTS} starts':26} {'visits':>7}")
    for row in rows:
        ratio = f"{row['ratio']:.3f} ({row['least_ratio']:.3f} to {row['greatest_ratio']:.3f})"
        print(f"{row['model']:20} {row['python_us']:7.2f} us {row['cpp_us']:7.2f} us   {ratio:26} {row['visits']:7}")


if __name__ == "__main__":
    main()
