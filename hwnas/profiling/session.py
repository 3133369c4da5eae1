"""Carry out a plan: every item visited in random order, pass by pass, each visit recorded as it comes; then the table is written."""

from __future__ import annotations

import hashlib
import logging
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import __version__, registry
from hwnas.architecture import Architecture
from hwnas.device import Device
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed, WrongClock
from hwnas.graph import Graph, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import TABLE, Entry, Fact, Failure, LatencyTable
from hwnas.predictors.calibrated import LEAST_NETWORKS, assess
from hwnas.profiling.agent import ANCHOR_ITEM, PLAN, Identity, Refused, started_agent
from hwnas.profiling.forecast import Forecast, Pace, forecast, tried_networks
from hwnas.profiling.plan import Plan, make_plan
from hwnas.profiling.precision import other_precision
from hwnas.profiling.protocol import ANCHOR, TIMING, Burst, Timing, Visit, is_slow, speed_states
from hwnas.profiling.record import FILE, Record, TimedBurst, refuse_other_options
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.selection import Cost, first_blocks, more_blocks
from hwnas.profiling.speeds import Speeds
from hwnas.profiling.supervised import SupervisedAgent, clock_step_ns
from hwnas.profiling.tabulate import doubt, is_accepted, is_settled, measurement, network_measurement, steadiness
from hwnas.profiling.time_limit import OutOfTime, TimeLimit
from hwnas.store import Store
from hwnas.table_fill import filled
from hwnas.variant import Variant, variants_of
from hwnas.weights import random_weights

logger = logging.getLogger(__name__)

_BATCH_S = 0.5

#: (stage, done, total)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Items:
    """Names of what is measured: `e0`, `e1`, ... are blocks, `n0`, ... networks. chosen, networks: of these, by number; None are all."""

    plan: Plan
    chosen: Sequence[int] | None = None
    networks: Sequence[int] | None = None
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        blocks = range(len(self.plan.blocks)) if self.chosen is None else self.chosen
        networks = range(len(self.plan.networks)) if self.networks is None else self.networks
        names = [f"e{i}" for i in blocks] + [f"n{i}" for i in networks]
        object.__setattr__(self, "names", names)

    def graph(self, item: str) -> Graph:
        number = int(item[1:])
        return self.plan.index.space.lower(self.plan.networks[number]) if item[0] == "n" else Graph.of_block(self.plan.blocks[number])

    def describe(self, item: str) -> str:
        number = int(item[1:])
        return f"network {self.plan.index.space.decode(self.plan.networks[number])}" if item[0] == "n" else block_text(self.plan.blocks[number])

    def model(self, item: str, runtime: Runtime, seed: int) -> bytes:
        """The same bytes every time. Raises InputError where the runtime has no form of it."""
        graph, number = self.graph(item), int(item[1:]) + (len(self.plan.blocks) if item[0] == "n" else 0)
        return runtime.build(graph, random_weights(graph, np.random.default_rng([seed, 1, number])))


