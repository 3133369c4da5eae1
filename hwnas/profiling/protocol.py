"""How things are timed: warm-ups, burst lengths, tolerances, with units; what one visit of an item yields, and when it counts.

A visit is: warm-up runs, then a burst of timed runs, with the anchor (a fixed small convolution) timed before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.graph import Block, Node
from hwnas.ops import Conv2d
from hwnas.space import FloatArray

#: About 50 to 100 microseconds on one core of a current CPU.
ANCHOR: Block = (Node("conv", Conv2d((1, 16, 28, 28), out=32, kernel=3), ("in0",)),)


@dataclass(frozen=True, slots=True)
class Burst:
    """Warm-up runs and timed runs of one visit; where `cold`, each timed run opens the model anew, and there are no warm-ups.

    Where `streams` is not 0, so many threads do all of that at once.
    """

    warmups: int
    runs: int
    cold: bool = False
    streams: int = 0

    @property
    def request(self) -> dict[str, int | bool]:
        return {"warmups": self.warmups, "runs": self.runs, **({"cold": True} if self.cold else {}), **({"streams": self.streams} if self.streams else {})}


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured and found for ONNX Runtime on a CPU: three warm-ups are right for blocks, four to 1 % for networks. What they then still
    scatter outlasts any burst, so bursts are short and visits many.

    `regime` is which latency it is. Where `cold`, a run opens the model anew; before anything is timed the device is heated until its
    speed is settled, at most `most_heating_s`, where that is not 0.
    """

    regime: str = "warm: timed after warm-ups, other models having run in between"
    cold: bool = False
    most_heating_s: float = 0.0
    block_warmups: int = 3
    block_burst_ms: float = 1.0
    block_least_runs: int = 8
    block_most_runs: int = 250
    network_warmups: int = 4
    network_runs: int = 3
    anchor_warmups: int = 1
    anchor_runs: int = 5
    anchor_tolerance: float = 0.10  # the known slow states are 1.3 to 1.5 times slower; the anchor itself repeats to 2 %
    anchor_wait_s: float = 20.0
    lost_cpu_tolerance: float = 0.02
    most_crowding_pct: int = 25  # of the cores left free, in use by other programs
    most_overrun: float = 2.5  # times the planned time, after which disturbed blocks are left as they are
    least_visits: int = 8  # before an item may be settled: the fewest that bound the 25th percentile on both sides
    least_span_s: float = 30.0  # that the visits are spread over at least, and before any item is settled: a shared machine keeps a mood for seconds to minutes
    settled_confidence: float = 0.75
    settled_block: float = 0.01  # half the width of the price's confidence interval, relative
    settled_network: float = 0.05  # of the median of a network: a fit to all of them halves it several times
    most_dropped: float = 0.20
    round_spacing_s: float = 0.2  # of `verify`'s visits

    def describe(self) -> dict[str, int | float]:
        """Name -> value, as it is written into tables, which have the regime among their conditions."""
        return {name: value for name, value in asdict(self).items() if name not in ("regime", "cold", "most_heating_s")}

    def block_burst(self, run_ns: float | None = None) -> Burst:
        """What a visit of a block runs; run_ns: how long one run takes, None to find out."""
        runs = self.block_least_runs if run_ns is None else runs_per_burst(run_ns, self)
        return Burst(self.block_warmups, runs, self.cold)

    @property
    def network_burst(self) -> Burst:
        """What a visit of a network runs."""
        return Burst(self.network_warmups, self.network_runs, self.cold)


TIMING = Timing()
_SINGLE = replace(TIMING, block_warmups=0, block_least_runs=1, block_most_runs=1, network_warmups=0, network_runs=1)

#: By name, which latency is measured. On one CPU they differ by 10 to 75 %: numbers of two regimes are never compared.
REGIMES: dict[str, Timing] = {
    "warm": TIMING,
    "steady": Timing("steady: a hot loop of one model", block_warmups=30, block_burst_ms=3.0, network_warmups=30, network_runs=15),
    "first-run": replace(_SINGLE, regime="first run: the first one after other models ran"),
    "cold-start": replace(_SINGLE, regime="cold start: opening the model and its first run, its file being in memory", cold=True),
    "sustained": Timing("sustained: as warm, on a device under load until its speed had settled", most_heating_s=300.0),
}


