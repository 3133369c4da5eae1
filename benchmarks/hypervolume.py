"""Hypervolume regret of searchers for several objectives against the exact front, beside pymoo's NSGA-II at equal evaluations.

    HWNAS_DATA=folder python benchmarks/hypervolume.py [--task NAME ...] [--seeds 20] [--evaluations 100 200] [--json]

HWNAS_DATA holds, as far as the tasks need them: nas_bench_macro_cifar10.csv.gz (6,561 trained networks), nb201_accuracy.csv.gz with
help_nasbench201_latency_ms.csv.gz (15,625 trained networks, latencies measured on an Intel Xeon Gold 6226 and an NVIDIA GTX 1080 Ti), and
accel_nasbench.csv.gz (5,138 trained networks with latencies measured on a Xilinx ZCU102). In the first two everything is looked up, and the
exact front is that of all networks. Of the third most networks are unknown: there both objectives are *predicted*, by ridge
regressions on the choices, whose exact front is computed.

Regret is 1 - hypervolume / hypervolume of the exact front, both up to the worst values on the exact front. All methods have the same seeds and
evaluations of distinct networks. The sign tests against random search are over seeds, ties left out.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from nsga2 import FIRST_SEED, pymoo_alone
from search_macro import EVERYTHING as MACRO
from search_macro import TrainedAccuracy
from search_macro import read as read_macro

from hwnas import registry
from hwnas.blocks import conv_bn_act
from hwnas.costs import macs, params
from hwnas.driver import drive
from hwnas.errors import HwnasError, InputError
from hwnas.exact import pareto_front
from hwnas.index import BlockIndex
from hwnas.pareto import hypervolume, non_dominated
from hwnas.predictor import Additive, Origin
from hwnas.problem import Objective, Problem
from hwnas.significance import sign_test
from hwnas.space import Choice, Codes, FloatArray, Layer, SearchSpace
from hwnas.spaces.nas_bench_macro import nas_bench_macro
from hwnas.spaces.nasbench201 import nasbench201, values_of
from hwnas.surrogate import fit_surrogate

SEARCHERS = ("random_search", "nsga2", "nsga3", "tpe")
XEON, GPU = "gold_6226", "1080ti_1"


class Looked:
    """A value for every network of the space, by its code."""

    expensive = True

    def __init__(self, table: FloatArray, name: str, unit: str, origin: Origin = "measured"):
        self.table, self.name, self.unit, self.origin = table, name, unit, origin

    def __call__(self, codes: Codes) -> FloatArray:
        values: FloatArray = self.table[tuple(codes.T)]
        return values


def rows_of(folder: Path, file: str) -> list[dict[str, str]]:
    if not (folder / file).is_file():
        raise InputError(f"{folder} has no {file}; set HWNAS_DATA to the folder that has it")
    with gzip.open(folder / file, "rt") as text:
        return list(csv.DictReader(text))


def macro(folder: Path) -> tuple[Problem, FloatArray, str]:
    """Accuracy, MACs and parameters of NAS-Bench-Macro."""
    index = BlockIndex(nas_bench_macro())
    costs = [Additive(index, price(index.blocks), name=name, unit=name) for price, name in ((macs, "MACs"), (params, "parameters"))]
    problem = Problem(index, [Objective(TrainedAccuracy(read_macro(folder)[0]), maximize=True), *map(Objective, costs)])
    return problem, exact(problem, MACRO), "measured"


def nb201(folder: Path, devices: Sequence[str]) -> tuple[Problem, FloatArray, str]:
    """Accuracy (CIFAR-100, validation, 12 epochs) and measured latency on each device of NAS-Bench-201."""
    index = BlockIndex(nasbench201())
    latencies = {row["arch_idx"]: row for row in rows_of(folder, "help_nasbench201_latency_ms.csv.gz")}
    tables = [np.full((5,) * 6, np.nan) for _ in range(1 + len(devices))]
    for row in rows_of(folder, "nb201_accuracy.csv.gz"):
        code = tuple(index.space.encode(values_of(row["arch_str"]))[0])
        for table, value in zip(tables, [row["cifar100_val"], *(latencies[row["arch_idx"]][device] for device in devices)], strict=True):
            table[code] = float(value)
    objectives = [Objective(Looked(table, device, "ms")) for table, device in zip(tables[1:], devices, strict=True)]
    problem = Problem(index, [Objective(Looked(tables[0], "accuracy", "%"), maximize=True), *objectives])
    return problem, exact(problem, np.asfortranarray(np.indices((5,) * 6).reshape(6, -1).T, np.int16)), "measured"


def accel(folder: Path) -> tuple[Problem, FloatArray, str]:
    """Accuracy (ImageNet, validation) and latency on a ZCU102 of Accel-NASBench's space, both predicted from its 5,138 measured networks."""
    rows = [row for row in rows_of(folder, "accel_nasbench.csv.gz") if row["val_top1"] and row["zcu102_latency_mean"]]
    met = {kind: np.array([[int(value) for value in row[kind].split()] for row in rows]) for kind in ("expand", "kernel", "layers", "se")}  # (networks, blocks)
    choices = [[Choice(f"block{b}.{kind}", tuple(np.unique(each[:, b]).tolist())) for kind, each in met.items()] for b in range(7)]

    def build(expand: int, kernel: int, layers: int, se: int) -> Any:
        return conv_bn_act((1, 1, 1, 1), 1 + expand + 10 * kernel + 100 * layers + 1000 * se)  # a block stands for its choices here

    layers = [Layer(f"block{b}", tuple(block), build) for b, block in enumerate(choices)]
    space = SearchSpace("accel_nasbench", [choice for block in choices for choice in block], layers)
    index = BlockIndex(space)
    values = [{f"block{b}.{kind}": int(each[i, b]) for b in range(7) for kind, each in met.items()} for i in range(len(rows))]
    codes = np.asfortranarray(np.concatenate([space.encode(each) for each in values]))
    columns = {"accuracy": ("val_top1", "%"), "latency": ("zcu102_latency_mean", "ms")}
    fitted = {name: fit_surrogate(index, codes, np.array([float(row[key]) for row in rows]), name=name, unit=unit) for name, (key, unit) in columns.items()}
    accuracy, latency = (each.metric for each in fitted.values())
    front = pareto_front(accuracy, latency)
    values_on_front = np.stack([-front.values, front.costs], axis=1)
    how = ", ".join(f"{name} off by {each.error:.2g} {each.metric.unit} on left-out networks, Spearman {each.spearman:.3f}" for name, each in fitted.items())
    return Problem(index, [Objective(accuracy, maximize=True), Objective(latency)]), values_on_front, f"predicted: {how}"


