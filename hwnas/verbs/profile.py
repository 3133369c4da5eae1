"""`profile`: the latency lookup table of a device for a space; and what it is going to be, before it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hwnas import registry
from hwnas.device import load_device
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.profiling import session
from hwnas.profiling.forecast import Forecast
from hwnas.profiling.protocol import Timing, timing_of
from hwnas.variant import Variant
from hwnas.verbs.common import Progress, silent

MAX_SPAN_S = 86_400


def profile(
    device: str = "localhost",
    *,
    space: str,
    to: Path,
    runtime: str = "",
    precision: str = "fp32",
    batch: int = 1,
    threads: int | None = None,
    visits: int = 16,
    networks: int = 60,
    seed: int = 0,
    regime: str = "warm",
    span_s: float | None = None,
    budget_minutes: float | None = None,
    planned: Callable[[Forecast], None] | None = None,
    progress: Progress = silent,
) -> LatencyTable:
    """Measure every distinct block of `space`, and whole networks that calibrate their sum, on `device`; the table is then in `to`.

    The same call again continues an interrupted one. runtime: one of the device's, by default its first. precision: `fp32`, `fp16`,
    `bf16`, `int8_u8s8`, `int8_s8s8` or `int8_fp16`; batch: images of one run. threads: of the runtime, by default the device's. regime: which latency
    it is, one of `hwnas.profiling.protocol.REGIMES`. span_s: the visits are spread over so long at least (30).
    budget_minutes: at most so long; what there is no time for is predicted, in rows that say so.
    planned: gets what will be measured and about how long that takes, before it begins. Raises HwnasError.
    """
    target = load_device(device)
    return session.profile(
        _index(space, precision, batch),
        target,
        Path(to),
        runtime=runtime,
        threads=target.threads if threads is None else threads,
        visits=visits,
        networks=networks,
        seed=seed,
        timing=_timing(regime, span_s, budget_minutes),
        budget_minutes=budget_minutes,
        planned=planned,
        progress=progress,
    )


def plan_profile(
    device: str = "localhost",
    *,
    space: str,
    to: Path | None = None,
    runtime: str = "",
    precision: str = "fp32",
    batch: int = 1,
    threads: int | None = None,
    visits: int = 16,
    networks: int = 60,
    seed: int = 0,
    regime: str = "warm",
    span_s: float | None = None,
    budget_minutes: float | None = None,
    progress: Progress = silent,
) -> Forecast:
    """What `profile` would measure with these arguments and about how long it would take, from trying a few blocks and networks on `device`
    for some seconds. to: where an unfinished profile may be that would go on; else nothing is written. Raises HwnasError."""
    target = load_device(device)
    return session.plan_profile(
        _index(space, precision, batch),
        target,
        None if to is None else Path(to),
        runtime=runtime,
        threads=target.threads if threads is None else threads,
        visits=visits,
        networks=networks,
        seed=seed,
        timing=_timing(regime, span_s, budget_minutes),
        budget_minutes=budget_minutes,
        progress=progress,
    )


def _index(space: str, precision: str, batch: int) -> BlockIndex:
    return BlockIndex(Variant(precision, batch).space(registry.create("spaces", space)))


def _timing(regime: str, span_s: float | None, budget_minutes: float | None) -> Timing:
    timing = timing_of(regime)
    if span_s is None:
        return timing
    if budget_minutes is not None:
        raise InputError("--span has visits wait and --budget-minutes leaves no time to: give one of them")
    if not 0 <= span_s <= MAX_SPAN_S:
        raise InputError(f"--span is {span_s:g}, it must be from 0 to {MAX_SPAN_S:,} seconds")
    return replace(timing, least_span_s=span_s)
