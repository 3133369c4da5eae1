"""NSGA-II against random search on two objectives, accuracy and MACs, of trained networks: NAS-Bench-Macro, CIFAR-10.

    HWNAS_DATA=folder python benchmarks/nsga2.py [--seeds 20] [--evaluations 50 100 200] [--share 1 0.5] [--set population=16] [--json]

HWNAS_DATA as for search_macro.py, whose problem this is with MACs as the second objective. A front is worth its hypervolume up to the
worst accuracy and MACs of the true front, as a share of the true front's. Beside hwnas' searchers: Optuna's sampler by itself, and
pymoo's NSGA-II with its operators for whole numbers, if it is installed. All four have the same seeds and spend the same number of evaluations
of distinct networks; the last two know a budget only as a constraint. The sign tests are over seeds, ties left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from search_macro import EVERYTHING, TrainedAccuracy, read

from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.driver import drive
from hwnas.errors import HwnasError
from hwnas.index import BlockIndex
from hwnas.pareto import hypervolume, non_dominated
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.searcher import Option, parse_options
from hwnas.searchers.nsga2 import nsga2
from hwnas.searchers.random_search import random_search
from hwnas.significance import sign_test
from hwnas.space import Codes, FloatArray
from hwnas.spaces.nas_bench_macro import nas_bench_macro

FIRST_SEED = 1_000  # the default of nsga2's population was chosen on seeds 0 to 39

#: (problem, seed, evaluations, options of nsga2) -> codes evaluated.
Method = Callable[[Problem, int, int, Mapping[str, Option]], Codes]


def problem(accuracy: FloatArray, share: float) -> Problem:
    """The most accuracy and the fewest MACs, within a share of the largest network's MACs."""
    index = BlockIndex(nas_bench_macro())
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    return Problem(index, [Objective(TrainedAccuracy(accuracy), maximize=True), Objective(cost)], [(Budget("macs", None, share=share), cost)])


def random(task: Problem, seed: int, n: int, options: Mapping[str, Option]) -> Codes:
    return drive(random_search, task, seed=seed, evaluations=n).codes


def ours(task: Problem, seed: int, n: int, options: Mapping[str, Option]) -> Codes:
    return drive(nsga2, task, seed=seed, evaluations=n, options=options).codes


def optuna_alone(task: Problem, seed: int, n: int, options: Mapping[str, Option]) -> Codes:
    """Optuna's NSGAIISampler as its documentation uses it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=int(options.get("population", 16)), seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    met: dict[tuple[int, ...], None] = {}
    for _ in range(10 * n):
        trial = study.ask()
        code = tuple(trial.suggest_int(choice.name, 0, len(choice.values) - 1) for choice in task.space.choices)
        scores = task.evaluate(np.array([code], np.int16))
        trial.set_constraint("budget", float(scores.violation[0]))
        study.tell(trial, task.minimised(scores)[0].tolist())
        met[code] = None
        if len(met) == n:
            break
    return np.array(list(met), np.int16)


def pymoo_alone(task: Problem, seed: int, n: int, options: Mapping[str, Option]) -> Codes:
    """pymoo's NSGA2 with the operators its documentation gives for whole numbers, of a problem whose choices are numbers."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as Vectorised
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    met: dict[tuple[int, ...], None] = {}

    class Whole(Vectorised):  # type: ignore[misc]
        def __init__(self) -> None:
            n = len(task.space.choices)
            super().__init__(n_var=n, n_obj=len(task.objectives), n_ieq_constr=1, xl=np.zeros(n, int), xu=task.space.cardinalities - 1, vtype=int)

        def _evaluate(self, x: Any, out: Any, *args: Any, **kwargs: Any) -> None:
            scores = task.evaluate(np.asfortranarray(x, np.int16))
            out["F"], out["G"] = task.minimised(scores), scores.ratio[:, None] - 1
            met.update(dict.fromkeys(map(tuple, x.tolist())))

    operators = {"prob": 1.0, "eta": 3.0, "vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(int(options.get("population", 16)), sampling=IntegerRandomSampling(), crossover=SBX(**operators), mutation=PM(**operators))
    minimize(Whole(), algorithm, ("n_gen", 10 * n), seed=seed, callback=lambda algorithm: setattr(algorithm.termination, "force_termination", len(met) >= n))
    return np.array(list(met), np.int16)[:n]


def compare(folder: Path, seeds: int, evaluations: list[int], shares: list[float], options: Mapping[str, Option]) -> dict[str, Any]:
    """The report: per budget, evaluations and method the mean share of the true front's hypervolume, and the sign test against random search."""
    accuracy, _ = read(folder)
    methods: dict[str, Method] = {"random search": random, "nsga2": ours, "Optuna by itself": optuna_alone}
    if find_spec("pymoo"):
        methods["pymoo"] = pymoo_alone
    rows = []
    for share in shares:
        task = problem(accuracy, share)

        def front(codes: Codes, task: Problem = task) -> FloatArray:
            scores = task.evaluate(np.asfortranarray(codes))
            values = task.minimised(scores)[scores.feasible]
            return values[non_dominated(values)]

        true = front(EVERYTHING)
        worst = true.max(axis=0)
        whole = hypervolume(true, worst)
        for n in evaluations:
            covered = {
                name: np.array([hypervolume(front(method(task, FIRST_SEED + i, n, options)), worst) / whole for i in range(seeds)])
                for name, method in methods.items()
            }
            for name, values in covered.items():
                row = {"share": share, "evaluations": n, "method": name, "hypervolume": float(values.mean()), "sd": float(values.std(ddof=1))}
                against = {f"against {other}": asdict(sign_test(values, covered[other])) for other in ("random search", "nsga2") if other != name}
                rows.append({**row, **against})
    return {"space": "nas_bench_macro", "seeds": seeds, "options": dict(options), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description="NSGA-II against random search on NAS-Bench-Macro.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--share", type=float, nargs="+", default=[1.0, 0.5], help="budgets as shares of the largest network's MACs")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="option of nsga2")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="pymoo")
    try:
        report = compare(Path(os.environ.get("HWNAS_DATA", ".")), given.seeds, given.evaluations, given.share, parse_options(nsga2, given.set))
    except HwnasError as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['space']}, accuracy and MACs: share of the true front's hypervolume, mean and standard deviation of {report['seeds']} seeds")
    print("budget  evaluations  method            hypervolume        against random search      against nsga2")
    for row in report["rows"]:
        tests = ["{wins:>5}-{losses:<3} p {p:.1e}".format(**row[key]) if (key := f"against {other}") in row else "" for other in ("random search", "nsga2")]
        figures = f"{row['hypervolume']:6.1%} ± {row['sd']:5.1%}"
        print(f"{row['share']:5.0%}  {row['evaluations']:11d}  {row['method']:16s}  {figures}   {tests[0]:25s}  {tests[1]}".rstrip())


if __name__ == "__main__":
    main()
