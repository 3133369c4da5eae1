"""Exact search where objective and budgets are sums over layers: the whole Pareto front, or one optimum with its proof.

Two independent ways, tied by test. `pareto_front` is a dynamic programme, which decides one choice after another: the front of a sum
lies within the sum of the fronts of its parts. `solve` is a mixed-integer linear programme for SciPy's HiGHS: it takes several
budgets, and layers that hang together in any way. A budget on the largest layer (peak
memory) only forbids blocks, in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.budget import Budget
from hwnas.elimination import Bucket, grid
from hwnas.errors import InputError
from hwnas.feasible_set import Constraint, infeasible
from hwnas.index import BlockIndex
from hwnas.milp import Programme
from hwnas.predictor import Additive, Layerwise, Metric, Peak
from hwnas.problem import Problem
from hwnas.space import Codes, FloatArray

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
    allowed = _allowed(index, within)
    try:
        _ = index.buckets
    except InputError as error:  # there are none
        raise FrontTooLarge(f"{error}; solve it for one budget at a time") from None
    front = _Fronts(index, objective, cost, 1.0 if maximize else -1.0, allowed).whole()
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


#: Codes of the open choices -> the front.
_Table: TypeAlias = dict[tuple[int, ...], _Points]


class _Fronts:
    """Fronts of layers for each value of their open choices. The value is `sign` times the objective, maximised."""

    def __init__(self, index: BlockIndex, objective: Additive, cost: Additive, sign: float, allowed: Sequence[npt.NDArray[np.bool_]]):
        """allowed: by layer, which of its cells may be used."""
        self.index, self.allowed = index, allowed
        self.values = [sign * cells for cells in objective.cells]  # by layer and cell
        self.costs = cost.cells
        self.rounding = _rounding(objective), _rounding(cost)
        self.sums = 0

    def whole(self) -> _Points:
        """The front of all layers: bucket by bucket a table of fronts over what is open, see `hwnas.elimination`."""
        results: list[_Table] = []
        for bucket in self.index.buckets:
            results.append(self._table(bucket, [(self.index.buckets[part].open, results[part]) for part in bucket.parts]))
        return results[-1][()]

    def _table(self, bucket: Bucket, parts: Sequence[tuple[tuple[int, ...], _Table]]) -> _Table:
        """parts: of each its choices, and its front for their values."""
        codes = self.index.considered()
        alike: dict[tuple[int, ...], list[_Table]] = {}
        for columns, table in parts:
            alike.setdefault(columns, []).append(table)
        summed = {columns: {place: self._total([table[place] for table in tables]) for place in tables[0]} for columns, tables in alike.items()}
        inner = [column for column in bucket.decided if any(column in columns for columns in summed)]
        order = [*bucket.open, *inner, *(column for column in bucket.decided if column not in inner)]
        shape, here = [len(codes[column]) for column in order], grid(order, codes)
        outer = len(bucket.open) + len(inner)
        values, costs, allowed = np.zeros(shape), np.zeros(shape), np.ones(shape, np.bool_)
        for layer in bucket.layers:
            cells = self.index.cell_grid(layer, here)
            values += self.values[layer][cells]
            costs += self.costs[layer][cells]
            allowed &= self.allowed[layer][cells]
        fronts: dict[tuple[int, ...], list[_Points]] = {}
        for place in np.ndindex(*shape[:outer]):
            setting = dict(zip(order, place, strict=False))
            listed = self._listed(setting, order[outer:], shape[outer:], values[place], costs[place], allowed[place])
            front = self._total([listed, *(table[tuple(setting[column] for column in columns)] for columns, table in summed.items())])
            fronts.setdefault(place[: len(bucket.open)], []).append(front)
        return {place: self._union(alternatives) for place, alternatives in fronts.items()}

    def _listed(
        self, setting: Mapping[int, int], columns: Sequence[int], shape: Sequence[int], values: FloatArray, costs: FloatArray, allowed: npt.NDArray[np.bool_]
    ) -> _Points:
        """The front of all values of these columns, tables of that shape, where those of `setting` are given."""
        places = np.flatnonzero(allowed)
        places = places[self._front(values.ravel()[places], costs.ravel()[places])]
        codes = np.zeros((len(places), len(self.index.space.choices)), np.int16)
        codes[:, list(setting)] = list(setting.values())
        if columns:
            codes[:, columns] = np.stack(np.unravel_index(places, shape), axis=1)
        return _Points(values.ravel()[places], costs.ravel()[places], codes)

    def _union(self, parts: Sequence[_Points]) -> _Points:
        if len(parts) == 1:
            return parts[0]
        return self._undominated(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "costs", "codes")))

    def _total(self, parts: list[_Points]) -> _Points:
        while len(parts) > 1:  # the two smallest first: sums of small fronts are small
            parts.sort(key=lambda part: len(part.costs))
            parts = [*parts[2:], self._sum(parts[0], parts[1])]
        return parts[0]

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
    return InputError(f"exact search needs sums over blocks, and the {what} is not one: {metric.name} is of type {type(metric).__name__}; use another searcher")


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
