"""Whole models measured while somebody waits for their latencies, as a search does; by the agents, visits and doubts of a profile.

What is asked for together is measured interleaved, in rounds spread over a short window, so that the device's moods meet all of it. Each lot gets an agent of
its own: in one that had loaded six lots before, the same networks took 9 % longer. Between two questions an agent stays, and with it the lease of the device.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwnas import registry
from hwnas.device import Device
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed, RunHeld
from hwnas.graph import Graph
from hwnas.latency_table import Conditions, emulated
from hwnas.profiling.agent import Refused, started_agent
from hwnas.profiling.precision import other_precision
from hwnas.profiling.protocol import TIMING, Timing, Visit, is_disturbed
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.supervised import SupervisedAgent, clock_step_ns
from hwnas.profiling.tabulate import doubt, is_crowded
from hwnas.profiling.window import ModelFailed, visit_in_rounds
from hwnas.space import FloatArray

logger = logging.getLogger(__name__)

MAX_SECONDS = 3_600
AT_ONCE = 16  # models that are loaded at a time: a phone holds no more, and what was measured of them is kept before the next ones are loaded
_WINDOWS = 3  # of a model of which too few visits were undisturbed
_CONNECTIONS, _PAUSE_S = 3, 1.0  # tries to reach the device again where its link broke
_HELD_S = 60.0  # that somebody is waited for who took the device between two lots


@dataclass(frozen=True, slots=True)
class Metered:
    """A model's latency: percentiles over all runs of `visits` that nothing disturbed; `dropped` were disturbed, or less calm than enough others.

    slow_share: of the rounds in which the device was slow; anchor_us: what the anchor took in the window, in the median, to compare windows by.
    """

    p10_ms: float
    p50_ms: float
    p90_ms: float
    value_ms: float
    visits: int
    dropped: int
    runs: int
    slow_share: float
    anchor_us: float


class Meter(Protocol):
    """Measures models, in the form that the device's runtime loads."""

    def measure(self, models: Sequence[tuple[bytes, Graph]], quantile: float) -> list[Metered | str]:
        """Of each the latency, `value_ms` being that quantile, or why there is none. Raises MeasurementFailed where the device does not answer."""
        ...

    def conditions(self) -> Conditions:
        """Of everything that is measured. Raises RunHeld where somebody else measures on the device, MeasurementFailed."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


class DeviceMeter:
    """seconds: about how long a window is; at least 20 rounds are made, so that 8 visits are left where half of them are disturbed.

    The device is taken with the first question, and again after its link broke. Where it was heated first, or somebody opened a page on it, its agent is
    kept from lot to lot.
    """

    def __init__(self, device: Device, runtime: str, *, threads: int, timing: Timing = TIMING, seconds: float = 5.0, seed: int = 0):
        if not 0 < seconds <= MAX_SECONDS:
            raise InputError(f"a window lasts from 0 to {MAX_SECONDS:,} seconds, got {seconds:g}")
        self.device, self.threads, self.timing, self.seconds, self.seed = device, threads, timing, seconds, seed
        self._runtime: Runtime = registry.create("profiling.runtimes", device.runtime(runtime))
        self._rng = np.random.default_rng([seed, 6])
        self._models: dict[str, bytes] = {}
        self._stack = ExitStack()
        self._agent: SupervisedAgent | None = None
        self._is_used, self._facts = False, dict[str, str]()
        self._is_kept = bool(timing.most_heating_s) or device.transport == "browser"

    def measure(self, models: Sequence[tuple[bytes, Graph]], quantile: float) -> list[Metered | str]:
        found: list[Metered | str] = []
        for start in range(0, len(models), AT_ONCE):
            found += self._reached(models[start : start + AT_ONCE], quantile)
        return found

    def conditions(self) -> Conditions:
        return self._taken().identity.conditions(self.device.name, self.threads, self.timing)

    def close(self) -> None:
        self._agent, self._is_used = None, False
        self._stack.close()

    def _taken(self) -> SupervisedAgent:
        if self._agent is None:
            agent = self._started()
            if agent.identity.emulated:
                self.close()
                raise emulated(self.device.name, agent.identity.emulated, "no budget is kept by them")
            if agent.identity.facts != (self._facts or agent.identity.facts):
                self.close()
                raise MeasurementFailed(f"the agent of {self.device.name} is another than before: {agent.identity.facts}, before {self._facts}")
            self._facts = agent.identity.facts
            agent.heat()
            self._agent = agent
        return self._agent

    def _started(self) -> SupervisedAgent:
        """A new agent. Whoever took the device between two lots is waited for. Raises RunHeld."""
        begin = time.monotonic()
        while True:
            supervised = SupervisedAgent(
                lambda: started_agent(self.device, self._runtime, threads=self.threads, seed=self.seed, timing=self.timing), lambda item: self._models[item]
            )
            try:
                return self._stack.enter_context(supervised)
            except RunHeld:
                if not self._facts or time.monotonic() - begin > _HELD_S:
                    raise
                time.sleep(_PAUSE_S)

    def _reached(self, models: Sequence[tuple[bytes, Graph]], quantile: float) -> list[Metered | str]:
        """Where the link breaks, that says nothing about the models: they are measured anew over another one."""
        for left in range(_CONNECTIONS - 1, -1, -1):
            if self._is_used and not self._is_kept:
                self.close()
            try:
                agent, self._is_used = self._taken(), True
                return self._measured(agent, models, quantile)
            except ConnectionLost as error:
                self.close()
                if not left:
                    raise
                logger.warning("%s; it is tried again", error)
                time.sleep(_PAUSE_S)
            except MeasurementFailed:
                self.close()  # whatever it is, the next question begins with another agent
                raise
        raise AssertionError("unreachable")

    def _measured(self, agent: SupervisedAgent, models: Sequence[tuple[bytes, Graph]], quantile: float) -> list[Metered | str]:
        failed: dict[str, str] = {}
        names = [f"m{i}" for i in range(len(models))]
        for name, (model, graph) in zip(names, models, strict=True):
            self._models[name] = model
            try:
                reason = other_precision(graph, agent.load(name, model))
            except Refused as error:
                reason = str(error)
            if reason is not None:
                failed[name] = reason
        windows: dict[str, list[_Window]] = {name: [] for name in names}
        for _ in range(_WINDOWS):
            wanted = [name for name in names if name not in failed and sum(window.kept for window in windows[name]) < self.timing.least_visits]
            if not wanted:
                break
            self._visit(agent, wanted, windows, failed)
        step_ns = clock_step_ns(agent)
        return [failed.get(name) or self._summarised(windows[name], quantile, step_ns) for name in names]

    def _visit(self, agent: SupervisedAgent, wanted: list[str], windows: dict[str, list[_Window]], failed: dict[str, str]) -> None:
        """One window; a model that fails in it has failed, and the others are visited again."""
        while wanted:
            try:
                bursts = dict.fromkeys(wanted, self.timing.network_burst)
                seen = visit_in_rounds(*(agent, wanted, bursts), needed=self.timing.least_visits, seconds=self.seconds, rng=self._rng, timing=self.timing)
            except ModelFailed as error:
                failed[error.item] = str(error)
                wanted = [name for name in wanted if name != error.item]
                continue
            anchor_us = float(np.median(seen.anchors_ns)) / 1e3
            for name, column in zip(wanted, zip(*seen.visits, strict=True), strict=True):
                kept = sum(not is_disturbed(visit, self.timing) for visit in column)
                windows[name].append(_Window(column, kept, float(seen.slow.mean()), anchor_us))
            return

    def _summarised(self, windows: Sequence[_Window], quantile: float, step_ns: int) -> Metered | str:
        visits = [visit for window in windows for visit in window.visits]
        if (reason := doubt(visits, step_ns)) is not None:
            return reason
        kept = [visit for visit in visits if not is_disturbed(visit, self.timing)]
        dropped = len(visits) - len(kept)
        if len(kept) < self.timing.least_visits:
            return f"another process ran during {dropped} of its {len(visits)} visits, and {self.timing.least_visits} undisturbed ones are needed"
        calm = [visit for visit in kept if not is_crowded(visit, self.timing)]
        used = calm if len(calm) >= self.timing.least_visits else kept
        runs_ms: FloatArray = np.concatenate([np.array(visit.ns, np.float64) for visit in used]) / 1e6
        p10, p50, p90, value = (float(each) for each in np.quantile(runs_ms, [0.1, 0.5, 0.9, quantile]))
        slow, anchor = (float(np.mean([getattr(window, name) for window in windows])) for name in ("slow_share", "anchor_us"))
        return Metered(p10, p50, p90, value, len(used), len(visits) - len(used), len(runs_ms), round(slow, 4), round(anchor, 3))


@dataclass(frozen=True, slots=True)
class _Window:
    visits: Sequence[Visit]
    kept: int
    slow_share: float
    anchor_us: float
