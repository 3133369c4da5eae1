"""What a team reviews beside the chosen network's certificate: other devices and precisions, published networks, the course, the operators."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

import numpy as np

from hwnas.device import load_device
from hwnas.graph import Graph
from hwnas.intervals import LEVEL, margin
from hwnas.latency_table import Conditions
from hwnas.ops import Conv2d
from hwnas.predictors.calibrated import left_out
from hwnas.profiling.layers import RUNS, LayerTime, profile_layers
from hwnas.report_data import Beside, InPrecision, Known, OnDevice, Operator, Profiled
from hwnas.table_latency import measured_ms, own_networks
from hwnas.verbs.accuracy import recorded_codes
from hwnas.verbs.common import Job, Progress
from hwnas.verbs.deployed import graph_of
from hwnas.verbs.records import PROFILED, RESULTS, checked
from hwnas.verbs.target import runtime_of

#: Precisions that stand side by side on every report, measured or not; others where an export measured them.
PRECISIONS = ("fp32", "fp16", "int8_u8s8")
PASSES = 5  # of the profiler over a file
_OPERATOR = re.compile(r"(?P<name>.*?)(?: \((?P<kind>[^()]*)\))?", re.DOTALL)


def best_so_far(job: Job, stage: str) -> tuple[tuple[float, float], ...]:
    """(evaluations, best accuracy in % within the budgets by then), wherever it rose and at the end; empty where evaluations were not recorded."""
    where = f"{stage} of {job.run.folder}"
    bodies = job.evaluations(stage)
    if not bodies:
        return ()
    codes = recorded_codes(job, [body["code"] for body in bodies], where)
    counted = job.constraints[1:] if job.is_measured else job.constraints
    inside = np.all([np.ones(len(codes), bool), *(each.price(codes) <= each.limit * (1 + 1e-9) for each in counted)], axis=0)
    if job.is_measured:  # the second value of each, as the driver records them
        inside &= [len(each := body["values"]) > 1 and each[1] is not None and each[1] <= job.budget_ms * (1 + 1e-9) for body in bodies]
    shares = [_share(body) for body in bodies]
    rises: list[tuple[float, float]] = []
    spent = list(accumulate(shares))
    for i, body in enumerate(bodies):
        value = body["values"][0] if body["values"] and inside[i] and shares[i] == 1.0 else None
        if value is not None and (not rises or value > rises[-1][1]):
            rises.append((spent[i], value))
    return (*rises, (spent[-1], rises[-1][1])) if rises and rises[-1][0] < spent[-1] else tuple(rises)


def _share(body: Mapping[str, Any]) -> float:
    fidelity = body.get("fidelity", 1.0)
    return float(fidelity) if isinstance(fidelity, int | float) and 0 < fidelity <= 1 else 1.0


def known_networks(job: Job) -> tuple[tuple[Known, ...], float | None, float]:
    """The table's whole networks as they were measured and predicted without each, and how far a further one may be off, at which level."""
    own, _ = own_networks(job.table, job.deployed)
    measured, predicted = measured_ms(own, job.budget.quantile), left_out(job.table, job.index, job.budget.quantile, job.variant)
    wide = margin(measured, predicted)
    pairs = zip(predicted.tolist(), measured.tolist(), strict=True)
    return tuple(Known(*pair) for pair in pairs), wide if np.isfinite(wide) else None, LEVEL


