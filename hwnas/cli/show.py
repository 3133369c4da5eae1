"""How the command line shows things: a bar for what takes time, a table for what came out, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from hwnas.profiling.forecast import Forecast

_LAYERS_SHOWN = 20
_SAID_EVERY_S = 60.0


def as_json(result: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(result, indent=1, allow_nan=False) + "\n")


def table(title: str, columns: Mapping[str, str], rows: list[list[str]]) -> None:
    """An aligned table on stdout; columns: heading -> `left` or `right`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in columns.items():
        made.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=justify == "right")
    for row in rows:
        made.add_row(*map(Text, row))  # never read as markup
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False)  # cells are text: 'hwnas[demo]' is no style
    if title:  # not the table's own title, which would be broken to the table's width
        console.print(Text(title, "italic"))
    console.print(made)


def reference_row(found: Mapping[str, Any]) -> list[str]:
    """An architecture of the literature: name, and of MACs and parameters what it costs, what was published and by how much that differs."""
    row = [found["name"]]
    for cost in ("macs", "params"):
        here, there, by = found[cost], found[f"{cost}_published"], found[f"{cost}_difference_pct"]
        row += [f"{here / 1e6:.4g} M", *(["", ""] if there is None else [f"{there / 1e6:.4g} M", f"{by:+.1f} %"])]
    return row


def device_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """(what, found) of a device's check."""
    system, before = found["system"], found["before"]

    def percent(value: float | None) -> str:
        return "every visit was disturbed" if value is None else f"{value:.2f} %"

    ghz = [f"{before[key] / 1e6:.2f} GHz {words}" for key, words in (("frequency_cur_khz", "now"), ("frequency_max_khz", "at most")) if key in before]
    states = [f"{each['relative_latency']:.2f} times the best for {100 * each['share']:.0f} % of the time" for each in found["speed_states"]]
    on = [str(found["options"][key]) for key in ("provider", "provider_device", "device") if key in found["options"]]
    units = (("gpu_clock_mhz", "MHz", 1), ("gpu_max_clock_mhz", "MHz at most", 1), ("gpu_power_milliwatt", "W", 1e3), ("gpu_load_pct", "% busy", 1))
    gpu = [f"{before[key] / scale:.0f} {unit}" for key, unit, scale in units if key in before]
    warmest = max(found["temperatures_c"].items(), key=lambda item: item[1], default=None)
    return [
        ["reached by", f"{found['transport']} {found['address']}".strip()],
        ["processor", f"{system.get('processor', 'unknown')}, {before.get('usable_cores', '?')} of {system.get('cores', '?')} cores usable"],
        ["cores", ", ".join([f"on {system.get('affinity', 'any')}{' as asked' * ('cores' in found['options'])}", *filter(None, [system.get("clusters")])])],
        ["clock rate", ", ".join([f"governor {system.get('governor', 'unknown')}", *ghz])],
        ["system", f"{system.get('os', 'unknown')} {system.get('arch', '')}" + (f", Python {system['python']}" if "python" in system else "")],
        ["runtime", ", ".join([f"{found['runtime']} {found['version']}", *on, f"{found['threads']} thread(s)"])],
        *([["not told", str(system["not_told"])]] if "not_told" in system else []),
        *([["GPU", ", ".join(gpu)]] if gpu else []),
        ["clock", f"steps of {before.get('clock_step_ns', '?')} ns"],
        ["memory", f"{before['memory_available_bytes'] / 1e9:.1f} GB available" if "memory_available_bytes" in before else "not shown by this system"],
        ["load", f"{before['load_1min_pct'] / 100:.2f} cores in the last minute" if "load_1min_pct" in before else "not shown by this system"],
        ["temperature", f"{warmest[1]:.0f} degrees Celsius ({warmest[0]})" if warmest else "not shown by this system"],
        ["anchor", f"{found['anchor_best_us']:.1f} microseconds at best, {found['visits']} visits"],
        ["noise floor", f"{percent(found['noise_pct'])} between bursts, {percent(found['run_noise_pct'])} between runs"],
        ["speed states", "; ".join(states)],
        ["disturbed", f"{100 * found['disturbed_share']:.1f} % of the visits"],
    ]


def bench_table(found: Mapping[str, Any], where: str) -> None:
    """The result of `bench` on stdout: a row per model, what is doubtful below."""
    statistics = list(dict.fromkeys(key for each in found["models"] for key in each["latency_ms"]))
    units = {key: f"{key} ms" for key in statistics} | ({"samples_per_s": "samples/s"} if found["streams"] else {})
    columns = {"model": "left", "batch": "right", **{f"{unit}\n({100 * found['confidence']:g} % interval)": "right" for unit in units.values()}}
    columns |= {"visits,\nindependent,\ndropped": "right", "partitions": "right", "nodes\nelsewhere": "right"}
    rows = []
    for each in found["models"]:
        facts, values = each["facts"], {**each["latency_ms"], "samples_per_s": each["samples_per_s"]}
        rows.append(
            [
                *(each["file"], str(each["batch"])),
                *(interval(values.get(key)) for key in units),
                ", ".join(str(each[key]) for key in ("visits", "independent_visits", "dropped")),
                *(str(facts.get("partitions", "not told")), _elsewhere(facts)),
            ]
        )
    load = f", {found['streams']} streams at once" if found["streams"] else ""
    table(f"measured on {where}, all in one window of {found['seconds']:.0f} s{load}", columns, rows)
    if "not_told" in found["system"]:
        print(f"the agent cannot tell {found['system']['not_told']}")
    for each in found["models"]:
        if each["doubt"]:
            print(f"{each['file']}, batch {each['batch']}: {each['doubt']}")


