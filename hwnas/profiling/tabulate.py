"""From visits to the rows of a latency table. Pure: the same visits give the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hwnas.architecture import Architecture
from hwnas.latency_table import Measurement, NetworkMeasurement
from hwnas.profiling.protocol import TIMING, Timing, Visit, is_disturbed
from hwnas.profiling.statistics import confidence_interval, drift, quantile, second_speed

#: Of the bests of accepted visits. On a CPU it repeats to 0.2 %, the median to 1.6 %; the least of all falls with every visit.
PRICE_QUANTILE = 0.25
_STRANGE = 0.03  # relative change of a block that is worth a word
_SHOWN = 10
LEAST_RUN_NS = 100  # a run is a call of a function that reads its inputs and writes its outputs
_MOST_DRIFT = 1.0  # honest blocks were seen to change by 0.6 for seconds, on a shared machine and while the anchor did not
_RUNS_THAT_DIFFER = 16  # of two visits or more: not even a clock of 0.1 ms steps shows so many equal times of a working model


def is_crowded(visit: Visit, timing: Timing = TIMING) -> bool:
    """Whether other programs kept the rest of the machine so busy that caches, memory or clock were shared."""
    return visit.crowding_pct is not None and visit.crowding_pct > timing.most_crowding_pct


def is_accepted(visit: Visit, best_anchor_ns: int, timing: Timing = TIMING) -> bool:
    """Whether the machine ran at its best speed before and after the burst, and other programs left it alone."""
    return not is_crowded(visit, timing) and visit.anchor_ns <= (1 + timing.anchor_tolerance) * best_anchor_ns


def is_settled(visits: Sequence[Visit], best_anchor_ns: int, *, network: bool, timing: Timing = TIMING) -> bool:
    """Whether more visits would hardly change the row: the confidence interval of its price, or of a network's median, is narrow."""
    if len(visits) < timing.least_visits:
        return False
    if network:
        values, q, width = [float(np.median(visit.ns)) for visit in visits if not is_disturbed(visit, timing)], 0.5, timing.settled_network
    else:
        values, q, width = [float(min(visit.ns)) for visit in visits if is_accepted(visit, best_anchor_ns, timing)], PRICE_QUANTILE, timing.settled_block
    interval = confidence_interval(np.array(values), q, timing.settled_confidence)
    return interval is not None and (interval[1] - interval[0]) / 2 <= width * quantile(np.array(values), q)


def doubt(visits: Sequence[Visit], clock_step_ns: int = 0) -> str | None:
    """Why the times of an item cannot be those of runs; None where they can. visits: in the order of time.

    clock_step_ns: of the device's clock, where single runs are timed by it. Times that keep rising or falling are compared with the anchor's, over visits
    that nothing disturbed: a device that slows down slows its anchor down, too.
    """
    times = {ns for visit in visits for ns in visit.ns}
    runs = sum(len(visit.ns) for visit in visits)
    if len(times) == 1 and (len(visits) >= TIMING.least_visits or (runs >= _RUNS_THAT_DIFFER and len(visits) > 1)):
        return f"each of its {runs} runs took exactly {times.pop():,} ns: the clock stands still, or nothing ran"
    if times and min(times) < max(clock_step_ns, LEAST_RUN_NS):
        step = f"a step of the clock, {clock_step_ns:,} ns" if clock_step_ns > LEAST_RUN_NS else "it takes to call a runtime"
        return f"a run took {min(times):,} ns, less than {step}: that is no time of a run"
    calm = [visit for visit in visits if not is_disturbed(visit) and not is_crowded(visit)]
    change = drift(np.array([min(visit.ns) / visit.anchor_ns for visit in calm], np.float64)) if calm else 0.0
    if not -_MOST_DRIFT / (1 + _MOST_DRIFT) <= change <= _MOST_DRIFT:
        return f"its times kept {'rising' if change > 0 else 'falling'}, by {abs(change):.0%} between the halves of its visits, while the anchor's did not"
    return None


def measurement(visits: Sequence[Visit], best_anchor_ns: int, timing: Timing = TIMING) -> Measurement:
    """A block's row from its visits. Where no visit was accepted, `accepted` is 0 and the price is that of all visits."""
    accepted = [visit for visit in visits if is_accepted(visit, best_anchor_ns, timing)]
    best_ms = np.array([min(visit.ns) for visit in accepted or visits], np.float64) / 1e6
    runs_ms = np.concatenate([np.array(visit.ns, np.float64) for visit in visits]) / 1e6
    p10, p50, p90 = (quantile(runs_ms, q) for q in (0.1, 0.5, 0.9))
    return Measurement(quantile(best_ms, PRICE_QUANTILE), p10, p50, p90, len(visits), len(accepted), len(runs_ms), float(runs_ms.mean()), float(runs_ms.std()))


def network_measurement(architecture: Architecture, fingerprint: str, visits: Sequence[Visit], timing: Timing = TIMING) -> NetworkMeasurement | None:
    """A network's row from its visits, slow states included, of a crowded machine only where there are no others; None where every visit was
    disturbed."""
    kept = [visit for visit in visits if not is_disturbed(visit, timing)]
    kept = [visit for visit in kept if not is_crowded(visit, timing)] or kept
    if not kept:
        return None
    values_ms = np.concatenate([np.array(visit.ns, np.float64) for visit in kept]) / 1e6
    p10, p50, p90 = (quantile(values_ms, q) for q in (0.1, 0.5, 0.9))
    return NetworkMeasurement(architecture, fingerprint, p10, p50, p90, len(kept), len(visits) - len(kept))


def steadiness(blocks: Mapping[str, Sequence[Visit]], best_anchor_ns: int, timing: Timing = TIMING) -> dict[str, int | float | list[str]]:
    """How even the measurement was, for people: shares of the visits, counts of the blocks, and the blocks whose latency changed while the
    anchor's did not, with how. blocks: text -> visits in the order of time."""
    visits = [visit for own in blocks.values() for visit in own]
    strange = []
    for text, own in blocks.items():
        values = np.array([min(visit.ns) for visit in own if is_accepted(visit, best_anchor_ns, timing)], np.float64)
        if len(values) and abs(change := drift(values)) > _STRANGE:
            strange.append((abs(change), f"drifts by {change:+.1%}: {text}"))
        elif len(values) and (slower := second_speed(values)) > _STRANGE:
            strange.append((slower, f"has a second speed, {slower:+.1%}: {text}"))
    return {
        "crowded_share": round(float(np.mean([is_crowded(visit, timing) for visit in visits])), 4),
        "slow_share": round(float(np.mean([visit.anchor_ns > (1 + timing.anchor_tolerance) * best_anchor_ns for visit in visits])), 4),
        "disturbed_blocks": sum(not any(is_accepted(visit, best_anchor_ns, timing) for visit in own) for own in blocks.values()),
        "unsettled_blocks": sum(not is_settled(own, best_anchor_ns, network=False, timing=timing) for own in blocks.values()),
        "uneven_blocks": len(strange),
        "most_uneven": [words for _, words in sorted(strange, reverse=True)[:_SHOWN]],
    }
