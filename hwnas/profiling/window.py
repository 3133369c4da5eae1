"""Measure model files against each other in one window whose length is fixed before the first sample, and bound their quantiles.

The unit is the visit: one run of each burst, drawn at random. Visits come in rounds, one of each model in random order, and each round begins at
a random moment of its own slot of the window. So, whatever the device does meanwhile, visits err independently about its latency over the
window, and the binomial bound holds for the quantile of that: visits of different distributions only make it safer (Hoeffding, 1956, theorem 4).
Beyond the window it holds as far as the device goes on as it did. On one that switches between a fast and a slow state every few seconds a
window is no fair sample of these: where the anchor shows that the state outlasts a round, the bound rests on every s-th round only. What
wanders unseen by the anchor is told by `telling_visits`. Between rounds the anchor runs, so that the device does not fall asleep. A slow
state is part of the latency; a visit during which another process ran is dropped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from hwnas import registry
from hwnas.device import Device
from hwnas.errors import DamagedFile, InputError, MeasurementFailed
from hwnas.graph import Graph
from hwnas.latency_table import Conditions, Fact, emulated
from hwnas.profiling.agent import ANCHOR_ITEM, Identity, Refused, started_agent
from hwnas.profiling.precision import other_precision
from hwnas.profiling.protocol import TIMING, Burst, SpeedState, Timing, Visit, drawn_ms, is_disturbed, is_slow, speed_states
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.speeds import Speeds
from hwnas.profiling.statistics import autocorrelation_time, stride_of_independence, upper_bound, values_needed
from hwnas.profiling.statistics import quantile as quantile_of
from hwnas.profiling.tabulate import doubt
from hwnas.space import FloatArray

MAX_MODEL_BYTES = 1 << 30
_FILLER = Burst(warmups=0, runs=100)
_PROBE = Burst(warmups=1, runs=2)
_STREAMS_BURST_NS, _STREAMS_MOST_RUNS = 3e7, 1_000
_MOST_QUANTILE = 0.95  # that visits are planned for because the device may be slow less often than it was

Verdict = Literal["within", "over", "inconclusive"]


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One model. `visits` were kept, the bound rests on `independent_visits` of them; `doubt` says why nothing may be concluded, or is empty.

    telling_visits: how many visits at times that have nothing to do with each other would tell as much about other times than the window's.
    """

    model_sha256: str
    estimate_ms: float
    upper_bound_ms: float | None
    confidence: float
    p10_ms: float
    p90_ms: float
    runs: int
    visits: int
    independent_visits: int
    dropped: int
    doubt: str = ""
    p50_ms: float = float("nan")
    telling_visits: int = 0

    @property
    def dropped_share(self) -> float:
        return self.dropped / (self.visits + self.dropped)


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured together. All upper bounds hold at once with probability 1 - level: each row's own level is level / models.

    facts: of each row, how the runtime executes the model, as far as it tells.
    """

    rows: tuple[WindowRow, ...]
    quantile: float
    level: float
    seconds: float
    rounds: int
    stride: int
    states: tuple[SpeedState, ...]
    conditions: Conditions
    system: Mapping[str, Fact] = field(hash=False)
    facts: tuple[Mapping[str, Fact], ...] = field(hash=False)

    @property
    def statistic(self) -> str:
        return f"p{self.quantile * 100:g}"


@dataclass(frozen=True, slots=True)
class Taken:
    """What was seen in a window: `visits` of each model, one a round; `slow` (rounds,); `facts` of how the runtime executes each model.

    A model that is in `left_out`, with the reason, has neither.
    """

    visits: Mapping[int, Sequence[Visit]] = field(hash=False)
    facts: Mapping[int, Mapping[str, str | int | bool]] = field(hash=False)
    left_out: Mapping[int, str] = field(hash=False)
    slow: npt.NDArray[np.bool_] = field(hash=False)
    states: tuple[SpeedState, ...]
    rounds: int
    seconds: float
    identity: Identity


def measure_window(
    models: Sequence[bytes | Path],
    device: Device,
    *,
    runtime: str = "",
    quantile: float = 0.5,
    level: float = 0.01,
    seconds: float = 60.0,
    min_visits: int = 0,
    threads: int = 1,
    seed: int = 0,
    timing: Timing = TIMING,
    speeds: Speeds | None = None,
    graphs: Sequence[Graph | None] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Window:
    """The quantile of each model's latency on a device, with an upper bound. Takes `seconds`, or longer where the bound needs more visits.

    runtime: one of the device's, by default its first; the models are in its form. min_visits: at least so many visits of each model;
    never fewer than the bound needs (9 for p50 and 55 for p90 of three models). timing: of the regime that is measured.
    speeds: what a profile saw of the device, which makes the window longer, or its bounds wider.
    graphs: what each model computes, where it is to be refused if the runtime computes it in another precision; None where that is not known.
    Raises InputError (also where the device is emulated), DamagedFile where a file cannot be read, MeasurementFailed where a model cannot be run.
    """
    if not models:
        raise InputError("there is no model to measure")
    if not 0 < seconds <= 86_400:
        raise InputError(f"the window lasts from 0 to 86,400 seconds, got {seconds:g}")
    speeds = speeds or Speeds()
    seconds = speeds.window_s(seconds, quantile)
    needed = max(needed_visits(quantile, level / len(models), speeds, seconds), min_visits)
    raw = [model_bytes(model) for model in models]
    rng = np.random.default_rng([seed, 4])
    taken = take_window(
        raw, device, needed=needed, seconds=seconds, threads=threads, seed=seed, rng=rng, timing=timing, graphs=graphs, runtime=runtime, progress=progress
    )
    digests = [hashlib.sha256(model).hexdigest() for model in raw]
    columns = list(taken.visits.values())
    rows, stride = summarise(
        *(columns, digests, taken.slow),
        quantile=quantile,
        level=level,
        needed=needed,
        seconds=taken.seconds,
        rng=rng,
        speeds=speeds,
        timing=timing,
    )
    conditions = taken.identity.conditions(device.name, threads, timing)
    facts = tuple(taken.facts.values())
    return Window(rows, quantile, level, taken.seconds, taken.rounds, stride, taken.states, conditions, taken.identity.system, facts)


def take_window(
    models: Sequence[bytes],
    device: Device,
    *,
    needed: int,
    seconds: float,
    threads: int,
    seed: int,
    rng: np.random.Generator,
    timing: Timing = TIMING,
    streams: int = 0,
    most_ms: float | None = None,
    tolerant: bool = False,
    graphs: Sequence[Graph | None] = (),
    runtime: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> Taken:
    """Visit all models in rounds spread over the window, whose length is fixed before the first round.

    graphs: of the models, where they must be computed in the precision these have. streams: so many at once, in bursts of 30 ms or more;
    0: one run after the other, in the bursts of `verify`.
    most_ms: a model whose fastest of two runs takes longer is left out. tolerant: so is one that cannot be run, which else raises MeasurementFailed.
    """
    report = progress or (lambda stage, done, total: None)
    made: Runtime = registry.create("profiling.runtimes", device.runtime(runtime))
    facts: dict[int, Mapping[str, str | int | bool]] = {}
    left_out: dict[int, str] = {}
    bursts = {f"m{i}": timing.network_burst for i in range(len(models))}
    with started_agent(device, made, threads=threads, seed=seed, timing=timing) as agent:
        if agent.identity.emulated:
            raise emulated(device.name, agent.identity.emulated, "nothing is certified by them")
        for i, model in enumerate(models):
            try:
                facts[i] = agent.load(f"m{i}", model)
            except Refused as error:
                left_out[i] = str(error)
                if not tolerant:
                    raise MeasurementFailed(f"model {i} of {len(models)} cannot be run: {error}") from None
            if i < len(graphs) and (graph := graphs[i]) is not None and (reason := other_precision(graph, facts[i])) is not None:
                raise MeasurementFailed(f"model {i} of {len(models)} would not be measured in its precision: {reason}")
        if streams or most_ms is not None:
            for i in list(facts):
                (probe,) = agent.visit([f"m{i}"], {f"m{i}": replace(_PROBE, streams=streams)}, expected_s=30.0)
                if isinstance(probe, str):
                    left_out[i] = probe
                    if not tolerant:
                        raise MeasurementFailed(f"model {i} of {len(models)} cannot be run: {probe}")
                elif most_ms is not None and min(probe.ns) > 1e6 * most_ms:
                    left_out[i] = f"too slow: its fastest run took {min(probe.ns) / 1e6:.4g} ms, over {most_ms:.4g} ms"
                elif streams:
                    runs = int(np.clip(ceil(_STREAMS_BURST_NS / np.median(probe.ns)), timing.network_runs, _STREAMS_MOST_RUNS))
                    bursts[f"m{i}"] = Burst(2, runs, streams=streams)
        names = [f"m{i}" for i in facts if i not in left_out]
        seen = Rounds([], [], np.zeros(0, bool), 0.0)
        while names:
            agent.heat()
            try:
                seen = visit_in_rounds(agent, names, bursts, needed=needed, seconds=seconds, rng=rng, timing=timing, report=report)
                break
            except ModelFailed as error:
                if not tolerant:
                    raise
                left_out[int(error.item[1:])] = str(error)
                names.remove(error.item)
        identity = agent.identity
    visits = {int(name[1:]): column for name, column in zip(names, zip(*seen.visits, strict=True), strict=False)}
    for i, reason in [(i, reason) for i, column in visits.items() if (reason := doubt(column)) is not None]:
        if not tolerant:
            raise MeasurementFailed(f"model {i} of {len(models)} has no latency: {reason}")
        left_out[i] = reason
        del visits[i]
    states = speed_states(seen.anchors_ns) if seen.anchors_ns else ()
    return Taken(visits, {i: facts[i] for i in visits}, left_out, seen.slow, states, len(seen.visits), seen.seconds, identity)


def verdict(row: WindowRow, limit_ms: float) -> Verdict:
    """`within` where the upper bound keeps the limit, `over` where the estimate exceeds it, else `inconclusive`; so is whatever is in doubt."""
    if row.doubt or row.upper_bound_ms is None:
        return "inconclusive"
    if row.upper_bound_ms <= limit_ms:
        return "within"
    return "over" if row.estimate_ms > limit_ms else "inconclusive"


def needed_visits(quantile: float, level: float, speeds: Speeds, seconds: float) -> int:
    """The fewest independent visits from which a bound follows, also where the window sees the slow speed less often than the profile did."""
    return max(values_needed(q, level) for q in (quantile, speeds.bounded(quantile, 0.0, seconds)) if q <= max(quantile, _MOST_QUANTILE))


def schedule(seconds: float, needed: int, round_s: float, timing: Timing = TIMING) -> tuple[int, float]:
    """(number of rounds, length in seconds) of a window: five rounds a second, more or fewer where `needed` visits or the rounds' own length ask.

    A fifth of the visits may be dropped, half of the rest not be independent, and a third of the time is left for a slower state.
    """
    least = ceil(2 * needed / (1 - timing.most_dropped))
    rounds = max(least, min(floor(seconds / timing.round_spacing_s), floor(seconds / (1.5 * round_s))))
    return rounds, max(seconds, rounds * 1.5 * round_s)


@dataclass(frozen=True, slots=True)
class Sifted:
    """Of a model's visits, (rounds,) each: those that nothing disturbed, and of these the independent ones; `doubt` says why they do not
    suffice, or is empty."""

    kept: npt.NDArray[np.bool_]
    independent: npt.NDArray[np.bool_]
    doubt: str


def independent_rounds(slow: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, npt.NDArray[np.bool_]]:
    """Every how many rounds the device's state is forgotten, and which rounds (rounds,) are taken for independent. slow: (rounds,)."""
    stride = stride_of_independence(slow)
    return stride, np.arange(len(slow)) % stride == rng.integers(stride)