#: Name -> folder -> problem, its exact front (n, objectives) minimised, where values come from.
TASKS: dict[str, Callable[[Path], tuple[Problem, FloatArray, str]]] = {
    "macro: accuracy, MACs, parameters": macro,
    "nb201: accuracy, Xeon": partial(nb201, devices=(XEON,)),
    "nb201: accuracy, GPU": partial(nb201, devices=(GPU,)),
    "nb201: accuracy, Xeon, GPU": partial(nb201, devices=(XEON, GPU)),
    "accel: accuracy, ZCU102": accel,
}


def exact(problem: Problem, codes: Codes) -> FloatArray:
    values = problem.minimised(problem.evaluate(codes))
    return values[non_dominated(values)]


def ours(name: str, task: Problem, seed: int, n: int) -> Codes:
    return drive(registry.load("searchers", name), task, seed=seed, evaluations=n).codes


def pymoo_on_texts(task: Problem, seed: int, n: int) -> Codes:
    """pymoo's NSGA2 with what its documentation gives for choices without an order."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating, MixedVariableSampling
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.core.variable import Choice as Variable
    from pymoo.optimize import minimize

    met: dict[tuple[int, ...], None] = {}

    class Chosen(ElementwiseProblem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(vars={choice.name: Variable(options=list(range(len(choice.values)))) for choice in task.space.choices}, n_obj=len(task.objectives))

        def _evaluate(self, x: Any, out: Any, *args: Any, **kwargs: Any) -> None:
            code = tuple(int(x[choice.name]) for choice in task.space.choices)
            met[code] = None
            out["F"] = task.minimised(task.evaluate(np.array([code], np.int16)))[0]

    alike = MixedVariableDuplicateElimination()
    algorithm = NSGA2(16, sampling=MixedVariableSampling(), mating=MixedVariableMating(eliminate_duplicates=alike), eliminate_duplicates=alike)
    minimize(Chosen(), algorithm, ("n_gen", 10 * n), seed=seed, callback=lambda algorithm: setattr(algorithm.termination, "force_termination", len(met) >= n))
    return np.array(list(met), np.int16)[:n]


def pymoo(task: Problem, seed: int, n: int) -> Codes:
    if any(isinstance(value, str) for choice in task.space.choices for value in choice.values):
        return pymoo_on_texts(task, seed, n)
    return pymoo_alone(task, seed, n, {})


def compare(folder: Path, tasks: Sequence[str], seeds: int, evaluations: Sequence[int], searchers: Sequence[str]) -> list[dict[str, Any]]:
    """Rows: by task, evaluations and method the mean regret and the sign test against random search."""
    methods: dict[str, Callable[[Problem, int, int], Codes]] = {name: partial(ours, name) for name in searchers}
    if find_spec("pymoo"):
        methods["pymoo's NSGA-II"] = pymoo
    rows = []
    for name in tasks:
        problem, front, origin = TASKS[name](folder)
        corner = front.max(axis=0)
        whole = hypervolume(front, corner)

        def regret(codes: Codes, problem: Problem = problem, corner: FloatArray = corner, whole: float = whole) -> float:
            return 1 - hypervolume(problem.minimised(problem.evaluate(np.asfortranarray(codes))), corner) / whole

        most = max(evaluations)
        found = {method: [make(problem, FIRST_SEED + i, most) for i in range(seeds)] for method, make in methods.items()}
        for n in evaluations:  # a search is what a longer one had found by then
            regrets = {method: np.array([regret(codes[:n]) for codes in each]) for method, each in found.items()}
            for method, values in regrets.items():
                row = {"task": name, "origin": origin, "front": len(front), "evaluations": n, "method": method, "regret": float(values.mean())}
                others = [other for other in ("random_search", "pymoo's NSGA-II") if other in regrets and other != method]
                against = {f"against {other}": asdict(sign_test(-values, -regrets[other])) for other in others}
                rows.append({**row, "sd": float(values.std(ddof=1)), "networks": min(len(codes) for codes in found[method]), **against})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Hypervolume regret against the exact front.")
    parser.add_argument("--task", action="append", choices=list(TASKS), help="all by default")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--searcher", action="append", help=f"of hwnas; {', '.join(SEARCHERS)} by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.seeds < 2 or min(given.evaluations) < 1:
        sys.exit("--seeds must be at least 2 and --evaluations at least 1")
    warnings.filterwarnings("ignore", module="pymoo")
    try:
        rows = compare(Path(os.environ.get("HWNAS_DATA", ".")), given.task or list(TASKS), given.seeds, given.evaluations, given.searcher or SEARCHERS)
    except HwnasError as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps({"seeds": given.seeds, "rows": rows}, indent=1))
        return
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        print(f"{task} ({mine[0]['origin']}; exact front of {mine[0]['front']}): hypervolume regret, mean and standard deviation of {given.seeds} seeds")
        for row in mine:
            tests = [f"{test['wins']}-{test['losses']} p {test['p']:.1e} {key}" for key, test in row.items() if key.startswith("against")]
            print(f"  {row['evaluations']:5d}  {row['method']:16s}  {row['regret']:7.2%} ± {row['sd']:6.2%}   {'   '.join(tests)}".rstrip())


if __name__ == "__main__":
    main()
