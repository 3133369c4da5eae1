"""`solve`: a new budget, another device's table or another precision, answered from what a run has evaluated; nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.feasible_set import FeasibleSet
from hwnas.files import sha256
from hwnas.latency_table import TABLE, LatencyTable
from hwnas.pareto import non_dominated
from hwnas.run import RunDirectory
from hwnas.space import Codes
from hwnas.surrogate import Surrogate
from hwnas.verbs.common import COSTS, Job, budget_facts, check_begun, job_of, keep_others, other_tables, share_facts, table_folder
from hwnas.verbs.resolve import Evaluated, evaluated, gap_of, latest_table, solved
from hwnas.verbs.search import BASELINES, MAX_POINTS, records, write_front

SEARCHER = "solve"  # in the place of a searcher's name


def solve(
    run: Path,
    *,
    to: Path,
    latency: str,
    table: Path | str | None = None,
    macs: str | None = None,
    params: str | None = None,
    memory: str | None = None,
    size: str | None = None,
    also: Sequence[str] = (),
    precision: str | None = None,
    batch: int | None = None,
) -> Mapping[str, Any]:
    """The networks of `run` that are within new budgets, in the new run `to`, which `verify`, `export` and `report` take as if it had searched.

    What the run has evaluated (searches, baselines, `build_accuracy`) keeps its measured accuracy. Beside it stand the exact optima of an
    additive surrogate of these accuracies, at the budget and below: their accuracy is predicted, each point says so, and `verify` measures
    it before it chooses. table: by default the run's own copy, with what `verify` has measured since. The other options are those of
    `search`. Takes seconds, trains nothing, and changes nothing in `run`. Returns what `search` returns. Raises HwnasError, Infeasible where no architecture
    keeps the budgets.
    """
    check_begun(run)
    started = time.monotonic()
    with RunDirectory(Path(run), write=False) as source:
        own = job_of(source)
        known = evaluated(own)
        if not len(known.codes):
            raise InputError(f"{run} has evaluated no network; first run: hwnas search {run}, or hwnas accuracy build {run}")
        folder = None if table is None else table_folder(table)
        prices = latest_table(own) if folder is None else LatencyTable.load(folder)
        recorded: dict[str, Any] = {
            "table": _digest(prices) if folder is None else sha256(folder / TABLE),
            "latency": latency,
            "searcher": SEARCHER,
            "evaluations": len(known.codes),
            "options": {},
            "baselines": False,
            "seed": 0,
            "solved": {"run": Path(run).resolve().name, "events": len(source.store.events())},
        }
        recorded |= {name: text for name, text in zip(COSTS, (macs, params, memory, size), strict=True) if text is not None}
        recorded |= {name: value for name, value in (("precision", precision), ("batch", batch)) if value is not None}
        others = other_tables(also)
        loaded = [LatencyTable.load(path) for path, _ in others]
        if others:
            recorded["also"] = [{"table": sha256(path / TABLE), "latency": text} for path, text in others]
        given = {"search": recorded}
        if own.is_trained:
            given["train"] = dict(own.options("train"))
        else:
            recorded |= {key: own.options("search")[key] for key in ("space", "fingerprint", "accuracy")}
        job = Job(None, given, prices, own.predicted, loaded)
        surrogate = known.surrogate(job.index)
        feasible = FeasibleSet(job.index, job.budgets)  # raises before there is a folder
        found = solved(job.index, surrogate.metric, job.budgets)
        with RunDirectory(Path(to)) as directory:
            job.run = directory
            if directory.recorded_options("search") is None:
                _take_over(own, directory, known)
                name = own.table_name if folder is None else folder.resolve().name
                directory.append("search", "table", {"name": name, "files": directory.keep_files(prices.save)})
                keep_others(directory, others, loaded)
            directory.options("search", recorded)
            if (result := job.recorded("search")) is not None:
                return result
            result = _result(job, own, known, surrogate, found, feasible)
            result["seconds"] = time.monotonic() - started
            write_front(directory.folder / "front.csv", result["points"])
            directory.finish("search", result)
            return result


def _digest(table: LatencyTable) -> str:
    """What `sha256` of the file `table.toml` would be, of a table that a run keeps."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        table.save(Path(folder))
        return sha256(Path(folder) / TABLE)


