"""`verify`: export the best candidates, measure the files on the target in one window, and certify the most accurate that fits.

The rule (ARCHITECTURE 3.2): hard filter by prediction, then measure. All candidates are measured interleaved, in a window whose
length is fixed before the first sample; nobody looks at a bound before it ends. The error level holds for the whole command: it
is divided by the number of candidates measured together and halved at each re-solve, so that all rounds together stay below LEVEL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwnas import __version__, registry
from hwnas.device import Device, load_device
from hwnas.errors import InputError, UnknownName
from hwnas.files import write_json
from hwnas.predictors.calibrated import assess
from hwnas.profiling.agent import PLAN
from hwnas.profiling.protocol import timing_of
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.window import Window, WindowRow, measure_window, verdict
from hwnas.verbs.common import Job, Progress, check_seed, existing, silent
from hwnas.verbs.deployed import classified, graph_of, model_of
from hwnas.verbs.search import BASELINES, records

LEVEL = 0.01
#: What a certificate repeats of the chosen model's measurement.
_STATED = (
    *("measured_ms", "upper_bound_ms", "confidence", "p10_ms", "p90_ms"),
    *("runs", "visits", "independent_visits", "dropped_share", "verdict", "model_sha256"),
)
MAX_ROUNDS = 3
MAX_SECONDS = 86_400
SPREAD = 0.05  # least distance of the candidates' latencies: a shared machine varies so much, however good the table
EQUAL = 0.02  # latencies that differ by less are equal: so do two measurements of one network


def verify(
    run: Path,
    *,
    top: int = 3,
    seconds: float = 60.0,
    device: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Measure the `top` candidates of the search on the table's device, with its runtime, and certify the most accurate that fits.

    Beside each is measured the most accurate network of each baseline that is predicted to be no slower, and the largest subnet,
    all in the same window of `seconds`: so the one that is chosen has its equals at equal latency. Where no candidate
    fits, the prediction is corrected by what was measured and others are tried, twice at most. `certificate.json` is in the
    run's folder where one fits; the same call again returns it, or tries again where none did. Returns the stage's result.
    Raises HwnasError.
    """
    if top < 1:
        raise InputError(f"--top is {top}, it must be at least 1")
    if not 0 < seconds <= MAX_SECONDS:
        raise InputError(f"--seconds is {seconds:g}, it must be above 0 and at most {MAX_SECONDS:,}")
    check_seed(seed)
    with existing(run) as directory:
        job = Job(directory)
        job.result("search")
        if (predictor := job.options("search").get("accuracy")) is not None:
            raise InputError(f"{directory.folder} was searched by the predictor '{predictor}': its architectures have no weights; begin a run with hwnas train")
        name = device or job.table.conditions.device
        target = _target(name, device)
        runtime = runtime_of(target, job.table.conditions.runtime)
        options = {"top": top, "seconds": seconds, "device": name, "seed": seed}
        result = job.recorded("verify")
        if result is not None and result["certificate"]:
            directory.options("verify", options)  # refuses others
            return result
        return _verify(job, options, target, runtime, progress)


def _target(name: str, given: str | None) -> Device:
    try:
        return load_device(name)
    except UnknownName:
        if given is None:
            raise InputError(f"the table is of the device '{name}', which is neither shipped nor one of yours; name its file with --device") from None
        raise


def runtime_of(device: Device, name: str) -> str:
    """What the device's file calls the runtime that a table was measured with. Raises InputError where it has none such."""
    for each in device.runtimes:
        made: Runtime = registry.create("profiling.runtimes", each)
        if made.name == name:
            return each
    raise InputError(f"the table was measured with the runtime '{name}', and {device.name} has {', '.join(device.runtimes)}; name another with --device")