def profile(
    index: BlockIndex,
    device: Device,
    folder: Path,
    *,
    runtime: str = "",
    threads: int = 1,
    visits: int = 16,
    networks: int = 60,
    seed: int = 0,
    timing: Timing = TIMING,
    budget_minutes: float | None = None,
    planned: Callable[[Forecast], None] | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure every distinct block of a space, and `networks` whole ones, on a device; the table, which is then in `folder`.

    Each is visited until its price is settled, `visits` times at most, and as often again where the machine was slow or busy.
    budget_minutes: at most so long. Where that is too short for all blocks, those that tell most are measured, and all networks; the prices of
    the other blocks are predicted from them, in rows that say so. planned: gets what will be measured and about how long that takes, once a
    few items were tried and before the others are loaded; whatever it raises ends the profile.

    The same call again continues where the last one ended and measures nothing twice; where the table is complete it is returned at
    once. runtime: one of the device's, by default its first. Ctrl-C ends after the batch in progress (under a second or so).
    Raises InputError where the folder holds another profile or the runtime does not compute in the precision of the blocks, RunHeld
    where another process writes there or measures on the device,
    DamagedFile, MeasurementFailed, KeyboardInterrupt.
    """
    report, begun_s = progress or (lambda stage, done, total: None), time.monotonic()
    folder = Path(folder)
    asked: dict[str, Fact] = {"device": device.name, "space": index.fingerprint, "threads": threads, "visits": visits, "networks": networks, "seed": seed}
    asked["regime"] = timing.regime
    if budget_minutes is not None:  # the time is filled: nothing is left to wait in
        asked["budget_minutes"] = float(budget_minutes)
        timing = replace(timing, least_span_s=0.0)
    asked["least_span_s"] = timing.least_span_s
    made: Runtime = registry.create("profiling.runtimes", device.runtime(runtime))
    if (folder / TABLE).exists():
        table = LatencyTable.load(folder)
        known = {name: getattr(table.conditions, name) for name in ("device", "threads", "regime")}
        known["cores"] = table.conditions.options.get("cores", "any")
        given = {f"option {name}": value for name, value in device.options.get(made.name, {}).items() if name in table.conditions.options}
        in_force = {f"option {name}": value for name, value in table.conditions.options.items()}  # `device` is the name of one of them, too
        known |= {**table.protocol, **in_force, "runtime": table.conditions.runtime}
        refuse_other_options(known, {**asked, "cores": device.cores or "any", "runtime": made.name, **given}, folder)
        logger.info("%s holds the complete table of this profile already", folder)
        report("complete", len(table.entries), len(table.entries))
        return table
    plan = make_plan(index, visits=visits, networks=networks, seed=seed, timing=timing)
    everything = _Items(plan)
    if made.granularity != "block":
        raise InputError(f"{made.name} has rows per {made.granularity}; only tables of blocks are measured")
    supervised = SupervisedAgent(
        lambda: started_agent(device, made, threads=threads, seed=seed, timing=timing), lambda item: everything.model(item, made, seed)
    )
    with supervised as agent, _deferred_interrupt() as interrupted:
        _try_precision(agent, made, plan, device)
        with Store(folder / FILE) as store:  # only now: what cannot be begun leaves no folder
            record = Record(store)
            limit = TimeLimit(record, budget_minutes, begun_s=begun_s)
            check = limit.checking(interrupted)
            record.bind(asked | agent.identity.facts)
            items = _Items(plan, record.chosen)
            step_ns, began_s = clock_step_ns(agent), time.monotonic()
            with suppress(OutOfTime), _believed(record):
                if budget_minutes is not None and record.chosen is None:
                    record.choose(_choose(agent, made, plan, record, seed, limit, report, check))
                    items = _Items(plan, record.chosen)
                if planned is not None:
                    planned(_forecast(agent, made, items, record, device, threads, seed, began_s, report, check))
                _load(agent, made, items, record, seed, report, check)
                _heat(agent, timing, report, check)
                _pilot(agent, items, record, check)
                _measure(agent, items, record, seed, report, check)
            _tabulate(items, record, agent.identity, asked, step_ns).save(folder)
    return LatencyTable.load(folder)


@contextmanager
def _believed(record: Record) -> Iterator[None]:
    """What a clock timed that turns out to be wrong does not count, in this call or a later one."""
    try:
        yield
    except WrongClock as error:
        record.disbelieve()
        raise WrongClock(f"{error}; no visit that is on record counts: mend the device's clock, then run the same command again") from None


class _Planned(Exception):
    """Raised where a forecast was all that was wanted."""


def plan_profile(
    index: BlockIndex,
    device: Device,
    folder: Path | None = None,
    *,
    runtime: str = "",
    threads: int = 1,
    visits: int = 16,
    networks: int = 60,
    seed: int = 0,
    timing: Timing = TIMING,
    budget_minutes: float | None = None,
    progress: Progress | None = None,
) -> Forecast:
    """What `profile` would measure with these arguments and about how long that would take, from trying a few items for some seconds.

    folder: where an unfinished profile may be, of which what is on record counts; without one nothing is written. Raises as `profile` does.
    """
    if folder is not None and (folder / TABLE).exists():
        raise InputError(f"{folder} holds a complete table, to which nothing will be added; name another folder, or none")
    found: list[Forecast] = []

    def stop(forecast: Forecast) -> None:
        found.append(forecast)
        raise _Planned

    with tempfile.TemporaryDirectory(prefix="hwnas-plan-") as scratch:
        place = folder if folder is not None and (folder / FILE).exists() else Path(scratch)
        options: dict[str, Any] = {"visits": visits, "networks": networks, "seed": seed, "timing": timing, "budget_minutes": budget_minutes}
        with suppress(_Planned):
            profile(index, device, place, runtime=runtime, threads=threads, planned=stop, progress=progress, **options)
    if not found:
        raise InputError(f"the {budget_minutes:g} minutes of --budget-minutes are over before a few items are tried; give more")
    return found[0]


def _forecast(
    agent: SupervisedAgent,
    runtime: Runtime,
    items: _Items,
    record: Record,
    device: Device,
    threads: int,
    seed: int,
    began_s: float,
    report: Progress,
    check: Callable[[], None],
) -> Forecast:
    """Load and run a few of the items, which is part of the profile, and tell from them how long it takes. began_s: when that began."""
    plan, timing = items.plan, items.plan.timing
    chosen = set(items.names)
    few = _Items(plan, [i for i in first_blocks(plan) if f"e{i}" in chosen], tried_networks(plan))
    _load(agent, runtime, few, record, seed, lambda stage, done, total: report("try", done, total), check)
    look = [ANCHOR_ITEM] * 8
    asked_s = time.monotonic()
    looks = agent.visit(look, {ANCHOR_ITEM: Burst(timing.anchor_warmups, timing.anchor_runs)})
    between_s = (time.monotonic() - asked_s - sum(visit.wall_ns / 1e9 for visit in looks if isinstance(visit, Visit))) / len(look)
    new = [item for item in few.names if item not in record.bursts and item not in record.failures]
    bursts, failures = _tried(agent, timing, new, check)
    if not timing.most_heating_s:  # a device that is to be heated first is tried again when it is hot
        _keep(record, bursts, failures)
    known = {**record.bursts, **bursts}
    load_s = [[seconds for item, seconds in agent.load_s.items() if item[0] == kind] or [0.0] for kind in "en"]
    pace = Pace({item: known[item].run_ns for item in items.names if item in known}, float(np.median(load_s[0])), float(np.mean(load_s[1])), between_s)
    return forecast(
        plan,
        [item for item in items.names if item not in record.failures and item not in failures],
        pace,
        conditions=agent.identity.conditions(device.name, threads, timing),
        loaded=agent.loaded,
        bursts={item: each.burst for item, each in known.items()},
        made=Counter(visit.item for visit in record.visits),
        tried_s=time.monotonic() - began_s,
    )


def _try_precision(agent: SupervisedAgent, runtime: Runtime, plan: Plan, device: Device) -> None:
    """Where all blocks are in one precision other than fp32, have the runtime load one convolution in it. Raises InputError where it computes in another."""
    precisions = {variant.precision for variant in variants_of(map(block_text, plan.blocks))}
    if len(precisions) != 1 or precisions == {"fp32"}:
        return
    (precision,) = precisions
    graph = Graph.of_block(Variant(precision).block(ANCHOR))
    try:
        reason = other_precision(graph, agent.load("precision", runtime.build(graph, random_weights(graph, np.random.default_rng(0))), kept=False))
    except Refused as error:
        reason = str(error)
    if reason is not None:
        where = f"{agent.identity.runtime} {agent.identity.version} on {device.name}"
        raise InputError(f"{where} does not compute in {precision}: {reason[:300]}; choose another --precision, or a device with another runtime")


def _choose(
    agent: SupervisedAgent, runtime: Runtime, plan: Plan, record: Record, seed: int, limit: TimeLimit, report: Progress, check: Callable[[], None]
) -> list[int]:
    """The numbers of the blocks that there is time for: networks and a few blocks are tried, and from these it is known what the others cost."""
    timing, first = plan.timing, _Items(plan, first_blocks(plan))
    _load(agent, runtime, _Items(plan, ()), record, seed, report, check)
    before_s = limit.left_s
    _load(agent, runtime, first, record, seed, report, check)
    load_s = (before_s - limit.left_s) / max(len(first.chosen or ()), 1)
    _heat(agent, timing, report, check)
    _pilot(agent, first, record, check)
    (look,) = agent.visit([ANCHOR_ITEM], {ANCHOR_ITEM: Burst(timing.anchor_warmups, timing.anchor_runs)})
    anchors_s = 2.5 * look.wall_ns / 1e9 if isinstance(look, Visit) else 0.0  # two, and what lies between visits
    visits = min(plan.visits, timing.least_visits)
    networks = [record.bursts[item] for item in first.names if item[0] == "n" and item in record.bursts]
    networks_s = visits * sum(anchors_s + (each.burst.warmups + each.burst.runs) * each.run_ns / 1e9 for each in networks)
    cost = Cost(load_s, visits * (anchors_s + timing.block_burst_ms / 1e3), visits * (timing.block_warmups + timing.block_least_runs / 2))
    tried_ms = {int(item[1:]): record.bursts[item].run_ns / 1e6 for item in first.names if item[0] == "e" and item in record.bursts}
    return more_blocks(plan, tried_ms, cost, limit.left_s - networks_s)


def _load(agent: SupervisedAgent, runtime: Runtime, items: _Items, record: Record, seed: int, report: Progress, check: Callable[[], None]) -> None:
    """Build each model, hand it over, forget it. What the runtime cannot run becomes a failure, and so does what ends the agent.

    A connection that breaks is no fault of the model, unless it breaks at the same one again. Where the device builds something of the
    model, a resumed profile builds it again and may get something else: what was measured of the former is then measured anew.
    """
    failures: dict[str, str] = {}
    plans: dict[str, str] = {}
    try:
        for number, item in enumerate(items.names):
            report("load", number, len(items.names))
            check()
            if item in record.failures or item in agent.loaded:
                continue
            try:
                begin_s = time.monotonic()
                facts = agent.load(item, items.model(item, runtime, seed))
                agent.load_s[item] = time.monotonic() - begin_s
                if (reason := other_precision(items.graph(item), facts)) is not None:
                    failures[item] = reason
                if plan := facts.get(PLAN):
                    plans[item] = str(plan)
            except (InputError, Refused) as error:
                failures[item] = str(error)
            except ConnectionLost as error:
                if item not in record.lost:
                    record.add_lost(item)
                    raise
                failures[item] = str(error)
                raise MeasurementFailed(f"{error}; it was given {items.describe(item)}, which the same command leaves out the next time") from None
    finally:
        if failures:
            record.add([], failures)
    report("load", len(items.names), len(items.names))
    if again := record.add_plans(plans):
        logger.warning("%d visits are made again: %s chose other tactics for their models this time", again, runtime.name)


def _heat(agent: SupervisedAgent, timing: Timing, report: Progress, check: Callable[[], None]) -> None:
    """Ctrl-C and the end of the time are heard meanwhile."""

    def told(seconds: float) -> None:
        check()
        report("heat", int(seconds), int(timing.most_heating_s))

    agent.heat(told)


def _pilot(agent: SupervisedAgent, items: _Items, record: Record, check: Callable[[], None]) -> None:
    """Run each item a few times, uncounted, to choose how many runs make its bursts."""
    new = [item for item in items.names if item not in record.bursts and item not in record.failures]
    _keep(record, *_tried(agent, items.plan.timing, new, check))


def _tried(agent: SupervisedAgent, timing: Timing, new: Sequence[str], check: Callable[[], None]) -> tuple[dict[str, TimedBurst], dict[str, str]]:
    """(item -> what makes its bursts, item -> why it cannot be run)."""
    bursts: dict[str, TimedBurst] = {}
    failures: dict[str, str] = {}
    for start in range(0, len(new), 64):
        check()
        chunk = new[start : start + 64]
        tries = {item: timing.block_burst() if item[0] == "e" else timing.network_burst for item in chunk}
        for item, visit in zip(chunk, agent.visit(chunk, tries, expected_s=10.0), strict=True):
            if isinstance(visit, str):
                failures[item] = visit
                continue
            burst = timing.network_burst if item[0] == "n" else timing.block_burst(min(visit.ns))
            # An agent with a coarse clock runs more often than it is asked to: what a run costs is seen from the whole burst.
            bursts[item] = TimedBurst(burst, max(min(visit.ns), visit.wall_ns // (tries[item].warmups + tries[item].runs)))
    return bursts, failures


def _keep(record: Record, bursts: Mapping[str, TimedBurst], failures: Mapping[str, str]) -> None:
    if failures:
        record.add([], failures)
    if bursts:
        record.add_bursts(bursts)


def _measure(agent: SupervisedAgent, items: _Items, record: Record, seed: int, report: Progress, check: Callable[[], None]) -> None:
    """`visits` passes over the items that are not settled; then as many more at most, over the blocks not yet measured often enough at the
    best speed and alone, until the time that was planned is overrun. The first passes are spread over the least span, waiting in between."""
    timing = items.plan.timing
    patience_s, begin, planned_s = timing.anchor_wait_s, time.monotonic(), _planned_s(items, record)
    visits = items.plan.visits
    pause_s = timing.least_span_s / max(timing.least_visits - 1, 1) if visits > timing.least_visits else 0.0
    made, spread_from, waited_s = 0, begin, 0.0
    for number in range(2 * visits):
        if number >= visits and time.monotonic() - begin - waited_s > timing.most_overrun * planned_s:
            break
        queue = _due(items, record, number)
        if queue and made < timing.least_visits:
            waited_s += _wait_until(spread_from + made * pause_s, check) if made else 0.0
            made += 1
        np.random.default_rng([seed, 2, number]).shuffle(queue)
        while queue:
            check()
            batch = _batch(queue, record)
            report("measure", len(record.visits), len(record.visits) + len(queue) + len(batch) + _planned_after(items, record, number))
            if number >= visits:  # networks are visited in the passes before: they are measured at whatever speed there is
                patience_s -= _wait_for_speed(agent, record, patience_s, check)
            taken = agent.visit(batch, {item: each.burst for item, each in record.bursts.items()}, expected_s=4 * _BATCH_S)
            failures = {item: visit for item, visit in zip(batch, taken, strict=True) if isinstance(visit, str)}
            record.add([visit for visit in taken if not isinstance(visit, str)], failures)
            queue = [item for item in queue if item not in record.failures]
        if made == 1:
            spread_from = time.monotonic()  # so that the last of these passes lies the whole span behind the first one
    report("measure", len(record.visits), len(record.visits))


def _wait_until(moment_s: float, check: Callable[[], None]) -> float:
    """Seconds waited until a moment of the monotonic clock."""
    begin = time.monotonic()
    while (left_s := moment_s - time.monotonic()) > 0:
        check()
        time.sleep(min(left_s, 0.1))
    return time.monotonic() - begin


def _due(items: _Items, record: Record, number: int) -> list[str]:
    """The visits of pass `number` that are still to be made, so that an interrupted pass is continued and not begun anew."""
    made = Counter(visit.item for visit in record.visits)
    accepted: Counter[str] = Counter()
    if number >= items.plan.visits and record.visits:
        best = best_anchor_ns(record.visits)
        accepted.update(visit.item for visit in record.visits if is_accepted(visit, best, items.plan.timing))
    due: list[str] = []
    settled = _settled(items, record)
    for item in items.names:
        if item in record.failures or item in settled or made[item] > number:
            continue
        if number < items.plan.visits or (item[0] == "e" and accepted[item] < items.plan.visits):
            due.append(item)
    return due


def _settled(items: _Items, record: Record) -> set[str]:
    """Items that need no more visits; none before the visits are spread over some time."""
    if not record.visits or record.visits[-1].at_ns - record.visits[0].at_ns < 1e9 * items.plan.timing.least_span_s:
        return set()
    by_item = _by_item(record.visits)
    best = best_anchor_ns(record.visits)
    return {item for item, visits in by_item.items() if is_settled(visits, best, network=item[0] == "n", timing=items.plan.timing)}


def _by_item(visits: Sequence[Visit]) -> dict[str, list[Visit]]:
    by_item: dict[str, list[Visit]] = {}
    for visit in visits:
        by_item.setdefault(visit.item, []).append(visit)
    return by_item


def _planned_s(items: _Items, record: Record) -> float:
    """How long the visits of the whole plan run on this device."""
    bursts = [record.bursts[item] for item in items.names if item in record.bursts]
    return items.plan.visits * sum((each.burst.warmups + each.burst.runs) * each.run_ns for each in bursts) / 1e9


def _planned_after(items: _Items, record: Record, number: int) -> int:
    per_pass = sum(item not in record.failures for item in items.names)
    return per_pass * max(0, items.plan.visits - number - 1)


def _batch(queue: list[str], record: Record) -> list[str]:
    """Take the next visits, half a second of them, off the queue."""
    batch: list[str] = []
    seconds = 0.0
    while queue and seconds < _BATCH_S:
        batch.append(queue.pop(0))
        timed = record.bursts[batch[-1]]
        seconds += (timed.burst.warmups + timed.burst.runs) * timed.run_ns / 1e9
    return batch


def _wait_for_speed(agent: SupervisedAgent, record: Record, patience_s: float, check: Callable[[], None]) -> float:
    """Where the last visits saw a slow state, wait until the anchor is back at its best, at most so long; the seconds waited."""
    start = time.monotonic()
    if not record.visits or not is_slow([best_anchor_ns(record.visits), record.visits[-1].anchor_after_ns])[1]:
        return 0.0
    best = best_anchor_ns(record.visits)
    while (waited := time.monotonic() - start) < patience_s:
        check()
        time.sleep(0.05)
        (look,) = agent.visit([ANCHOR_ITEM], {ANCHOR_ITEM: Burst(TIMING.anchor_warmups, TIMING.anchor_runs)})
        if isinstance(look, Visit) and is_accepted(look, best):
            break
    return waited


def best_anchor_ns(visits: Sequence[Visit]) -> int:
    return min(min(visit.anchor_before_ns, visit.anchor_after_ns) for visit in visits)


def _tabulate(items: _Items, record: Record, identity: Identity, asked: Mapping[str, Fact], step_ns: int) -> LatencyTable:
    plan = items.plan
    index, space = plan.index, plan.index.space
    fingerprint = index.fingerprint
    timing, by_item = plan.timing, _by_item(record.visits)
    if not record.visits:
        nothing = f"the {asked['budget_minutes']:g} minutes of --budget-minutes were over before" if "budget_minutes" in asked else "the plan is empty"
        reason = next(iter(record.failures.values()), nothing)
        raise MeasurementFailed(f"nothing could be measured: {reason}")
    best = best_anchor_ns(record.visits)
    entries: dict[str, Entry] = {}
    for number, block in enumerate(plan.blocks):
        item = f"e{number}"
        own = by_item.get(item, [])
        failure = record.failures.get(item) or (doubt(own, step_ns) if own else None)
        if failure is not None:
            entries[block_text(block)] = Failure(failure)
        elif own:
            entries[block_text(block)] = measurement(own, best, timing)
    networks = []
    for number, code in enumerate(plan.networks):
        item = f"n{number}"
        if item not in record.failures and doubt(by_item.get(item, []), step_ns) is None:
            networks.append(network_measurement(Architecture.of(space, code), fingerprint, by_item.get(item, []), timing))
    regime_facts = {key: value for key, value in asked.items() if key not in ("device", "threads", "regime")}
    table = LatencyTable(
        identity.conditions(str(asked["device"]), int(asked["threads"]), timing),
        entries,
        tuple(each for each in networks if each is not None),
        origin=identity.origin,
        protocol={**regime_facts, **timing.describe(), "price": "p25 over accepted visits of the burst's best run"},
        provenance={
            "by": f"hwnas {__version__}",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "space": space.name,
            "agent_sha256": identity.agent_sha256,
            **({"plans_sha256": _plans_sha256(items, record)} if record.plans else {}),
            **{f"system_{key}": value for key, value in identity.system.items()},
        },
        anchor=_anchor_facts(record.visits, best) | ({"visits": steadiness(blocks, best, timing)} if (blocks := _blocks_of(items, by_item)) else {}),
    )
    if "budget_minutes" in asked:
        try:
            table = filled(table, plan.blocks)
        except InputError as error:
            logger.warning("the blocks that were not measured have no price: %s", error)
    if len(table.networks) < LEAST_NETWORKS:
        return table
    try:
        return replace(table, quality={**assess(table, index), **table.quality})
    except InputError as error:
        logger.warning("this table prices no budget: %s", error)
        return table


def _plans_sha256(items: _Items, record: Record) -> str:
    """Of a line `plan's hash, block or network` for each item of which the device built something, sorted."""
    lines = sorted(f"{plan} {items.describe(item)}\n" for item, plan in record.plans.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _anchor_facts(visits: Sequence[Visit], best: int) -> dict[str, Any]:
    states = speed_states([visit.anchor_ns for visit in visits])
    seen = Speeds.seen([visit.at_ns / 1e9 for visit in visits], [visit.anchor_ns for visit in visits])
    kept = {"dwell_s": round(seen.dwell_s, 1), "slow_share": round(seen.slow_share, 4)}
    return {"block": block_text(ANCHOR), "best_us": best / 1e3, "states": [asdict(state) for state in states], **kept}


def _blocks_of(items: _Items, by_item: Mapping[str, list[Visit]]) -> dict[str, list[Visit]]:
    """Text -> visits of the blocks that were measured."""
    return {items.describe(item): visits for item, visits in by_item.items() if item[0] == "e"}


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Ctrl-C is heard between batches: the yielded function raises KeyboardInterrupt if it was pressed. A second one is heard at once."""
    pressed = threading.Event()

    def press(number: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