def devices(job: Job, conditions: Conditions, budget_ms: float, chosen: Mapping[str, Any]) -> tuple[OnDevice, ...]:
    """The chosen network on each device that the run has a budget on; empty where that is one."""
    others = chosen.get("elsewhere") or ()
    if not others:
        return ()
    here = OnDevice(
        where=str(conditions),
        budget_ms=budget_ms,
        statistic=job.budget.statistic,
        predicted_ms=chosen["latency_ms"],
        measured_ms=chosen["measured_ms"],
        upper_bound_ms=chosen["upper_bound_ms"],
        verdict="within" if chosen["upper_bound_ms"] is not None and chosen["upper_bound_ms"] <= budget_ms else chosen["verdict"],
        origin="measured",
    )
    keys = ("where", "budget_ms", "statistic", "predicted_ms", "verdict", "origin")
    there = [
        OnDevice(
            **{key: each[key] for key in keys},
            measured_ms=each.get("measured_ms"),
            upper_bound_ms=each.get("upper_bound_ms"),
            reason=each.get("reason") or "",
        )
        for each in others
    ]
    return (here, *there)


def precisions(job: Job, chosen: Mapping[str, Any], accuracy_pct: float, images: int) -> tuple[InPrecision, ...]:
    """The chosen network's file as it was certified, what `export` measured of it in other precisions since, and what nobody measured."""
    own, run = job.variant.precision, job.run.folder
    in_file = chosen.get("accuracy_in", "fp32") == own
    certified = InPrecision(
        name=own,
        accuracy_pct=accuracy_pct if in_file else None,
        images=images if in_file else None,
        measured_ms=chosen["measured_ms"],
        visits=chosen["visits"],
        size_bytes=chosen.get("file_bytes"),
        about="as measured by verify",
    )
    rows = {own: certified}
    verified = job.run.events("verify", "result")[-1].id
    for event in job.run.events("export", "result"):
        result = checked(event.body, RESULTS["export"], f"export of {run}")
        conversion, accuracy = result.get("conversion"), result.get("accuracy")
        if event.id > verified and conversion and accuracy and conversion["from"] == own:
            unmeasured = conversion.get("latency") or "not measured"
            about = "by export, both files in one window" if conversion.get("after_ms") is not None else f"latency {unmeasured}"
            rows[conversion["to"]] = InPrecision(
                name=conversion["to"],
                accuracy_pct=accuracy["accuracy_pct"],
                images=accuracy["images"],
                measured_ms=conversion.get("after_ms"),
                beside_ms=conversion.get("before_ms"),
                visits=conversion.get("visits"),
                size_bytes=result.get("size_bytes"),
                about=about,
            )
    for name in PRECISIONS:
        if name not in rows:
            how = f"hwnas export {run.name} --to FOLDER --precision {name}" if own == "fp32" else f"the run was searched in {own}, and {name} is another run's"
            rows[name] = InPrecision(name, about=f"not measured: {how}")
    ordered = [*(name for name in PRECISIONS if name in rows), *(name for name in rows if name not in PRECISIONS)]
    return tuple(rows[name] for name in ordered)


def published_beside(certificate: Mapping[str, Any] | None) -> tuple[tuple[Beside, ...], str]:
    """Published networks that were measured in the certificate's window, and what the certificate says of them."""
    found = (certificate or {}).get("published") or {}
    rows = []
    if entrant := found.get("network"):
        rows.append(_beside(entrant.get("name") or "published network", entrant.get("accuracy_of") or "as published", entrant))
    if reference := found.get("of_the_space"):
        rows.append(_beside((reference.get("role") or "reference").removeprefix("reference "), reference.get("accuracy") or "validation", reference))
    return tuple(rows), found.get("said") or ""


def _beside(name: str, accuracy_of: str, row: Mapping[str, Any]) -> Beside:
    return Beside(name, row["accuracy_pct"], accuracy_of, row["measured_ms"], row.get("upper_bound_ms"), row["verdict"], row.get("macs"), row.get("params"))


def setting(conditions: Conditions, certificate: Mapping[str, Any] | None) -> dict[str, Any]:
    """Conditions in full, and the state of the device in the certificate's window."""
    facts: dict[str, Any] = {key: value for key, value in asdict(conditions).items() if value not in ("", {}, None)}
    state = certificate or {}
    kept = {"window in s": "window_seconds", "speed states": "speed_states", "system": "system", "date": "date"}
    return facts | {name: state[key] for name, key in kept.items() if state.get(key) not in (None, [], {})}