def _verify(job: Job, options: Mapping[str, Any], device: Device, runtime: str, progress: Progress) -> Mapping[str, Any]:
    """Options are recorded where a candidate is certified: until then other ones, such as a longer window, may be tried."""
    search = job.result("search")
    spent = sum(1 + max((each["round"] for each in event.body["measured"]), default=-1) for event in job.run.events("verify", "result"))
    margin = max(SPREAD, float(assess(job.table, job.index, job.budget.quantile, job.variant)["calibrated"]["mape"]))
    limit_ms, correction, level = job.budget_ms, 1.0, LEVEL / 2 ** (1 + spent)
    measured: list[dict[str, Any]] = []
    made: Runtime = registry.create("profiling.runtimes", runtime)
    for attempt in range(MAX_ROUNDS):
        known = {tuple(each["code"]) for each in measured if each["role"] == "candidate"}
        candidates = pick([point for point in search["points"] if tuple(point["code"]) not in known], options["top"], limit_ms / correction, margin)
        if not candidates:
            break
        models = [{**point, "role": "candidate", "round": attempt} for point in candidates]
        models += [{**other, "round": attempt} for other in _others(job, search, models)]
        for model in models:
            raw = model_of(job, model["code"], made)
            model["model_sha256"] = job.run.store.add_blob(raw)
            if job.variant.precision != "fp32":
                model |= _accuracy(job, model, raw)
        window = measure_window(
            [job.run.store.blob(model["model_sha256"]) for model in models],
            device,
            runtime=runtime,
            quantile=job.budget.quantile,
            level=level * len(models) / len(candidates),  # only the candidates' bounds are claims
            seconds=options["seconds"],
            threads=job.table.conditions.threads,
            seed=options["seed"] + spent + attempt,
            timing=timing_of(job.table.conditions.regime),
            graphs=[graph_of(job, model["code"]) for model in models],
            progress=progress,
        )
        built = [{PLAN: facts[PLAN]} if PLAN in facts else {} for facts in window.facts]
        measured += [{**model, **_measured(row, limit_ms), **plan} for model, row, plan in zip(models, window.rows, built, strict=True)]
        fitting = [each for each in measured if each["role"] == "candidate" and each["verdict"] == "within"]
        if fitting:
            chosen = max(fitting, key=lambda each: each["accuracy_pct"])
            chosen["chosen"] = True
            certificate = _certificate(job, chosen, measured, window, limit_ms)
            write_json(job.run.folder / "certificate.json", certificate)
            break
        # The bounds exceed the predictions by this much at least: in the next round nothing slower is tried.
        latest = [each for each in measured if each["role"] == "candidate" and each["round"] == attempt]
        correction = max(correction, min((each["upper_bound_ms"] or each["measured_ms"]) / each["latency_ms"] for each in latest))
        level /= 2
    certified = any(each.get("chosen") for each in measured)
    result = {"budget_ms": limit_ms, "options": options, "measured": measured, "certificate": certificate if certified else None}
    if certified:
        job.run.options("verify", options)
    job.run.finish("verify", result)
    return result


def pick(points: Sequence[Mapping[str, Any]], top: int, limit_ms: float, margin: float) -> list[Mapping[str, Any]]:
    """The most accurate point within the limit, within the limit less once the predictor's error, less twice, ...; each once.

    So the first is the best bet, and the last one still fits where the predictions were too low. Where all points exceed the limit
    the fastest one is the last resort.
    """
    chosen: list[Mapping[str, Any]] = []
    for step in range(top):
        inside = [point for point in points if point["latency_ms"] <= limit_ms * (1 - step * margin) and point not in chosen]
        if inside:
            chosen.append(max(inside, key=lambda point: (point["accuracy_pct"], -point["latency_ms"])))
    return chosen or sorted(points, key=lambda point: point["latency_ms"])[:1]


def equal(search: Mapping[str, Any], baseline: str, latency_ms: float) -> Mapping[str, Any] | None:
    """The most accurate network of a baseline that is predicted to take at most so long; None where there is none."""
    points = search.get("baselines", {}).get(baseline, {}).get("points", [])
    return next((point for point in points if point["latency_ms"] <= latency_ms * (1 + 1e-9)), None)  # points are sorted by accuracy


def matched(networks: Sequence[Mapping[str, Any]], role: str, chosen: Mapping[str, Any]) -> int | None:
    """The row of the baseline `role` that the chosen network is compared with: the most accurate on the validation images of those
    that were measured in the same window at equal latency or less; where none was, the fastest measured one."""
    rows = [i for i, each in enumerate(networks) if each["role"] == role and each["round"] == chosen["round"]]
    equals = [i for i in rows if networks[i]["measured_ms"] <= chosen["measured_ms"] * (1 + EQUAL)]
    if equals:
        return max(equals, key=lambda i: networks[i]["accuracy_pct"])
    return min(rows, key=lambda i: networks[i]["measured_ms"], default=None)


