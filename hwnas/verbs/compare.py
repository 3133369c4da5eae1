"""`compare`: searches for the same at equal cost, beside random search, and whether any of them is better beyond the noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwnas import registry
from hwnas.errors import InputError
from hwnas.pareto import hypervolume, non_dominated
from hwnas.rewards import feasible_first
from hwnas.run import RunDirectory
from hwnas.searcher import options_of
from hwnas.significance import sign_test
from hwnas.space import FloatArray
from hwnas.verbs.common import Job, Progress, silent
from hwnas.verbs.records import EVALUATED, checked
from hwnas.verbs.report import RESAMPLES, bootstrap
from hwnas.verbs.search import MAX_POINTS

RANDOM = "random_search"
ERROR = 0.05  # chance that a winner is named where all methods are equally good
IMAGES = "validation images"  # by which the noise is told of one run each: which of two networks is better, and of no method
LEAST_UNPAIRED = 5  # runs of each method, without common seeds: a bootstrap of fewer is too narrow

#: What must be the same for two searches to answer one question: recorded option -> how it is said.
_ASKED = {
    "fingerprint": "space",
    "data": "data",
    "images": "images",
    "accuracy": "accuracy",
    "table": "latency table (by its SHA-256)",
    **{name: name for name in ("latency", "macs", "params", "memory", "size", "precision", "batch")},
    "also": "budgets on other devices",
    "latency_source": "latency source",
    "latency_device": "latency device",
}


@dataclass(frozen=True)
class _Images:
    """Which validation images the best of a search classifies right: each supernet and its images are loaded once."""

    jobs: dict[str, Job]
    known: dict[tuple[str, tuple[int, ...]], FloatArray] = field(default_factory=dict)

    def job(self, trace: _Trace) -> Job:
        return self.jobs.setdefault(trace.supernet, trace.job)

    def hits(self, trace: _Trace) -> FloatArray:
        """1 where right, (images,)."""
        key = trace.supernet, _best(trace)[2]
        if key not in self.known:
            self.known[key] = self.job(trace).accuracy.correct(np.array(key[1], np.int16)).astype(np.float64)
        return self.known[key]

    def sources(self, trace: _Trace) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = self.job(trace).accuracy.validation.sources.numpy()
        return found


@dataclass(frozen=True)
class _Trace:
    """A search of a run, up to the cost that is compared: feasible candidates as (accuracy in %, latency in ms, code)."""

    job: Job
    method: str
    seed: int
    supernet: str
    evaluations: float
    points: Sequence[tuple[float, float, tuple[int, ...]]]

    @property
    def best(self) -> tuple[float, float, tuple[int, ...]] | None:
        return max(self.points, default=None, key=lambda point: point[0])


def compare(runs: Sequence[Path], *, evaluations: int | None = None, seed: int = 0, progress: Progress = silent) -> Mapping[str, Any]:
    """Compare what searches of two or more runs found at equal cost, each beside random search at the same cost.

    The runs must have the same space, data, latency table and budgets. Cost is counted in full evaluations, subnets measured for a
    predictor among them; by default it is what the shortest search has spent, `evaluations` compares at fewer. Searches of one
    searcher with the same options are one method, and their seeds tell the noise: methods with common seeds are compared seed by
    seed (sign test), others by a bootstrap over runs. Where a method has one run only, the noise is that of the validation images,
    which tells of the two networks and not of the methods. `winner` is a method that is better than every other beyond the noise, with
    an error of 5 % for all comparisons together, else None.
    Writes nothing. Raises InputError where the runs answer different questions, or have no random search beside them.
    """
    folders = list(dict.fromkeys(Path(run).resolve() for run in runs))
    if len(folders) < 2:
        raise InputError("compare needs two or more different runs; a single one is compared with random search by: hwnas report RUN")
    if evaluations is not None and evaluations < 1:
        raise InputError(f"--evaluations is {evaluations}, it must be at least 1")
    with ExitStack() as opened:
        jobs = [Job(opened.enter_context(RunDirectory(folder, write=False))) for folder in folders]
        searched = [job.result("search") for job in jobs]
        _same_question(jobs)
        costs = [cost for job, found in zip(jobs, searched, strict=True) for cost in (found["evaluations"], _random(found, job)["evaluations"])]
        least = int(min(costs) + 1e-9)
        if evaluations is not None and evaluations > least:
            raise InputError(f"--evaluations is {evaluations}, and the shortest of these searches has {least}; name at most that")
        cost = evaluations or least
        traces = [trace for job, found in zip(jobs, searched, strict=True) for trace in _traces(job, found, cost)]
        methods: dict[str, list[_Trace]] = {}
        for trace in traces:
            same = methods.setdefault(trace.method, [])
            if not any((trace.seed, trace.supernet) == (each.seed, each.supernet) for each in same):  # every run has a random search of its own
                same.append(trace)
        return _compared(methods, searched[0], cost, seed, progress)


def _same_question(jobs: Sequence[Job]) -> None:
    asked = [{**(job.options("train") if "space" not in job.options("search") else {}), **job.options("search")} for job in jobs]
    for job, other in zip(jobs[1:], asked[1:], strict=True):
        for key, name in _ASKED.items():
            if other.get(key) != asked[0].get(key):
                first, second = (str(each.get(key, "none"))[:60] for each in (asked[0], other))
                where = f"{jobs[0].run.folder} was searched with {name} {first} and {job.run.folder} with {second}"
                raise InputError(f"{where}: they answer different questions and are not compared")


def _random(found: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    baselines: Mapping[str, Any] = found.get("baselines") or {}
    if "random" not in baselines:
        raise InputError(f"{job.run.folder} has no random search beside it; search again in another run, without --no-baselines")
    recorded: Mapping[str, Any] = baselines["random"]
    return recorded


def _traces(job: Job, found: Mapping[str, Any], cost: int) -> Iterator[_Trace]:
    """The run's search and its random search."""
    options = job.options("search")
    is_trained = "space" not in options
    supernet = str(sorted(job.weights.items())) if is_trained else ""
    predictor = found.get("predictor")
    usual = {name: spec.default for name, spec in options_of(registry.load("searchers", options["searcher"])).items()}
    chosen = ", ".join(f"{name}={value}" for name, value in options["options"].items() if usual.get(name) != value)
    reward = options.get("reward") or feasible_first.__name__
    method = options["searcher"] + (f"({chosen})" if chosen else "") + (f" by {predictor['name']}" if predictor else "")
    method += f" for {reward}" if reward != feasible_first.__name__ else ""
    searches = (("search", method, found, predictor["samples"] if predictor else 0), ("random", RANDOM, _random(found, job), 0))
    for stage, name, result, before in searches:
        yield _Trace(job, name, options["seed"], supernet, result["evaluations"], list(_points(job, stage, result, before, cost)))


