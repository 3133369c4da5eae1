"""`verify`: export the best candidates, measure the files on the target in one window, and certify the most accurate that fits.

The rule (ARCHITECTURE 3.2): hard filter by prediction, then measure. All candidates are measured interleaved, in a window whose
length is fixed before the first sample; nobody looks at a bound before it ends. The error level holds for the whole command: it
is divided by the devices, on each by the number of candidates measured together, and halved at each re-solve, so that all together stay
below LEVEL. What was measured joins the run's copy of the table, so that each re-solve goes by a better calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import __version__, registry
from hwnas.device import load_device
from hwnas.errors import Infeasible, InputError, MeasurementFailed
from hwnas.files import write_json
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import assess, calibrated
from hwnas.profiling.agent import PLAN
from hwnas.profiling.protocol import timing_of
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.speeds import Speeds
from hwnas.profiling.window import Window, WindowRow, measure_window, verdict
from hwnas.surrogate import Surrogate
from hwnas.verbs.certificate import certificate_of
from hwnas.verbs.common import Job, Progress, check_seed, existing, job_of, silent, use_threads_of_training
from hwnas.verbs.deployed import classified, graph_of, model_of, untrained_model_of
from hwnas.verbs.published import published_entrant
from hwnas.verbs.records import RESULTS, checked
from hwnas.verbs.resolve import as_network, evaluated, fed, keep_table, latest_table, solved
from hwnas.verbs.search import BASELINES, records
from hwnas.verbs.target import Target, device_of

LEVEL = 0.01
MAX_ROUNDS = 3
MAX_SECONDS = 86_400
SPREAD = 0.05  # least distance of the candidates' latencies: a shared machine varies so much, however good the table
SPREAD_AGAIN = 0.015  # the same where the prediction was corrected by what was measured just before
EQUAL = 0.02  # latencies that differ by less are equal: so do two measurements of one network
PARTLY = "partly"  # a verdict: within the budget on this device, and on another one not measured


def verify(
    run: Path,
    *,
    top: int = 2,
    seconds: float = 60.0,
    device: str | None = None,
    also: Sequence[str] = (),
    use: float = 0.0,
    random_weights: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Measure the `top` candidates of the search on the table's device, with its runtime, and certify the most accurate that fits.

    Beside each is measured the most accurate network of each baseline that is predicted to be no slower, the largest subnet, and the best
    published network within the budget, all in the same window of `seconds`, or of five times as long as the device was seen to keep a speed. Where
    no candidate fits, the calibration learns what was measured, the run's evaluations are solved again, and others are tried, twice at most.
    use: per cent of the budget that the certified network is to take; where it takes less, more accurate ones are tried in the windows that are left.
    also: the other devices of a run with budgets on several, to be measured too; on one that is not, the budget is predicted only, and the verdict is `partly`.
    random_weights: certify the latency of architectures that have no weights yet, of a search by a predictor: before anything is trained.
    `certificate.json` is in the run's folder where one fits; the same call again returns it, or tries again where none did.
    Returns the stage's result. Raises HwnasError. A folder that `export` wrote is checked by `verify_export`.
    """
    if top < 1:
        raise InputError(f"--top is {top}, it must be at least 1")
    if not 0 < seconds <= MAX_SECONDS:
        raise InputError(f"--seconds is {seconds:g}, it must be above 0 and at most {MAX_SECONDS:,}")
    if not 0 <= use < 100:
        raise InputError(f"--use is {use:g}, it must be per cent of the budget, from 0 to below 100")
    check_seed(seed)
    with existing(run) as directory:
        job = job_of(directory)
        job.result("search")
        predictor = job.options("search").get("accuracy")
        if not job.is_trained and not random_weights:
            raise InputError(
                f"{directory.folder} was searched by the predictor '{predictor}': its architectures have no weights; begin a run with hwnas train, "
                f"or certify latencies alone with --random-weights"
            )
        if job.is_trained and random_weights:
            raise InputError(f"{directory.folder} has trained weights: leave out --random-weights")
        name = device or job.options("search").get("latency_device") or job.table.conditions.device
        target = Target(device_of(name, device), job.table)
        others = _others_named(job, also)
        options = {"top": top, "seconds": seconds, "device": name, "seed": seed}
        options |= {name: value for name, value in (("use", use), ("also", list(also)), ("random_weights", random_weights)) if value}
        result = job.recorded("verify")
        if result is not None and result["certificate"] and not (result["certificate"]["verdict"] == PARTLY and also):
            if result["certificate"]["verdict"] != PARTLY:
                directory.options("verify", options)  # refuses others
            return result
        return _Verification(job, options, target, others, progress).run()


