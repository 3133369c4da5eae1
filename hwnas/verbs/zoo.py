"""`bench --zoo`: published networks measured on a device; the best of them within a budget is a baseline of every report."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from hwnas import zoo
from hwnas.budget import Budget
from hwnas.data import cache_folder
from hwnas.device import Device, load_device
from hwnas.errors import DamagedFile, InputError, MeasurementFailed
from hwnas.files import read_json, write_json
from hwnas.latency_table import Conditions
from hwnas.profiling.agent import started_agent
from hwnas.profiling.benchmark import check_takes_onnx, measure_bench
from hwnas.profiling.protocol import REGIMES, Timing, timing_of
from hwnas.profiling.runtime import Runtime
from hwnas.registry import create
from hwnas.report_data import PublishedBaseline, PublishedNetwork
from hwnas.verbs.bench import header, parse_quantiles, row_facts
from hwnas.verbs.common import Progress, check_seed, silent
from hwnas.verbs.records import BENCH_ZOO, checked

FORMAT = "hwnas.zoo/1"
TOGETHER = 6  # networks in one window: their rounds stay short
_TOGETHER_PARAMS = 150e6
_HOPELESS = 2.0  # times the budget: what no run of a network comes below


def bench_zoo(
    *,
    names: Sequence[str] = (),
    budget: str | None = None,
    device: str = "localhost",
    runtime: str = "",
    threads: int | None = None,
    seconds: float = 20.0,
    quantiles: Sequence[str] = (),
    confidence: float = 0.95,
    regime: str = "warm",
    seed: int = 0,
    to: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure published networks on a device, by default all image classifiers of torchvision, in windows of `seconds` of a few each.

    runtime: one of the device's, by default its first; one that loads ONNX. budget: such as `<= 20ms p50`; what no run of which is within twice the
    limit is not measured further. quantiles: by default the budget's, else p50. to: a folder for the table instead of the user's cache, where
    reports look for it. What is in the table is not measured again, so the same call continues an interrupted one; a network that cannot be
    exported or run is a row with its reason. Raises HwnasError.
    """
    check_seed(seed)
    target = load_device(device)
    check_takes_onnx(target, runtime)
    used = target.threads if threads is None else threads
    limit = None if budget is None else Budget.parse("latency", budget)
    if limit is not None and limit.limit is None:
        raise InputError(f"'{budget}' is a share of a search space's largest subnet, and there is none here; write '<= 20ms p50'")
    chosen = parse_quantiles(quantiles) or (() if limit else (0.5,))
    chosen = tuple(dict.fromkeys((*chosen, *([limit.quantile] if limit else []))))
    asked = list(dict.fromkeys(names)) or zoo.names()
    about = {name: zoo.published(name) for name in asked}  # refuses unknown names before anything is measured
    conditions = _conditions(target, runtime, used, timing_of(regime))
    path = table_path(conditions, to)
    table = load_table(path) if path.is_file() else None
    if table and table["confidence"] != confidence:
        raise InputError(
            f"the networks in {path} were measured with --confidence {table['confidence']:g}, and now it is {confidence:g}: name another folder with --to"
        )
    rows = {row["name"]: {"date": table["date"], **row} for row in table["rows"]} if table else {}
    most_ms = None if limit is None else _HOPELESS * cast(float, limit.limit)
    statistics = [f"p{100 * q:g}" for q in chosen]
    pending = [name for name in asked if not _is_done(rows.get(name), statistics, zoo.versions(), most_ms)]
    done = len(asked) - len(pending)
    for group in _groups(pending, about):
        progress("networks", done, len(asked))
        models, made = {}, {}
        for name in group:
            base = {**asdict(about[name]), "versions": zoo.versions(), "latency_ms": {}, "error": None, "over_ms": None, "date": None}
            try:
                models[name] = zoo.onnx_file(name)
                made[name] = {**base, "model_sha256": hashlib.sha256(models[name]).hexdigest()}
            except MeasurementFailed as error:
                made[name] = {**base, "model_sha256": None, "error": str(error)}
        if models:
            measured = measure_bench(
                list(models.values()),
                target,
                runtime=runtime,
                quantiles=chosen,
                confidence=confidence,
                seconds=seconds,
                threads=used,
                regime=regime,
                seed=seed,
                most_ms=most_ms,
                tolerant=True,
            )
            conditions, top = measured.conditions, header(FORMAT, measured)
            for i, name in enumerate(models):
                if i in measured.rows:
                    made[name] |= row_facts(measured.rows[i], measured, 1) | {"date": top["date"]}
                    made[name]["error"] = None if measured.rows[i].latency_ms else measured.rows[i].doubt
                else:
                    made[name]["error"] = measured.left_out[i]
                    made[name]["over_ms"] = most_ms if measured.left_out[i].startswith("too slow") else None
            shared = {key: top[key] for key in ("format", "origin", "confidence", "conditions", "system", "date", "hwnas")}
        elif table is None:
            shared = {"format": FORMAT, "origin": "measured", "confidence": confidence, "conditions": asdict(conditions), "system": {}, "date": "", "hwnas": ""}
        else:
            shared = {key: table[key] for key in ("format", "origin", "confidence", "conditions", "system", "date", "hwnas")}
        rows |= made
        table = {**shared, "rows": sorted(rows.values(), key=lambda row: row["name"])}
        write_json(path, table)
        done += len(group)
    progress("networks", done, len(asked))
    if table is None:
        raise InputError("there is no network to measure")
    wanted = [rows[name] for name in asked]
    statistic = f"p{100 * limit.quantile:g}" if limit else statistics[0]
    best = None if limit is None else best_within(wanted, statistic, cast(float, limit.limit))
    head = {key: value for key, value in table.items() if key != "rows"}
    return {
        **head,
        "file": str(path),
        "statistic": statistic,
        "budget_ms": None if limit is None else limit.limit,
        "networks": sorted(wanted, key=lambda row: (_latency(row, statistic), row.get("macs") or 0.0)),
        "front": [row["name"] for row in front(wanted, statistic)],
        "best": None if best is None else best["name"],
    }


