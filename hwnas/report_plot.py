"""The figures of a report as coordinates: which value lies at which pixel. How they look is the template's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hwnas.report_data import Known, Measured, Point, Report
from hwnas.report_words import labels, named, plain

WITHOUT_MARGIN = 1.05  # where the networks of a table are too few for an interval
_BEYOND = 0.05
_TICK_STEPS = (1, 2, 5, 10)
_TICK_PX = {"x": 80, "y": 44}


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    px: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear axis: px = from_px + (value - low) / (high - low) * (to_px - from_px)."""

    low: float
    high: float
    from_px: float
    to_px: float

    @classmethod
    def over(cls, values: Iterable[float], from_px: float, to_px: float) -> Scale:
        """From the least to the greatest finite value and 5 % of the range beyond on both sides; one value alone gets 5 % of itself."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = min(finite), max(finite)
        beyond = _BEYOND * ((high - low) or abs(high) or 1.0)
        return cls(low - beyond, high + beyond, from_px, to_px)

    def __call__(self, value: float) -> float:
        return round(self.from_px + (value - self.low) / (self.high - self.low) * (self.to_px - self.from_px), 1)

    def ticks(self, apart_px: float) -> tuple[Tick, ...]:
        """Round values (1, 2 or 5 times a power of ten apart) at least `apart_px` from each other."""
        least = (self.high - self.low) * apart_px / abs(self.to_px - self.from_px)
        power = math.floor(math.log10(least))
        step = next(factor * 10.0**power for factor in _TICK_STEPS if factor * 10.0**power >= least * (1 - 1e-9))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return tuple(Tick(self(k * step), f"{k * step:.{decimals}f}".replace("-", "−")) for k in range(first, last + 1))


@dataclass(frozen=True, slots=True)
class Mark:
    """A measured network at (x, y), with its whisker from p10 to p90 along the axis that is measured, where both are known."""

    label: str
    network: Measured
    x: float
    y: float
    whisker: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Dot:
    """A member of the front at (x, y)."""

    point: Point
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class FrontFigure:
    """Validation accuracy over latency. `cloud` and `stairs` are path data, `left_out` counts points that failed and have no place."""

    width: int
    height: int
    x: Scale
    y: Scale
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    budget_x: float
    cloud: str
    cloud_points: tuple[Point, ...]
    """Those of `cloud`, one for each pixel that has any."""
    dots: tuple[Dot, ...]
    stairs: str
    marks: tuple[Mark, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class ErrorFigure:
    """Measured over predicted latency, both axes the same; `band` is the polygon within which further networks are expected, or within 5 %.

    known: networks of the table, predicted without themselves, as path data with the values of each point.
    """

    width: int
    height: int
    x: Scale
    y: Scale
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    band: str
    known: str
    known_points: tuple[Known, ...]
    marks: tuple[Mark, ...]


#: Space around the plot area for the axes' texts, in pixels.
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 42


def front_figure(report: Report, width: int, height: int) -> FrontFigure | None:
    """All evaluated points, the front as a staircase, the budget and the measured networks; None where there is nothing to draw.

    The x axis runs from LEFT to width - RIGHT over all latencies drawn: points, budget, measured networks and their whiskers.
    """
    points = [point for point in report.points if _finite(point.latency_ms, point.accuracy_pct)]
    networks = [(label, each) for label, each in _labelled(report) if _finite(each.measured_ms, each.validation_accuracy_pct)]
    if not points and not networks:
        return None
    latencies = [point.latency_ms for point in points] + [ms for _, each in networks for ms in (each.p10_ms, each.measured_ms, each.p90_ms)]
    accuracies = [point.accuracy_pct for point in points] + [each.validation_accuracy_pct for _, each in networks]
    x = Scale.over([*latencies, report.budget_ms], LEFT, width - RIGHT)
    y = Scale.over(accuracies, height - BOTTOM, TOP)
    front = sorted((point for point in points if point.on_front), key=lambda point: (point.latency_ms, point.accuracy_pct))
    dots = tuple(Dot(point, x(point.latency_ms), y(point.accuracy_pct)) for point in front)
    # Points that fall on the same pixel are one.
    cloud = {(x(point.latency_ms), y(point.accuracy_pct)): point for point in points if not point.on_front}
    return FrontFigure(
        width=width,
        height=height,
        x=x,
        y=y,
        x_ticks=x.ticks(_TICK_PX["x"]),
        y_ticks=y.ticks(_TICK_PX["y"]),
        budget_x=x(report.budget_ms),
        cloud=_dotted(cloud),
        cloud_points=tuple(cloud.values()),
        dots=dots,
        stairs="".join(f"H{dot.x:g}V{dot.y:g}" if i else f"M{dot.x:g} {dot.y:g}" for i, dot in enumerate(dots)),
        marks=tuple(Mark(label, each, x(each.measured_ms), y(each.validation_accuracy_pct), _whisker(x, each)) for label, each in networks),
        left_out=len(report.points) - len(points),
    )


def error_figure(report: Report, width: int, height: int) -> ErrorFigure | None:
    """Each measured network at its predicted and its measured latency, and those of the table; None where there are none."""
    networks = [(label, each) for label, each in _labelled(report) if _finite(each.predicted_ms, each.measured_ms)]
    known = [each for each in report.known if _finite(each.predicted_ms, each.measured_ms)]
    if not networks and not known:
        return None
    latencies = [ms for _, each in networks for ms in (each.predicted_ms, each.p10_ms, each.measured_ms, each.p90_ms)]
    latencies += [ms for each in known for ms in (each.predicted_ms, each.measured_ms)]
    x, y = Scale.over(latencies, LEFT, width - RIGHT), Scale.over(latencies, height - BOTTOM, TOP)
    wide = report.margin or WITHOUT_MARGIN
    corners = ((x.low, wide), (x.high, wide), (x.high, 1 / wide), (x.low, 1 / wide))
    placed = {(x(each.predicted_ms), y(each.measured_ms)): each for each in known}
    return ErrorFigure(
        width=width,
        height=height,
        x=x,
        y=y,
        x_ticks=x.ticks(_TICK_PX["x"]),
        y_ticks=y.ticks(_TICK_PX["y"]),
        band=" ".join(f"{x(value):g},{y(value * factor):g}" for value, factor in corners),
        known=_dotted(placed),
        known_points=tuple(placed.values()),
        marks=tuple(Mark(label, each, x(each.predicted_ms), y(each.measured_ms), _whisker(y, each)) for label, each in networks),
    )


def _labelled(report: Report) -> Iterable[tuple[str, Measured]]:
    return zip(labels(report.measured), report.measured, strict=True)


def _whisker(scale: Scale, network: Measured) -> tuple[float, float] | None:
    return (scale(network.p10_ms), scale(network.p90_ms)) if _finite(network.p10_ms, network.p90_ms) else None


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


def _dotted(places: Iterable[tuple[float, float]]) -> str:
    """A dot at each place, as path data."""
    return "".join(f"M{px:g} {py:g}h0" for px, py in places)


@dataclass(frozen=True, slots=True)
class Course:
    """A line of a course figure: path data, and its points as path data with the values of each, (x, y)."""

    name: str
    line: str
    dots: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class CourseFigure:
    """Numbers of a search over what is on the x axis: points of its course, or evaluations."""

    label: str
    unit: str
    over: str
    width: int
    height: int
    x: Scale
    y: Scale
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    courses: tuple[Course, ...]

    @property
    def last(self) -> float:
        """The first line's last value."""
        return self.courses[0].points[-1][1]