def layer_tables(found: Mapping[str, Any]) -> None:
    """Of each model that was profiled its operators, the slowest first, on stdout."""
    for each in found["models"]:
        if (profile := each.get("layers")) is None:
            continue
        which = f"{each['file']}, batch {each['batch']}"
        if "error" in profile:
            print(f"{which}: no profile, {profile['error']}")
            continue
        ranked = sorted(profile["operators"], key=lambda layer: -layer["mean_us"])
        rows = [[layer["name"], f"{layer['mean_us']:.1f}", f"{100 * layer['share']:.1f} %"] for layer in ranked[:_LAYERS_SHOWN]]
        if rest := ranked[_LAYERS_SHOWN:]:
            rows.append([f"{len(rest)} others", f"{sum(layer['mean_us'] for layer in rest):.1f}", f"{100 * sum(layer['share'] for layer in rest):.1f} %"])
        rows.append(["sum of the profile, no latency", f"{sum(layer['mean_us'] for layer in ranked):.1f}", ""])
        columns = {"operator, as it runs": "left", "microseconds": "right", "share": "right"}
        table(f"{which}: where the time goes, by the runtime's profiler, {profile['runs']} runs after the timing", columns, rows)


def zoo_table(found: Mapping[str, Any], where: str) -> None:
    """The result of `bench --zoo` on stdout, by latency, and the best within the budget."""
    statistic = found["statistic"]
    columns = {"network": "left", f"{statistic} ms\n({100 * found['confidence']:g} % interval)": "right", "ImageNet top-1\n(published)": "right"}
    columns |= {"front": "left", "MACs": "right", "params": "right", "input": "right", "partitions": "right", "nodes\nelsewhere": "right"}
    rows, failed = [], [each for each in found["networks"] if each["error"]]
    for each in found["networks"]:
        if each["error"]:
            continue
        accuracy = "not stated" if each["accuracy_pct"] is None else f"{each['accuracy_pct']:.2f} %"
        sizes = [f"{each[key] / 1e6:.4g} M" if each[key] else "not stated" for key in ("macs", "params")]
        facts = each.get("facts", {})
        on_front = "*" if each["name"] in found["front"] else ""
        parts = [str(facts.get("partitions", "not told")), _elsewhere(facts)]
        rows.append([each["name"], interval(each["latency_ms"].get(statistic)), accuracy, on_front, *sizes, str(each["input_size"]), *parts])
    table(f"published networks measured on {where}; random weights, accuracy as published", columns, rows)
    for each in failed:
        print(f"{each['name']}: {each['error']}")
    for each in found["networks"]:
        if each.get("doubt") and not each["error"]:
            print(f"{each['name']}: {each['doubt']}")
    if found["budget_ms"] is not None:
        limit = f"{found['budget_ms']:.4g} ms {statistic}"
        best = next((each for each in found["networks"] if each["name"] == found["best"]), None)
        print(
            f"no published network is within {limit}"
            if best is None
            else f"best within {limit}: {best['name']}, {best['accuracy_pct']:.2f} % published, {best['latency_ms'][statistic]['value']:.4g} ms"
        )


def interval(estimate: Mapping[str, float | None] | None) -> str:
    """`4.21 (4.18 to 4.30)`; where there are too few visits for a bound, without."""
    if estimate is None:
        return "-"
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    return f"{value:.4g} ({'-' if low is None else f'{low:.4g}'} to {'-' if high is None else f'{high:.4g}'})"


def _elsewhere(facts: Mapping[str, Any]) -> str:
    return f"{facts['nodes_elsewhere']} of {facts['nodes']}" if {"nodes", "nodes_elsewhere"} <= set(facts) else "not told"


def plan_lines(plan: Forecast, budget_minutes: float | None) -> list[str]:
    """What a profile is going to measure, and how long that may take."""
    visits = _span(f"{plan.least_visits:,}", f"{plan.most_visits:,}")
    what = f"to measure: {plan.blocks:,} blocks and {plan.networks} networks in {visits} visits"
    what += f" ({plan.made:,} more are on record)" if plan.made else ""
    what += f"; {plan.predicted:,} blocks are predicted, there being no time for them" if plan.predicted else ""
    span = f"{_span(duration(plan.least_s), duration(plan.most_s))}, up to {duration(plan.disturbed_s)} where other programs disturb it"
    limit = f"; ended by --budget-minutes after {duration(60 * budget_minutes)} in all" if budget_minutes is not None else ""
    tried = f"{plan.tried_blocks:,} blocks and {plan.tried_networks} networks that were tried for {duration(plan.tried_s)}"
    return [f"{what}, on {plan.conditions.processor} ({plan.conditions})", f"time: {span}{limit}; estimated from {tried}"]


