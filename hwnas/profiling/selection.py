"""Which blocks to measure where there is no time for all: those that tell most about the latency of the space's networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.graph import block_text
from hwnas.predictors.gaussian_process import GaussianProcess, Kernel
from hwnas.profiling.plan import Plan
from hwnas.space import FloatArray

FIRST = 32  # blocks that are tried before it is known what the others cost
_SUBNETS = 4_096
_MOST = 2_000  # blocks that are weighed against each other: the time grows with the square


@dataclass(frozen=True, slots=True)
class Cost:
    """What a block costs on this device: seconds to load it, and to visit it as often as is usual: `fixed_s` and `runs` of its latency."""

    load_s: float
    fixed_s: float
    runs: float

    def of(self, price_ms: FloatArray) -> FloatArray:
        return self.load_s + self.fixed_s + self.runs * price_ms / 1e3


def first_blocks(plan: Plan) -> list[int]:
    """The blocks to begin with, by their number in the plan: what is known of them is their sizes alone."""
    if len(plan.blocks) <= FIRST:
        return list(range(len(plan.blocks)))
    kernel = Kernel.assumed(plan.blocks)
    return _greedy(plan, kernel, usage(plan), np.ones(len(plan.blocks)), float(FIRST), [])


def more_blocks(plan: Plan, tried_ms: Mapping[int, float], cost: Cost, left_s: float) -> list[int]:
    """The blocks to measure in `left_s` seconds, those tried among them; all where there is time for all. tried_ms: number -> latency."""
    everything, tried = list(range(len(plan.blocks))), sorted(tried_ms)
    latencies = np.array([tried_ms[i] for i in tried])
    try:
        process = GaussianProcess([plan.blocks[i] for i in tried], latencies)
    except InputError:
        return tried  # too few to tell what others cost
    price_ms = process.predict(plan.blocks).price_ms
    price_ms[tried] = latencies
    cost_s = cost.of(price_ms)
    cost_s[tried] -= cost.load_s
    if cost_s.sum() <= left_s:
        return everything
    return _greedy(plan, process.kernel, usage(plan) * np.square(price_ms), cost_s, left_s - float(cost_s[tried].sum()), tried)


def usage(plan: Plan) -> FloatArray:
    """How many layers of a uniformly drawn subnet run each block of the plan, on average, (blocks,)."""
    index = plan.index
    ids = index.ids(index.space.sample(np.random.default_rng(0), _SUBNETS))
    counts = np.bincount(ids.ravel(), minlength=len(index.blocks)) / _SUBNETS
    by_text: dict[str, float] = {}
    for block, count in zip(index.blocks, counts.tolist(), strict=True):
        by_text[block_text(block)] = by_text.get(block_text(block), 0.0) + count
    return np.array([by_text[block_text(block)] for block in plan.blocks])


def _greedy(plan: Plan, kernel: Kernel, weights: FloatArray, cost: FloatArray, left: float, taken: Sequence[int]) -> list[int]:
    """`taken` and, as long as the cost allows, the block that takes most off the weighted sum of the posterior variances, for its cost."""
    rng = np.random.default_rng(0)
    among = np.arange(len(plan.blocks))
    if len(among) > _MOST:
        among = np.union1d(taken, rng.permutation(among)[:_MOST]).astype(np.intp)
    features = kernel.features([plan.blocks[i] for i in among])
    covariance = kernel(features, features)
    weights, cost = weights[among] + 1e-12, cost[among]
    free = ~np.isin(among, taken)
    for known in np.flatnonzero(~free).tolist():
        _condition(covariance, known, kernel.noise)
    chosen = list(taken)
    while True:
        gain = weights @ np.square(covariance) / (np.diag(covariance) + kernel.noise) / cost
        gain[~free | (cost > left)] = -1.0
        row = int(np.argmax(gain))
        if gain[row] < 0:
            return sorted(chosen)
        free[row] = False
        left -= float(cost[row])
        chosen.append(int(among[row]))
        _condition(covariance, row, kernel.noise)


def _condition(covariance: FloatArray, row: int, noise: float) -> None:
    column = covariance[:, row].copy()
    covariance -= np.outer(column, column) / (column[row] + noise)
