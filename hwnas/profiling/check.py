"""Look at a device before it is profiled: what it is, how finely and how evenly it can be timed, and what would make it steadier."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hwnas import registry
from hwnas.device import Device
from hwnas.errors import InputError, MeasurementFailed
from hwnas.profiling.agent import ANCHOR_ITEM, Identity, Refused, started_agent
from hwnas.profiling.protocol import TIMING, Burst, SpeedState, Visit, is_disturbed, is_slow, speed_states
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.statistics import quantile
from hwnas.profiling.tabulate import doubt
from hwnas.space import FloatArray

#: A value of the device's state: of which unit its name's end says.
State = Mapping[str, str | int | bool]

MAX_SECONDS = 3_600
_BURST = Burst(TIMING.block_warmups, TIMING.block_least_runs)
_BATCH = 50  # visits that are asked for at once: some tenths of a second
_COARSE_CLOCK_NS = 1_000  # small blocks run for some 10 microseconds
_HOT_MILLICELSIUS = 80_000  # where boards begin to slow down; processors of PCs bear 15 more
_BUSY_PCT = 30  # of one core, by others, in the minute before
_NOISY_PCT = 5.0
_SLOW_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class DeviceCheck:
    """What was found in `seconds` of visiting the anchor, a fixed small convolution.

    noise_pct: the range of the middle 80 % of its bursts' best runs, undisturbed and at full speed, relative to their median: what two
    measurements of one thing differ by; run_noise_pct: the same of single runs. Both None where every visit was disturbed.
    """

    identity: Identity
    before: State
    after: State
    threads: int
    seconds: float
    visits: int
    disturbed_share: float
    anchor_best_us: float
    noise_pct: float | None
    run_noise_pct: float | None
    states: tuple[SpeedState, ...]
    advice: tuple[str, ...]


def check_device(device: Device, *, threads: int, seconds: float, runtime: str = "", progress: Callable[[str, int, int], None] | None = None) -> DeviceCheck:
    """Connect, ask, and visit the anchor for `seconds`. runtime: one of the device's, by default its first. Raises InputError, RunHeld, MeasurementFailed."""
    if not 0 < seconds <= MAX_SECONDS:
        raise InputError(f"a check takes from 0 to {MAX_SECONDS:,} seconds, got {seconds:g}")
    report = progress or (lambda stage, done, total: None)
    made: Runtime = registry.create("profiling.runtimes", device.runtime(runtime))
    visits: list[Visit] = []
    with started_agent(device, made, threads=threads, seed=0) as agent:
        try:
            before = agent.look()
            begin = time.monotonic()
            while not visits or time.monotonic() - begin < seconds:
                report("measure", min(int(time.monotonic() - begin), int(seconds)), int(seconds))
                for visit in agent.visit([ANCHOR_ITEM] * _BATCH, {ANCHOR_ITEM: _BURST}):
                    if isinstance(visit, str):
                        raise MeasurementFailed(f"the anchor failed on {device.name}: {visit}")
                    visits.append(visit)
            report("measure", int(seconds), int(seconds))
            after = agent.look()
        except Refused as error:
            raise MeasurementFailed(f"the agent of {device.name} cannot tell its state: {error}") from None
    if (reason := doubt(visits)) is not None:
        raise MeasurementFailed(f"the anchor has no latency on {device.name}: {reason}")
    return assess(agent.identity, before, after, visits, threads=threads, seconds=seconds)


def assess(identity: Identity, before: State, after: State, visits: list[Visit], *, threads: int, seconds: float) -> DeviceCheck:
    """Figures and advice from what the agent reported."""
    bests = np.array([min(visit.ns) for visit in visits], np.float64)
    disturbed = np.array([is_disturbed(visit) for visit in visits])
    slow = is_slow([visit.anchor_ns for visit in visits])
    steady = ~disturbed & ~slow
    runs = np.array([ns for visit, kept in zip(visits, steady, strict=True) if kept for ns in visit.ns], np.float64)
    noise, run_noise = (_range_pct(values) if len(values) else None for values in (bests[steady], runs))
    states, share = speed_states([visit.anchor_ns for visit in visits]), float(disturbed.mean())
    advice = tuple(_advice(identity, before, after, threads, share, noise, states))
    return DeviceCheck(identity, before, after, threads, seconds, len(visits), round(share, 4), float(bests.min()) / 1e3, noise, run_noise, states, advice)


