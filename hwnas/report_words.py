"""Numbers and sentences of a report, the same on the page and in the terminal: units beside numbers, never more digits than useful."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hwnas.errors import InputError
from hwnas.graph import IDENTITY, block_text, parse_block
from hwnas.report_data import Comparison, CostBudget, Measured, Report

#: Names of the baselines in a sentence; others are given as they are.
BASELINES = {"random": "random search", "uniform": "uniform scaling"}

NOTHING = "–"
_DIGITS = 3
_MOST_DIGITS = 5
_LEAST_DECIMAL = 9
_FLATTENED = 4
_COSTS = {"macs": "MACs", "params": "parameters", "memory": "peak memory", "size": "model size"}
_IN_BYTES = ("memory", "size")


def plain(value: object) -> str:
    """Text without anything that could steer a terminal or turn lines around: what is not printable becomes a space or U+FFFD."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def cut(text: str, length: int) -> str:
    """At most `length` characters, an ellipsis at the end of what was longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def significant(value: float | None, digits: int = _DIGITS) -> str:
    """`digits` significant digits with their zeros, whole numbers in full: 0.1196 -> 0.120, 1234.5 -> 1,234; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return NOTHING
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    decimals = min(max(digits - 1 - exponent, 0), _LEAST_DECIMAL) if value else 0
    return f"{value:,.{decimals}f}".replace("-", "−")


def latency_digits(report: Report) -> int:
    """Significant digits of latencies: 3, or as many as tell on which side of the budget each measured latency and bound is, up to 5."""
    beside = [ms for each in report.measured for ms in (each.measured_ms, each.upper_bound_ms) if ms is not None and ms != report.budget_ms]
    for digits in range(_DIGITS, _MOST_DIGITS):
        if significant(report.budget_ms, digits) not in {significant(ms, digits) for ms in beside}:
            return digits
    return _MOST_DIGITS


def count(value: float) -> str:
    """Three significant digits with k, M, G or T: 1484112 -> 1.48 M."""
    if not math.isfinite(value):
        return NOTHING
    rounded = float(f"{value:.2e}")
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(rounded) >= limit:
            return significant(value / limit) + unit
    return significant(value) if value % 1 else f"{value:.0f}"


def course(trace: Sequence[Mapping[str, Any]]) -> str:
    """How a search went that recorded its course: each number at its first and at its last point."""
    first, last = trace[0]["values"], trace[-1]["values"]
    parts = [f"{label} {significant(first.get(name))} to {significant(last[name])} {unit}".rstrip() for name in last for label, unit in [named(name)]]
    best = [point["best"] for point in trace if point.get("best") is not None]
    parts += [f"best so far {significant(best[0], 4)} to {significant(best[-1], 4)} %"] if best else []
    return f"course of the search, {trace[-1]['number'] + 1} points: {'; '.join(parts)}"


def named(name: str) -> tuple[str, str]:
    """What a number of a trace is called, and its unit, if any: "entropy, nats"."""
    label, comma, unit = plain(name).rpartition(", ")
    return (label, unit) if comma else (unit, "")


def cost(metric: str, value: float | None) -> str:
    """A number of MACs or parameters, or bytes of peak memory or of the file: 0.61 M, 38.4 kB."""
    text = NOTHING if value is None else count(value)
    return text if metric not in _IN_BYTES or text == NOTHING else f"{text}B" if text[-1].isalpha() else f"{text} B"


def cost_name(metric: str) -> str:
    """What a cost is called: MACs, parameters, peak memory, model size."""
    return _COSTS.get(metric, plain(metric))


def cost_budget(each: CostBudget) -> str:
    """A budget beside that on latency, what the chosen network takes of it, and what the space offers."""
    chosen = "" if each.chosen is None else f", the chosen network has {cost(each.metric, each.chosen)}"
    return f"at most {cost(each.metric, each.limit)}{chosen}; the space: {cost(each.metric, each.space_min)} to {cost(each.metric, each.space_max)}"


