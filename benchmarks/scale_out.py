"""What workers gain: subnets of a supernet evaluated by this process, by processes of this machine, and by Ray, with equal answers.

    OMP_NUM_THREADS=1 python benchmarks/scale_out.py            (about 2 minutes on two cores)

`ofa_mini` with random weights on cluttered digits, one thread each: what is evaluated is what a search evaluates, re-calibration and a pass over the
validation images. Each executor is timed from its first candidate to its last, and by itself until its first answer: that is what starting it takes.
The target is that every executor gives the same accuracies to the last bit, and that two processes on two free cores take 0.6 of the time of one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from hwnas.executor import Candidate, Executor, InProcess
from hwnas.executors.processes import processes
from hwnas.executors.ray import ray
from hwnas.index import BlockIndex
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.supernet.supernet import Supernet
from hwnas.verbs.workers import SupernetEvaluation

TARGET = 0.6  # of the time of one process, for two


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subnets", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    index = BlockIndex(ofa_mini())
    train = {"space": "ofa_mini", "fingerprint": index.fingerprint, "data": "cluttered_digits", "seed": 0}
    weights = save({name: tensor.contiguous() for name, tensor in Supernet(index, seed=0).state().items()})
    prepare = SupernetEvaluation(Path(), train, weights, "cpu", 1)
    evaluate = prepare()
    codes = index.space.sample(np.random.default_rng(0), arguments.subnets + arguments.workers)
    rows, answers = [], []
    makers: dict[str, Any] = {"this process": InProcess, f"{arguments.workers} processes": lambda: processes(prepare, arguments.workers)}
    if importlib.util.find_spec("ray") is not None:
        makers[f"Ray, {arguments.workers} workers"] = lambda: ray(prepare, arguments.workers)
    for name, make in makers.items():
        began = time.perf_counter()
        with closing(make()) as executor:
            first = evaluated(executor, codes[: arguments.workers], evaluate, 0)
            started = time.perf_counter()
            found = evaluated(executor, codes[arguments.workers :], evaluate, arguments.workers)
            seconds = time.perf_counter() - started
        answers.append({**first, **found})
        rows.append({"by": name, "first answers s": started - began, "evaluations per s": arguments.subnets / seconds})
    for row in rows:
        row["ratio"] = rows[0]["evaluations per s"] / row["evaluations per s"]
    same = all(each == answers[0] for each in answers)
    if arguments.json:
        print(json.dumps({"rows": rows, "same": same}, indent=1))
        return 0
    for row in rows:
        speed = f"{row['evaluations per s']:6.2f} a second, {row['ratio']:.2f} of the time"
        print(f"{row['by']:20} first answers after {row['first answers s']:5.1f} s, then {speed}")
    print(f"accuracies {'equal' if same else 'NOT EQUAL'} to the last bit; target for two processes: {TARGET} of the time")
    return 0 if same else 1


def evaluated(executor: Executor, codes: Any, evaluate: Any, first: int) -> dict[int, float]:
    """Number of each candidate -> its accuracy in %."""
    for i in range(len(codes)):
        executor.submit(first + i, Candidate(codes[i : i + 1], 1.0, evaluate))
    done = [executor.wait() for _ in codes]
    return {each.number: float(each.values[0]) for each in done if each.values is not None}


if __name__ == "__main__":
    sys.exit(main())
