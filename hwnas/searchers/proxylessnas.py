"""ProxylessNAS by gradient (Cai, Zhu and Han, 2019): weights and architecture parameters by turns, on single paths of the supernet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import cos, log, pi, prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hwnas.errors import InputError
from hwnas.graph import Block
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Problem
from hwnas.searcher import Gates, Gradient, Search, Trace, Train
from hwnas.searchers._logits import Expected, begin, draw, entropy, expectations, likeliest, log_softmax, probabilities, readers, step, through_softmax
from hwnas.space import Codes, FloatArray

ALPHA, BETA = 0.2, 0.3  # of mul#log (official code, its defaults on the command line)
LAMBDA = 0.1  # of add#linear (official code)
FORGETS = 0.05  # of the baseline at each round: momentum 0.95 (TuNAS, Bender et al., 2020, official code)


def proxylessnas(
    problem: Problem,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    paths: Literal["all", "two"] = "all",
    latency: Literal["budget", "mul#log", "add#linear"] = "budget",
    rounds: int = 200,
    steps: int = 5,
    rate: float = 0.05,
    pressure: float = 0.1,
) -> Search:
    """Each of `rounds` trains weights for `steps` steps on paths drawn by the probabilities, and then steps the logits, once, by gates.

    A path is drawn, the loss on validation images is differentiated by its binary gates (section 3.2.1), and so by the probabilities and the logits: by
    those of all values of each choice, or of `two` that are drawn, whose sum stays as it is. The gate of a cell is the product of the binary gates of
    the choices that its layer reads. A choice whose values change the shape of what enters or leaves a layer, the resolution for one, has no gate: its
    logits follow the score function of the same loss, with a baseline.

    latency: how the budgets, on sums over layers, enter the loss, by the exact expectation E and its gradient. `budget` adds m (E / limit - 1) of each, where
    the multiplier m rises by `pressure` times E / limit - 1 in each round and never below 0. `mul#log` multiplies the loss by 0.2 (log E / log limit)^0.3,
    `add#linear` adds 0.1 (E / limit - 1): those of the official code, which keep no budget by themselves.

    Whichever it is, at the end the likeliest subnet within the budgets is asked for, then others that are drawn. rate: of Adam on the logits. Raises
    InputError where layers name their inputs, or where mul#log is asked for a budget or expectation that is not above 1 in its unit.
    """
    if rounds < 1 or steps < 1 or not rate > 0 or not pressure >= 0:
        raise InputError(f"proxylessnas needs rounds >= 1, steps >= 1, rate > 0 and pressure >= 0, got {rounds}, {steps}, {rate:g} and {pressure:g}")
    index = problem.index
    _check(problem, latency)
    has_gates = gated(index)
    begin(state, problem.space, rng)
    state.setdefault("multipliers", np.zeros(len(expectations(problem, probabilities(state["logits"])))))
    state.setdefault("baseline", 0.0)
    while state["round"] < rounds:
        given = probabilities(state["logits"])
        yield Train(partial(draw, given), steps, rate=0.5 * (1 + cos(pi * state["round"] / rounds)))
        code, values = (_drawn if paths == "all" else _two)(state["logits"], has_gates, rng)
        loss, slopes = yield Gradient(binary_gates(index, code, values), paths)
        by_values = by_choice(index, code, values, slopes)
        priced = expectations(problem, given)
        factor, weights = _weighed(priced, latency, loss, state["multipliers"])
        baseline = state["baseline"] or loss
        updates = []
        for column, (chances, looked) in enumerate(zip(given, values, strict=True)):
            by_budgets = sum((weight * each.slopes[column] for weight, each in zip(weights, priced, strict=True)), np.zeros(len(chances)))
            update = np.zeros(len(chances))
            if has_gates[column]:
                among = chances[looked] / chances[looked].sum()
                update[looked] = through_softmax(factor * by_values[column] + by_budgets[looked], among)
            else:
                update = through_softmax(by_budgets, chances) + factor * (loss - baseline) * (np.eye(len(chances))[code[column]] - chances)
            updates.append(update)
        before = [each.copy() for each in state["logits"]]
        step(state, updates, rate)
        if paths == "two":
            _keep_mass(state["logits"], before, values, has_gates)
        if latency == "budget":
            over = np.array([each.value / each.limit - 1 for each in priced])
            state["multipliers"] = np.maximum(state["multipliers"] + pressure * over, 0.0)
        state["baseline"] = baseline + FORGETS * (loss - baseline)
        state["round"] += 1
        yield Trace({"validation loss": loss, "entropy, nats": entropy(given)} | {f"expected {each.name}": each.value for each in priced})
    yield from likeliest(problem, state["logits"], rng)


def gated(index: BlockIndex) -> list[bool]:
    """Which choices have gates: those whose values leave the shapes of what enters and leaves each layer as they are."""
    return [all(_keeps_shapes(index, layer, column) for layer in layers) for column, layers in enumerate(readers(index))]


def binary_gates(index: BlockIndex, code: Codes, values: Sequence[Any]) -> Gates:
    """For `Gradient`: 1 for the cells of an architecture, (choices,), 0 for those in which one choice takes another of `values`, NaN elsewhere."""
    gates = []
    for layer, table in enumerate(index.tables):
        each = np.full(len(table), np.nan)
        for cells in _cells(index, layer, code, values).values():
            each[cells] = 0.0
        each[int(index.cells(code[None], layer)[0])] = 1.0
        gates.append(each)
    return gates


def by_choice(index: BlockIndex, code: Codes, values: Sequence[Any], slopes: Gates) -> list[FloatArray]:
    """Derivatives by the gates of cells -> by those of the choices' values: the sum over the layers that read the choice, in the order of `values`.

    The gate of a cell is the product of the gates of its choices' values, which but for one are 1 where the derivative is taken.
    """
    found = [np.zeros(len(each)) for each in values]
    for layer, each in enumerate(slopes):
        for column, cells in _cells(index, layer, code, values).items():
            found[column] += np.nan_to_num(each[cells])  # NaN where the layer has nothing to decide
    return found


def _cells(index: BlockIndex, layer: int, code: Codes, values: Sequence[Any]) -> dict[int, Any]:
    """For each choice that a layer reads, the cells in which it takes each of `values` and all else is as in the architecture."""
    here, columns = int(index.cells(code[None], layer)[0]), index.columns[layer]
    strides = {column: sum(s for c, s in zip(columns, index.strides[layer], strict=True) if c == column) for column in columns}
    return {column: here + (np.asarray(values[column], np.int64) - int(code[column])) * stride for column, stride in strides.items()}


def _keeps_shapes(index: BlockIndex, layer: int, column: int) -> bool:
    """Whether the values of a choice leave the shapes of a layer's input and output as they are, whatever else it reads."""
    n = int(index.space.cardinalities[column])
    stride = sum(s for c, s in zip(index.columns[layer], index.strides[layer], strict=True) if c == column)
    table = index.tables[layer]
    cells = np.arange(len(table))
    firsts = [cells // s % n == 0 for c, s in zip(index.columns[layer], index.strides[layer], strict=True) if c == column]
    groups = {tuple(table[cell + np.arange(n) * stride].tolist()) for cell in cells[np.logical_and.reduce(firsts)]}
    return all(_alike([index.blocks[block] for block in group]) for group in groups)


def _alike(blocks: Sequence[Block]) -> bool:
    ends = {(block[0].op.input, block[-1].op.output) for block in blocks if block}
    return len(ends) <= 1 and (all(blocks) or all(before == after for before, after in ends))


def _check(problem: Problem, latency: str) -> None:
    for layer in problem.space.layers:
        if layer.after is not None:
            raise InputError(
                f"proxylessnas weighs layers that follow each other, and {layer.name} of {problem.space.name} names its inputs; use proxylessnas_reinforce"
            )
    if latency == "mul#log":
        for each in problem.constraints:
            if isinstance(each.metric, Additive) and not (each.limit > 1 and each.metric.bounds()[0].value > 1):
                raise InputError(
                    f"mul#log takes the logarithm of {each.metric.name} in {each.metric.unit}, so every value and the limit {each.limit:g} must be above 1; "
                    f"use budget or add#linear"
                )


def _drawn(logits: Sequence[FloatArray], has_gates: Sequence[bool], rng: np.random.Generator) -> tuple[Codes, list[Any]]:
    """(an architecture (choices,), for each choice the values whose gates are looked at: all where it has gates)."""
    code = draw(probabilities(logits), rng)[0]
    return code, [np.arange(len(each)) if gates else code[column : column + 1] for column, (each, gates) in enumerate(zip(logits, has_gates, strict=True))]


def _two(logits: Sequence[FloatArray], has_gates: Sequence[bool], rng: np.random.Generator) -> tuple[Codes, list[Any]]:
    """The same with two values of each choice, drawn by their probabilities; one of them, by those two alone, is the architecture's (section 3.2.1)."""
    code, looked = np.empty(len(logits), np.int16), []
    for column, each in enumerate(logits):
        keys = log_softmax(each) + rng.gumbel(size=len(each))  # the largest ones are draws without replacement
        pair = np.argsort(-keys)[:2]
        among = np.exp(log_softmax(each[pair]))
        code[column] = pair[0] if not has_gates[column] or rng.random() < among[0] else pair[-1]
        looked.append(np.sort(pair) if has_gates[column] else pair[:1])
    return code, looked


def _keep_mass(logits: Sequence[FloatArray], before: Sequence[FloatArray], values: Sequence[Any], has_gates: Sequence[bool]) -> None:
    """Shift those that were stepped so that the others are as probable as they were (section 3.2.1)."""
    for now, old, looked, gates in zip(logits, before, values, has_gates, strict=True):
        if gates:
            now[looked] += np.logaddexp.reduce(old[looked]) - np.logaddexp.reduce(now[looked])


def _weighed(priced: Sequence[Expected], latency: str, loss: float, multipliers: FloatArray) -> tuple[float, list[float]]:
    """(the derivative of the whole loss by that on images, its derivative by each expectation)."""
    if latency == "budget":
        return 1.0, [float(multiplier) / each.limit for multiplier, each in zip(multipliers, priced, strict=True)]
    if latency == "add#linear":
        return 1.0, [LAMBDA / each.limit for each in priced]
    factor = ALPHA * prod((log(each.value) / log(each.limit)) ** BETA for each in priced)
    return factor, [factor * loss * BETA / (each.value * log(each.value)) for each in priced]


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = proxylessnas
