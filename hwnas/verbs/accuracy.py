"""`accuracy`: accuracies of a supernet's subnets as data, to fit predictors to."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.driver import drive
from hwnas.errors import DamagedFile, InputError
from hwnas.files import write_whole
from hwnas.problem import Objective, Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes, FloatArray
from hwnas.verbs.common import Job, Progress, check_seed, cost_metrics, existing, silent, use_threads
from hwnas.verbs.records import EVALUATED, checked

STAGE = "accuracy"
CSV = "accuracies.csv"
MAX_SAMPLES = 100_000

_BATCH = 16


def build_accuracy(run: Path, *, samples: int = 500, seed: int = 0, threads: int | None = None, progress: Progress = silent) -> Mapping[str, Any]:
    """Measure the validation accuracy of `samples` distinct subnets of the trained supernet of `run`, each re-calibrated, and keep them in the run.

    They are the smallest, the largest, and uniform samples of all choices, the resolution among them. Each is on the disk before the
    next one is measured; the same call again continues, and one with more samples adds to them. `accuracies.csv` in the run's
    folder has them all. Returns how many there are, and their least and greatest accuracy. Raises HwnasError.
    """
    if not 1 <= samples <= MAX_SAMPLES:
        raise InputError(f"--samples is {samples}, it must be from 1 to {MAX_SAMPLES:,}")
    check_seed(seed)
    with existing(run) as directory:
        job = Job(directory)
        job.result("train")
        directory.options(STAGE, {"seed": seed})
        use_threads(threads)
        have = len(directory.events(STAGE, "evaluated"))
        if have < samples:
            problem = Problem(job.index, [Objective(job.accuracy, maximize=True)])
            drive(
                uniform_subnets,
                problem,
                directory,
                seed=seed,
                evaluations=samples,
                stage=STAGE,
                progress=lambda spent, best: progress("accuracy", round(spent), samples),
            )
        codes, values = measured(job)
        write_whole(directory.folder / CSV, _csv(job, codes, values))
        ends = {"least_pct": float(values.min()), "greatest_pct": float(values.max())} if len(values) else {}
        return {"subnets": len(values), "origin": "measured", "file": str(directory.folder / CSV), **ends}


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
    try:
        codes = job.index.space.check(np.array([code for code, _ in kept], np.int64).reshape(len(kept), len(job.index.space.choices)))
    except (InputError, ValueError, OverflowError) as error:
        raise DamagedFile(f"{where} are not of {job.index.space.name}: {error}") from None
    return codes, np.array([value for _, value in kept], np.float64)


def _csv(job: Job, codes: Codes, values: FloatArray) -> str:
    """For people and other programs; derived from the store."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = {name: metric(codes).tolist() for name, metric in cost_metrics(job.index).items() if name != "memory"}  # that depends on the precision
    writer.writerow(["accuracy_pct", *costs, *(choice.name for choice in job.index.space.choices)])
    for i, code in enumerate(codes):
        writer.writerow([f"{values[i]:.6g}", *(f"{each[i]:.0f}" for each in costs.values()), *job.index.space.decode(code).values()])
    return text.getvalue()
