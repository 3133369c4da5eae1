"""Exact search where objective and budgets are sums over layers: the whole Pareto front, or one optimum with its proof.

Two independent ways, tied by test. `pareto_front` is a dynamic programme: layers that share no choice, once the shared ones are
fixed, have fronts of their own, and the front of a sum lies within the sum of the fronts. `solve` is a mixed-integer linear
programme for SciPy's HiGHS: it takes several budgets, and layers that hang together in any way. A budget on the largest layer (peak
memory) only forbids blocks, in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from hwnas.budget import Budget
from hwnas.errors import InputError
from hwnas.feasible_set import Constraint, infeasible
from hwnas.index import BlockIndex
from hwnas.milp import Programme
from hwnas.predictor import Additive, Layerwise, Metric, Peak
from hwnas.problem import Problem
from hwnas.space import Codes, FloatArray

_ENUMERATED = 4_096  # cells: groups of layers up to this size are listed, larger ones are split by fixing a choice
_MAX_WORK = 50_000_000  # cells listed in all; beyond it the layers do not separate
_MAX_SUMS = 1 << 27  # sums formed in all, some ten seconds; metrics that rank alike have fronts that grow without end
_MOST_AT_ONCE = 1 << 23  # sums held at a time: half a gigabyte
_LEVELS_AT_ONCE = 5  # at most 32 x 32 runs of points to begin with


class FrontTooLarge(InputError):
    """The whole front would take too long; `solve` takes one budget at a time."""


@dataclass(frozen=True, slots=True)
class Front:
    """Every architecture that none other beats in both metrics, from cheap to costly; of equal ones one."""

    codes: Codes
    """(n, choices), column-major; choices that no layer reads are 0."""
    values: FloatArray
    """The objective of each, (n,)."""
    costs: FloatArray
    """The cost of each, (n,), rising."""

    def within(self, limit: float) -> Front:
        """The part of the front that costs at most `limit`; its last row is the best architecture within that budget."""
        inside = self.costs <= limit
        return Front(np.asfortranarray(self.codes[inside]), self.values[inside], self.costs[inside])

    def __len__(self) -> int:
        return len(self.costs)


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best architecture, and why no other is better."""

    code: Codes
    """(1, choices)"""
    value: float
    """Its objective."""
    bound: float
    """No feasible architecture has an objective beyond this."""
    proof: str
    """What the bound rests on, in words."""

    @property
    def gap(self) -> float:
        """How much better another architecture could be at most, in the objective's unit."""
        return abs(self.bound - self.value)


# -- the whole front ----------------------------------------------------------------------------------------------------------


def pareto_front(objective: Additive, cost: Additive, *, maximize: bool = True, within: Sequence[tuple[Budget, Peak]] = ()) -> Front:
    """The exact front of all architectures: `objective` maximised (or minimised) against `cost` minimised.

    within: budgets on the largest layer, which forbid every block above them; the front is empty where they leave nothing.
    Points that differ by rounding alone (5e-15 of the largest sum for twenty layers) count as equal; values and costs returned are
    those of the metrics themselves. Raises FrontTooLarge where the layers hang together too much or the front has too many points,
    and InputError where the metrics are not of one index or not finite, or a limit is not positive.
    """
    index = _one_index([objective, cost, *(metric for _, metric in within)])
    work = _work(index, [], range(len(index.columns)))
    if work > _MAX_WORK:
        raise FrontTooLarge(
            f"the layers of {index.space.name} share too many choices for its whole front: {work:,} combinations remain after splitting, "
            f"over the limit of {_MAX_WORK:,}; solve it for one budget at a time"
        )
    fronts = _Fronts(index, objective, cost, 1.0 if maximize else -1.0, _allowed(index, within))
    front = fronts.of([], index.space.smallest()[0], range(len(index.columns)))
    codes = np.asfortranarray(front.codes)
    values, costs = objective(codes), cost(codes)
    order = np.argsort(costs, kind="stable")
    return Front(np.asfortranarray(codes[order]), values[order], costs[order])


@dataclass(frozen=True, slots=True)
class _Points:
    """Points that do not dominate each other, cheapest first, with the codes (n, choices) that attain them."""

    values: FloatArray
    costs: FloatArray
    codes: Codes