def course_figures(report: Report, width: int, height: int) -> tuple[CourseFigure, ...]:
    """The best so far over evaluations, beside the baselines', and a figure for each number that the search recorded of its course at two points or more."""
    series: dict[str, list[tuple[float, float]]] = {}
    for point in report.trace:
        best = {} if point.get("best") is None or report.best_so_far else {"best so far, %": point["best"]}
        for name, value in {**point["values"], **best}.items():
            series.setdefault(name, []).append((point["number"], value))
    figures = [_figure(name, "point", {"": points}, width, height) for name, points in series.items() if len(points) > 1]
    best_of = {plain(stage): points for stage, points in report.best_so_far.items() if len(points) > 1}
    if best_of:
        figures.insert(0, _figure("best so far, %", "evaluations", best_of, width, height, is_stepped=True))
    return tuple(figures)


def _figure(name: str, over: str, series: Mapping[str, Sequence[tuple[float, float]]], width: int, height: int, *, is_stepped: bool = False) -> CourseFigure:
    x = Scale.over([place for points in series.values() for place, _ in points], LEFT, width - RIGHT)
    y = Scale.over([value for points in series.values() for _, value in points], height - BOTTOM, TOP)
    courses = []
    for label, points in series.items():
        places = [(x(place), y(value)) for place, value in points]
        if is_stepped:
            line = f"M{places[0][0]:g} {places[0][1]:g}" + "".join(f"H{px:g}V{py:g}" for px, py in places[1:])
        else:
            line = "".join(f"{'L' if i else 'M'}{px:g} {py:g}" for i, (px, py) in enumerate(places))
        courses.append(Course(label, line, _dotted(places), tuple(points)))
    return CourseFigure(*named(name), over, width, height, x, y, x.ticks(_TICK_PX["x"]), y.ticks(_TICK_PX["y"]), tuple(courses))
