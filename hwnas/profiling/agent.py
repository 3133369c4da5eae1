"""The host's side of the agent contract (`devices/agents/`): nothing an agent says is believed before it was checked."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np

from hwnas import registry
from hwnas.data import shipped
from hwnas.device import MAX_THREADS, Device
from hwnas.errors import InputError, MeasurementFailed, RunHeld
from hwnas.graph import Graph
from hwnas.latency_table import Conditions
from hwnas.profiling.agent_files import agent_sha256
from hwnas.profiling.clock import ClockCheck, moment
from hwnas.profiling.protocol import ANCHOR, TIMING, Burst, Timing, Visit
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.transport import Connection, Installed, Transport
from hwnas.weights import random_weights

CONTRACT = 2
ANCHOR_ITEM = "anchor"
#: What an agent calls the hash of what it built of a model, where a rebuild may come to something else.
PLAN = "plan_sha256"
MAX_NS = 3_600_000_000_000
MAX_LAYERS = 10_000
_START_S = 120.0
_HEATING_RUNS, _SETTLING_S, _SETTLED = 5_000, 15.0, 0.01  # settled: the anchor of one quarter of a minute is that of the one before to 1 %
_LOAD_S = 600.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What runs and where, as the agent found it. Where an emulator stands in for a processor, `options` say so too: they are part of a table's conditions."""

    runtime: str
    version: str
    options: Mapping[str, str | int | bool]
    system: Mapping[str, str | int | bool]
    agent_sha256: str

    def conditions(self, device: str, threads: int, timing: Timing = TIMING) -> Conditions:
        """The conditions of everything that is measured now."""
        return Conditions(device, str(self.system.get("processor", "unknown")), self.runtime, self.version, threads, timing.regime, self.options)

    @property
    def emulated(self) -> str:
        """What translates the agent's instructions; empty where a processor runs them."""
        return str(self.options.get("emulated", ""))

    @property
    def origin(self) -> Literal["measured", "emulated"]:
        """Of the numbers that this agent reports."""
        return "emulated" if self.emulated else "measured"

    @property
    def facts(self) -> dict[str, str]:
        """What must stay the same for numbers to be of one table."""
        options = ", ".join(f"{name} {value}" for name, value in sorted(self.options.items()))
        return {"processor": str(self.system.get("processor", "unknown")), "runtime": self.version, "agent": self.agent_sha256, "options": options}


class Refused(Exception):
    """The agent answered that it cannot do this; it goes on. held_by: who measures on the device, where that is the reason."""

    def __init__(self, reason: str, held_by: str = ""):
        super().__init__(reason)
        self.held_by = held_by