class _Fronts:
    """Fronts of groups of layers under fixed choices. The value is `sign` times the objective, maximised."""

    def __init__(self, index: BlockIndex, objective: Additive, cost: Additive, sign: float, allowed: Sequence[npt.NDArray[np.bool_]]):
        """allowed: by layer, which of its cells may be used."""
        self.index, self.allowed = index, allowed
        self.values = [sign * cells for cells in objective.cells]  # by layer and cell
        self.costs = cost.cells
        self.rounding = _rounding(objective), _rounding(cost)
        self.sums = 0

    def of(self, fixed: Sequence[int], setting: npt.NDArray[np.int16], layers: Iterable[int]) -> _Points:
        """The front of these layers together; setting: a code (choices,) whose `fixed` columns hold."""
        parts = [self._group(fixed, setting, columns, group) for columns, group in _groups(self.index, fixed, layers)]
        while len(parts) > 1:  # the two smallest first: sums of small fronts are small
            parts.sort(key=lambda part: len(part.costs))
            parts = [*parts[2:], self._sum(parts[0], parts[1])]
        return parts[0]

    def _group(self, fixed: Sequence[int], setting: npt.NDArray[np.int16], columns: Sequence[int], layers: Sequence[int]) -> _Points:
        if _cells(self.index, columns) <= _ENUMERATED:
            return self._listed(setting, columns, layers)
        split = _split(self.index, fixed, columns, layers)
        parts = []
        for code in range(int(self.index.space.cardinalities[split])):
            here = setting.copy()
            here[split] = code
            parts.append(self.of([*fixed, split], here, layers))
        return self._undominated(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "costs", "codes")))

    def _listed(self, setting: npt.NDArray[np.int16], columns: Sequence[int], layers: Sequence[int]) -> _Points:
        shape = [int(self.index.space.cardinalities[c]) for c in columns]
        codes = np.repeat(setting[None], prod(shape), axis=0)
        if columns:
            codes[:, columns] = np.indices(shape).reshape(len(columns), -1).T
        values, costs, allowed = np.zeros(len(codes)), np.zeros(len(codes)), np.ones(len(codes), np.bool_)
        for layer in layers:
            cells = self.index.cells(codes, layer)
            values += self.values[layer][cells]
            costs += self.costs[layer][cells]
            allowed &= self.allowed[layer][cells]
        return self._undominated(values[allowed], costs[allowed], codes[allowed])

    def _undominated(self, values: FloatArray, costs: FloatArray, codes: Codes) -> _Points:
        kept = self._front(values, costs)
        return _Points(values[kept], costs[kept], codes[kept])

    def _sum(self, first: _Points, second: _Points) -> _Points:
        """The front of all sums of a point of each. They set different columns; others are equal in both, or 0 in one.

        Both rise in value and cost, so the sums of two runs of points lie between the sums of their first and of their last points. Runs
        whose best value a cheaper sum reaches already are dropped, the others halved, until each is one point: few sums are formed.
        """
        rows, columns = (len(part.costs) for part in (first, second))
        size = 1 << max(0, (max(rows, columns) - 1).bit_length() - _LEVELS_AT_ONCE)
        left, right = (each.ravel() for each in np.meshgrid(np.arange(0, rows, size), np.arange(0, columns, size), indexing="ij"))
        while True:
            self._count(len(left))
            values, costs = first.values[left] + second.values[right], first.costs[left] + second.costs[right]
            kept = self._front(values, costs)
            if size == 1 or not len(kept):
                break
            last = np.minimum(left + size, rows) - 1, np.minimum(right + size, columns) - 1
            cheaper = np.searchsorted(costs[kept], costs, side="right") - 1  # the front that is known reaches this value at no more cost
            known = np.where(cheaper < 0, -np.inf, values[kept][np.maximum(cheaper, 0)])
            promising = first.values[last[0]] + second.values[last[1]] > known
            promising[kept] = True
            size //= 2
            left, right = (each[promising] for each in (left, right))
            self._count(4 * len(left))
            left, right = np.concatenate([left, left, left + size, left + size]), np.concatenate([right, right + size, right, right + size])
            inside = (left < rows) & (right < columns)
            left, right = left[inside], right[inside]
        left, right = left[kept], right[kept]
        return _Points(values[kept], costs[kept], np.maximum(first.codes[left], second.codes[right]))

    def _count(self, sums: int) -> None:
        """Raises FrontTooLarge before more is formed than memory and patience allow."""
        self.sums += sums
        if sums > _MOST_AT_ONCE or self.sums > _MAX_SUMS:
            raise FrontTooLarge(
                f"the whole front of {self.index.space.name} has too many points: {self.sums:,} sums of parts to compare, over the limit of "
                f"{_MAX_SUMS:,} in all or {_MOST_AT_ONCE:,} at once; solve it for one budget at a time"
            )

    def _front(self, values: FloatArray, costs: FloatArray) -> npt.NDArray[np.intp]:
        """Rows of the front, cheapest first; of points equal but for rounding one."""
        order = np.argsort(costs, kind="stable")
        ranked = values[order]
        kept = np.ones(len(order), np.bool_)
        kept[1:] = ranked[1:] > np.maximum.accumulate(ranked)[:-1] + self.rounding[0]  # better than all that are as cheap
        order = order[kept]
        last = np.ones(len(order), np.bool_)
        last[:-1] = np.diff(costs[order]) > self.rounding[1]  # among equally cheap ones, values rise
        return order[last]


