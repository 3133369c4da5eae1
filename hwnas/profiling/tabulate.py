"""From visits to the rows of a latency table. Pure: the same visits give the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.architecture import Architecture
from hwnas.latency_table import Measurement, NetworkMeasurement
from hwnas.profiling.protocol import TIMING, Timing, Visit, drawn_ms, is_disturbed
from hwnas.profiling.statistics import quantile


def is_accepted(visit: Visit, best_anchor_ns: int, timing: Timing = TIMING) -> bool:
    """Whether the machine ran at its best speed before and after the burst."""
    return visit.anchor_ns <= (1 + timing.anchor_tolerance) * best_anchor_ns


def measurement(visits: Sequence[Visit], best_anchor_ns: int, timing: Timing = TIMING) -> Measurement:
    """A block's row from its visits. Where no visit was accepted, `accepted` is 0 and the price is that of all visits."""
    accepted = [visit for visit in visits if is_accepted(visit, best_anchor_ns, timing)]
    best_ms = np.array([min(visit.ns) for visit in accepted or visits], np.float64) / 1e6
    runs_ms = np.concatenate([np.array(visit.ns, np.float64) for visit in visits]) / 1e6
    p10, p50, p90 = (quantile(runs_ms, q) for q in (0.1, 0.5, 0.9))
    return Measurement(quantile(best_ms, 0.25), p10, p50, p90, len(visits), len(accepted), len(runs_ms), float(runs_ms.mean()), float(runs_ms.std()))


def network_measurement(
    architecture: Architecture, fingerprint: str, visits: Sequence[Visit], rng: np.random.Generator, timing: Timing = TIMING
) -> NetworkMeasurement | None:
    """A network's row from its visits, slow states included; None where every visit was disturbed."""
    kept = [visit for visit in visits if not is_disturbed(visit, timing)]
    if not kept:
        return None
    values_ms = drawn_ms(kept, rng)
    p10, p50, p90 = (quantile(values_ms, q) for q in (0.1, 0.5, 0.9))
    return NetworkMeasurement(architecture, fingerprint, p10, p50, p90, len(kept), len(visits) - len(kept))