class Agent:
    """A started agent: `load` items, then `visit` them in any order."""

    def __init__(
        self, connection: Connection, sha256: str, *, threads: int, seed: int, timing: Timing, options: Mapping[str, str | int | bool], cores: str = ""
    ):
        self._connection, self._timing, self._heated, self._clock = connection, timing, False, ClockCheck()
        hello = {"op": "hello", "contract": CONTRACT, "threads": threads, "seed": seed, "options": dict(options), "by": _whoami()}
        answer = self._ask(hello, seconds=_START_S)
        texts = [answer.get("runtime"), answer.get("version")]
        if answer.get("contract") != CONTRACT or not all(isinstance(text, str) for text in texts):
            raise MeasurementFailed(f"the agent speaks another contract than {CONTRACT}: {str(answer)[:120]}")
        runtime, version = (_printable(str(text)) for text in texts)
        in_force, system = _facts(answer.get("options")), _facts(answer.get("system"))
        if cores and system.get("affinity") != cores:
            raise MeasurementFailed(
                f"the agent was started on cores {cores} and says that it runs on {system.get('affinity', 'others or any')}: "
                f"some of them are switched off or not for it; change 'cores' in the device's file"
            )
        in_force |= {"cores": cores} if cores else {}
        in_force |= {"emulated": str(system["emulated"])} if system.get("emulated") else {}
        in_force |= {"governor": str(system["governor"])} if system.get("governor", "unknown") != "unknown" else {}
        self.identity = Identity(runtime, version, in_force, system, sha256)

    def load(self, item: str, model: bytes) -> Mapping[str, str | int | bool]:
        """How it will be executed, as far as the runtime tells. Raises Refused with the agent's reason where the model cannot be run."""
        facts = _facts(self._ask({"op": "load", "item": item, "bytes": len(model)}, model, seconds=_LOAD_S).get("facts", {}))
        return facts

    def look(self) -> Mapping[str, str | int | bool]:
        """What may change on the device from minute to minute, as it is now: name -> value. Raises Refused where its agent cannot tell."""
        return _facts(self._ask({"op": "look"}, seconds=_START_S).get("state"))

    def layers(self, item: str, runs: int) -> list[tuple[str, int]]:
        """What each layer of a loaded item takes: (name, mean ns), in a pass of its own by the runtime's profiler. Raises Refused where it has none.

        A profiler changes what it looks at: these are shares of a run, their sum is no latency, and nothing that is timed is profiled.
        """
        found = self._ask({"op": "layers", "item": item, "runs": runs}, seconds=_LOAD_S).get("layers")
        pairs = [each for each in found if isinstance(each, list) and len(each) == 2] if isinstance(found, list) and len(found) <= MAX_LAYERS else []
        layers = [(_printable(name), ns) for name, ns in pairs if isinstance(name, str) and type(ns) is int and 0 <= ns <= MAX_NS]
        if not isinstance(found, list) or len(layers) != len(found):
            raise MeasurementFailed(f"the agent's layers of '{item}' are not at most {MAX_LAYERS:,} names with whole nanoseconds")
        return layers

    def visit(self, order: Sequence[str], bursts: Mapping[str, Burst], *, expected_s: float = 0.0) -> list[Visit | str]:
        """Visits items in that order; for each its visit, or the reason why it failed. `expected_s` lengthens the deadline.

        Raises MeasurementFailed where the agent breaks its contract, WrongClock where its times cannot be."""
        timing = self._timing
        request = {
            "op": "run",
            "items": {item: bursts[item].request for item in dict.fromkeys(order)},
            "order": list(order),
            "anchor": {"item": ANCHOR_ITEM, "warmups": timing.anchor_warmups, "runs": timing.anchor_runs},
        }
        sent = moment()
        try:
            answer = self._ask(request, seconds=120 + 20 * expected_s)
        except Refused as error:
            raise MeasurementFailed(f"the agent refused to run: {error}") from None
        received = moment()
        reports = answer.get("visits")
        if not isinstance(reports, list) or len(reports) != len(order):
            raise MeasurementFailed(f"the agent was asked for {len(order)} visits and answered {len(reports) if isinstance(reports, list) else 'none'}")
        crowding = answer.get("crowding_pct")
        if crowding is not None and (type(crowding) is not int or crowding < 0):
            raise MeasurementFailed(f"the agent's crowding is a whole number of percent or null, it said {str(crowding)[:80]}")
        visits = [_visit(report, item, bursts[item], crowding) for report, item in zip(reports, order, strict=True)]
        self._clock.check([visit for visit in visits if isinstance(visit, Visit)], sent, received)
        return visits

    def heat(self, told: Callable[[float], None] = lambda seconds: None) -> None:
        """Where the regime is a sustained one, keep the device under load until its speed has settled, or patience ends; once.

        told: gets the seconds so far, about twice a second, and may raise what ends it.
        """
        most_s = 0.0 if self._heated else self._timing.most_heating_s
        self._heated = True
        begin, best = time.monotonic(), list[tuple[float, int]]()
        while (now := time.monotonic() - begin) < most_s:
            told(now)
            (look,) = self.visit([ANCHOR_ITEM], {ANCHOR_ITEM: Burst(0, _HEATING_RUNS)}, expected_s=10.0)
            if isinstance(look, str):
                raise MeasurementFailed(f"the anchor failed while the device was heated: {look}")
            best.append((now, int(np.median(look.ns))))
            late = [ns for at, ns in best if at >= now - _SETTLING_S]
            before = [ns for at, ns in best if now - 2 * _SETTLING_S <= at < now - _SETTLING_S]
            if now > 3 * _SETTLING_S and before and abs(np.median(late) / np.median(before) - 1) < _SETTLED:
                return

    def _ask(self, request: dict[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        answer = self._connection.ask({**request, "seconds": ceil(seconds)}, payload, seconds=seconds)
        if not answer["ok"]:
            raise Refused(str(answer.get("error", "no reason given"))[:500], str(answer.get("held_by", ""))[:200])
        return answer


@contextmanager
def started_agent(device: Device, runtime: Runtime, *, threads: int, seed: int, timing: Timing = TIMING) -> Iterator[Agent]:
    """The agent of that runtime, running on the device, with the anchor loaded; ended at the end.

    Raises InputError, RunHeld where the device is being measured, MeasurementFailed.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be from 1 to {MAX_THREADS}, got {threads}")
    if not 0 <= seed < 2**32:
        raise InputError(f"the seed must be from 0 to {2**32 - 1}, got {seed}")
    path = shipped("devices") / "agents" / runtime.agent
    transport: Transport = registry.create("profiling.transports", device.transport)
    connection = transport.start(device, path)
    try:
        try:
            options = device.options.get(runtime.name, {})
            sha256 = connection.agent_sha256 if isinstance(connection, Installed) else agent_sha256(device, path)
            agent = Agent(connection, sha256, threads=threads, seed=seed, timing=timing, options=options, cores=device.cores)
        except Refused as error:
            if error.held_by:
                raise RunHeld(f"{device.name} is being measured by {error.held_by}; wait until it ends or stop it, then run the same command again") from None
            raise MeasurementFailed(f"the agent of {device.name} refused to start: {error}") from None
        _load_anchor(agent, runtime)
        yield agent
    finally:
        connection.close()


def _load_anchor(agent: Agent, runtime: Runtime) -> None:
    """Raises MeasurementFailed: without its anchor no number means anything."""
    graph = Graph.of_block(ANCHOR)
    try:
        agent.load(ANCHOR_ITEM, runtime.build(graph, random_weights(graph, np.random.default_rng(0))))
    except Refused as error:
        raise MeasurementFailed(f"the anchor cannot be run: {error}") from None


def _whoami() -> str:
    """`user@host, process 4711`, for whoever wants the device while we measure on it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name, or Windows without variables
        user = "unknown"
    return "".join(c for c in f"{user[:20]}@{socket.gethostname()[:20]}, process {os.getpid()}" if c.isprintable())


def _facts(data: Any) -> dict[str, str | int | bool]:
    if not isinstance(data, dict) or len(data) > 64 or not all(isinstance(value, str) or _is_whole(value) for value in data.values()):
        raise MeasurementFailed(f"the agent did not say what it runs on: {str(data)[:120]}")
    return {_printable(key)[:64]: value if isinstance(value, int) else _printable(value) for key, value in data.items()}


def _is_whole(value: Any) -> bool:
    """A number that every format holds."""
    return isinstance(value, int) and abs(value) < 2**63


def _printable(text: str) -> str:
    """At most 200 characters of a text from outside, which goes to tables and terminals."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _visit(report: Any, item: str, burst: Burst, crowding_pct: int | None) -> Visit | str:
    runs = burst.runs * max(1, burst.streams)
    if not isinstance(report, dict) or report.get("item") != item:
        raise MeasurementFailed(f"the agent answered a visit of '{item}' with {str(report)[:80]}")
    if isinstance(report.get("error"), str):
        return str(report["error"])[:500]
    ns, anchors, busy_ns = report.get("ns"), report.get("anchor_ns"), report.get("busy_ns")
    if (busy_ns is None) == bool(burst.streams) or (busy_ns is not None and (type(busy_ns) is not int or not 0 < busy_ns <= MAX_NS)):
        raise MeasurementFailed(f"the agent cannot run {max(1, burst.streams)} stream(s) of '{item}' at once, or does not say how long they took")
    times = [*(ns if isinstance(ns, list) else []), *(anchors if isinstance(anchors, list) else []), report.get("wall_ns")]
    if isinstance(ns, list) and len(ns) == runs and 0 in ns:
        return "a run took no time at all: nothing ran, or its end was not waited for"
    if len(times) != runs + 3 or not all(type(each) is int and 0 < each <= MAX_NS for each in times):
        raise MeasurementFailed(f"the agent's times of '{item}' are not {runs} positive whole nanoseconds and two anchors")
    keys = ("at_ns", "cpu_ns", "involuntary", "psi_us", "steal_ms")
    if not set(keys) <= set(report) or type(report["at_ns"]) is not int or not 0 <= report["at_ns"] < 2**63:
        raise MeasurementFailed(f"the agent's record of '{item}' is incomplete: {str(report)[:80]}")
    at_ns, cpu_ns, involuntary, psi_us, steal_ms = (report[key] for key in keys)
    if not all(each is None or (type(each) is int and _is_whole(each)) for each in (cpu_ns, involuntary, psi_us, steal_ms)) or (cpu_ns or 0) < 0:
        raise MeasurementFailed(f"the agent's record of '{item}' is incomplete: {str(report)[:80]}")
    return Visit(item, tuple(times[:runs]), times[runs], times[runs + 1], at_ns, times[runs + 2], cpu_ns, involuntary, psi_us, steal_ms, crowding_pct, busy_ns)
