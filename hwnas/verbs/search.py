"""`search`: the most accurate subnets within a latency budget, and others beside it, and what the baselines reach at equal cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwnas import registry
from hwnas.accuracy_predictor import fit
from hwnas.driver import SearchResult, drive
from hwnas.errors import DamagedFile, Infeasible, InputError
from hwnas.exact import optimum
from hwnas.executor import Executor
from hwnas.files import csv_text, sha256, write_whole
from hwnas.latency_table import TABLE, LatencyTable
from hwnas.measured_latency import Measured
from hwnas.predictor import Metric
from hwnas.problem import Objective, Problem
from hwnas.profiling.meter import MAX_SECONDS
from hwnas.rewards import feasible_first, named
from hwnas.run import RunDirectory
from hwnas.searcher import Ask, Option, Search, parse_options, trains
from hwnas.space import Codes, FloatArray
from hwnas.surrogate import fit_surrogate
from hwnas.training.schedule import schedule
from hwnas.verbs.accuracy import best_predictor, needed, recorded_codes
from hwnas.verbs.common import (
    BY_TABLE,
    COSTS,
    MEASURED,
    Job,
    Predicted,
    Progress,
    budget_facts,
    check_begun,
    check_seed,
    existing,
    keep_others,
    moved,
    other_tables,
    placed,
    share_facts,
    silent,
    table_folder,
    use_threads,
)
from hwnas.verbs.records import PROPOSED, checked
from hwnas.verbs.target import Target, device_of, measured_latency, meter_of
from hwnas.verbs.workers import check_workers, searchable, threads_of_worker, travels, working

if TYPE_CHECKING:
    from hwnas.training.search_trainer import SearchTrainer

MAX_POINTS = 1_000  # recorded of a search, beside the front
PREDICTIONS = 10_000  # of a search by predictor
BEST = "best"
MAX_SAMPLES = 2_000  # that a surrogate is fitted to
MAX_TRACE = 1_000  # points of a search's course that its result holds
LATENCY_SECONDS = 5.0  # that candidates asked for together are measured for: 20 rounds
RATE = 0.5  # of the last phase of training, where a search goes on training (ProxylessNAS, official code: 0.025 after a warm-up at 0.05)

#: Stage of the run -> searcher: what every search is compared with.
BASELINES = {"random": "random_search", "uniform": "uniform_scaling"}


def search(
    run: Path,
    *,
    table: Path | str,
    latency: str,
    macs: str | None = None,
    params: str | None = None,
    memory: str | None = None,
    size: str | None = None,
    also: Sequence[str] = (),
    precision: str | None = None,
    batch: int | None = None,
    space: str | None = None,
    accuracy: str | Metric | None = None,
    accuracy_predictor: str | None = None,
    searcher: str = "regularized_evolution",
    evaluations: int = 150,
    options: Sequence[str] = (),
    reward: str | None = None,
    latency_source: str = BY_TABLE,
    latency_device: str | None = None,
    latency_seconds: float = LATENCY_SECONDS,
    baselines: bool = True,
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
    workers: int = 1,
    executor: str | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Search the trained supernet of `run` for accurate subnets whose latency, predicted from `table`, keeps the budget.

    latency: `<= 12ms p50`, or `<= 55% p50` of the largest subnet. macs, params, memory, size: further budgets, as `<= 300M`, `<= 4M`,
    `<= 512kB` (peak of the activations), `<= 4MB` (the exported file) or a share. also: on latency on other devices, `TABLE <= 30ms p50`.
    precision, batch: which ones,
    where the table has prices for several. options: the searcher's, as `name=value`. reward: the name of the one to search by (hwnas/rewards.py),
    with its constants, by default `feasible_first`; what is returned keeps the budget whatever it is. With `baselines` random search gets
    the same number of evaluations, and every uniformly scaled network within the budgets is evaluated. The same call again
    continues. Returns the stage's result. Raises HwnasError, Infeasible where no architecture keeps the budgets.

    A searcher that trains goes on training the supernet: then accuracies, also those of the baselines, and later stages are of the weights that it ended with.
    device: where the supernet is trained and evaluated, `cpu` or `cuda`.

    latency_source: `table`, or `measured`: then each candidate is measured on the device, and keeps the budget by that. For targets on which latency is no sum
    over blocks. The table says under which conditions, and its predictions stand beside. latency_device: in the place of the table's device, a name or
    file. latency_seconds: about how long candidates that are asked for together are measured, in turns. Each is measured once and recorded, a failure too.

    workers: how many subnets are evaluated at a time, each with `threads` threads; what is found does not depend on it. executor: where, `processes` of
    this machine or `ray` (hwnas/executors/), with arguments such as `ray(address='auto')`; by default in this process where there is 1 worker.

    space, accuracy: search `space` without a supernet, by a predictor: the name of one, such as `accuracy_mlp(file='mlp.safetensors')`,
    `path.py:name` of a function that takes the BlockIndex and returns a metric, or a metric. What is found has no weights yet.

    accuracy_predictor: search a predictor of that name, fitted to what `build_accuracy` measured in this run; `best` is the best by
    cross-validation. Then `evaluations` subnets of its proposal are measured, and random search gets as many as both measured.
    """
    if (space is None) != (accuracy is None):
        raise InputError("--space and --accuracy go together: they name what is searched without a supernet; leave both out to search the trained one")
    if accuracy_predictor is not None:
        if accuracy is not None:
            raise InputError("--accuracy-predictor is fitted to subnets of the run's supernet, and --accuracy is for searches without one; name one of them")
        if accuracy_predictor != BEST:
            registry.load("accuracy_predictors", registry.split_call(accuracy_predictor)[0])
    if latency_source not in (MEASURED, BY_TABLE):
        raise InputError(f"--latency-source is '{latency_source}', it must be {MEASURED} or {BY_TABLE}")
    if latency_source == BY_TABLE and (latency_device is not None or latency_seconds != LATENCY_SECONDS):
        raise InputError(f"--latency-device and --latency-seconds say how latency is measured: leave them out, or add --latency-source {MEASURED}")
    if not 0 < latency_seconds <= MAX_SECONDS:
        raise InputError(f"--latency-seconds is {latency_seconds:g}, it must be above 0 and at most {MAX_SECONDS:,}")
    if latency_source == MEASURED and accuracy_predictor is not None:
        raise InputError(
            f"--accuracy-predictor looks at {PREDICTIONS:,} candidates, too many to measure; leave it out, or search by the table and let hwnas verify measure"
        )
    if evaluations < 1:
        raise InputError(f"--evaluations is {evaluations}, it must be at least 1")
    check_seed(seed)
    if device != "cpu":
        placed(device)  # refused before anything is recorded
    factory = registry.load("searchers", searcher)
    chosen = parse_options(factory, options)
    named(reward or feasible_first.__name__)
    if trains(factory) and latency_source == MEASURED:
        raise InputError(
            f"{searcher} learns from latencies of more networks than can be measured, which a table has: leave out --latency-source, "
            f"and verify measures what it finds; or use another searcher"
        )
    if trains(factory) and (accuracy is not None or accuracy_predictor is not None):
        raise InputError(f"{searcher} trains shared weights; leave out --accuracy and --accuracy-predictor, which search without any, or use another searcher")
    predicted = None if space is None or accuracy is None else Predicted(*searchable(space, accuracy))
    used = threads_of_worker(threads, workers, executor)
    if trains(factory) and travels(workers, executor):
        raise InputError(f"{searcher} trains the weights that it evaluates by, step after step in this process; leave out --workers and --executor")
    if predicted is None:
        check_begun(run)
    table = table_folder(table)
    prices = LatencyTable.load(table)
    recorded: dict[str, Any] = {
        "table": sha256(table / TABLE),
        "latency": latency,
        "searcher": searcher,
        "evaluations": evaluations,
        "options": chosen,
        "baselines": baselines,
        "seed": seed,
    }
    recorded |= {name: text for name, text in zip(COSTS, (macs, params, memory, size), strict=True) if text is not None}  # as older runs, without null
    recorded |= {
        name: value
        for name, value in (("precision", precision), ("batch", batch), ("accuracy_predictor", accuracy_predictor), ("reward", reward))
        if value is not None
    }
    if latency_source == MEASURED:
        recorded |= {"latency_source": MEASURED, "latency_seconds": latency_seconds, "latency_device": latency_device or prices.conditions.device}
    others = other_tables(also)
    loaded = [LatencyTable.load(folder) for folder, _ in others]
    if others:
        recorded["also"] = [{"table": sha256(folder / TABLE), "latency": text} for folder, text in others]
    if predicted is not None:
        recorded |= {"space": space, "fingerprint": predicted.index.fingerprint, "accuracy": _named(accuracy, predicted.accuracy)}
    job = Job(None, {"search": recorded}, prices, predicted, loaded)
    if travels(workers, executor):
        check_workers(job, accuracy)
    target = Target(device_of(latency_device or prices.conditions.device, latency_device, "--latency-device"), prices) if job.is_measured else None
    if predicted is not None:
        job.on_device = None if target is None else measured_latency(job, target, progress)
        job.problem.within(job.index.space.smallest())  # all is checked before there is a folder
    with existing(run) if predicted is None else RunDirectory(Path(run)) as directory, ExitStack() as stack:
        job.run = directory
        if predicted is not None and directory.recorded_options("train") is not None:
            raise InputError(f"{run} holds a supernet, whose accuracies are measured: name another folder for a search by --accuracy")
        if predicted is None:
            job.result("train")
            if job.options("train").get("architecture") is not None:
                raise InputError(f"{run} holds one network that was trained alone, there is nothing to search; next: hwnas export {run} --to DIR")
            job.on_device = None if target is None else measured_latency(job, target, progress)
        if directory.recorded_options("search") is None:
            job.problem.within(job.index.space.smallest())  # raises before anything is recorded
            if accuracy_predictor is not None:
                needed(job)
            if trains(factory):
                with closing(factory(job.problem, rng=np.random.default_rng(seed), state={}, **chosen)) as begun:
                    next(begun)  # options that cannot be are refused before they are recorded
            copy = {"name": table.resolve().name, "files": directory.keep_files(prices.save)}
            if [event.body for event in directory.events("search", "table")][-1:] != [copy]:  # else it was killed just before its options were recorded
                directory.append("search", "table", copy)
            keep_others(directory, others, loaded)
        directory.options("search", recorded)
        result = job.recorded("search")
        if result is not None:
            return result
        hands = stack.enter_context(working(job, workers, executor, used, device, accuracy))
        if job.on_device is not None and target is not None:
            stack.callback(job.on_device.close)
            job.on_device.place(*meter_of(job, target, hands))
            job.on_device.keep_in(directory)
        return _search(job, factory, chosen, device, used, hands, progress)


