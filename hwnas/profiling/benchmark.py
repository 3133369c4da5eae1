"""Any models measured against each other: quantiles and throughput with confidence intervals whose unit is the visit.

`verify` asks whether a network keeps a limit, and bounds from above; here nothing is claimed yet, and each interval has two sides. The
visits are the same. Consecutive runs are no sample: on a device of two speeds 44 in a row certify a p90 falsely in most cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hwnas import registry
from hwnas.device import Device
from hwnas.errors import InputError
from hwnas.latency_table import Conditions, Fact
from hwnas.profiling.protocol import TIMING, SpeedState, Timing, Visit, drawn_ms, timing_of
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.statistics import lower_bound, quantile, upper_bound, values_needed
from hwnas.profiling.window import independent_rounds, sift, take_window
from hwnas.space import FloatArray

MAX_STREAMS = 64
MAX_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value between two bounds; None where there are too few independent visits for one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One model. `latency_ms` has an estimate for each quantile asked for, in their order, and none where `doubt` says that all visits were disturbed.

    runs_per_s: of several streams at once, in half of the visits it was more. The intervals rest on `independent_visits`; `doubt` says why
    they may not hold, or is empty. facts: how the runtime executes it.
    """

    latency_ms: tuple[Estimate, ...]
    runs_per_s: Estimate | None
    runs: int
    visits: int
    independent_visits: int
    dropped: int
    doubt: str
    facts: Mapping[str, Fact] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured together; `rows` by the number of the model, `left_out` has the reason of each that is not among them.

    Each interval by itself holds with probability `confidence`. stride: only every so-manieth round is independent of the one before.
    """

    rows: Mapping[int, BenchRow] = field(hash=False)
    left_out: Mapping[int, str] = field(hash=False)
    quantiles: tuple[float, ...]
    confidence: float
    streams: int
    seconds: float
    rounds: int
    stride: int
    states: tuple[SpeedState, ...]
    conditions: Conditions
    system: Mapping[str, Fact] = field(hash=False)


def measure_bench(
    models: Sequence[bytes],
    device: Device,
    *,
    runtime: str = "",
    quantiles: Sequence[float] = (0.5, 0.9),
    confidence: float = 0.95,
    seconds: float = 60.0,
    threads: int = 1,
    streams: int = 0,
    seed: int = 0,
    regime: str = "warm",
    most_ms: float | None = None,
    tolerant: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bench:
    """Latency of each ONNX model on a device, all interleaved in one window of `seconds`, or longer where the intervals need more visits.

    runtime: one of the device's, by default its first. streams: 0 for one run at a time, else so many at once, whose latency is that under load.
    most_ms: models whose fastest run takes longer are left out. tolerant: so are those that cannot be run. regime: its name, or as conditions
    have it. Raises InputError, RunHeld, MeasurementFailed.
    """
    if not models or not quantiles:
        raise InputError("there is no model to measure, or no quantile to estimate")
    if not 0 <= streams <= MAX_STREAMS:
        raise InputError(f"--streams is {streams}, it must be from 1 to {MAX_STREAMS}")
    timing = timing_of(regime)
    if streams and (timing.cold or not timing.network_warmups):
        raise InputError(f"--streams keep a model warm: there is no throughput in the regime '{regime}'")
    if not 0 < seconds <= MAX_SECONDS:
        raise InputError(f"--seconds is {seconds:g}, it must be above 0 and at most {MAX_SECONDS:,}")
    if not 0.5 <= confidence < 1:
        raise InputError(f"--confidence is {confidence:g}, it must be at least 0.5 and below 1")
    check_takes_onnx(device, runtime)
    needed = visits_needed(quantiles, confidence)
    rng = np.random.default_rng([seed, 5])
    taken = take_window(
        *(models, device),
        needed=needed,
        runtime=runtime,
        seconds=seconds,
        threads=threads,
        seed=seed,
        rng=rng,
        timing=timing,
        streams=streams,
        most_ms=most_ms,
        tolerant=tolerant,
        progress=progress,
    )
    rows, stride = summarise(
        *(taken.visits, taken.slow),
        quantiles=quantiles,
        confidence=confidence,
        seconds=taken.seconds,
        rng=rng,
        facts=taken.facts,
        timing=timing,
    )
    conditions = taken.identity.conditions(device.name, threads, timing)
    how = (tuple(quantiles), confidence, streams, taken.seconds, taken.rounds, stride, taken.states)
    return Bench(rows, taken.left_out, *how, conditions, taken.identity.system)


def check_takes_onnx(device: Device, runtime: str) -> None:
    """Raises InputError where the device has no such runtime, or one that loads models in another form."""
    name = device.runtime(runtime)
    made: Runtime = registry.create("profiling.runtimes", name)
    if made.loads != "onnx":
        raise InputError(f"{name} takes models as {made.loads}, and what is measured here are ONNX files: choose another --runtime or --device")


def visits_needed(quantiles: Sequence[float], confidence: float) -> int:
    """The fewest independent visits from which every quantile has an interval of two sides. Raises InputError."""
    level = (1 - confidence) / 2
    return max(values_needed(q if q >= 0.5 else 1 - q, level) for q in quantiles)


def estimate(values: FloatArray, independent: FloatArray, q: float, confidence: float) -> Estimate:
    """The q-quantile of values (n,), between bounds from the independent ones of them (m,); each side may fail in half of 1 - confidence."""
    level = (1 - confidence) / 2
    return Estimate(quantile(values, q), lower_bound(independent, q, level), upper_bound(independent, q, level))


def summarise(
    visits: Mapping[int, Sequence[Visit]],
    slow: npt.NDArray[np.bool_],
    *,
    quantiles: Sequence[float],
    confidence: float,
    seconds: float,
    rng: np.random.Generator,
    facts: Mapping[int, Mapping[str, Fact]] | None = None,
    timing: Timing = TIMING,
) -> tuple[dict[int, BenchRow], int]:
    """A row of each model, and every how many rounds the device's state is forgotten. visits: of each model, one a round; slow (rounds,)."""
    stride, chosen = independent_rounds(slow, rng) if len(slow) else (1, slow)
    needed = visits_needed(quantiles, confidence)
    rows = {}
    for number, own in visits.items():
        sifted, values = sift(own, chosen, needed, seconds, timing), drawn_ms(own, rng)
        kept, independent = sifted.kept, sifted.independent
        latency = tuple(estimate(values[kept], values[independent], q, confidence) for q in quantiles) if kept.any() else ()
        rate = None
        if kept.any() and own[0].busy_ns is not None:
            rates = np.array([len(visit.ns) / ((visit.busy_ns or 1) / 1e9) for visit in own], np.float64)
            rate = estimate(rates[kept], rates[independent], 0.5, confidence)
        n_runs = sum(len(visit.ns) for visit in own)
        known = (facts or {}).get(number, {})
        rows[number] = BenchRow(latency, rate, n_runs, int(kept.sum()), int(independent.sum()), int((~kept).sum()), sifted.doubt, known)
    return rows, stride
