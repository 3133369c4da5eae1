"""What a tabular benchmark is: a search problem whose answers are all in a table, and what is told of what a search finds in it.

Somebody trained the networks before, so that a search takes milliseconds and every searcher can be run over a hundred seeds. Searchers see
the objective of `problem`, the signal; they are judged by `reported`, which they do not see. Nothing is trained or measured here: times that
a search would have taken are sums of recorded ones, and are called simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwnas.driver import drive
from hwnas.predictor import Metric, Origin
from hwnas.problem import Problem
from hwnas.searcher import Option, Searcher
from hwnas.space import Codes, FloatArray

RUNS = 100
"""Runs of a network on the device, in the simulated time that its measurement takes."""


class Tabulated:
    """A metric that is a table of all codes."""

    def __init__(self, table: FloatArray, *, name: str, unit: str, origin: Origin = "measured", expensive: bool = False):
        """table: an axis for each choice, in their order."""
        self.table, self.name, self.unit, self.expensive = table, name, unit, expensive
        self.origin: Origin = origin

    def __call__(self, codes: Codes) -> FloatArray:
        values: FloatArray = self.table[tuple(codes.T)]
        return values


@dataclass(frozen=True, eq=False)
class TabularBenchmark:
    """A problem of one objective, in percent, with what is reported of its architectures."""

    problem: Problem
    reported: Metric
    best_pct: float
    """The most that `reported` can be within the budgets; where the space is too large to look at, the most that is known."""
    about: str
    """In a sentence: what searchers see, what is reported, and under which budget."""
    data: str
    """Which data it is, see `Columns.digest`."""
    training_s: Metric | None = None
    """Seconds that the training behind each answer took, where they were recorded."""
    latency_ms: Metric | None = None
    """Of each architecture on the device of the budget, where there is one."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The best of one search and when each came: the n-th evaluation gave `codes[i]` where `at[i]` is n. Simulated times are of all evaluations."""

    evaluations: int
    at: npt.NDArray[np.int64]
    codes: Codes
    training_s: float | None = None
    device_s: float | None = None

    def best(self, n: int) -> Codes:
        """The best of the first n evaluations, (1, choices); none, (0, choices), where none of them kept the budgets."""
        row = int(np.searchsorted(self.at, n, side="right"))
        return np.asfortranarray(self.codes[max(row - 1, 0) : row])


def traced(benchmark: TabularBenchmark, searcher: Searcher, *, seed: int, evaluations: int, options: Mapping[str, Option] | None = None) -> Trace:
    """Search once. The first n evaluations are those of a search that is given n. Raises what `drive` raises."""
    result = drive(searcher, benchmark.problem, seed=seed, evaluations=evaluations, options=options)
    kept = result.scores.feasible & (result.fidelity == 1)
    rewards = np.where(kept, benchmark.problem.reward(result.scores), -np.inf)
    records = np.flatnonzero(rewards > np.concatenate([[-np.inf], np.maximum.accumulate(rewards)[:-1]])) if len(rewards) else np.empty(0, np.intp)
    spent = np.ceil(np.cumsum(result.fidelity) - 1e-9).astype(np.int64)
    training = float((benchmark.training_s(result.codes) * result.fidelity).sum()) if benchmark.training_s else None
    device = float(benchmark.latency_ms(result.codes).sum() * RUNS / 1e3) if benchmark.latency_ms else None
    return Trace(int(spent[-1]) if len(spent) else 0, spent[records], np.asfortranarray(result.codes[records]), training, device)


def reported(benchmark: TabularBenchmark, traces: Sequence[Trace], n: int) -> FloatArray:
    """What is reported of the best of each search's first n evaluations, (traces,), in percent; 0 where it had found nothing within the budgets."""
    found = [trace.best(n) for trace in traces]
    values = np.zeros(len(found))
    some = [i for i, code in enumerate(found) if len(code)]
    if some:
        values[some] = benchmark.reported(np.asfortranarray(np.concatenate([found[i] for i in some])))
    return values