def best_within(rows: Sequence[Mapping[str, Any]], statistic: str, limit_ms: float) -> Mapping[str, Any] | None:
    """The network of the highest published accuracy whose estimate keeps the limit, the faster one of equals; None where there is none."""
    inside = [row for row in rows if row.get("accuracy_pct") is not None and _latency(row, statistic) <= limit_ms]
    return max(inside, key=lambda row: (row["accuracy_pct"], -_latency(row, statistic)), default=None)


def baseline(conditions: Conditions, statistic: str, limit_ms: float) -> PublishedBaseline:
    """The published networks that were measured under these conditions, for a report. Raises DamagedFile."""
    asked = {"device": conditions.device, "runtime": conditions.runtime, "threads": str(conditions.threads), "budget": f"<= {limit_ms:.4g}ms {statistic}"}
    regime = next((name for name, timing in REGIMES.items() if timing.regime == conditions.regime), "warm")
    asked |= {} if regime == "warm" else {"regime": regime}
    command = shlex.join(["hwnas", "bench", "--zoo", *(part for key, value in asked.items() for part in (f"--{key}", value))])
    path = table_path(conditions)
    if not path.is_file():
        return PublishedBaseline(0, None, None, command)
    table = load_table(path)
    rows = [row for row in table["rows"] if row.get("error") is None or row.get("over_ms") is not None]
    known = [row for row in rows if row.get("accuracy_pct") is not None and _latency(row, statistic) < float("inf")]

    def shown(row: Mapping[str, Any] | None) -> PublishedNetwork | None:
        if row is None:
            return None
        estimate = row["latency_ms"][statistic]
        return PublishedNetwork(
            name=row["name"],
            source=row["source"],
            accuracy_pct=row["accuracy_pct"],
            input_size=row["input_size"],
            measured_ms=estimate["value"],
            low_ms=estimate.get("low"),
            high_ms=estimate.get("high"),
            confidence=table["confidence"],
            macs=row.get("macs"),
            params=row.get("params"),
            date=row.get("date") or table["date"],
        )

    fastest = min(known, key=lambda row: _latency(row, statistic), default=None)
    return PublishedBaseline(len(rows), shown(best_within(known, statistic, limit_ms)), shown(fastest), command)


def front(rows: Sequence[Mapping[str, Any]], statistic: str) -> list[Mapping[str, Any]]:
    """Those networks, the fastest first, that no other one beats or equals in published accuracy at the same latency or less."""
    known = [row for row in rows if row.get("accuracy_pct") is not None and _latency(row, statistic) < float("inf")]
    found: list[Mapping[str, Any]] = []
    for row in sorted(known, key=lambda row: (_latency(row, statistic), -row["accuracy_pct"])):
        if not found or row["accuracy_pct"] > found[-1]["accuracy_pct"]:
            found.append(row)
    return found


def table_path(conditions: Conditions, to: Path | None = None) -> Path:
    """Where the published networks measured under these conditions are: a file of its own for each, in the user's cache unless told otherwise."""
    digest = hashlib.sha256(json.dumps(asdict(conditions), sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(conditions))[:100]
    return (Path(to) if to is not None else cache_folder() / "zoo") / f"{name}-{digest}.json"


def load_table(path: Path) -> Mapping[str, Any]:
    """A table of published networks. Raises DamagedFile."""
    table = checked(read_json(path), BENCH_ZOO, str(path), "remove it, and measure again with: hwnas bench --zoo")
    if table["format"] != FORMAT:
        raise DamagedFile(f"{path} has the format {table['format']}, this hwnas reads {FORMAT}; remove it, and measure again with: hwnas bench --zoo")
    return cast(Mapping[str, Any], table)


def _latency(row: Mapping[str, Any], statistic: str) -> float:
    estimate = row["latency_ms"].get(statistic)
    return float("inf") if estimate is None else float(estimate["value"])


def _conditions(device: Device, name: str, threads: int, timing: Timing) -> Conditions:
    """As the device's agent tells them, before anything is measured."""
    runtime: Runtime = create("profiling.runtimes", device.runtime(name))
    with started_agent(device, runtime, threads=threads, seed=0, timing=timing) as agent:
        return agent.identity.conditions(device.name, threads, timing)


def _is_done(row: Mapping[str, Any] | None, statistics: Sequence[str], versions: Mapping[str, str], most_ms: float | None) -> bool:
    """Whether a network need not be measured again: it has all statistics beyond doubt, was too slow for a limit no lower than today's, or is known to fail."""
    if row is None or row["versions"] != versions or row.get("doubt"):
        return False
    if (over_ms := row.get("over_ms")) is not None:
        return most_ms is not None and most_ms <= over_ms
    return row.get("error") is not None or all(statistic in row["latency_ms"] for statistic in statistics)


def _groups(names: Sequence[str], about: Mapping[str, zoo.Published]) -> list[list[str]]:
    """Networks of like size together, so that no window waits for one of them."""
    groups: list[list[str]] = []
    room = 0.0
    for name in sorted(names, key=lambda name: (about[name].macs or 0.0, name)):
        params = about[name].params or 0.0
        if not groups or len(groups[-1]) == TOGETHER or params > room:
            groups.append([])
            room = _TOGETHER_PARAMS
        groups[-1].append(name)
        room -= params
    return groups