def sift(own: Sequence[Visit], chosen: npt.NDArray[np.bool_], needed: int, seconds: float, timing: Timing = TIMING) -> Sifted:
    """own: a model's visits, one a round; chosen: the independent rounds; needed: how many of them; seconds: how long the window was."""
    kept = np.array([not is_disturbed(visit, timing) for visit in own])
    independent, dropped = kept & chosen, int((~kept).sum())
    n_independent, doubt = int(independent.sum()), ""
    if dropped > timing.most_dropped * len(own):
        doubt = f"another process ran during {100 * dropped / len(own):.0f} % of the visits, at most {100 * timing.most_dropped:.0f} % may be dropped"
    elif n_independent < needed:
        longer_s = 1.25 * seconds * needed / max(1, n_independent)
        doubt = f"the device kept its speed so long that only {n_independent} visits are independent, {needed} are needed: try {longer_s:.0f} s"
    return Sifted(kept, independent, doubt)


def summarise(
    visits: Sequence[Sequence[Visit]],
    digests: Sequence[str],
    slow: npt.NDArray[np.bool_],
    *,
    quantile: float,
    level: float,
    needed: int,
    seconds: float,
    rng: np.random.Generator,
    speeds: Speeds | None = None,
    timing: Timing = TIMING,
) -> tuple[tuple[WindowRow, ...], int]:
    """The rows of a window, and every how many rounds the device's state is forgotten. visits: of each model, one a round; slow (rounds,)."""
    bounded = (speeds or Speeds()).bounded(quantile, float(slow.mean()), seconds)
    stride, chosen = independent_rounds(slow, rng)
    rows, wanders = list[WindowRow](), list[FloatArray]()
    for own, digest in zip(visits, digests, strict=True):
        sifted = sift(own, chosen, needed, seconds, timing)
        if not sifted.kept.any():
            raise MeasurementFailed("another process ran during every visit: measure on a quieter machine")
        values_ms = drawn_ms(own, rng)
        independent_ms = values_ms[sifted.independent]
        kept_ms = values_ms[sifted.kept]
        p10, p50, estimate, p90 = (quantile_of(kept_ms, q) for q in (0.1, 0.5, quantile, 0.9))
        wanders.append((kept_ms > p50).astype(np.float64))
        own_level = level / len(visits)
        bound = upper_bound(independent_ms, bounded, own_level) if bounded < 1 else None
        doubt = sifted.doubt or ("" if speeds is None or bound is not None else _seldom_slow(speeds, float(slow.mean())))
        n_runs = sum(len(visit.ns) for visit in own)
        counts = (int(sifted.kept.sum()), len(independent_ms), int((~sifted.kept).sum()))
        rows.append(WindowRow(digest, estimate, bound, 1 - own_level, p10, p90, n_runs, *counts, doubt, p50))
    memory = autocorrelation_time(wanders)  # one for all: what wanders is the device
    return tuple(replace(row, telling_visits=max(1, min(row.independent_visits, round(row.visits / memory)))) for row in rows), stride