def _points(job: Job, stage: str, result: Mapping[str, Any], before: float, cost: int) -> Iterator[tuple[float, float, tuple[int, ...]]]:
    """Feasible candidates that a stage had fully evaluated when it had spent `cost`; `before` was spent on a predictor."""
    known = {tuple(point["code"]): (point["accuracy_pct"], point["latency_ms"]) for point in result["points"]}
    within = result["evaluations"] <= cost + 1e-9
    if not within and len(known) >= MAX_POINTS:
        raise InputError(f"{job.run.folder} recorded the best {MAX_POINTS:,} of its candidates only; compare it with runs of as many evaluations")
    bodies = [checked(event.body, EVALUATED, f"{stage} of {job.run.folder}") for event in job.run.events(stage, "evaluated")]
    if within or not bodies:
        if not within:
            many = f"{result['evaluations']:g} evaluations by a predictor"
            raise InputError(f"{job.run.folder} has {many}, which are not recorded one by one; compare it with runs of as many")
        yield from ((*values, code) for code, values in known.items())
        return
    spent = before
    for body in bodies:
        spent += body.get("fidelity", 1.0)
        code = tuple(body["code"])
        if spent <= cost + 1e-9 and body.get("fidelity", 1.0) == 1.0 and code in known:
            yield (*known[code], code)


def _compared(methods: Mapping[str, Sequence[_Trace]], found: Mapping[str, Any], cost: int, seed: int, progress: Progress) -> Mapping[str, Any]:
    barren = [trace for traces in methods.values() for trace in traces if trace.best is None]
    if barren:
        raise InputError(f"{barren[0].method} of {barren[0].job.run.folder} has no candidate within the budget after {cost} evaluations; compare at more")
    means = {name: float(np.mean([_best(trace)[0] for trace in traces])) for name, traces in methods.items()}
    best = max(means, key=lambda name: means[name])
    alpha = ERROR / max(1, len(methods) - 1)
    pairs = [(best, name) for name in methods if name != best] + [(name, RANDOM) for name in methods if RANDOM != best != name != RANDOM]
    images = _Images({})
    tested = []
    for i, (first, second) in enumerate(pairs):
        progress("comparisons", i, len(pairs))
        tested.append({"first": first, "second": second, **_tested(methods[first], methods[second], images, alpha, seed)})
    progress("comparisons", len(pairs), len(pairs))
    covered = _covered(methods, found["budget_ms"])
    rows = []
    for name in sorted(methods, key=lambda name: -means[name]):
        values = np.array([_best(trace)[0] for trace in methods[name]])
        rows.append(
            {
                "method": name,
                "runs": [str(trace.job.run.folder) for trace in methods[name]],
                "seeds": [trace.seed for trace in methods[name]],
                "accuracy_pct": means[name],
                "sd_points": float(values.std(ddof=1)) if len(values) > 1 else None,
                "latency_ms": float(np.mean([_best(trace)[1] for trace in methods[name]])),
                "hypervolume": covered[name],
            }
        )
    return {
        "evaluations": cost,
        "budget_ms": found["budget_ms"],
        "statistic": found["statistic"],
        "latency_origin": found.get("latency_source") or found["latency_origin"],
        "accuracy_origin": found.get("accuracy_origin", "measured"),
        "supernets": len({trace.supernet for traces in methods.values() for trace in traces if trace.supernet}),
        "error": ERROR,
        "methods": rows,
        "pairs": tested,
        "best": best,
        "winner": best if all(each["better"] and each["by"] != IMAGES for each in tested if each["first"] == best) and tested else None,
    }