def _named(given: str | Metric | None, metric: Metric | None) -> str:
    """What is recorded of a predictor: its text, and the hash of what it was made of where it says so."""
    fingerprint = getattr(metric, "fingerprint", "")
    name = "" if metric is None else f"{metric.name} ({type(metric).__name__})"
    return " ".join(filter(None, (given if isinstance(given, str) else name, str(fingerprint))))


def _search(
    job: Job, factory: Any, chosen: Mapping[str, Option], device: str, threads: int | None, executor: Executor | None, progress: Progress
) -> Mapping[str, Any]:
    started = time.monotonic()
    place = "cpu"
    if job.is_trained:
        use_threads(threads)
        place = moved(job.supernet, device)
    problem, options = job.problem, job.options("search")
    predictor: dict[str, Any] | None = None
    trainer = _trainer(job, place) if trains(factory) else None
    if options.get("accuracy_predictor") is None:
        found = _drive(job, "search", factory, chosen, executor, progress, trainer=trainer)
    else:
        found, predictor = _by_predictor(job, factory, chosen, executor, progress)
    samples = predictor["samples"] if predictor else 0
    gap = None if job.is_measured else _gap(found)
    seconds = time.monotonic() - started
    least, greatest = job.latency.bounds()
    feasible = problem.feasible(np.random.default_rng(0))
    result: dict[str, Any] = {
        "budget_ms": job.budget_ms,
        "statistic": job.budget.statistic,
        "space_min_ms": least.value,
        "space_max_ms": greatest.value,
        "latency_origin": job.latency.origin,
        "accuracy_origin": problem.objectives[0].metric.origin,
        "feasible_share": feasible.share.value,
        "share": share_facts(feasible.share),
        "budgets": budget_facts(feasible),
        "evaluations": samples + found.evaluations,
        "seconds": seconds,
        "points": _points(job, found),
        "surrogate": gap,
    }
    if predictor:
        result["predictor"] = predictor
    if found.trace:
        every = -(-len(found.trace) // MAX_TRACE)
        result["trace"] = [*found.trace[:-1:every], found.trace[-1]]  # the last one always
    if trainer is not None:
        result["weight_steps"] = trainer.trainer.steps
        result["files"] = job.run.keep_files(lambda folder: write_whole(folder / "supernet.safetensors", _weights(job)))
    if job.on_device is not None:
        result |= {"latency_source": MEASURED}
    if options["baselines"]:
        result["baselines"] = {}
        for name, searcher in BASELINES.items():
            other = _drive(job, name, registry.load("searchers", searcher), {}, executor, progress, samples)
            result["baselines"][name] = {"evaluations": other.evaluations, "points": _points(job, other)}
    if job.on_device is not None:
        result["networks_measured"] = job.on_device.summary()
    write_front(job.run.folder / "front.csv", result["points"])
    job.run.finish("search", result)
    return result


def _by_predictor(job: Job, factory: Any, chosen: Mapping[str, Option], executor: Executor | None, progress: Progress) -> tuple[SearchResult, dict[str, Any]]:
    """What a searcher proposes by a fitted predictor, measured with the supernet, and how far off the predictions were.

    Fitting and searching take seconds and are recorded as the one proposal they come to: it need not be made again to the last bit.
    """
    options = job.options("search")
    proposals = job.run.events("search", "proposed")
    if not proposals:
        codes, values = needed(job)
        name = options["accuracy_predictor"]
        name = best_predictor(job.index, codes, values, progress=progress) if name == BEST else name
        metric = fit(name, job.index, codes, values)
        problem = Problem(job.index, [Objective(metric, maximize=True)], job.problem.budgets, job.problem.rule)
        predicted = drive(
            factory,
            problem,
            seed=options["seed"],
            evaluations=PREDICTIONS,
            options=chosen,
            progress=lambda spent, best: progress(f"search by {name}", round(spent), PREDICTIONS),
        )
        rows = _proposal(predicted, job.latency, options["evaluations"])
        if len(rows) == 0:
            raise Infeasible(f"the search by {name} met no architecture within the budgets; give it another searcher or seed in another run")
        body = {"predictor": name, "samples": len(codes), "codes": predicted.codes[rows], "predicted_pct": predicted.scores.values[rows, 0]}
        job.run.append("search", "proposed", body)
        proposals = job.run.events("search", "proposed")
    where = f"the subnets proposed in {job.run.folder}"
    body = checked(proposals[-1].body, PROPOSED, where)
    proposed = recorded_codes(job, body["codes"], where)
    if not 0 < len(proposed) == len(body["predicted_pct"]):
        raise DamagedFile(f"{where} are {len(proposed)}, with {len(body['predicted_pct'])} predictions: the record was altered; make a new run")

    def proposal(problem: Problem, *, rng: np.random.Generator) -> Search:
        yield Ask(proposed)

    found = _drive(job, "search", proposal, {}, executor, progress)
    by_subnet = dict(zip(job.index.keys(proposed), body["predicted_pct"], strict=True))
    error = np.abs(found.scores.values[:, 0] - [by_subnet[key] for key in job.index.keys(found.codes)])
    facts = {"name": body["predictor"], "samples": body["samples"], "measured": len(found.codes), "error_points": float(np.nanmean(error))}
    return found, facts


def _proposal(found: SearchResult, latency: Metric, n: int) -> npt.NDArray[np.intp]:
    """Rows to be measured: half of them the best of the front, since a faster network may be needed, and the best of all."""
    front, ranked = found.front(latency).tolist(), found.ranked().tolist()
    return np.array(list(dict.fromkeys([*front[: n // 2], *ranked]))[:n], np.intp)


def _drive(
    job: Job,
    stage: str,
    factory: Any,
    chosen: Mapping[str, Option],
    executor: Executor | None,
    progress: Progress,
    more: int = 0,
    trainer: SearchTrainer | None = None,
) -> SearchResult:
    """more: evaluations beside those of the search's options."""

    def show(spent: float, best: float | None) -> None:
        done = stage if trainer is None or spent else f"{stage}, {trainer.trainer.steps} weight steps"
        progress(done if best is None else f"{done}, best {best:.1f} %", round(spent), total)

    options = job.options("search")
    total = options["evaluations"] + more
    result = drive(
        factory,
        job.problem,
        job.run,
        seed=options["seed"],
        evaluations=total,
        options=chosen,
        stage=stage,
        progress=show,
        trainer=trainer,
        executor=executor,
    )
    progress(stage, total, total)
    return result


def _trainer(job: Job, device: str) -> SearchTrainer:
    """The supernet of the run, to be trained further as it was trained, from labels, at half the rate of the last phase."""
    from hwnas.training.recipe import RECIPES
    from hwnas.training.search_trainer import SearchTrainer
    from hwnas.training.trainer import SupernetTrainer

    options = job.options("train")
    last = (schedule(options["schedule"]) or schedule("fine_tune"))[-1]  # weights that were taken as they are had no phase
    try:
        recipe = replace(RECIPES[options["schedule"]], **{**(options.get("recipe") or {}), "ema": 0.0, "distillation": 0.0})
    except TypeError as error:
        raise DamagedFile(f"training of {job.run.folder} was recorded by another version of hwnas or altered: {error}; make a new run") from None
    images, shards = job.images("train"), options.get("shards") or 1
    trainer = SupernetTrainer(job.supernet, images, batch=options["batch"], seed=options["seed"], recipe=recipe, shards=shards, device=device)
    scale = recipe.rate * (options["batch"] * shards / recipe.rate_images if recipe.rate_images else 1.0)
    return SearchTrainer(trainer, job.images("validation"), rate=RATE * scale * last.rate, seed=job.options("search")["seed"])


def _weights(job: Job) -> bytes:
    """Those of the supernet as they are now, as a safetensors file."""
    from safetensors.torch import save

    raw: bytes = save({name: tensor.cpu().contiguous() for name, tensor in job.supernet.state().items()})
    return raw


def _points(job: Job, found: SearchResult) -> list[dict[str, Any]]:
    """Feasible candidates, the most accurate first, of very many the best and the front; `on_front` where no other is as accurate and predicted faster."""
    ranked, front = found.ranked(), set(found.front(job.on_device or job.latency).tolist())
    ranked = np.array([row for position, row in enumerate(ranked.tolist()) if position < MAX_POINTS or row in front], np.intp)
    points = records(job, found.codes[ranked], found.scores.values[ranked, 0])
    return [{**point, "on_front": int(row) in front} for row, point in zip(ranked, points, strict=True)]


def _gap(found: SearchResult) -> dict[str, Any] | None:
    """How far the best found is from the optimum of an additive surrogate, in the surrogate's eyes; None where there is too little to fit one.

    The optimum is exact for the surrogate, which is fitted to what the search evaluated, and not for the accuracy.
    """
    problem, rows = found.problem, np.random.default_rng(0).permutation(len(found.codes))[:MAX_SAMPLES]
    best = found.ranked()[:1]
    try:
        surrogate = fit_surrogate(problem.index, found.codes[np.sort(rows)], found.scores.values[np.sort(rows), 0])
        top = optimum(Problem(problem.index, [Objective(surrogate.metric, maximize=True)], problem.budgets))
    except (InputError, Infeasible):
        return None
    if len(best) == 0:
        return None
    reached = float(surrogate.metric(found.codes[best])[0])
    return {
        "samples": surrogate.samples,
        "error_points": surrogate.error,
        "spearman": surrogate.spearman,
        "optimum_pct": top.value,
        "best_found_pct": reached,
        "gap_points": max(0.0, top.value - reached),
        "values": problem.space.decode(top.code[0]),
        "proof": top.proof,
    }


def records(job: Job, codes: Codes, accuracy: Sequence[float] | FloatArray) -> list[dict[str, Any]]:
    """Candidates for the store: code, values by choice, validation accuracy (measured), latency (predicted), MACs, parameters, memory, size of the file.

    Where the search measures, latency is what it measured of them, with p10 and p90 over its runs, and the prediction beside it.
    """
    costs = {name: metric(codes) for name, metric in job.costs.items()}
    latency = job.latency(codes)
    elsewhere = [each.latency(codes) for each in job.elsewhere]
    measured = job.on_device.rows(codes) if job.on_device is not None else None
    return [
        {
            "code": code.tolist(),
            "values": job.index.space.decode(code),
            "accuracy_pct": float(accuracy[i]),
            **_latency_facts(float(latency[i]), job.latency.origin, measured[i] if measured else None),
            "macs": int(costs["macs"][i]),
            "params": int(costs["params"][i]),
            "memory_bytes": int(costs["memory"][i]),
            "size_bytes": int(costs["size"][i]),
            **({"also_ms": [float(each[i]) for each in elsewhere]} if elsewhere else {}),
        }
        for i, code in enumerate(codes)
    ]


def _latency_facts(predicted_ms: float, origin: str, measured: Measured | None) -> dict[str, Any]:
    if measured is None:
        return {"latency_ms": predicted_ms, "latency_origin": origin}
    spread = {"latency_p10_ms": measured.p10_ms, "latency_p90_ms": measured.p90_ms}
    return {"latency_ms": measured.value_ms, "latency_origin": "measured", **spread, "latency_predicted_ms": predicted_ms}


def write_front(path: Path, points: Sequence[Mapping[str, Any]]) -> None:
    """The front for people and spreadsheets; derived from the store."""
    front = sorted((point for point in points if point["on_front"]), key=lambda point: point["latency_ms"])
    costs = ("macs", "params", "memory_bytes", "size_bytes")
    latencies = {"latency_ms_predicted": "latency_ms"}
    if front and front[0].get("latency_origin") == "measured":
        latencies = {"latency_ms_measured": "latency_ms", "latency_p10_ms": "latency_p10_ms", "latency_p90_ms": "latency_p90_ms"}
        latencies |= {"latency_ms_predicted": "latency_predicted_ms"}
    header = ["accuracy_pct", *latencies, *costs, *(front[0]["values"] if front else ())]
    rows = [
        [f"{point['accuracy_pct']:.2f}", *(f"{point[key]:.6g}" for key in latencies.values()), *(point[cost] for cost in costs), *point["values"].values()]
        for point in front
    ]
    write_whole(path, csv_text([header, *rows]))