def _take_over(own: Job, directory: RunDirectory, known: Evaluated) -> None:
    """Training, with the weights that accuracies are of, and what was evaluated. Done again after an interruption it comes to the same."""
    if own.is_trained:
        trained = dict(own.result("train"))
        if own.weights != trained["files"]:  # the search went on training
            space = own.index.space
            ends = {name: float(own.accuracy(code)[0]) for name, code in (("largest", space.largest()), ("smallest", space.smallest()))}
            trained |= {"files": own.weights, "validation_accuracy_pct": ends}
        for digest in trained["files"].values():
            directory.store.add_blob(own.run.store.blob(digest))
        directory.options("train", own.options("train"))
        directory.finish("train", trained)
    directory.append("solve", "known", {"codes": known.codes, "accuracy_pct": known.accuracy_pct})


def _result(job: Job, own: Job, known: Evaluated, surrogate: Surrogate, found: Codes, feasible: FeasibleSet) -> dict[str, Any]:
    """In the form of a search's result; `accuracy_origin` of each point tells whether it was measured."""
    survey = feasible.survey(np.random.default_rng(0))
    keys = set(job.index.keys(known.codes))
    new = np.asfortranarray(found[[key not in keys for key in job.index.keys(found)]])
    inside = feasible.within(known.codes)
    codes = np.asfortranarray(known.codes[inside])
    points = [{**point, "accuracy_origin": known.origin} for point in records(job, codes, known.accuracy_pct[inside])]
    points += [{**point, "accuracy_origin": "predicted"} for point in records(job, new, surrogate.metric(new))]
    points.sort(key=lambda point: -point["accuracy_pct"])
    values = np.array([[-point["accuracy_pct"], point["latency_ms"]] for point in points], np.float64).reshape(-1, 2)
    on_front = set(np.flatnonzero(non_dominated(values)).tolist())
    points = [{**point, "on_front": row in on_front} for row, point in enumerate(points) if row < MAX_POINTS or row in on_front]
    least, greatest = job.latency.bounds()
    best = max((point["accuracy_pct"] for point in points if point["accuracy_origin"] == known.origin), default=None)
    baselines = _baselines(job, own, feasible)
    return {
        "budget_ms": feasible.constraints[0].limit,
        "statistic": job.budget.statistic,
        "space_min_ms": least.value,
        "space_max_ms": greatest.value,
        "latency_origin": job.latency.origin,
        "accuracy_origin": known.origin,
        "feasible_share": survey.share.value,
        "share": share_facts(survey.share),
        "budgets": budget_facts(survey),
        "evaluations": len(known.codes),
        "points": points,
        "surrogate": gap_of(surrogate, found[:1], best) if best is not None and len(found) else None,
        **({"baselines": baselines} if baselines else {}),
    }


def _baselines(job: Job, own: Job, feasible: FeasibleSet) -> dict[str, Any]:
    """Those of the run's own search, as far as their networks are within the new budgets, at their new latencies."""
    search = own.recorded("search") if own.run.recorded_options("search") is not None else None
    made = {}
    for name in BASELINES:
        each = ((search or {}).get("baselines") or {}).get(name)
        if each is not None and each["points"]:
            space = job.index.space
            codes = space.check(np.array([point["code"] for point in each["points"]], np.int64))
            accuracy = np.array([point["accuracy_pct"] for point in each["points"]])
            inside = feasible.within(codes)
            points = records(job, np.asfortranarray(codes[inside]), accuracy[inside])
            made[name] = {"evaluations": each["evaluations"], "points": [{**point, "on_front": False} for point in points]}
    return made