def temperatures(state: State) -> dict[str, float]:
    """Sensor -> degrees Celsius, of those that the system shows."""
    names = {key: key.removeprefix("temperature_").removesuffix("_millicelsius") for key in state if key.startswith("temperature_")}
    return {name: _number(state, key) / 1e3 for key, name in names.items()}


def _range_pct(values: FloatArray) -> float:
    p10, p50, p90 = (quantile(values, q) for q in (0.1, 0.5, 0.9))
    return round(100 * (p90 - p10) / p50, 3)


def _number(state: State, key: str, missing: int = 0) -> int:
    value = state.get(key, missing)
    return value if isinstance(value, int) else missing


def _advice(identity: Identity, before: State, after: State, threads: int, disturbed: float, noise: float | None, states: tuple[SpeedState, ...]) -> list[str]:
    """What to change for better numbers, one sentence each."""
    advice = []
    if identity.emulated:
        advice.append(f"it is emulated by {identity.emulated}: try things out here, and measure on the device itself")
    if (governor := identity.system.get("governor", "unknown")) not in ("performance", "unknown"):
        advice.append(f"the governor is '{governor}': 'performance' keeps the clock steady (sudo cpupower frequency-set -g performance)")
    if (limit := _number(before, "frequency_limit_khz")) < (most := _number(before, "frequency_max_khz")):
        advice.append(f"the clock is limited to {limit / 1e6:.2f} of {most / 1e6:.2f} GHz: profile it as it will be used, and keep that setting")
    if (span := str(identity.options.get("gpu_clock", "fixed"))) and not span.startswith("fixed"):
        advice.append(f"the GPU's clock moves, {span}: profile it as it will be used, or fix it (on a Jetson: sudo jetson_clocks)")
    if before.get("on_mains") is False:
        advice.append("it runs on its battery: plug it in, or profile it as it will be used")
    if (cores := _number(before, "usable_cores", threads)) < threads:
        advice.append(f"{threads} threads share {cores} usable core(s): give the device fewer threads")
    if (load := _number(before, "load_1min_pct")) > _BUSY_PCT:
        advice.append(f"other programs kept {load / 100:.1f} cores busy in the last minute: stop them")
    if disturbed > TIMING.most_dropped:
        advice.append(f"another process ran during {100 * disturbed:.0f} % of the visits, verify allows {100 * TIMING.most_dropped:.0f} %: stop other programs")
    if len(states) > 1 and states[1].share > _SLOW_SHARE:
        worse = f"{states[1].relative_latency:.2f} times slower than its best"
        advice.append(f"for {100 * states[1].share:.0f} % of the time it was {worse}: cool it, fix its clock, or leave the machine it is part of alone")
    hot = {name: degrees for name, degrees in temperatures(after).items() if degrees * 1e3 >= _HOT_MILLICELSIUS}
    if hot:
        advice.append(f"it is at {max(hot.values()):.0f} degrees Celsius ({max(hot, key=lambda name: hot[name])}): cool it, or it slows down under load")
    if _number(after, "throttled") > _number(before, "throttled"):
        advice.append("it was slowed down by its temperature during the check: cool it")
    if (step := _number(before, "clock_step_ns")) > _COARSE_CLOCK_NS and "group_us" not in identity.options:
        advice.append(f"its clock moves in steps of {step:,} ns: single runs of small blocks will scatter")
    if noise is not None and noise > _NOISY_PCT and not advice:
        advice.append(f"bursts of one model differ by {noise:.1f} %, and nothing shows why: give profile more --visits")
    return advice