def _allowed(index: BlockIndex, within: Sequence[tuple[Budget, Peak]]) -> list[npt.NDArray[np.bool_]]:
    """By layer, which of its cells keep these budgets."""
    constraints = [Constraint.of(index.space, budget, metric) for budget, metric in within]
    possible = all(metric.constant <= each.limit for each, (_, metric) in zip(constraints, within, strict=True))
    allowed = [np.full(len(table), possible) for table in index.tables]
    for each, (_, metric) in zip(constraints, within, strict=True):
        for layer, prices in enumerate(metric.cells):
            allowed[layer] &= prices <= each.limit
    return allowed


def _rounding(metric: Additive) -> float:
    """By how much two sums over all layers may differ that are equal in real numbers."""
    n_layers = len(metric.index.columns)
    largest = max(float(np.abs(cells).max()) for cells in metric.cells) * n_layers
    return largest * n_layers * float(np.finfo(np.float64).eps)


def _groups(index: BlockIndex, fixed: Sequence[int], layers: Iterable[int]) -> list[tuple[list[int], list[int]]]:
    """(columns, layers) of the groups that these layers fall into when the fixed columns no longer connect them."""
    groups: list[tuple[set[int], list[int]]] = []
    for layer in layers:
        merged: tuple[set[int], list[int]] = (set(index.columns[layer]) - set(fixed), [layer])
        for group in [g for g in groups if g[0] & merged[0]]:
            groups.remove(group)
            merged = (merged[0] | group[0], group[1] + merged[1])
        groups.append(merged)
    return [(sorted(columns), sorted(members)) for columns, members in groups]


def _cells(index: BlockIndex, columns: Iterable[int]) -> int:
    return prod(int(index.space.cardinalities[c]) for c in columns)


def _split(index: BlockIndex, fixed: Sequence[int], columns: Sequence[int], layers: Sequence[int]) -> int:
    """The column of a group to fix so that its largest remaining part is smallest; among equals the one read by most layers."""

    def rank(column: int) -> tuple[int, int]:
        largest = max(_cells(index, rest) for rest, _ in _groups(index, [*fixed, column], layers))
        return largest, -sum(column in index.columns[layer] for layer in layers)

    return min(columns, key=rank)


def _work(index: BlockIndex, fixed: Sequence[int], layers: Iterable[int]) -> int:
    """Cells that `_Fronts` will list."""
    total = 0
    for columns, group in _groups(index, fixed, layers):
        size = _cells(index, columns)
        if size > _ENUMERATED:
            split = _split(index, fixed, columns, group)
            size = int(index.space.cardinalities[split]) * _work(index, [*fixed, split], group)
        total += size
    return total


# -- one optimum --------------------------------------------------------------------------------------------------------------


def optimum(problem: Problem) -> Optimum:
    """The best architecture of a problem whose objective is a sum over layers, and whose budgets are on such sums or on the largest layer.

    From the whole front where one budget is on a sum and the front is not too large, else from the integer programme. Raises InputError
    where something is neither, Infeasible where nothing meets the budgets.
    """
    objective, maximize, sums, peaks = exact_parts(problem)
    if len(sums) == 1:
        ((budget, cost),) = sums
        with suppress(FrontTooLarge):
            front = pareto_front(objective, cost, maximize=maximize, within=peaks)
            limit = Constraint(budget, cost).limit
            inside = front.within(limit)
            # Of architectures equal but for rounding the front keeps one: where it is over the limit by no more, another may be within.
            if len(inside) == len(front.within(limit + 4 * _rounding(cost))) > 0:
                value = float(inside.values[-1])
                return Optimum(inside.codes[-1:], value, value, f"the whole exact front, {len(front)} architectures, {len(inside)} within the budget")
    return solve(objective, [*sums, *peaks], maximize=maximize)