def _others(job: Job, search: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is measured beside the candidates: their equals of each baseline, and the largest subnet, to tell whether the budget binds."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name in BASELINES:
        for candidate in candidates:
            if point := equal(search, name, candidate["latency_ms"]):
                found[name, tuple(point["code"])] = {**point, "role": name}
    accuracy = [job.result("train")["validation_accuracy_pct"]["largest"]]
    return [*found.values(), {**records(job, job.index.space.largest(), accuracy)[0], "role": "largest"}]


def _accuracy(job: Job, model: Mapping[str, Any], raw: bytes) -> dict[str, Any]:
    """Validation accuracy of the file, and that of the float32 subnet, which the search went by and which is all where this machine cannot run the file."""
    try:
        right = classified(raw, graph_of(job, model["code"]), job.images("validation"))
    except InputError:
        return {"accuracy_in": "fp32", "accuracy_fp32_pct": model["accuracy_pct"]}
    return {"accuracy_in": job.variant.precision, "accuracy_fp32_pct": model["accuracy_pct"], "accuracy_pct": 100 * float(right.mean())}


def _measured(row: WindowRow, limit_ms: float) -> dict[str, Any]:
    return {
        "measured_ms": row.estimate_ms,
        "measured_origin": "measured",
        "upper_bound_ms": row.upper_bound_ms,
        "confidence": round(row.confidence, 6),
        "p10_ms": row.p10_ms,
        "p90_ms": row.p90_ms,
        "runs": row.runs,
        "visits": row.visits,
        "independent_visits": row.independent_visits,
        "dropped_share": round(row.dropped_share, 4),
        "doubt": row.doubt,
        "verdict": verdict(row, limit_ms),
    }


def _certificate(job: Job, chosen: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], window: Window, limit_ms: float) -> dict[str, Any]:
    """What was measured, of which file, under which conditions; and how far the statement reaches."""
    largest = next(each for each in measured if each["role"] == "largest" and each["round"] == chosen["round"])
    reach = window.conditions.reach
    of_plan = ", built into the plan of that hash: built again it may be another plan, which is not certified" if PLAN in chosen else ""
    return {
        "format": "hwnas.certificate/1",
        "origin": "measured",
        "budget_ms": limit_ms,
        "statistic": window.statistic,
        **{key: chosen[key] for key in _STATED},
        **({PLAN: chosen[PLAN]} if PLAN in chosen else {}),
        "candidates_measured": sum(each["role"] == "candidate" for each in measured),
        "window_seconds": window.seconds,
        "predicted_ms": chosen["latency_ms"],
        "space_max_ms": largest["measured_ms"],
        "budget_binds": limit_ms < largest["measured_ms"],
        "speed_states": [asdict(state) for state in window.states],
        "conditions": asdict(window.conditions),
        "system": dict(window.system),
        "precision": job.variant.precision,
        "batch": job.variant.batch,
        "space": job.index.space.name,
        "fingerprint": job.index.fingerprint,
        "architecture": chosen["values"],
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hwnas": __version__,
        "scope": f"this file{of_plan}, on this unit of this device, in the state it was in, on this date" + (f"; {reach}" if reach else ""),
    }


def closest(result: Mapping[str, Any]) -> str:
    """One sentence on the candidate that came nearest to fitting."""
    candidates = [each for each in result["measured"] if each["role"] == "candidate"]
    if not candidates:
        return "the search found no candidate"
    best = min(candidates, key=lambda each: each["upper_bound_ms"] or float("inf"))
    reason = f" ({best['doubt']})" if best["doubt"] else ""
    bound = f"{best['upper_bound_ms']:.4g}" if best["upper_bound_ms"] else "unknown"
    return (
        f"none of {len(candidates)} measured candidates is certified within {result['budget_ms']:.4g} ms: the closest took {best['measured_ms']:.4g} ms, "
        f"upper bound {bound} ms{reason}"
    )