def _seldom_slow(speeds: Speeds, share: float) -> str:
    return (
        f"the device was slow for {100 * speeds.slow_share:.0f} % of its profile and for {100 * share:.0f} % of this window, which is too short for it, "
        f"or the profile is of another state: profile it again, or allow more --seconds"
    )


class ModelFailed(MeasurementFailed):
    """One of the models cannot be run; it says nothing about the others."""

    def __init__(self, item: str, reason: str):
        super().__init__(reason)
        self.item = item


class Visiting(Protocol):
    """What a window needs of an agent."""

    def visit(self, order: Sequence[str], bursts: Mapping[str, Burst], *, expected_s: float = 0.0) -> list[Visit | str]: ...


@dataclass(frozen=True, slots=True)
class Rounds:
    """The visits of a window: of each round those of the models in the order of their names; all anchors; whether the device was slow, (rounds,)."""

    visits: list[list[Visit]]
    anchors_ns: list[int]
    slow: npt.NDArray[np.bool_]
    seconds: float


def visit_in_rounds(
    agent: Visiting,
    names: Sequence[str],
    bursts: Mapping[str, Burst],
    *,
    needed: int,
    seconds: float,
    rng: np.random.Generator,
    timing: Timing = TIMING,
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
    clock: Callable[[], float] = time.monotonic,
) -> Rounds:
    """Two rounds as a trial fix how many there are and how long the window is, then each one starts at a random moment of its slot.

    clock: seconds, by which the slots are kept.
    """
    round_s = _round_seconds(_round(agent, [*names, *names], bursts)[len(names) :], bursts, timing)
    rounds, length_s = schedule(seconds, needed, round_s, timing)
    slot = length_s / rounds
    starts = (np.arange(rounds) * slot) + rng.random(rounds) * max(0.0, slot - round_s)
    begin = clock()
    taken: list[list[Visit]] = []
    anchors: list[int] = []
    for number, start in enumerate(starts):
        report("measure", number, rounds)
        while clock() - begin < start:
            (filler,) = agent.visit([ANCHOR_ITEM], {ANCHOR_ITEM: _FILLER})
            if isinstance(filler, Visit):
                anchors.append(filler.anchor_after_ns)
        order = [names[i] for i in rng.permutation(len(names))]
        by_name = {visit.item: visit for visit in _round(agent, order, bursts)}
        taken.append([by_name[name] for name in names])
        anchors += [visit.anchor_ns for visit in taken[-1]]
    report("measure", rounds, rounds)
    slow = is_slow([np.median([visit.anchor_ns for visit in visits]) for visits in taken], timing)
    return Rounds(taken, anchors, slow, length_s)