def _span(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def duration(seconds: float) -> str:
    """`48 s`, `3.5 min`, `2.1 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{max(seconds, 0.1):.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


class Shown(Protocol):
    """How a command shows that it gets on: called as `Progress` is; `note` shows a line beside that."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...

    def note(self, line: str) -> None: ...


def training_notes(result: Mapping[str, Any]) -> list[str]:
    """What was skipped and taken over by a training, one line each."""
    lines = []
    if skipped := result.get("skipped"):
        names = ", ".join(f"{file} ({reason})" for file, reason in skipped[:3])
        lines.append(f"{len(skipped)} image(s) cannot be read and were skipped: {names}{', ...' if len(skipped) > 3 else ''}; all are in skipped.csv")
    if init := result.get("init"):
        parts = [f"{init['taken']} tensors taken over", *(["the classifier is new"] if init["new_head"] else [])]
        parts += [
            f"{len(init[key])} {words}: {', '.join(init[key][:3])}" for key, words in (("missing", "not in the file"), ("unknown", "unknown")) if init[key]
        ]
        lines.append("; ".join(parts))
    return lines


@contextmanager
def progress_bar() -> Iterator[Shown]:
    """A progress callback that draws a bar with rate and remaining time on stderr; without a terminal, a line per stage, and in long ones now and
    then another."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with Bar(TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        yield _Bars(bar)


class _Bars:
    """A bar for each stage."""

    def __init__(self, bar: Bar):
        self._bar = bar
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        key = stage.partition(",")[0]
        if key not in self._tasks:
            self._tasks[key] = self._bar.add_task(stage, total=total)
        self._bar.update(self._tasks[key], completed=done, total=total, description=stage)

    def note(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)


class _Lines:
    """A line when a stage begins, one when it ends, and in between one each minute that says how much time remains: for logs."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._said = 0.0

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        key = stage.partition(",")[0]
        if key not in self._started or (not self._started[key] and done < total):  # begun, or begun again
            self._started[key] = self._said = time.monotonic()
            self._first = done
            print(f"{key}: {done}/{total}", file=sys.stderr, flush=True)
        elif done >= total and self._started[key] > 0:
            print(f"{stage}: {done}/{total} in {time.monotonic() - self._started[key]:.0f} s", file=sys.stderr, flush=True)
            self._started[key] = 0.0
        elif self._started[key] > 0 and done > self._first and (now := time.monotonic()) - self._said >= _SAID_EVERY_S:
            self._said, remaining_s = now, (now - self._started[key]) * (total - done) / (done - self._first)
            print(f"{stage}: {done}/{total}, about {duration(remaining_s)} more", file=sys.stderr, flush=True)


def export_lines(found: Mapping[str, Any]) -> list[str]:
    """What `verify` of an exported folder says, a line for each check."""
    names = {"hashes": "hashes", "example": "stored example", "random": "random inputs", "accuracy": "accuracy", "latency": "latency"}
    lines = []
    for key, each in found["checks"].items():
        if key == "hashes":
            text = f"{each['files']} files are as the manifest says"
        elif "reason" in each:
            text = f"not checked: {each['reason']}"
        elif "ratio" in each:
            text = f"{each['ratio']:.1e} of the logits' standard deviation over {each['inputs']} inputs, limit {each['limit']:g}"
        elif key == "accuracy":
            stated = f", {each['stated']['accuracy_pct']:.2f} % stated" if each["stated"] else ""
            text = f"{each['accuracy_pct']:.2f} % of {each['images']:,} {each['split']} images (measured{stated})"
        else:
            bound = "" if each["upper_bound_ms"] is None else f", upper bound {each['upper_bound_ms']:.4g} ms"
            budget = f", budget {each['budget_ms']:.4g} ms: {each['verdict']}" if "budget_ms" in each else ""
            text = f"{each['measured_ms']:.4g} ms {each['statistic']} measured{bound}{budget}" + (f" ({each['doubt']})" if each["doubt"] else "")
        lines.append(f"{names[key]:<15} {text}")
        if "certified" in each:
            lines.append(f"{'certified':<15} {each['certified_ms']:.4g} ms, {each['certified']}; now {each['to_certified']:.3f} times that")
            lines += [f"{'not measured':<15} the budget on {where}" for where in each["not_measured"]]
            lines += [f"{'differs':<15} {name}: {before} then, {now} now" for name, (before, now) in each["differs"].items()]
            if each["differs"]:
                lines.append("these are other conditions than the certificate's: it is neither confirmed nor contradicted")
    return [*lines, "ok" if found["passed"] else "failed"]
