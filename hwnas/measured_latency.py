"""Latency of whole architectures, measured on the device while a search goes on (MnasNet; Tan et al., 2019, section 3): for targets on which it is no sum.

Each distinct subnet is measured once, and what came of it is recorded with its spread, a failure too. Asked again, now or when the run is continued,
it is that value.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.errors import DamagedFile
from hwnas.graph import Graph
from hwnas.index import BlockIndex
from hwnas.predictor import Origin
from hwnas.profiling.meter import AT_ONCE, Meter
from hwnas.run import RunDirectory
from hwnas.space import Codes, FloatArray

STAGE = "latency"


@dataclass(frozen=True, slots=True)
class Measured:
    """A subnet's latency in ms of the budget's statistic, NaN where it could not be measured, and the percentiles of its runs."""

    value_ms: float
    p10_ms: float = math.nan
    p90_ms: float = math.nan
    visits: int = 0
    error: str = ""


class MeasuredLatency:
    """An expensive metric that holds a device, see `OnDevice` of problem.py; `close` lets go of it.

    build: a code (1, choices) -> the model that the device's runtime loads, and what it computes. meter: makes what measures, when the first subnet has to be.
    here: the device is this machine.
    """

    name: str = "latency"
    unit: str = "ms"
    origin: Origin = "measured"
    expensive: bool = True

    def __init__(
        self,
        index: BlockIndex,
        build: Callable[[Codes], tuple[bytes, Graph]],
        meter: Callable[[], Meter],
        here: bool = False,
        *,
        quantile: float = 0.5,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        self.index, self.quantile, self.progress = index, quantile, progress
        self._build = build
        self._meter: Meter | None = None
        self.place(meter, here)
        self._run: RunDirectory | None = None
        self._known: dict[bytes, Measured] = {}
        self._where = ""

    def place(self, meter: Callable[[], Meter], here: bool) -> None:
        """Measure by this from now on."""
        self.close()
        self._make, self.here = meter, here

    def keep_in(self, run: RunDirectory) -> None:
        """Record in this run from now on, and know what it has recorded. Raises DamagedFile."""
        self._run = run
        for event in run.events(STAGE, "conditions"):
            self._where = str(event.body.get("where")) if isinstance(event.body, dict) else ""
        for event in run.events(STAGE, "measured"):
            try:
                body = event.body
                code = self.index.space.check(np.array([body["code"]], np.int64))
                found = _row(body)
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
                raise DamagedFile(f"{run.folder} holds a measured latency that is not as hwnas writes it") from None
            self._known[self.index.keys(code)[0]] = found

    def measure(self, codes: Codes) -> None:
        """Measure those that are not known, each subnet once, so many together as a device holds; each lot is recorded when it is measured.

        Raises InputError where the device or its conditions are not those that the run began with, RunHeld, MeasurementFailed where it does not answer.
        """
        codes = self.index.distinct(np.asfortranarray(codes))
        new = np.asfortranarray(codes[[key not in self._known for key in self.index.keys(codes)]])
        for start in range(0, len(new), AT_ONCE):
            self.progress(start, len(new))
            self._measure(new[start : start + AT_ONCE])
        if len(new):
            self.progress(len(new), len(new))

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> (n,) in ms, NaN where it could not be measured. Raises as `measure` does."""
        self.measure(codes)
        return np.array([row.value_ms for row in self.rows(codes)], np.float64)

    def rows(self, codes: Codes) -> list[Measured]:
        """What was measured of each of these, which are known."""
        return [self._known[key] for key in self.index.keys(codes)]

    def summary(self) -> dict[str, Any]:
        """How many subnets were measured, how many could not be, and under which conditions, in short."""
        failed = sum(bool(each.error) for each in self._known.values())
        return {"measured": len(self._known) - failed, "failed": failed, "where": self._where}

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    def _measure(self, codes: Codes) -> None:
        if self._meter is None:
            self._meter = self._make()
            conditions = self._meter.conditions()
            self._where = str(conditions)
            if self._run is not None:
                self._run.settle(STAGE, "conditions", {"where": self._where, **asdict(conditions), "statistic": f"p{100 * self.quantile:g}"})
        models = [self._build(codes[row : row + 1]) for row in range(len(codes))]
        for code, (model, _), found in zip(codes, models, self._meter.measure(models, self.quantile), strict=True):
            facts: dict[str, Any] = {"error": found} if isinstance(found, str) else asdict(found)
            body = {"code": code, "model_sha256": hashlib.sha256(model).hexdigest(), **facts}
            if self._run is not None:
                self._run.append(STAGE, "measured", body)
            self._known[self.index.keys(np.asfortranarray(code[None]))[0]] = _row(body)


def _row(body: Mapping[str, Any]) -> Measured:
    if "error" in body:
        return Measured(math.nan, error=str(body["error"]))
    value, low, high = (float(body[name]) for name in ("value_ms", "p10_ms", "p90_ms"))
    if not all(0 < each < math.inf for each in (value, low, high)):
        raise ValueError("no latency")
    return Measured(value, low, high, int(body["visits"]))


if TYPE_CHECKING:
    from hwnas.predictor import Metric
    from hwnas.problem import OnDevice

    def _is_a_metric_on_a_device(metric: MeasuredLatency) -> tuple[Metric, OnDevice]:
        return metric, metric
