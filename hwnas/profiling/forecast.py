"""How long a profile will take, told from a few of its items before it starts: what is not tried yet is predicted from what is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from hwnas.costs import macs
from hwnas.errors import InputError
from hwnas.latency_table import Conditions
from hwnas.predictor import Additive
from hwnas.predictors.gaussian_process import GaussianProcess
from hwnas.profiling.plan import Plan
from hwnas.profiling.protocol import Burst
from hwnas.space import FloatArray

TRIED_NETWORKS = 4


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be measured and about how long that takes, from now on.

    `blocks` and `networks` are to be measured, `predicted` blocks are not, there being no time. `made` visits are on record; from `least_visits`
    to `most_visits` are still to be made: each item is visited until it is settled. The seconds include loading and heating; `most_s` is where nothing
    settles early, `disturbed_s` where other programs keep disturbing. All rest on the blocks and networks that were tried, for `tried_s`.
    """

    conditions: Conditions
    blocks: int
    predicted: int
    networks: int
    made: int
    least_visits: int
    most_visits: int
    least_s: float
    most_s: float
    disturbed_s: float
    tried_blocks: int
    tried_networks: int
    tried_s: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What was seen of the tried items: ns of a run of each, `e0` or `n0`; seconds to load a block and a network that are not loaded yet,
    and from the end of one visit's burst to the beginning of the next."""

    run_ns: Mapping[str, float]
    load_block_s: float
    load_network_s: float
    between_s: float


def tried_networks(plan: Plan) -> list[int]:
    """The networks to try, by number: at most TRIED_NETWORKS, evenly over the ranks of their MACs, both ends among them."""
    order = np.argsort(_network_macs(plan), kind="stable")
    if not len(order):
        return []
    return sorted({int(order[i]) for i in np.linspace(0, len(order) - 1, TRIED_NETWORKS).round().astype(int)})


def predicted_run_s(plan: Plan, run_ns: Mapping[str, float]) -> tuple[FloatArray, FloatArray]:
    """Seconds of a run of each block and of each network of the plan; those tried as they were seen.

    Blocks by a Gaussian process, or where too few were tried by their median; networks by a line through their MACs, or where fewer than two
    were tried in proportion to these.
    """
    tried = {int(item[1:]): ns / 1e9 for item, ns in run_ns.items() if item[0] == "e"}
    blocks = np.full(len(plan.blocks), float(np.median(list(tried.values()))) if tried else 0.0)
    if 0 < len(tried) < len(plan.blocks):
        with suppress(InputError):  # too few: the median says what there is to say
            blocks = GaussianProcess([plan.blocks[i] for i in tried], 1e3 * np.array(list(tried.values()))).predict(plan.blocks).price_ms / 1e3
    for i, seconds in tried.items():
        blocks[i] = seconds
    known, work = {int(item[1:]): ns / 1e9 for item, ns in run_ns.items() if item[0] == "n"}, _network_macs(plan)
    numbers, seen = list(known), np.array(list(known.values()))
    if len({work[i] for i in numbers}) > 1:
        slope, constant = np.polyfit(work[numbers], seen, 1)
        networks = np.maximum(slope * work + constant, seen.min())
    else:
        seconds, of_work = (seen.sum(), work[numbers].sum()) if numbers else (blocks.sum(), float(np.sum(macs(plan.blocks))))
        networks = work * seconds / max(of_work, 1.0)
    networks[numbers] = seen
    return blocks, networks


def forecast(
    plan: Plan,
    names: list[str],
    pace: Pace,
    *,
    conditions: Conditions,
    loaded: set[str],
    bursts: Mapping[str, Burst],
    made: Mapping[str, int],
    tried_s: float,
) -> Forecast:
    """names: of the items to measure. loaded: those that are on the device. bursts: of those for which they are chosen. made: visits on record."""
    timing, most = plan.timing, plan.visits
    least = min(most, timing.least_visits)
    blocks, networks = predicted_run_s(plan, pace.run_ns)
    load_s, counts, seconds = 0.0, [0, 0], [0.0, 0.0]
    for item in names:
        number, is_network = int(item[1:]), item[0] == "n"
        run_s = float((networks if is_network else blocks)[number])
        burst = bursts.get(item) or (timing.network_burst if is_network else timing.block_burst(1e9 * run_s))
        visit_s = pace.between_s + (burst.warmups + burst.runs) * run_s
        if item not in loaded:
            load_s += pace.load_network_s if is_network else pace.load_block_s
        for side, visits in enumerate((least, most)):
            counts[side] += max(0, visits - made.get(item, 0))
            seconds[side] += max(0, visits - made.get(item, 0)) * visit_s
    span_s = timing.least_span_s if most > timing.least_visits else 0.0
    n_networks = sum(item[0] == "n" for item in names)
    most_s = load_s + timing.most_heating_s + max(seconds[1], span_s)
    return Forecast(
        conditions=conditions,
        blocks=len(names) - n_networks,
        predicted=len(plan.blocks) - (len(names) - n_networks),
        networks=n_networks,
        made=sum(made.get(item, 0) for item in names),
        least_visits=counts[0],
        most_visits=counts[1],
        least_s=load_s + max(seconds[0], span_s),
        most_s=most_s,
        disturbed_s=most_s + (timing.most_overrun - 1) * seconds[1] + timing.anchor_wait_s,
        tried_blocks=sum(item[0] == "e" for item in pace.run_ns),
        tried_networks=sum(item[0] == "n" for item in pace.run_ns),
        tried_s=tried_s,
    )


def _network_macs(plan: Plan) -> FloatArray:
    return Additive(plan.index, macs(plan.index.blocks), name="macs", unit="MACs")(plan.networks) if len(plan.networks) else np.zeros(0)
