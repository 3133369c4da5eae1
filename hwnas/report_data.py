"""What a run came to, ready to be shown: every number with its origin, and no computation left for the pages that show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from hwnas.predictor import Origin
from hwnas.space import Value


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval, e.g. a bootstrap over source images; `confidence` of both sides together."""

    value: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Point:
    """An evaluated architecture: validation accuracy measured with inherited weights, latency predicted from the table, or measured by the search."""

    accuracy_pct: float
    latency_ms: float
    on_front: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """A network that was exported and measured as a file. `role`: candidate, random, uniform, largest."""

    role: str
    predicted_ms: float
    measured_ms: float
    upper_bound_ms: float | None
    p10_ms: float
    p90_ms: float
    visits: int
    verdict: str
    validation_accuracy_pct: float
    test_accuracy_pct: Interval | None
    macs: float
    params: float
    chosen: bool

    @property
    def relative_error(self) -> float:
        """(predicted - measured) / measured."""
        return (self.predicted_ms - self.measured_ms) / self.measured_ms if self.measured_ms else math.nan


@dataclass(frozen=True, slots=True)
class LayerShare:
    """A layer of the chosen subnet; its share of the predicted latency."""

    name: str
    block: str
    macs: float
    params: float
    latency_ms: float
    share: float


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of the chosen file as the runtime's profiler saw it. `kind`: what it computes; `share` of a profiled run, which is no latency.

    layer: of the space; what the runtime added itself, such as a conversion, counts to the layer that it follows.
    """

    layer: str
    name: str
    kind: str
    share: float


@dataclass(frozen=True, slots=True)
class Profiled:
    """The chosen file's operators in the order in which they ran, of `runs` in several passes the median; none, and why, where the runtime did not tell."""

    conditions: str
    runs: int
    operators: tuple[Operator, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """A whole network of the latency table: measured, and predicted by a calibration without it."""

    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True, slots=True)
class OnDevice:
    """The chosen network's budget on one device. `origin` of its latency there; what was not measured has the reason in its place."""

    where: str
    budget_ms: float
    statistic: str
    predicted_ms: float
    measured_ms: float | None
    upper_bound_ms: float | None
    verdict: str
    origin: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class InPrecision:
    """The file of the chosen network in one precision: what was measured of it. None where nothing was, and `about` says what would.

    accuracy_pct: top-1 of the file on `images` test images. beside_ms: the file that it was converted from, in the same window; None where it is that.
    """

    name: str
    accuracy_pct: float | None = None
    images: int | None = None
    measured_ms: float | None = None
    beside_ms: float | None = None
    visits: int | None = None
    size_bytes: float | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class Beside:
    """A published network measured in the certificate's own window. accuracy_of: what its accuracy is of; it was not trained on this data, or with it."""

    name: str
    accuracy_pct: float
    accuracy_of: str
    measured_ms: float
    upper_bound_ms: float | None
    verdict: str
    macs: float | None
    params: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Chosen minus baseline in points of test accuracy: the baseline's best that was measured within the budget, or beside the chosen one and no slower."""

    baseline: str
    evaluations: int
    difference_points: Interval
    measured_ms: float
    chosen_ms: float

    @property
    def won(self) -> bool:
        """Whether the search is better beyond the interval."""
        return self.difference_points.low > 0


@dataclass(frozen=True, slots=True)
class CostBudget:
    """A budget on what needs no device: `metric` is macs, params, memory (peak of the activations, in bytes) or size (of the file)."""

    metric: str
    limit: float
    space_min: float
    space_max: float
    chosen: float | None
    """Of the chosen network."""


@dataclass(frozen=True, slots=True)
class PublishedNetwork:
    """A network of others, measured by `bench --zoo` under the run's conditions. accuracy_pct: as published, on ImageNet, not on the run's data.

    low_ms, high_ms: of the interval at `confidence`; None where it has no such side.
    """

    name: str
    source: str
    accuracy_pct: float
    input_size: int
    measured_ms: float
    low_ms: float | None
    high_ms: float | None
    confidence: float
    macs: float | None
    params: float | None
    date: str


@dataclass(frozen=True, slots=True)
class PublishedBaseline:
    """The published networks measured under the run's conditions: how many, the best within the budget, and the fastest one where none is.

    command: what measures them, where `measured` is 0.
    """

    measured: int
    best: PublishedNetwork | None
    fastest: PublishedNetwork | None
    command: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of a run. `latency_origin` is that of the table's prices."""

    title: str
    space: str
    data: str
    device: str
    conditions: str
    budget_ms: float
    statistic: str
    space_min_ms: float
    space_max_ms: float
    latency_origin: Origin
    points: tuple[Point, ...]
    measured: tuple[Measured, ...]
    layers: tuple[LayerShare, ...]
    comparisons: tuple[Comparison, ...]
    architecture: Mapping[str, Value] = field(hash=False)
    certificate: Mapping[str, Any] | None = field(hash=False)
    quality: Mapping[str, Any] = field(hash=False)
    commands: tuple[str, ...] = ()
    budgets: tuple[CostBudget, ...] = ()
    """Those beside the budget on latency."""
    surrogate: Mapping[str, Any] | None = field(default=None, hash=False)
    """How far the best found is from the optimum of an additive surrogate, as `search` records it."""
    curve: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Learning curve of the supernet: phase, step, mean loss since the point before, and what else `train` recorded."""
    trace: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Course of the search where it recorded one: number of the point, `evaluations` done, `best` objective so far, and `values` by name with unit."""
    best_so_far: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict, hash=False)
    """Stage (`search`, or a baseline) -> (evaluations, best validation accuracy in % within the budgets by then), wherever it rose, and at the end."""
    published: PublishedBaseline | None = None
    beside: tuple[Beside, ...] = ()
    published_said: str = ""
    """What the certificate says of published networks."""
    known: tuple[Known, ...] = ()
    margin: float | None = None
    """A further network takes between predicted / margin and predicted * margin with a probability of `margin_level`; None where networks are too few."""
    margin_level: float = 0.0
    devices: tuple[OnDevice, ...] = ()
    precisions: tuple[InPrecision, ...] = ()
    profiled: Profiled | None = None
    setting: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Conditions in full, and the device's state as the certificate's window saw it."""
    seeds: Mapping[str, int] = field(default_factory=dict, hash=False)
    hashes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What was used and made -> its hash."""
    seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Wall time of each stage."""
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    searched_origin: Origin | None = None
    """Of the latencies of `points`; None where they are predictions."""

    @property
    def chosen(self) -> Measured | None:
        return next((each for each in self.measured if each.chosen), None)

    @property
    def certified(self) -> bool:
        """Whether the chosen network, and the certificate, say that it keeps the budget."""
        return self.certificate is not None and self.certificate.get("verdict") == "within" and self.chosen is not None and self.chosen.verdict == "within"

    @property
    def prediction_origin(self) -> Origin:
        """Of the predicted latencies: a sum of measured prices is predicted, one of simulated prices is simulated."""
        return "predicted" if self.latency_origin == "measured" else self.latency_origin

    @property
    def measurement_origin(self) -> Origin:
        """Of the latencies of `measured`: what the certificate says, else simulated or emulated where the table is so."""
        stated = (self.certificate or {}).get("origin")
        if stated in ("measured", "emulated", "simulated"):
            return cast(Origin, stated)
        return "measured" if self.latency_origin in ("measured", "predicted") else self.latency_origin
