"""Architecture parameters as searches by gradient have them: one logit for each value of each choice, choices independent.

Probabilities are their softmax. What is drawn by them, how they are stepped, and the likeliest architectures within the budgets.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hwnas.errors import InputError
from hwnas.exact import optimum
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes, FloatArray, SearchSpace

#: For each choice, a number for each of its values.
Logits = Sequence[FloatArray]

SPREAD = 1e-3  # of the first logits (official code of ProxylessNAS)
DECAY = 0.999  # of Adam's second moments; there is no first one: beta1 = 0 (ProxylessNAS and TuNAS, official codes)
EPSILON = 1e-8
ASKED_AT_ONCE = 8  # of those that are drawn when the search is over
DRAWN_AT_ONCE = 256
BARREN = 20  # rounds of drawing in a row without a new subnet, after which there is next to nothing left to find


def begin(state: MutableMapping[str, Any], space: SearchSpace, rng: np.random.Generator) -> None:
    """First logits, and no moments, in the state of a search that has none yet."""
    if "logits" not in state:
        state["logits"] = [rng.normal(0, SPREAD, int(size)) for size in space.cardinalities]
        state["squares"] = [np.zeros(int(size)) for size in space.cardinalities]
        state["round"] = 0


def log_softmax(logits: FloatArray) -> FloatArray:
    """Logarithms of probabilities; larger by a constant, logits mean the same."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def probabilities(logits: Logits) -> list[FloatArray]:
    """Of each choice's values."""
    return [np.exp(log_softmax(each)) for each in logits]


def entropy(given: Sequence[FloatArray]) -> float:
    """Of an architecture whose choices have these probabilities, in nats."""
    return float(sum(-(each * np.log(np.maximum(each, 1e-300))).sum() for each in given))


def draw(given: Sequence[FloatArray], rng: np.random.Generator, n: int = 1) -> Codes:
    """n architectures, each choice by its probabilities, (n, choices), column-major."""
    codes = np.empty((n, len(given)), np.int16, order="F")
    for column, each in enumerate(given):
        codes[:, column] = np.minimum(np.searchsorted(np.cumsum(each), rng.random(n), side="right"), len(each) - 1)
    return codes


def through_softmax(slopes: FloatArray, given: FloatArray) -> FloatArray:
    """Derivatives by probabilities -> by logits: sum over j of slope[j] * p[j] * (1 where i = j, else 0, minus p[i]) (ProxylessNAS, equation 4)."""
    return np.asarray(given * (slopes - slopes @ given))


def step(state: MutableMapping[str, Any], slopes: Logits, rate: float) -> None:
    """One step of Adam down the slopes (derivatives by logits), without momentum. Call it once in a round, whose number it is corrected by."""
    for logits, squares, slope in zip(state["logits"], state["squares"], slopes, strict=True):
        squares *= DECAY
        squares += (1 - DECAY) * slope**2
        logits -= rate * slope / (np.sqrt(squares / (1 - DECAY ** (state["round"] + 1))) + EPSILON)


def readers(index: BlockIndex) -> list[list[int]]:
    """For each choice, the layers that read it."""
    return [[layer for layer, columns in enumerate(index.columns) if column in columns] for column in range(len(index.space.choices))]


def likelihood(index: BlockIndex, logits: Logits) -> Additive:
    """The logarithm of how likely a subnet is to be drawn, as a sum over layers.

    A choice that one layer alone reads is summed over the values that build the same block: where a block is skipped, its kernel is no
    decision. A choice that several layers read counts at the first of them.
    """
    logs, counted = [log_softmax(each) for each in logits], readers(index)
    prices = []
    for layer, (table, columns) in enumerate(zip(index.tables, index.columns, strict=True)):
        names = list(dict.fromkeys(columns))
        stride = {column: sum(s for c, s in zip(columns, index.strides[layer], strict=True) if c == column) for column in names}
        values = {column: _values(index, layer, column) for column in names}
        own = [column for column in names if counted[column] == [layer]]
        alone = sum((logs[column][values[column]] for column in own), np.zeros(len(table)))
        shared = sum((logs[column][values[column]] for column in names if column not in own and counted[column][0] == layer), np.zeros(len(table)))
        rest = np.arange(len(table)) - sum((values[column] * stride[column] for column in own), np.zeros(len(table), np.int64))
        _, group = np.unique(np.stack([rest, table.astype(np.int64)]), axis=1, return_inverse=True)
        together = np.full(int(group.max()) + 1, -np.inf)
        np.logaddexp.at(together, group.ravel(), alone)
        prices.append(together[group.ravel()] + shared)
    return Additive(index, prices, name="log-likelihood", unit="nats")


def _values(index: BlockIndex, layer: int, column: int) -> Any:
    """The code of a choice in each cell of a layer that reads it, (cells,)."""
    stride = index.strides[layer][index.columns[layer].index(column)]
    return np.arange(len(index.tables[layer])) // stride % int(index.space.cardinalities[column])


def likeliest(problem: Problem, logits: Logits, rng: np.random.Generator) -> Search:
    """Asks for the likeliest subnet within the budgets, which is exact where they are sums over layers, then for others that are drawn and within them.

    Ends when 20 rounds of drawing brought no new one.
    """
    metric, given = likelihood(problem.index, logits), probabilities(logits)
    asked: set[bytes] = set()

    def new(codes: Codes) -> Codes:
        fresh = problem.index.distinct(codes[problem.within(codes)])
        kept = [key not in asked for key in problem.index.keys(fresh)]
        fresh = np.asfortranarray(fresh[kept])
        return np.asfortranarray(fresh[np.argsort(-metric(fresh), kind="stable")[:ASKED_AT_ONCE]])

    try:
        best = optimum(Problem(problem.index, [Objective(metric, maximize=True)], problem.budgets)).code
    except InputError:  # a budget that is no sum over layers
        best = new(problem.repaired(draw(given, rng, DRAWN_AT_ONCE), rng))[:1]
    asked.update(problem.index.keys(best))
    yield Ask(best)
    barren = 0
    while barren < BARREN:
        drawn = draw(given, rng, DRAWN_AT_ONCE)
        codes = new(drawn)
        if len(codes) < ASKED_AT_ONCE:
            codes = new(np.asfortranarray(np.concatenate([codes, problem.repaired(drawn, rng)])))
        barren = 0 if len(codes) else barren + 1
        if len(codes):
            asked.update(problem.index.keys(codes))
            yield Ask(codes)


class Expected(NamedTuple):
    """What a budget's metric comes to, on average."""

    name: str
    """With the unit."""
    value: float
    limit: float
    slopes: list[FloatArray]
    """Its derivatives by the probabilities."""


def expectations(problem: Problem, given: Sequence[FloatArray]) -> list[Expected]:
    """Of each budget on a sum over layers, exactly, where choices have these probabilities."""
    summed = [each for each in problem.constraints if isinstance(each.metric, Additive)]
    return [Expected(f"{each.metric.name}, {each.metric.unit}", (found := each.expected(given))[0], each.limit, found[1]) for each in summed]