# -- operators ----------------------------------------------------------------------------------------------------------------


def profile_chosen(job: Job, chosen: Mapping[str, Any], conditions: Conditions, progress: Progress) -> None:
    """Profile the chosen file's operators on its device once, and record them; or why there are none. Raises InputError, RunHeld, MeasurementFailed."""
    if _recorded(job, chosen) is not None:
        return
    device = load_device(conditions.device)
    raw, runtime = job.run.store.blob(chosen["model_sha256"]), runtime_of(device, conditions.runtime)
    found = profile_layers([raw] * PASSES, device, runtime=runtime, threads=conditions.threads, runs=RUNS // PASSES, progress=progress)
    reason = next((each for each in found if isinstance(each, str)), "")
    operators = [] if reason else _medians([each for each in found if not isinstance(each, str)])
    body = {"model_sha256": chosen["model_sha256"], "conditions": str(conditions), "runs": RUNS, "operators": operators}
    job.run.append("report", "profiled", {**body, "reason": reason})


def _medians(passes: Sequence[Sequence[LayerTime]]) -> list[dict[str, Any]]:
    """Of each operator its share in the median of the passes: a profiler tells means, and one run in which another process ran would be most of one."""
    us = {name: float(np.median([sum(each.mean_us for each in once if each.name == name) for once in passes])) for name in (each.name for each in passes[0])}
    total = sum(us.values()) or 1.0
    return [{"name": name, "share": value / total} for name, value in us.items()]


def profiled(job: Job, chosen: Mapping[str, Any]) -> Profiled | None:
    """What `profile_chosen` recorded of this file, each operator with its layer and what it computes; None where nobody asked."""
    body = _recorded(job, chosen)
    if body is None:
        return None
    found = [LayerTime(each["name"], 0.0, max(each["share"], 0.0)) for each in body["operators"]]
    return Profiled(body["conditions"], body["runs"], placed(found, graph_of(job, chosen["code"])), body["reason"])


def _recorded(job: Job, chosen: Mapping[str, Any]) -> Mapping[str, Any] | None:
    events = job.run.events("report", "profiled")
    bodies = [checked(event.body, PROFILED, f"the profile of {job.run.folder}") for event in events]
    return next((body for body in reversed(bodies) if body["model_sha256"] == chosen["model_sha256"]), None)


def placed(operators: Sequence[LayerTime], graph: Graph) -> tuple[Operator, ...]:
    """Operators as a profiler names them, `layer/node... (kind)`, with the layer and the kind of the node of the graph that they come from.

    A runtime fuses nodes and names what is left after one of them, with an ending of its own. What bears no name of the graph, such as a conversion
    of the layout, was added by the runtime and counts to the layer that it follows.
    """
    nodes = {node.name: node for node in graph.nodes}
    names = sorted(nodes, key=len, reverse=True)  # a name may be the beginning of another one
    layer, found = "", []
    for each in operators:
        match = _OPERATOR.fullmatch(each.name)
        name, kind = (match["name"], match["kind"] or match["name"]) if match else (each.name, each.name)
        known = next((node for node in names if name.startswith(node)), None)
        layer = nodes[known].layer if known is not None else layer or "input"
        op = nodes[known].op if known is not None else None
        found.append(Operator(layer, name, _convolution(op, kind) if isinstance(op, Conv2d) else kind, each.share))
    return tuple(found)


def _convolution(op: Conv2d, kind: str) -> str:
    """Which convolution an operator is; `kind` where it is no convolution, but something beside one, such as its activation."""
    if "conv" not in kind.lower():
        return kind
    if op.groups > 1:
        return f"depthwise {op.kernel} x {op.kernel}" if op.groups == op.input[1] else f"grouped {op.kernel} x {op.kernel}"
    return f"convolution {op.kernel} x {op.kernel}"