def budget_line(facts: Mapping[str, Any]) -> str:
    """What a space offers under one budget, from `hwnas.verbs.common.budget_facts`."""
    metric, percentage = facts["metric"], 100 * facts["share"]["value"]
    share = f"{percentage:.0f} % of the space within it" if percentage >= 9.5 else f"{percentage:.2g} % of the space within it"
    if metric == "latency":
        statistic = facts["budget"].rpartition(" ")[2]
        place = f" on {plain(facts['where'])}" if facts.get("where") else ""
        reach = f"latency{place} {facts['min']:.4g} ... {facts['max']:.4g} ms {statistic} ({facts['origin']}); budget {facts['limit']:.4g} ms"
    else:
        sampled = "" if facts["exact"] else f" (of {facts['share']['samples']:,} random architectures)"
        reach = f"{cost_name(metric)} {cost(metric, facts['min'])} ... {cost(metric, facts['max'])}{sampled}; budget {cost(metric, facts['limit'])}"
    return f"{reach}, {share}"


def measured_line(result: Mapping[str, Any]) -> str:
    """The budget on latency of a search that measured: what keeps it, and what the table had said."""
    networks = result["networks_measured"]
    failed = f", {networks['failed']} could not be" if networks["failed"] else ""
    ends = f"{result['space_min_ms']:.4g} ... {result['space_max_ms']:.4g} ms {result['statistic']} ({result['latency_origin']} by the table)"
    return f"latency {ends}; budget {result['budget_ms']:.4g} ms by measurement: {networks['measured']} networks on {plain(networks['where'])}{failed}"


