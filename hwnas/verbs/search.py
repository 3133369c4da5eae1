"""`search`: the most accurate subnets within a latency budget, and what the baselines reach at equal cost."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.costs import macs, params
from hwnas.driver import SearchResult, drive
from hwnas.errors import InputError
from hwnas.files import sha256, write_whole
from hwnas.latency_table import TABLE, LatencyTable
from hwnas.predictor import Additive
from hwnas.searcher import Option, parse_options
from hwnas.space import Codes, FloatArray
from hwnas.verbs.common import Job, Progress, check_seed, existing, silent, use_threads

#: Stage of the run -> searcher: what every search is compared with.
BASELINES = {"random": "random_search", "uniform": "uniform_scaling"}


def search(
    run: Path,
    *,
    table: Path,
    latency: str,
    searcher: str = "regularized_evolution",
    evaluations: int = 150,
    options: Sequence[str] = (),
    baselines: bool = True,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Search the trained supernet of `run` for accurate subnets whose latency, predicted from `table`, keeps the budget.

    latency: `<= 12ms p50`, or `<= 55% p50` of the largest subnet. options: the searcher's, as `name=value`. With `baselines` random
    search gets the same number of evaluations, and every uniformly scaled network within the budget is evaluated. The same call
    again continues. Returns the stage's result. Raises HwnasError, Infeasible where no architecture keeps the budget.
    """
    if evaluations < 1:
        raise InputError(f"--evaluations is {evaluations}, it must be at least 1")
    check_seed(seed)
    factory = registry.load("searchers", searcher)
    chosen = parse_options(factory, options)
    with existing(run) as directory:
        prices = LatencyTable.load(Path(table))
        recorded: dict[str, Any] = {
            "table": sha256(Path(table) / TABLE),
            "latency": latency,
            "searcher": searcher,
            "evaluations": evaluations,
            "options": chosen,
            "baselines": baselines,
            "seed": seed,
        }
        job = Job(directory, {"search": recorded}, prices)
        job.result("train")
        if directory.recorded_options("search") is None:
            job.problem.within(job.index.space.smallest())  # raises before anything is recorded
            directory.append("search", "table", {"name": Path(table).resolve().name, "files": directory.keep_files(prices.save)})
        directory.options("search", recorded)
        result = job.recorded("search")
        return _search(job, factory, chosen, threads, progress) if result is None else result


def _search(job: Job, factory: Any, chosen: Mapping[str, Option], threads: int | None, progress: Progress) -> Mapping[str, Any]:
    started = time.monotonic()
    use_threads(threads)
    problem, options = job.problem, job.options("search")
    found = _drive(job, "search", factory, chosen, progress)
    seconds = time.monotonic() - started
    least, greatest = job.latency.bounds()
    result: dict[str, Any] = {
        "budget_ms": job.budget_ms,
        "statistic": job.budget.statistic,
        "space_min_ms": least.value,
        "space_max_ms": greatest.value,
        "latency_origin": job.latency.origin,
        "feasible_share": problem.feasible_share(np.random.default_rng(0)),
        "evaluations": found.evaluations,
        "seconds": seconds,
        "points": _points(job, found),
    }
    if options["baselines"]:
        result["baselines"] = {}
        for name, searcher in BASELINES.items():
            other = _drive(job, name, registry.load("searchers", searcher), {}, progress)
            result["baselines"][name] = {"evaluations": other.evaluations, "points": _points(job, other)}
    _write_front(job.run.folder / "front.csv", result["points"])
    job.run.finish("search", result)
    return result


def _drive(job: Job, stage: str, factory: Any, chosen: Mapping[str, Option], progress: Progress) -> SearchResult:
    options = job.options("search")
    total = options["evaluations"]
    result = drive(
        factory,
        job.problem,
        job.run,
        seed=options["seed"],
        evaluations=total,
        options=chosen,
        stage=stage,
        progress=lambda spent, best: progress(stage if best is None else f"{stage}, best {best:.1f} %", round(spent), total),
    )
    progress(stage, total, total)
    return result


def _points(job: Job, found: SearchResult) -> list[dict[str, Any]]:
    """Feasible candidates, the most accurate first; `on_front` where no other is as accurate and predicted faster."""
    ranked, front = found.ranked(), set(found.front(job.latency).tolist())
    points = records(job, found.codes[ranked], found.scores.values[ranked, 0])
    return [{**point, "on_front": int(row) in front} for row, point in zip(ranked, points, strict=True)]


def records(job: Job, codes: Codes, accuracy: Sequence[float] | FloatArray) -> list[dict[str, Any]]:
    """Candidates for the store: code, values by choice, validation accuracy (measured), latency (predicted), MACs, parameters."""
    costs = [metric(codes) for metric in cost_metrics(job)]
    latency = job.latency(codes)
    return [
        {
            "code": code.tolist(),
            "values": job.index.space.decode(code),
            "accuracy_pct": float(accuracy[i]),
            "latency_ms": float(latency[i]),
            "latency_origin": job.latency.origin,
            "macs": int(costs[0][i]),
            "params": int(costs[1][i]),
        }
        for i, code in enumerate(codes)
    ]


def cost_metrics(job: Job) -> list[Additive]:
    """MACs and parameters of the run's space."""
    return [Additive(job.index, price(job.index.blocks), name=price.__name__, unit=price.__name__) for price in (macs, params)]


def _write_front(path: Path, points: Sequence[Mapping[str, Any]]) -> None:
    """The front for people and spreadsheets; derived from the store."""
    text = io.StringIO()
    front = sorted((point for point in points if point["on_front"]), key=lambda point: point["latency_ms"])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["accuracy_pct", "latency_ms_predicted", "macs", "params", *(front[0]["values"] if front else ())])
    for point in front:
        writer.writerow([f"{point['accuracy_pct']:.2f}", f"{point['latency_ms']:.6g}", point["macs"], point["params"], *point["values"].values()])
    write_whole(path, text.getvalue())