def timing_of(regime: str) -> Timing:
    """The timing whose regime is written so in the conditions of a table, or that is called so. Raises InputError."""
    for name, timing in REGIMES.items():
        if regime in (name, timing.regime):
            return timing
    raise InputError(f"unknown regime '{regime}'; there are: {', '.join(REGIMES)}")


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit of an item, as the agent reports it; None where the system does not tell.

    crowding_pct: of the cores that the agent leaves free, how much other programs used while the batch of this visit ran.
    busy_ns: of several streams at once, from the first timed run's start to the last one's end; `ns` has the times of all streams.
    """

    item: str
    ns: tuple[int, ...]
    anchor_before_ns: int
    anchor_after_ns: int
    at_ns: int
    wall_ns: int
    cpu_ns: int | None
    involuntary: int | None
    psi_us: int | None
    steal_ms: int | None
    crowding_pct: int | None = None
    busy_ns: int | None = None

    @property
    def anchor_ns(self) -> int:
        """The slower of the two anchors: what speed the machine had during the visit, at worst."""
        return max(self.anchor_before_ns, self.anchor_after_ns)


def is_disturbed(visit: Visit, timing: Timing = TIMING) -> bool:
    """Whether another process demonstrably ran instead of the measured one.

    It was switched out against its will; or it lacked the CPU for part of the burst while the system reports pressure or steal.
    A slow state of the device is none of these. Where the system tells none of it (browsers), no visit is known to be disturbed.
    Several streams switch each other out; of those only what the hypervisor stole counts.
    """
    if visit.busy_ns is not None:
        return 1e6 * (visit.steal_ms or 0) > timing.lost_cpu_tolerance * visit.wall_ns
    lacked_cpu = visit.cpu_ns is not None and visit.wall_ns - visit.cpu_ns > timing.lost_cpu_tolerance * visit.wall_ns
    return bool(visit.involuntary) or (lacked_cpu and bool(visit.psi_us or visit.steal_ms))


def runs_per_burst(run_ns: float, timing: Timing = TIMING) -> int:
    """How many runs of a block of that duration make a burst."""
    return int(np.clip(ceil(timing.block_burst_ms * 1e6 / max(run_ns, 1.0)), timing.block_least_runs, timing.block_most_runs))


@dataclass(frozen=True, slots=True)
class SpeedState:
    """A speed at which the device was seen: the anchor's latency relative to its best, and the share of the time."""

    relative_latency: float
    share: float


def is_slow(anchor_ns: npt.ArrayLike, timing: Timing = TIMING) -> npt.NDArray[np.bool_]:
    """(n,) anchors -> (n,): off the best of them by more than the tolerance."""
    anchors = np.asarray(anchor_ns, np.float64)
    return np.asarray(anchors > (1 + timing.anchor_tolerance) * anchors.min())


def speed_states(anchor_ns: npt.ArrayLike, timing: Timing = TIMING) -> tuple[SpeedState, ...]:
    """The fast state, and the slow one if there was any; median of the anchors of each, relative to the best of all."""
    anchors = np.asarray(anchor_ns, np.float64)
    slow = is_slow(anchors, timing)
    return tuple(
        SpeedState(round(float(np.median(anchors[chosen]) / anchors.min()), 4), round(float(chosen.mean()), 4)) for chosen in (~slow, slow) if chosen.any()
    )


def drawn_ms(visits: Sequence[Visit], rng: np.random.Generator) -> FloatArray:
    """One run of each visit, drawn at random: (visits,) in ms.

    Runs of one burst are alike; taking one of each visit is what makes the visits, not the runs, the sample.
    """
    return np.array([visit.ns[rng.integers(len(visit.ns))] for visit in visits], np.float64) / 1e6