def share_line(share: Mapping[str, Any]) -> str:
    """The share of a space that keeps all budgets, with its interval."""
    value, low, high = (f"{100 * share[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value} % of the space within all budgets (95 % interval {low} to {high} %, from {share['samples']:,} random architectures)"


def percent(value: float | None) -> str:
    """One decimal, without the sign: 89.1."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.1f}".replace("-", "−")


def share(value: float | None) -> str:
    """A fraction in per cent: 0.123 -> 12.3 %."""
    return NOTHING if value is None or not math.isfinite(value) else f"{percent(100 * value)} %"


def signed(value: float) -> str:
    """One decimal with its sign, and one digit where the decimal would say 0.0: +1.9, −0.04."""
    if not math.isfinite(value):
        return NOTHING
    return (f"{value:+.1f}" if value == 0 or abs(value) >= 0.05 else f"{value:+.1g}").replace("-", "−")


def relative(value: float) -> str:
    """A fraction in per cent with its sign: 0.032 -> +3.2 %."""
    return f"{signed(100 * value)} %" if math.isfinite(value) else NOTHING


def duration(seconds: float) -> str:
    """0.42 s, 12.3 s, 4 min 32 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 59.95:
        return f"{significant(seconds)} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def confidence(value: Any) -> str:
    """0.9967 -> 99.67 %; a dash for what is no probability."""
    return f"{100 * value:.4g} %" if isinstance(value, int | float) and 0 <= value <= 1 else NOTHING


def labels(measured: Sequence[Measured]) -> tuple[str, ...]:
    """A name for each measured network: its role, numbered where it occurs more than once."""
    total, seen, names = Counter(each.role for each in measured), Counter[str](), []
    for each in measured:
        seen[each.role] += 1
        names.append(plain(each.role) + (f" {seen[each.role]}" if total[each.role] > 1 else ""))
    return tuple(names)


def searched(report: Report) -> str:
    """What the latencies are that the search went by: `measured in the search`, or predicted."""
    return predicted(report) if report.searched_origin is None else f"{report.searched_origin} in the search"


def predicted(report: Report) -> str:
    """`predicted`, or what else such a latency is where the table's prices were simulated or emulated."""
    return "predicted" if report.prediction_origin == "predicted" else f"predicted ({report.prediction_origin})"


def band(report: Report) -> str:
    """What the band of predicted against measured latency means."""
    if report.margin is None:
        return "The band is 5 % to either side."
    return (
        f"In the band, {relative(report.margin - 1)} to {relative(1 / report.margin - 1)}, lie {confidence(report.margin_level)} of networks like the table's."
    )


def warning(report: Report) -> str:
    """A sentence where a latency is neither measured nor predicted from measured ones, else nothing."""
    origins = sorted({report.prediction_origin, report.measurement_origin} - {"predicted", "measured"})
    return f"Latencies of this run are {' and '.join(origins)}: they say nothing certain about a device." if origins else ""


def headline(report: Report) -> str:
    """What was achieved, with unit, statistic and origin, or that no candidate was certified."""
    budget = f"{significant(report.budget_ms, latency_digits(report))} ms"
    if report.certified and report.chosen is not None:
        return f"{_achieved(report, report.chosen)}, budget {budget}."
    if report.measured:
        return f"No candidate was certified to keep the budget of {budget} {plain(report.statistic)}."
    return f"No candidate was certified: no exported file was {report.measurement_origin} against the budget of {budget} {plain(report.statistic)}."


def at_hand(report: Report) -> str:
    """The chosen network where it was not certified, else nothing."""
    if report.certified or report.chosen is None:
        return ""
    return f"The network at hand: {_achieved(report, report.chosen)}, verdict: {plain(report.chosen.verdict)}."


def _achieved(report: Report, chosen: Measured) -> str:
    digits, test = latency_digits(report), chosen.test_accuracy_pct
    accuracy = f"{percent(chosen.validation_accuracy_pct)} % validation" if test is None else f"{percent(test.value)} % test"
    bound = ""
    if chosen.upper_bound_ms is not None:
        level = confidence((report.certificate or {}).get("confidence"))
        bound = f" (upper bound {significant(chosen.upper_bound_ms, digits)} ms{'' if level == NOTHING else f' at {level}'})"
    return f"{accuracy} accuracy at {significant(chosen.measured_ms, digits)} ms {plain(report.statistic)} {report.measurement_origin}{bound}"


def outcome(comparison: Comparison, report: Report) -> str:
    """Whether the search won against one baseline, in a sentence."""
    name = plain(BASELINES.get(comparison.baseline, comparison.baseline))
    points, digits = comparison.difference_points, latency_digits(report)
    result = "won against" if comparison.won else "did not win against"
    if comparison.won:
        reason = ""
    elif not math.isfinite(points.low + points.high):
        reason = " – the difference is unknown"
    else:
        reason = " – the baseline is better" if points.high < 0 else " – the interval includes 0"
    latencies = f"{significant(comparison.chosen_ms, digits)} ms against {significant(comparison.measured_ms, digits)} ms {plain(report.statistic)}"
    level = confidence(points.confidence)
    return (
        f"The search {result} {name}: {signed(points.value)} points of test accuracy, {level} interval {signed(points.low)} to {signed(points.high)}"
        f"{reason}; {report.measurement_origin} {latencies}."
    )


def published(report: Report) -> str:
    """What published networks do within the budget on this device, or how to measure it; that their accuracy is of other data is said."""
    found = report.published
    if found is None:
        return ""
    budget = f"{significant(report.budget_ms, latency_digits(report))} ms {plain(report.statistic)}"
    if not found.measured:
        return f"No published network was measured under these conditions, so none is a baseline; measure them with: {plain(found.command)}"
    shown = found.best or found.fastest
    if shown is None:
        return f"None of {found.measured} published networks has a {plain(report.statistic)} under these conditions; measure it with: {plain(found.command)}"
    sides = f"{significant(shown.low_ms)} to {significant(shown.high_ms)}"
    bounds = "" if shown.low_ms is None or shown.high_ms is None else f" ({confidence(shown.confidence)} interval {sides})"
    latency = f"{significant(shown.measured_ms)} ms {plain(report.statistic)} measured{bounds} at {shown.input_size} pixels"
    if found.best is None:
        return f"None of {found.measured} published networks is within {budget}: the fastest, {plain(shown.name)}, takes {latency}."
    return (
        f"Best of {found.measured} published networks within {budget}: {plain(shown.name)}, {latency}, "
        f"{percent(shown.accuracy_pct)} % top-1 as published on ImageNet; it was not trained on this data."
    )


def surrogate_gap(gap: Mapping[str, Any]) -> str:
    """How near the best found is to what an additive model of the accuracy has for its optimum; that it is a model's is said."""
    return (
        f"Gap to the surrogate's optimum: {percent(gap['gap_points'])} points of accuracy within the budget. The surrogate is a sum over layers, "
        f"fitted to {gap['samples']} evaluated architectures (mean error {percent(gap['error_points'])} points on those left out, Spearman "
        f"{gap['spearman']:.2f}); its optimum is exact for it, not for the networks."
    )


def short_block(text: str, length: int = 160) -> str:
    """What a block computes, for people: `1x8x20x20: expand 32, depthwise 32 k5 s2, project 8`. A text that is no block is only cut."""
    if text == block_text(IDENTITY):
        return "skipped"
    try:
        block = parse_block(text)
    except InputError:
        return cut(plain(text), length)
    parts = []
    for node in block:
        sizes = ((letter, getattr(node.op, name, None)) for letter, name in (("", "out"), ("k", "kernel"), ("s", "stride")))
        parts.append(" ".join([node.name, *(f"{letter}{size}" for letter, size in sizes if size is not None and (not letter or size != 1))]))
    return cut(f"{'x'.join(map(str, block[0].op.input))}: {', '.join(parts)}" if block else text, length)


def flat(values: Mapping[str, Any], prefix: str = "", depth: int = 1) -> list[tuple[str, str]]:
    """Keys and values as given, one row each; the keys of nested mappings are joined by dots."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{plain(key)}"
        if isinstance(value, Mapping) and value and depth < _FLATTENED:
            rows += flat(value, f"{name}.", depth + 1)
        else:
            rows.append((name, plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))))
    return rows


def _correlation(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _ms(value: float) -> str:
    return f"{significant(value)} ms"


#: Figures of `hwnas.quality.Quality`: heading, and how a value is written.
_QUALITY: dict[str, tuple[str, Callable[[float], str]]] = {
    "networks": ("networks", count),
    "blocks": ("blocks", count),
    "mape": ("mean error", share),
    "rmse_ms": ("RMSE", _ms),
    "bias": ("bias", relative),
    "within_5pct": ("within 5 %", share),
    "within_10pct": ("within 10 %", share),
    "kendall": ("Kendall τ", _correlation),
    "spearman": ("Spearman ρ", _correlation),
    "within_group_spearman": ("ρ within a resolution", _correlation),
}
_PREDICTIONS = {
    "calibrated": "calibrated table",
    "table_sum": "plain sum of the table",
    "macs_line": "line through MACs",
    "predicted_blocks": "predicted blocks",
}


def quality_rows(quality: Mapping[str, Any], only: Collection[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of the predictions' quality as `assess` of hwnas.predictors.calibrated gives it; figures of no prediction are one of their own.

    only: the figures wanted, or all: those it does not know come last under their own name. What a prediction lacks is a dash.
    """
    predictions = {name: figures for name, figures in quality.items() if isinstance(figures, Mapping)}
    if figures := {name: value for name, value in quality.items() if not isinstance(value, Mapping)}:
        predictions["latency"] = figures
    present = {key for figures in predictions.values() for key in figures if only is None or key in only}
    keys = [key for key in _QUALITY if key in present] + sorted(present - _QUALITY.keys(), key=str)
    headings = ["prediction", *(_QUALITY[key][0] if key in _QUALITY else plain(key) for key in keys)]
    rows = [[_PREDICTIONS.get(name, plain(name)), *(_quality_cell(key, figures.get(key)) for key in keys)] for name, figures in predictions.items()]
    return headings, rows


def _quality_cell(key: str, value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return cut(plain(value), 40)
    if not math.isfinite(value):
        return NOTHING
    return _QUALITY[key][1](value) if key in _QUALITY else significant(value)
