"""A report in short, for a terminal of 100 columns: the tables people look at first, and the result in the last lines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hwnas import report_words as words
from hwnas.report_data import LayerShare, Report

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_BAR = 16
_LABEL = 14
_DEVICE = 44
_NAME = 24
_VERDICT = 12
_QUALITY = ("networks", "mape", "within_5pct", "within_10pct", "kendall")


def render_text(report: Report) -> Group:
    """Tables and sentences to print with rich; no string of the report is read as markup or reaches the terminal as a control code."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{words.plain(report.title)}: {words.plain(report.space)} on {words.plain(report.device)}", "bold")]
    parts.append(Text(f"{words.plain(report.conditions)}; {words.plain(report.data)}", "dim"))
    parts += [_front(report), *(Text(f"{words.cost_name(each.metric)} {words.cost_budget(each)}") for each in report.budgets), Text()]
    if report.measured:
        budget = f"{words.significant(report.budget_ms, words.latency_digits(report))} ms {words.plain(report.statistic)}"
        parts += [Text(f"exported networks, {report.measurement_origin} as files against {budget} (* chosen)", "dim"), _networks(report), Text()]
    if report.devices:
        parts += [Text("the chosen network on each device", "dim"), _devices(report), Text()]
    if any(each.beside_ms is not None for each in report.precisions):
        parts += [Text("the chosen network in other precisions, what was measured of it", "dim"), _precisions(report), Text()]
    if report.layers:
        parts += [Text(f"the chosen subnet, layer by layer, latency {words.predicted(report)}", "dim"), _layers(report), Text()]
    headings, quality = words.quality_rows(report.quality, only=_QUALITY)
    if quality:
        parts += [Text("how well latency is predicted, of networks left out", "dim"), _table(headings, quality), Text()]
    if words.warning(report):
        parts.append(Text(words.warning(report), "yellow"))
    parts += [Text(words.outcome(each, report), "green" if each.won else "yellow") for each in report.comparisons]
    if words.published(report):
        parts.append(Text(words.published(report), "dim"))
    if report.trace:
        parts.append(Text(words.course(report.trace), "dim"))
    if report.surrogate is not None:
        parts.append(Text(words.surrogate_gap(report.surrogate), "dim"))
    if not report.comparisons:
        parts.append(Text("The search was not compared with a baseline."))
    parts += [Text(sentence, "bold") for sentence in (words.at_hand(report), words.headline(report)) if sentence]
    return Group(*parts)


def _front(report: Report) -> RenderableType:
    """One line: how many were evaluated, and the ends of the front."""
    from rich.text import Text

    front = sorted((point for point in report.points if point.on_front), key=lambda point: point.latency_ms)
    ms = partial(words.significant, digits=words.latency_digits(report))
    ends = [f"{words.percent(point.accuracy_pct)} % at {ms(point.latency_ms)} ms" for point in (front[0], front[-1])] if front else []
    line = f"evaluated {len(report.points):,}, on the front {len(front):,}"
    if ends:
        line += f": {' … '.join(dict.fromkeys(ends))} (validation accuracy, latency {words.searched(report)})"
    return Text(line)


def _networks(report: Report) -> Table:
    ms = partial(words.significant, digits=words.latency_digits(report))
    rows = []
    for label, each in zip(words.labels(report.measured), report.measured, strict=True):
        test = words.NOTHING if each.test_accuracy_pct is None else words.percent(each.test_accuracy_pct.value)
        latencies = [ms(each.predicted_ms), ms(each.measured_ms), ms(each.upper_bound_ms)]
        costs = [str(each.visits), words.count(each.macs), words.count(each.params), words.cut(words.plain(each.verdict), _VERDICT)]
        rows.append([("* " if each.chosen else "  ") + words.cut(label, _LABEL), words.percent(each.validation_accuracy_pct), test, *latencies, *costs])
    accuracies, latencies = ["val.\n%", "test\n%"], ["predicted\nms", f"{report.measurement_origin}\nms", "upper\nbound ms"]
    headings = ["  network", *accuracies, *latencies, "visits", "MACs", "params", "verdict"]
    return _table(headings, rows)


def _devices(report: Report) -> Table:
    rows = [
        [
            words.cut(words.plain(each.where), _DEVICE),
            words.plain(f"{each.budget_ms:.4g} {each.statistic}"),
            words.significant(each.predicted_ms, 4),
            words.significant(each.measured_ms, 4),
            words.significant(each.upper_bound_ms, 4),
            words.cut(words.plain(each.verdict), _VERDICT),
        ]
        for each in report.devices
    ]
    return _table(["device", "budget\nms", "predicted\nms", "measured\nms", "upper\nbound ms", "verdict"], rows)


def _precisions(report: Report) -> Table:
    ms = partial(words.significant, digits=words.latency_digits(report))
    rows = []
    for each in report.precisions:
        ratio = each.measured_ms / each.beside_ms if each.measured_ms is not None and each.beside_ms else None
        size = words.NOTHING if each.size_bytes is None else words.cost("size", each.size_bytes)
        rows.append([words.cut(words.plain(each.name), _LABEL), words.percent(each.accuracy_pct), ms(each.measured_ms), words.significant(ratio), size])
    return _table(["precision", "test\n%", f"{report.measurement_origin}\nms", "of the first,\nsame window", "file"], rows)


def _layers(report: Report) -> Table:
    from rich.text import Text

    ms = partial(words.significant, digits=words.latency_digits(report))
    widest = max((each.share for each in report.layers if each.share > 0), default=1.0)

    def row(each: LayerShare) -> list[str]:
        bar = "█" * round(_BAR * min(max(each.share, 0.0) / widest, 1.0)) if each.share == each.share else ""
        name = words.cut(words.plain(each.name), _NAME)
        return [name, words.count(each.macs), words.count(each.params), ms(each.latency_ms), words.share(each.share), bar]

    table = _table(["layer", "MACs", "params", "ms", "share"], [])
    table.add_column("", no_wrap=True)
    for each in report.layers:
        table.add_row(*map(Text, row(each)))
    return table


def _table(headings: list[str], rows: list[list[str]]) -> Table:
    """First column left, the others right; cells are text, never markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if position else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