def best_codes(problem: Problem, n: int) -> Codes:
    """The optimum and the next cheaper architectures of the exact front, best first, (up to n, choices): candidates, or seeds of a search.

    Raises InputError where something is neither a sum over layers nor the largest of them, or n > 1 and there is no front: several
    budgets on sums or none, or a front that is too large; Infeasible where nothing meets the budgets.
    """
    first = optimum(problem).code
    if n == 1:
        return first
    objective, maximize, sums, peaks = exact_parts(problem)
    if len(sums) != 1:
        raise InputError(f"{n} candidates come from the front of objective and budget, and there are {len(sums)} budgets on sums; ask for one candidate")
    ((budget, cost),) = sums
    inside = pareto_front(objective, cost, maximize=maximize, within=peaks).within(Constraint(budget, cost).limit)
    better = np.concatenate([first, inside.codes[::-1]])
    return problem.index.distinct(np.asfortranarray(better))[:n]


def exact_parts(problem: Problem) -> tuple[Additive, bool, list[tuple[Budget, Additive]], list[tuple[Budget, Peak]]]:
    """(objective, whether to maximise it, budgets on sums, budgets on the largest) of a problem that can be solved exactly.

    Raises InputError for any other.
    """
    if len(problem.objectives) != 1:
        raise InputError(f"exact search takes one objective, this problem has {len(problem.objectives)}")
    ((objective, maximize),) = ((each.metric, each.maximize) for each in problem.objectives)
    if not isinstance(objective, Additive):
        raise _not_exact("objective", objective)
    sums, peaks = list[tuple[Budget, Additive]](), list[tuple[Budget, Peak]]()
    for budget, metric in problem.budgets:
        if isinstance(metric, Additive):
            sums.append((budget, _prices_alone(metric)))
        elif isinstance(metric, Peak):
            peaks.append((budget, metric))
        else:
            raise _not_exact(f"budget {budget}", metric)
    return _prices_alone(objective), maximize, sums, peaks


def _not_exact(what: str, metric: Metric) -> InputError:
    return InputError(
        f"exact search needs sums over blocks, and the {what} is not one: {metric.name} is of type {type(metric).__name__}; use another searcher"
    )


def _prices_alone(metric: Additive) -> Additive:
    """The same sum without what a subclass does when it is called: an evaluation that is paid for."""
    return (
        metric
        if type(metric) is Additive
        else Additive(metric.index, metric.cells, name=metric.name, unit=metric.unit, constant=metric.constant, origin=metric.origin)
    )


def solve(objective: Additive, budgets: Sequence[tuple[Budget, Layerwise]] = (), *, maximize: bool = True, time_limit_s: float | None = None) -> Optimum:
    """The architecture with the largest (or smallest) `objective` within all budgets, by mixed-integer linear programming.

    The choice that most layers read is taken value by value: each gets a bound from its linear relaxation, then the programmes are
    solved best bound first, until no bound left beats the best architecture found. The proof is good to 1e-9 of the objective's
    spread. After `time_limit_s` the best found so far is returned, and `gap` says what that may have missed.

    Raises Infeasible with the least achievable value and the architecture that reaches it; InputError where the metrics are not
    of one index or not finite, a limit is not positive, or the time was too short to find any architecture.
    """
    index = _one_index([objective, *(metric for _, metric in budgets)])
    constraints = [(Constraint.of(index.space, budget, metric), metric) for budget, metric in budgets]
    found = Programme(index, objective, [(each.limit, metric) for each, metric in constraints], maximize).solve(time_limit_s)
    if found is None:
        raise infeasible(index, [(each.budget, metric) for each, metric in constraints])
    proof = f"integer programme (HiGHS): {found.settings} bounded, {found.solved} solved{'' if found.complete else ', gap not closed'}"
    return Optimum(found.code, found.value, found.bound, proof)


def _one_index(metrics: Sequence[Layerwise]) -> BlockIndex:
    index = metrics[0].index
    for metric in metrics:
        if metric.index is not index:
            raise InputError(f"{metrics[0].name} and {metric.name} are of two indices; build both on one BlockIndex")
        if not (all(np.isfinite(cells).all() for cells in metric.cells) and np.isfinite(metric.constant)):
            raise InputError(f"{metric.name} has a price that is not finite; exact search needs all of them")
    return index