def _round(agent: Visiting, order: Sequence[str], bursts: Mapping[str, Burst]) -> list[Visit]:
    visits = agent.visit(order, bursts, expected_s=30.0)
    for item, visit in zip(order, visits, strict=True):
        if isinstance(visit, str):
            raise ModelFailed(item, f"a model failed while it was measured: {visit}")
    return [visit for visit in visits if not isinstance(visit, str)]


def _round_seconds(visits: Sequence[Visit], bursts: Mapping[str, Burst], timing: Timing) -> float:
    anchors = timing.anchor_warmups + timing.anchor_runs
    runs = {name: burst.warmups + burst.runs for name, burst in bursts.items()}
    return sum(runs[visit.item] * float(np.median(visit.ns)) + anchors * visit.anchor_ns for visit in visits) / 1e9


def model_bytes(model: bytes | Path) -> bytes:
    """The content of a model's file, or what was given. Raises DamagedFile."""
    if isinstance(model, bytes):
        return model
    try:
        if model.stat().st_size > MAX_MODEL_BYTES:
            raise DamagedFile(f"{model} has {model.stat().st_size:,} bytes, over the limit of {MAX_MODEL_BYTES:,} for a model")
        return model.read_bytes()
    except OSError as error:
        raise DamagedFile(f"cannot read {model}: {error.strerror or error}") from None