def _best(trace: _Trace) -> tuple[float, float, tuple[int, ...]]:
    best = trace.best
    assert best is not None  # checked before anything is compared
    return best


def _tested(first: Sequence[_Trace], second: Sequence[_Trace], images: _Images, alpha: float, seed: int) -> dict[str, Any]:
    """First minus second in points of accuracy, its interval at 1 - alpha, by what it is known, and whether first is better beyond it."""
    values = [{(trace.seed, trace.supernet): _best(trace)[0] for trace in traces} for traces in (first, second)]
    common = sorted(set(values[0]) & set(values[1]))
    if len(common) > 1:
        differences = np.array([values[0][each] - values[1][each] for each in common])
        low, high = _interval(differences, None, alpha, seed)
        signs = sign_test(differences, np.zeros(len(differences)))
        told = {"difference_points": float(differences.mean()), "low_points": low, "high_points": high}
        told |= {"wins": signs.wins, "losses": signs.losses, "p": signs.two_sided}
        return {**told, "by": "seeds", "seeds": len(common), "better": low > 0 and signs.two_sided < alpha}
    if min(len(first), len(second)) > 1:
        samples = [np.array([_best(trace)[0] for trace in traces]) for traces in (first, second)]
        low, high = _interval(samples[0], samples[1], alpha, seed)
        told = {"difference_points": float(samples[0].mean() - samples[1].mean()), "low_points": low, "high_points": high}
        return {**told, "by": "runs", "better": low > 0 and min(map(len, samples)) >= LEAST_UNPAIRED}
    one, other = (next((trace for trace in traces if (trace.seed, trace.supernet) in common), traces[0]) for traces in (first, second))
    difference = _best(one)[0] - _best(other)[0]
    if not (one.supernet and other.supernet):
        return {"difference_points": difference, "low_points": None, "high_points": None, "by": "nothing", "better": False}
    if (one.supernet, _best(one)[2]) == (other.supernet, _best(other)[2]):
        return {"difference_points": 0.0, "low_points": 0.0, "high_points": 0.0, "by": IMAGES, "better": False}
    hits = [images.hits(trace) for trace in (one, other)]
    interval = bootstrap(hits[0] - hits[1], images.sources(one), seed=seed, confidence=1 - alpha)
    told = {"difference_points": interval.value, "low_points": interval.low, "high_points": interval.high}
    return {**told, "by": IMAGES, "images": len(hits[0]), "better": interval.low > 0}


def _interval(first: FloatArray, second: FloatArray | None, alpha: float, seed: int) -> tuple[float, float]:
    """Ends of the percentile bootstrap of the mean, or of the difference of two means."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1) for values in (first, second) if values is not None]
    low, high = np.quantile(means[0] - (means[1] if second is not None else 0.0), [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _covered(methods: Mapping[str, Sequence[_Trace]], budget_ms: float) -> dict[str, float | None]:
    """By method the mean share that its fronts of accuracy and latency cover of what all fronts together do, up to the budget and the
    worst accuracy on them; None where that is nothing."""

    def front(traces: Sequence[_Trace]) -> FloatArray:
        values = np.array([(-accuracy, latency) for trace in traces for accuracy, latency, _ in trace.points])
        return values[non_dominated(values)]

    together = front([trace for traces in methods.values() for trace in traces])
    corner = np.array([together[:, 0].max(), budget_ms])
    whole = hypervolume(together, corner)
    return {name: float(np.mean([hypervolume(front([trace]), corner) / whole for trace in traces])) if whole > 0 else None for name, traces in methods.items()}
