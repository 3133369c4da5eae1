"""`accuracy`: accuracies of a supernet's subnets as data, to fit predictors to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.accuracy_predictor import FOLDS, LEVEL, check_enough, inside, left_out
from hwnas.accuracy_quality import CONFIDENCE, accuracy_quality
from hwnas.driver import drive
from hwnas.errors import DamagedFile, InputError, MissingExtra
from hwnas.files import csv_text, write_whole
from hwnas.index import BlockIndex
from hwnas.problem import Objective, Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes, FloatArray
from hwnas.verbs.common import Job, Progress, check_seed, cost_metrics, existing, silent, use_threads
from hwnas.verbs.records import EVALUATED, checked
from hwnas.verbs.workers import threads_of_worker, working

STAGE = "accuracy"
CSV = "accuracies.csv"
MAX_SAMPLES = 100_000

#: What every other predictor has to beat; never chosen as the best.
BASELINES = ("macs", "params")

_BATCH = 16


def build_accuracy(
    run: Path,
    *,
    samples: int = 500,
    seed: int = 0,
    threads: int | None = None,
    workers: int = 1,
    executor: str | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Measure the validation accuracy of `samples` distinct subnets of the trained supernet of `run`, each re-calibrated, and keep them in the run.

    They are the smallest, the largest, and uniform samples of all choices, the resolution among them. Each is on the disk before the
    next one is measured; the same call again continues, and one with more samples adds to them. `accuracies.csv` in the run's
    folder has them all. workers, executor: how many are measured at a time, and where, as for `search`.
    Returns how many there are, and their least and greatest accuracy. Raises HwnasError.
    """
    if not 1 <= samples <= MAX_SAMPLES:
        raise InputError(f"--samples is {samples}, it must be from 1 to {MAX_SAMPLES:,}")
    check_seed(seed)
    with existing(run) as directory:
        job = Job(directory)
        job.result("train")
        directory.options(STAGE, {"seed": seed})
        used = threads_of_worker(threads, workers, executor)
        use_threads(used)
        have = len(directory.events(STAGE, "evaluated"))
        if have < samples:
            check_weights(job)
            problem = Problem(job.index, [Objective(job.accuracy, maximize=True)])
            with working(job, workers, executor, used) as hands:
                drive(
                    uniform_subnets,
                    problem,
                    directory,
                    seed=seed,
                    evaluations=samples,
                    stage=STAGE,
                    executor=hands,
                    progress=lambda spent, best: progress("accuracy", round(spent), samples),
                )
        codes, values = measured(job)
        write_whole(directory.folder / CSV, _csv(job, codes, values))
        ends = {"least_pct": float(values.min()), "greatest_pct": float(values.max())} if len(values) else {}
        return {"subnets": len(values), "origin": "measured", "file": str(directory.folder / CSV), **ends}


def check_weights(job: Job) -> None:
    """Raises InputError where subnets were measured before a search that went on training the supernet: those measured now would not go with them."""
    searched, measured_before = job.run.events("search", "result"), job.run.events(STAGE, "evaluated")
    if searched and measured_before and measured_before[0].id < searched[-1].id and (job.recorded("search") or {}).get("files"):
        raise InputError(
            f"the search of {job.run.folder} has trained the supernet on since subnets of it were measured, and more of them would not go with those; "
            f"measure them in another run"
        )


def report_accuracy(run: Path, *, predictors: Sequence[str] = (), seed: int = 0, progress: Progress = silent) -> Mapping[str, Any]:
    """How well each predictor of accuracy (by default all there are) meets subnets of `run` that it was not fitted to.

    The subnets that `build_accuracy` measured are predicted in five folds, each by a model of the others. Rows, the best rank correlation
    first: Kendall's tau, over all and within a resolution, Spearman's, mean absolute error in points, and the share of subnets inside
    their 90 % intervals, each with a 95 % bootstrap interval over subnets. MACs and parameters are always among them. Raises HwnasError.
    """
    check_seed(seed)
    with existing(run) as directory:
        job = Job(directory)
        codes, values = needed(job)
    names = list(dict.fromkeys([*(predictors or registry.names("accuracy_predictors")), *BASELINES]))
    rows, absent = compared(job.index, codes, values, names, seed=seed, progress=progress)
    if missing := [error for name, error in absent.items() if name in predictors]:
        raise missing[0]
    best = next((row["predictor"] for row in rows if not row["baseline"]), None)
    facts = {"subnets": len(values), "folds": FOLDS, "confidence": CONFIDENCE, "level": LEVEL}
    return {**facts, "predictors": rows, "best": best, "absent": [str(error) for error in absent.values()]}