def _others_named(job: Job, also: Sequence[str]) -> dict[int, Target]:
    """Number of a budget on another device -> that device, of those that are to be measured too. Raises InputError."""
    found: dict[int, Target] = {}
    for name in also:
        device = load_device(name)
        free = [i for i, each in enumerate(job.elsewhere) if i not in found]
        fitting = [i for i in free if job.elsewhere[i].table.conditions.device == device.name] or (free if len(free) == 1 else [])
        if not fitting:
            known = ", ".join(str(each.table.conditions) for each in job.elsewhere) or "none: its search had no --also"
            raise InputError(f"no budget of {job.run.folder} on another device is left for --also {name}; there are: {known}")
        found[fitting[0]] = Target(device, job.elsewhere[fitting[0]].table)
    return found


class _Verification:
    """One call of `verify`: what was measured so far, and what the next window measures."""

    def __init__(self, job: Job, options: Mapping[str, Any], target: Target, others: Mapping[int, Target], progress: Progress):
        self.job, self.options, self.target, self.others, self.progress = job, options, target, others, progress
        self.search = job.result("search")
        self.limit_ms = job.budget_ms
        self.table = latest_table(job)
        self.learned = self.table is not job.table
        self.measured: list[dict[str, Any]] = []
        self.published: dict[str, Any] | None = None
        self.spent = _windows_begun(job)
        self.correction = 1.0
        self.reference: list[dict[str, Any]] | None = None

    def run(self) -> Mapping[str, Any]:
        """Options are recorded where a candidate is certified on all devices: until then other ones, such as a longer window, may be tried."""
        certificate: dict[str, Any] | None = None
        result: Mapping[str, Any] | None = None
        use_threads_of_training(self.job)
        for attempt in range(MAX_ROUNDS):
            candidates = self._candidates(attempt)
            if not candidates:
                break
            try:
                window = self._measure(candidates, attempt, LEVEL / 2 ** (1 + self.spent + attempt))
            except MeasurementFailed as error:
                if certificate is None:
                    raise
                return self._record(certificate, str(error))
            fitting = [each for each in self.measured if each["role"] == "candidate" and each["verdict"] in ("within", PARTLY)]
            if fitting:
                chosen = max(fitting, key=lambda each: (each["verdict"] == "within", each["accuracy_pct"]))
                for each in self.measured:
                    each.pop("chosen", None)
                chosen["chosen"] = True
                if chosen["round"] == attempt:
                    together = [each for each in self.measured if each["round"] == attempt]
                    certificate = certificate_of(self.job, chosen, together, window, self.published)
            result = self._record(certificate)
            if fitting and (chosen["measured_ms"] >= self.options.get("use", 0.0) / 100 * self.limit_ms or self._is_unbound(attempt)):
                break
        return self._record(None) if result is None else result

    def _record(self, certificate: dict[str, Any] | None, stopped: str = "") -> Mapping[str, Any]:
        """The result as it is after a window: what is certified stays so, whatever becomes of the next one. stopped: why that failed."""
        result = {"budget_ms": self.limit_ms, "options": self.options, "measured": self.measured, "certificate": certificate}
        result |= {"published": self.published} if self.published else {}
        result |= {"stopped": stopped} if stopped else {}
        file = self.job.run.folder / "certificate.json"
        if certificate is None:
            file.unlink(missing_ok=True)  # of an earlier call, on one of several devices
        else:
            certificate["candidates_measured"] = sum(each["role"] == "candidate" for each in self.measured)
            write_json(file, certificate)
            if certificate["verdict"] != PARTLY:
                self.job.run.options("verify", self.options)
        self.job.run.finish("verify", result)
        return result

    # -- candidates -----------------------------------------------------------------------------------------------------------

    def _candidates(self, attempt: int) -> list[Mapping[str, Any]]:
        tried = {tuple(each["code"]) for each in self.measured if each["role"] == "candidate"}
        again = bool(self.measured) or self.learned
        best = max((each["accuracy_pct"] for each in self.measured if each.get("chosen")), default=None)
        limit_ms = self.limit_ms / self.correction
        if best is not None:  # a window that fails costs nothing any more: half of the candidates fit only where the device is faster in it than in the last
            limit_ms *= 1 + min(SPREAD, SPREAD_AGAIN * (self.options["top"] - 1) / 2)
        points = self._solved_again(limit_ms) if again and not self.job.is_measured else self.search["points"]
        if not self.measured and self.job.is_measured:
            spread = SPREAD
        elif not self.measured:
            spread = max(SPREAD, float(assess(self.table, self.job.index, self.job.budget.quantile, self.job.variant)["calibrated"]["mape"]))
        else:
            spread = SPREAD if best is None and attempt == MAX_ROUNDS - 1 else SPREAD_AGAIN  # the last window is no place for close bets
        points = [each for each in points if tuple(each["code"]) not in tried and (best is None or each["accuracy_pct"] > best)]
        picked = pick(points, self.options["top"], limit_ms, spread)
        if best is not None:  # the last resort is none where something is certified
            picked = [each for each in picked if each["latency_ms"] <= limit_ms]
        return self._evaluated([{**each, "role": "candidate", "round": attempt} for each in picked])

    def _solved_again(self, limit_ms: float) -> list[Mapping[str, Any]]:
        """What the run has evaluated, and the optima of its surrogate within the limit, at the latencies of the corrected calibration; the accuracy of
        new ones is measured."""
        job, latency = self.job, self._latency()
        known = evaluated(job)
        tightened = [
            (replace(job.budget, limit=limit_ms, share=None), latency),
            *((each.budget, each.metric) for each in job.constraints[1:]),
        ]
        rows = list(zip(known.codes, known.accuracy_pct, strict=True))
        try:
            codes = solved(job.index, self._surrogate.metric, tightened)
        except (InputError, Infeasible):  # too few evaluations for a surrogate
            codes = known.codes[:0]
        old = set(job.index.keys(known.codes))
        new = np.asfortranarray(codes[[key not in old for key in job.index.keys(codes)]])[: self.options["top"]]
        for i, code in enumerate(new):
            self.progress("accuracy of new candidates", i, len(new))
            rows.append((code, self._accuracy_of(code)))
        every = np.asfortranarray(np.stack([code for code, _ in rows]))
        kept = np.flatnonzero(np.all([np.ones(len(every), bool), *(each.price(every) <= each.limit for each in job.constraints[1:])], axis=0))
        points = records(job, np.asfortranarray(every[kept]), [rows[i][1] for i in kept])
        return [{**point, "latency_ms": float(ms)} for point, ms in zip(points, latency(np.asfortranarray(every[kept])), strict=True)]

    def _latency(self) -> Additive:
        return calibrated(self.table, self.job.index, self.job.budget.quantile, self.job.variant)

    @cached_property
    def _surrogate(self) -> Surrogate:
        return evaluated(self.job).surrogate(self.job.index)

    def _accuracy_of(self, code: Any) -> float:
        """Validation accuracy of a subnet, measured and recorded; that of the surrogate where there are no weights."""
        if not self.job.is_trained:
            return float(self._surrogate.metric(np.asfortranarray(code[None]))[0])
        value = float(self.job.accuracy(code[None])[0])
        self.job.run.append("verify", "evaluated", {"code": code, "values": [value]})
        return value

    def _evaluated(self, candidates: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
        """Candidates whose accuracy is measured, predicted ones among them by now."""
        for each in candidates:
            if each.get("accuracy_origin") == "predicted" and self.job.is_trained:
                each["accuracy_predicted_pct"] = each["accuracy_pct"]
                each |= {"accuracy_pct": self._accuracy_of(np.array(each["code"], np.int16)), "accuracy_origin": "measured"}
        return list(candidates)

    def _beside(self, candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What is measured beside the candidates: their equals of each baseline, an architecture of the literature that the space holds
        and that is predicted within the budget, and the largest subnet, to tell whether the budget binds."""
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for name in BASELINES:
            for candidate in candidates:
                if point := equal(self.search, name, candidate["latency_ms"]):
                    found[name, tuple(point["code"])] = {**point, "role": name}
        space = self.job.index.space
        of_training = self.job.is_trained and self.job.weights == self.job.result("train")["files"]
        largest = self.job.result("train")["validation_accuracy_pct"]["largest"] if of_training else self._accuracy_of(space.largest()[0])
        if self.reference is None:
            self.reference = self._references()
        return [*found.values(), *self.reference, {**records(self.job, space.largest(), [largest])[0], "role": "largest"}]

    def _references(self) -> list[dict[str, Any]]:
        """Of the architectures of the literature that are predicted within the budget the one of most MACs, with its accuracy with the weights of this run."""
        job, space = self.job, self.job.index.space
        codes = {name: space.encode(values) for name, values in space.references.items()}
        inside = {name: code for name, code in codes.items() if float(job.latency(code)[0]) <= self.limit_ms}
        if not inside:
            return []
        name = max(inside, key=lambda each: float(job.costs["macs"](inside[each])[0]))
        return [{**records(job, inside[name], [self._accuracy_of(inside[name][0])])[0], "role": f"reference {name}"}]

    # -- one window on each device --------------------------------------------------------------------------------------------

    def _measure(self, candidates: Sequence[Mapping[str, Any]], attempt: int, level: float) -> Window:
        job, made = self.job, registry.create("profiling.runtimes", self.target.runtime)
        models = [dict(each) for each in candidates]
        models += [{**other, "round": attempt} for other in self._beside(models)]
        raws = [self._built(model, made) for model in models]
        entrant = published_entrant(job, self.limit_ms) if made.loads == "onnx" else None
        share = level / (1 + len(self.others))
        job.run.append("verify", "window", {"round": attempt, "level": level})  # spent, whatever becomes of it
        window = self._window(self.target, [*raws, *([entrant.raw] if entrant else [])], [model["code"] for model in models], share, len(candidates), attempt)
        built = [{PLAN: facts[PLAN]} if PLAN in facts else {} for facts in window.facts]
        rows = [{**model, **_measured(row, self.limit_ms), **plan} for model, row, plan in zip(models, window.rows, built, strict=False)]
        if entrant is not None:
            self.published = {**entrant.facts, **_measured(window.rows[-1], self.limit_ms)}
        for row in rows:
            if row["role"] == "candidate":
                row["verdict"] = self._with_costs(row)
        for i, each in enumerate(job.elsewhere):
            self._measure_elsewhere(
                i, each.latency, [row for row in rows if row["role"] == "candidate" and row["verdict"] in ("within", PARTLY)], share, attempt
            )
        self._learn(rows, window)
        self.measured += rows
        self.correction = self._corrected(last_is_next=attempt + 1 >= MAX_ROUNDS - 1)
        return window

    def _corrected(self, *, last_is_next: bool) -> float:
        """By what factor bounds are expected to exceed predictions: the median of the candidates', since a search finds the networks whose error
        is in their favour.

        A window in which the device was slow for a while has wide bounds, and the next one need not: they count for no more than SPREAD, unless
        the last window is next.
        """
        rows = [row for row in self.measured if row["role"] == "candidate"]
        predicted = [row["latency_ms"] for row in rows]
        if not self.job.is_measured:  # else the search went by what it measured
            predicted = self._latency()(np.asfortranarray([row["code"] for row in rows], np.int16)).tolist()
        slower = float(np.median([row["measured_ms"] / ms for row, ms in zip(rows, predicted, strict=True)]))
        wider = float(np.median([(row["upper_bound_ms"] or row["measured_ms"]) / row["measured_ms"] for row in rows]))
        return slower * (wider if last_is_next else min(wider, 1 + SPREAD))

    def _raw(self, code: Sequence[int], made: Runtime) -> bytes:
        return model_of(self.job, code, made) if self.job.is_trained else untrained_model_of(self.job, code, made)

    def _built(self, model: dict[str, Any], made: Runtime) -> bytes:
        raw = self._raw(model["code"], made)
        model["model_sha256"] = self.job.run.store.add_blob(raw)
        if made.loads == "onnx":
            model["file_bytes"] = len(raw)
        if self.job.variant.precision != "fp32" and self.job.is_trained:
            model |= _accuracy(self.job, model, raw)
        return self.job.run.store.blob(model["model_sha256"])

    def _window(self, target: Target, raws: Sequence[bytes], codes: Sequence[Sequence[int]], level: float, candidates: int, attempt: int) -> Window:
        job, conditions = self.job, target.table.conditions
        quantile = job.budget.quantile if target is self.target else job.elsewhere[self._number(target)].budget.quantile
        graphs = [*(graph_of(job, code) for code in codes), *[None] * (len(raws) - len(codes))]
        return measure_window(
            raws,
            target.device,
            runtime=target.runtime,
            quantile=quantile,
            level=level * len(raws) / candidates,  # only the candidates' bounds are claims
            seconds=self.options["seconds"],
            speeds=Speeds.of(target.table.anchor),
            threads=conditions.threads,
            seed=self.options["seed"] + self.spent + attempt,
            timing=timing_of(conditions.regime),
            graphs=graphs,
            progress=self.progress,
        )

    def _number(self, target: Target) -> int:
        return next(i for i, each in self.others.items() if each is target)

    def _measure_elsewhere(self, number: int, latency: Additive, rows: Sequence[dict[str, Any]], level: float, attempt: int) -> None:
        """Measures candidates that are within so far on another device, or says that its budget is predicted only; changes the rows' verdicts."""
        job, target = self.job, self.others.get(number)
        limit_ms, where = job.constraints[1 + number].limit, str(job.elsewhere[number].table.conditions)
        window, reason = None, "it was not named with --also"
        if target is not None and rows:
            made = registry.create("profiling.runtimes", target.runtime)
            try:
                raws = [self._raw(row["code"], made) for row in rows]
                window = self._window(target, raws, [row["code"] for row in rows], level, len(rows), attempt)
            except MeasurementFailed as error:
                reason = f"it could not be measured: {error}"
        for i, row in enumerate(rows):
            facts: dict[str, Any] = {"where": where, "statistic": job.elsewhere[number].budget.statistic, "budget_ms": limit_ms}
            facts["predicted_ms"] = float(latency(np.asfortranarray([row["code"]], np.int16))[0])
            if window is None:
                facts |= {"origin": "predicted", "verdict": "predicted", "reason": reason}
                row["verdict"] = PARTLY
            else:
                facts |= _measured(window.rows[i], limit_ms) | {"origin": "measured", "conditions": asdict(window.conditions)}
                if facts["verdict"] != "within":
                    row["verdict"] = f"{facts['verdict']} on {where}"
            row.setdefault("elsewhere", []).append(facts)

    def _with_costs(self, row: Mapping[str, Any]) -> str:
        """The verdict, given the size that the file really has."""
        limits = {budget.metric: each.limit for (budget, _), each in zip(self.job.budgets, self.job.constraints, strict=True)}
        if "size" in limits and row.get("file_bytes", 0) > limits["size"]:
            return "over on size"
        return str(row["verdict"])

    def _learn(self, rows: Sequence[Mapping[str, Any]], window: Window) -> None:
        """The networks measured on the table's device join the run's copy of the table, each once and none that is in doubt."""
        if window.conditions.device != self.table.conditions.device:
            return
        networks = {tuple(row["code"]): as_network(self.job, row["code"], row) for row in rows if not row["doubt"]}
        if networks:
            date = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            origin = {"by": f"hwnas verify {__version__}", "date": date, "window_s": round(window.seconds, 1), "device": window.conditions.device}
            self.table = fed(self.table, list(networks.values()), origin)
            keep_table(self.job, self.table)

    def _is_unbound(self, attempt: int) -> bool:
        """Whether even the largest subnet is within the budget, so that no other network would use more of it."""
        return any(each["role"] == "largest" and each["round"] == attempt and each["measured_ms"] <= self.limit_ms for each in self.measured)


def _windows_begun(job: Job) -> int:
    """By all calls so far: each has spent its part of the error level. Older versions recorded results alone."""
    begun = job.run.events("verify", "window")
    older = [event for event in job.run.events("verify", "result") if not begun or event.id < begun[0].id]
    measured = [checked(event.body, RESULTS["verify"], f"verify of {job.run.folder}")["measured"] for event in older]
    return len(begun) + sum(1 + max((each["round"] for each in rows), default=-1) for rows in measured)


def pick(points: Sequence[Mapping[str, Any]], top: int, limit_ms: float, margin: float) -> list[Mapping[str, Any]]:
    """The most accurate point within the limit, within the limit less once the predictor's error, less twice, ...; each once.

    So the first is the best bet, and the last one still fits where the predictions were too low. More than three share the reach of three, but keep
    SPREAD_AGAIN from each other: closer ones tell no more. Where all points exceed the limit the fastest one is the last resort.
    """
    step = margin if top <= 3 else max(SPREAD_AGAIN, 2 * margin / (top - 1))
    chosen: list[Mapping[str, Any]] = []
    for number in range(top):
        inside = [point for point in points if point["latency_ms"] <= limit_ms * (1 - number * step) and point not in chosen]
        if inside:
            chosen.append(max(inside, key=lambda point: (point["accuracy_pct"], -point["latency_ms"])))
    return chosen or sorted(points, key=lambda point: point["latency_ms"])[:1]


def equal(search: Mapping[str, Any], baseline: str, latency_ms: float) -> Mapping[str, Any] | None:
    """The most accurate network of a baseline that is predicted to take at most so long; None where there is none."""
    points = search.get("baselines", {}).get(baseline, {}).get("points", [])
    return next((point for point in points if point["latency_ms"] <= latency_ms * (1 + 1e-9)), None)  # points are sorted by accuracy


def matched(networks: Sequence[Mapping[str, Any]], role: str, chosen: Mapping[str, Any]) -> int | None:
    """The row of the baseline `role` that the chosen network is compared with: the most accurate on the validation images of those that were measured
    within the budget in any window, or in that of the chosen one at equal latency or less; where there is none, the fastest of that window."""
    together = [i for i, each in enumerate(networks) if each["role"] == role and each["round"] == chosen["round"]]
    within = [i for i, each in enumerate(networks) if each["role"] == role and each["verdict"] == "within"]
    equals = [i for i in together if networks[i]["measured_ms"] <= chosen["measured_ms"] * (1 + EQUAL)]
    if within or equals:
        return max((*within, *equals), key=lambda i: networks[i]["accuracy_pct"])
    return min(together, key=lambda i: networks[i]["measured_ms"], default=None)


def _accuracy(job: Job, model: Mapping[str, Any], raw: bytes) -> dict[str, Any]:
    """Validation accuracy of the file, and that of the float32 subnet, which the search went by and which is all where this machine cannot run the file."""
    try:
        right = classified(raw, graph_of(job, model["code"]).input, job.images("validation"))
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
        "p50_ms": row.p50_ms,
        "p90_ms": row.p90_ms,
        "runs": row.runs,
        "visits": row.visits,
        "dropped": row.dropped,
        "independent_visits": row.independent_visits,
        "telling_visits": row.telling_visits,
        "dropped_share": round(row.dropped_share, 4),
        "doubt": row.doubt,
        "verdict": verdict(row, limit_ms),
    }


def closest(result: Mapping[str, Any]) -> str:
    """One sentence on the candidate that came nearest to fitting."""
    candidates = [each for each in result["measured"] if each["role"] == "candidate"]
    if not candidates:
        return "the search found no candidate"
    best = min(candidates, key=lambda each: each["upper_bound_ms"] or float("inf"))
    reason = f" ({best['doubt'] or best['verdict']})" if best["doubt"] or str(best["verdict"]).startswith("over on ") else ""
    bound = f"{best['upper_bound_ms']:.4g}" if best["upper_bound_ms"] else "unknown"
    return (
        f"none of {len(candidates)} measured candidates is certified within {result['budget_ms']:.4g} ms: the closest took {best['measured_ms']:.4g} ms, "
        f"upper bound {bound} ms{reason}"
    )
