"""`specialize`: one supernet, many devices and budgets: the best subnet for each latency table and budget, from accuracies that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.accuracy_predictor import fit
from hwnas.architecture import Architecture
from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import Infeasible, InputError
from hwnas.files import write_whole
from hwnas.latency_table import LatencyTable
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import calibrated, variant_for
from hwnas.problem import Objective, Problem
from hwnas.run import RunDirectory
from hwnas.searchers.once_for_all import once_for_all
from hwnas.verbs.accuracy import best_predictor, check_weights, needed
from hwnas.verbs.common import Job, Progress, check_begun, check_seed, cost_metrics, silent, table_folder, use_threads
from hwnas.verbs.search import BEST, PREDICTIONS

MAX_TARGETS = 100


def specialize(
    run: Path,
    *,
    tables: Sequence[Path | str],
    latencies: Sequence[str],
    predictor: str = BEST,
    measured: int = 3,
    to: Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """The best subnet of the trained supernet of `run` for each (latency table, budget): one predictor of accuracy, a search of seconds each.

    latencies: a budget for each table, or one for all; name a table again for another budget on it. predictor: of accuracy, fitted to what
    `build_accuracy` measured in the run; `best` is the best by cross-validation. Each search (`once_for_all`) makes 10,000 predictions; the supernet
    then measures its `measured` best, and the most accurate of them is taken. Each row has the latencies that its subnet is predicted to have
    by every table, which shows what a subnet of another device would cost. With `to` each subnet is written there as an architecture
    file. Nothing is recorded in the run, and nothing is certified. Raises HwnasError, Infeasible where no subnet keeps a budget.
    """
    if len(latencies) not in (1, len(tables)) or not 1 <= len(tables) <= MAX_TARGETS:
        raise InputError(f"specialize needs 1 to {MAX_TARGETS} tables and a budget for each, or one for all; got {len(tables)} and {len(latencies)}")
    if measured < 1:
        raise InputError(f"--measured is {measured}, it must be at least 1")
    if predictor != BEST:
        registry.load("accuracy_predictors", registry.split_call(predictor)[0])
    check_seed(seed)
    budgets = [Budget.parse("latency", text) for text in (latencies if len(latencies) > 1 else [*latencies] * len(tables))]
    folders = [table_folder(table) for table in tables]
    loaded = {folder: LatencyTable.load(folder) for folder in dict.fromkeys(folders)}
    check_begun(run)
    with RunDirectory(Path(run), write=False) as directory:
        job = Job(directory)
        job.result("train")
        codes, values = needed(job)
        check_weights(job)
        use_threads(threads)
        prices = {
            (folder, budget.quantile): calibrated(loaded[folder], job.index, budget.quantile, variant_for(loaded[folder], job.index, None, None))
            for folder, budget in dict.fromkeys(zip(folders, budgets, strict=True))
        }
        name = best_predictor(job.index, codes, values, progress=progress) if predictor == BEST else predictor
        metric = fit(name, job.index, codes, values)
        objective = Objective(metric, maximize=True)
        problems = [Problem(job.index, [objective], [(budget, prices[folder, budget.quantile])]) for folder, budget in zip(folders, budgets, strict=True)]
        costs = cost_metrics(job.index)
        rows = []
        known: dict[bytes, float] = dict(zip(job.index.keys(codes), values.tolist(), strict=True))
        for i, (folder, problem) in enumerate(zip(folders, problems, strict=True)):
            progress("targets", i, len(folders))
            latency = problem.constraints[0].metric
            found = drive(once_for_all, problem, seed=seed, evaluations=PREDICTIONS)
            best = found.ranked()[:measured]
            if len(best) == 0:
                raise Infeasible(f"the search met no subnet within {problem.constraints[0].budget} by {folder.name}; give it another seed")
            candidates = np.asfortranarray(found.codes[best])
            accuracy = []
            for code, subnet in zip(candidates, job.index.keys(candidates), strict=True):
                if subnet not in known:
                    known[subnet] = float(job.accuracy(code[None])[0])
                accuracy.append(known[subnet])
            row = int(np.argmax(accuracy))
            code = candidates[row : row + 1]
            rows.append(
                {
                    "table": folder.name,
                    "conditions": str(loaded[folder].conditions),
                    "budget_ms": problem.constraints[0].limit,
                    "statistic": problem.constraints[0].budget.statistic,
                    "values": job.index.space.decode(code[0]),
                    "accuracy_pct": accuracy[row],
                    "predicted_pct": float(metric(code)[0]),
                    "latency_ms": float(latency(code)[0]),
                    "latency_origin": latency.origin,
                    **{name: int(costs[name](code)[0]) for name in ("macs", "params")},
                    "code": code[0].tolist(),
                }
            )
        progress("targets", len(folders), len(folders))
        _add_swaps(rows, [prices[folder, budget.quantile] for folder, budget in zip(folders, budgets, strict=True)])
        if to is not None:
            for i, each in enumerate(rows):
                write_whole(Path(to) / f"{i + 1}-{each['table']}.json", Architecture(job.index.space.name, each["values"]).to_json() + "\n")
        return {"space": job.index.space.name, "predictor": name, "samples": len(codes), "predictions": PREDICTIONS, "targets": rows}


def _add_swaps(rows: Sequence[dict[str, Any]], prices: Sequence[Additive]) -> None:
    """To each row its subnet's latency by the table of every row, in ms."""
    codes = np.asfortranarray([row["code"] for row in rows], np.int16)
    for row, latency in zip(rows, np.stack([price(codes) for price in prices], axis=1), strict=True):
        row["elsewhere_ms"] = latency.tolist()