def compared(
    index: BlockIndex, codes: Codes, values: FloatArray, names: Sequence[str], *, seed: int, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, MissingExtra]]:
    """(the rows of `report_accuracy`, what keeps a predictor from being one of them by its name)."""
    rows, absent = [], dict[str, MissingExtra]()
    for i, name in enumerate(names):
        started = time.monotonic()
        try:
            found = left_out(name, index, codes, values, seed=seed)
        except MissingExtra as error:
            absent[name] = error
        else:
            quality = accuracy_quality(values, found.predicted, inside=inside(values, found), groups=index.resolutions(codes), seed=seed)
            rows.append({"predictor": name, "baseline": name in BASELINES, **asdict(quality), "seconds": time.monotonic() - started})
        progress("accuracy predictors", i + 1, len(names))
    return sorted(rows, key=lambda row: -row["kendall"]["value"]), absent


def best_predictor(index: BlockIndex, codes: Codes, values: FloatArray, *, progress: Progress = silent) -> str:
    """The one that ranks subnets best that it was not fitted to."""
    names = [name for name in registry.names("accuracy_predictors") if name not in BASELINES]
    return str(compared(index, codes, values, names, seed=0, progress=progress)[0][0]["predictor"])


def needed(job: Job) -> tuple[Codes, FloatArray]:
    """What `measured` gives. Raises InputError, naming the command that measures more, where it is too little to fit anything to."""
    codes, values = measured(job)
    try:
        check_enough(len(codes))
    except InputError as error:
        raise InputError(f"{error}; measure some with: hwnas accuracy build {job.run.folder}") from None
    return codes, values


def uniform_subnets(problem: Problem, *, rng: np.random.Generator) -> Search:
    """The smallest and the largest architecture, then uniform ones without end: where a predictor has to interpolate between."""
    space = problem.space
    yield Ask(np.asfortranarray(np.concatenate([space.smallest(), space.largest()])))
    while True:
        yield Ask(space.sample(rng, _BATCH))


def measured(job: Job) -> tuple[Codes, FloatArray]:
    """What `build_accuracy` has kept: codes (n, choices), accuracy in % (n,). Raises DamagedFile."""
    where = f"the accuracies of {job.run.folder}"
    bodies = [checked(event.body, EVALUATED, where) for event in job.run.events(STAGE, "evaluated")]
    kept = [(body["code"], body["values"][0]) for body in bodies if body["values"] and body["values"][0] is not None]
    codes = recorded_codes(job, [code for code, _ in kept], where)
    return codes, np.array([value for _, value in kept], np.float64)


def recorded_codes(job: Job, rows: Sequence[Sequence[int]], where: str) -> Codes:
    """Codes (n, choices) of the run's space from what `where` recorded. Raises DamagedFile where they are none."""
    try:
        return job.index.space.check(np.array(rows, np.int64).reshape(len(rows), len(job.index.space.choices)))
    except (InputError, ValueError, OverflowError) as error:
        raise DamagedFile(f"{where} are not of {job.index.space.name}: {error}") from None


def _csv(job: Job, codes: Codes, values: FloatArray) -> str:
    """For people and other programs; derived from the store."""
    costs = {
        name: metric(codes).tolist() for name, metric in cost_metrics(job.index).items() if name not in ("memory", "size")
    }  # these depend on the precision
    rows = [[f"{values[i]:.6g}", *(f"{each[i]:.0f}" for each in costs.values()), *job.index.space.decode(code).values()] for i, code in enumerate(codes)]
    return csv_text([["accuracy_pct", *costs, *(choice.name for choice in job.index.space.choices)], *rows])
