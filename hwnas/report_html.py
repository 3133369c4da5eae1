"""A report as one self-contained page: no network, inline style and figures, a little script that only adds hover."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from functools import partial
from importlib.resources import files
from itertools import groupby
from typing import Any

from hwnas import report_words as words
from hwnas.graph import IDENTITY, block_text
from hwnas.report_data import Comparison, Report
from hwnas.report_flame import layers_flame, operators_flame
from hwnas.report_plot import Scale, course_figures, error_figure, front_figure

#: Outlines of the marks of measured networks around (0, 0), by role; `other` is for every role not named here.
_SHAPES = {
    "candidate": "M0-6L6 0 0 6-6 0Z",
    "random": "M-4.5-4.5H4.5V4.5H-4.5Z",
    "uniform": "M0-5.5L6 5H-6Z",
    "largest": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0Z",
    "other": "M-5-5L5 5M5-5L-5 5",
}
#: Those that have a colour.
VERDICTS = ("within", "over", "inconclusive")
_UNITS = re.compile(r"(?<=\d) (?=(?:%|ms|points|[kMGT]?B|[kMGT])(?!\w))")


def render_html(report: Report) -> str:
    """The page. Every string of the report is text in it and nothing else; the page forbids itself all network and every script but its own."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def unbroken(text: str) -> Markup:
        """Text whose numbers keep their units on the same line."""
        return Markup(_UNITS.sub("&nbsp;", escape(words.plain(text))))

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else words.plain(value),
    )
    environment.filters |= {
        "ms": partial(words.significant, digits=words.latency_digits(report)),
        "significant": words.significant,
        "count": words.count,
        "percent": words.percent,
        "share": words.share,
        "relative": words.relative,
        "signed": words.signed,
        "duration": words.duration,
        "block": words.short_block,
        "unbroken": unbroken,
        "cost": words.cost,
        "csp": lambda text: "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    template, style, script = ((files("hwnas") / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html.jinja", "css", "js"))
    return environment.from_string(template).render(_content(report), style=Markup(style), script=Markup(script))  # both are files of hwnas


def _content(report: Report) -> dict[str, Any]:
    """What the template shows; it computes nothing but sums of columns."""
    headings, quality = words.quality_rows(report.quality)
    courses = course_figures(report, 340, 230)
    return {
        "sections": _sections(report, bool(courses)),
        "report": report,
        "headline": words.headline(report),
        "at_hand": words.at_hand(report),
        "warning": words.warning(report),
        "budgets": [(words.cost_name(each.metric), words.cost_budget(each)) for each in report.budgets],
        "predicted": words.predicted(report),
        "searched": words.searched(report),
        "measured": report.measurement_origin,
        "surrogate_gap": "" if report.surrogate is None else words.surrogate_gap(report.surrogate),
        "published": words.published(report),
        "outcomes": [(each, words.outcome(each, report)) for each in report.comparisons],
        "figures": [("wide", front_figure(report, 960, 450)), ("narrow", front_figure(report, 340, 330))],
        "error_figure": error_figure(report, 340, 320),
        "courses": courses,
        "band": words.band(report),
        "level": words.confidence(report.margin_level),
        "verdicts": VERDICTS,
        "layers_flame": layers_flame(report),
        "operators_flame": operators_flame(report.profiled.operators) if report.profiled else None,
        "setting": words.flat(report.setting),
        "difference_scale": _difference_scale(report.comparisons),
        "labels": words.labels(report.measured),
        "shapes": _SHAPES,
        "baselines": words.BASELINES,
        "certificate": None if report.certificate is None else words.flat(report.certificate),
        "widths": _widths(report),
        "skipped": {each.name for each in report.layers if each.block == block_text(IDENTITY)},
        "architecture": _grouped(report),
        "quality_headings": headings,
        "quality": quality,
    }


def _sections(report: Report, has_courses: bool) -> list[tuple[str, str, bool]]:
    """(id, name, whether it is on the page) of each section, in their order."""
    return [
        ("front", "front", True),
        ("course", "course", has_courses),
        ("predictions", "predictions", True),
        ("certificate", "certificate", True),
        ("devices", "devices", bool(report.devices)),
        ("networks", "networks", True),
        ("comparisons", "baselines", True),
        ("precisions", "precisions", bool(report.precisions)),
        ("layers", "layers", True),
        ("architecture", "choices", True),
        ("quality", "quality", True),
        ("conditions", "conditions", bool(report.setting)),
        ("reproduce", "reproduce", True),
    ]


def _difference_scale(comparisons: tuple[Comparison, ...]) -> Scale:
    """One axis for the intervals of all comparisons, 0 on it, 160 pixels."""
    return Scale.over([0.0, *(value for each in comparisons for value in (each.difference_points.low, each.difference_points.high))], 0, 160)


def _widths(report: Report) -> list[float]:
    """Bars of the layers' shares in per cent of the widest one."""
    shares = [each.share if math.isfinite(each.share) else 0.0 for each in report.layers]
    widest = max(shares, default=0.0)
    return [round(100 * max(value, 0.0) / widest, 1) if widest > 0 else 0.0 for value in shares]


def _grouped(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """The architecture's choices by what stands before the last dot of their names: [("stage1.block0", [("kernel", "3"), ...]), ...]."""
    rows = [(*words.plain(name).rpartition(".")[::2], words.plain(value)) for name, value in report.architecture.items()]
    return [(prefix, [(name, value) for _, name, value in group]) for prefix, group in groupby(rows, key=lambda row: row[0])]
