"""Sums over layers, and largest of layers, as a mixed-integer linear programme over a space, for SciPy's HiGHS.

Variables, all binary: x, one per value of each choice; y, one per cell of each layer that reads several choices. Rows: the x of a
choice sum to 1; the y of a layer that agree with a value sum to its x; one row per budget on a sum. A budget on the largest forbids
the cells above it. Binary x make y binary by themselves; said of y too, HiGHS takes a third of the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive, Layerwise
from hwnas.space import Codes, FloatArray

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

_SCALE = 1e4  # objective and budgets are brought to this size: HiGHS is content with absolute errors of 1e-6
_TIE = 1e-9  # of the objective's spread: bounds that are closer count as equal
_MAX_REFUSED = 100  # codes of one setting excluded one by one; after that the gap is left open
_OPTIMAL, _INFEASIBLE = 0, 2  # SciPy's codes of how HiGHS ended


@dataclass(frozen=True, slots=True)
class Solution:
    """The best code (1, choices), its value, a bound on all values, and how many settings of the split choice had to be solved.

    complete: false where the time ran out before the bound was reached, or too many architectures are as good but for rounding.
    """

    code: Codes
    value: float
    bound: float
    settings: int
    solved: int
    complete: bool


class Programme:
    """Maximises or minimises the objective within the limits; without one, minimises the largest share that any budget takes of its limit.

    The choice that most layers read is split: each of its values is a programme of its own, with a bound of its own.
    """

    def __init__(self, index: BlockIndex, objective: Additive | None, budgets: Sequence[tuple[float, Layerwise]], maximize: bool = False):
        """budgets: (limit, metric), limits positive, metrics Additive or Peak."""
        self.index, self.objective, self.budgets = index, objective, budgets
        self.sign = -1.0 if maximize else 1.0
        self.sizes = [int(size) for size in index.space.cardinalities]
        self.starts = np.cumsum([0, *self.sizes])  # first x of each choice; then the layers' y, and the largest share
        cells = [len(table) if len(columns) > 1 else 0 for columns, table in zip(index.columns, index.tables, strict=True)]
        self.cell_starts = self.starts[-1] + np.cumsum([0, *cells])
        self.n = int(self.cell_starts[-1]) + (objective is None)
        self.split = self._most_shared()
        self.possible = True  # false where a layer without choices is over a limit
        self._build()

    def solve(self, time_limit_s: float | None = None) -> Solution | None:
        """The optimum, or the best found in time; None where nothing is feasible. Raises InputError where the time was too short for either."""
        if not self.possible:
            return None
        deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        settings = [None] if self.split is None else list(range(self.sizes[self.split]))
        waiting = sorted((bound, setting) for setting in settings if (bound := self._relaxed(setting)) < np.inf)
        best, least, bounds, solved, late = None, np.inf, list[float](), 0, False
        for bound, setting in waiting:
            if bound >= least - _TIE * self.spread or (deadline is not None and time.monotonic() >= deadline):
                late |= bound < least - _TIE * self.spread
                bounds.append(bound)
                continue
            solved += 1
            code, bound = self._integer(setting, least, deadline)
            bounds.append(bound)
            late |= code is None and bound < least - _TIE * self.spread
            if code is not None and self._cost(code) < least:
                best, least = code, self._cost(code)
        if best is None:
            if late:
                raise InputError(
                    "no architecture was found"
                    + (
                        ": a hundred are over a limit by rounding alone; raise the limits a little"
                        if time_limit_s is None
                        else f" within {time_limit_s:g} s; allow more time"
                    )
                )
            return None
        bound = min([least, *bounds])
        return Solution(best, self.sign * least, self.sign * bound, len(settings), solved, complete=bound >= least - _TIE * self.spread)

    # -- the programme ------------------------------------------------------------------------------------------------------

    def _most_shared(self) -> int | None:
        """The choice, of several values, that most layers read; None where none is read by two."""
        readers = np.bincount([c for columns in self.index.columns for c in set(columns)], minlength=len(self.sizes))
        shared = np.where(np.array(self.sizes) > 1, readers, 0)
        return int(np.argmax(shared)) if shared.max(initial=0) > 1 else None

    def _build(self) -> None:
        from scipy.sparse import coo_array, vstack

        rows = [np.repeat(np.arange(len(self.sizes)), self.sizes)]
        columns, factors = [np.arange(self.starts[-1])], [np.ones(self.starts[-1])]
        owner = np.full(self.n, -1)  # the code of the split choice that a variable stands for
        n_rows = len(self.sizes)
        for layer, reads in enumerate(self.index.columns):
            if len(reads) < 2:
                continue
            cells = np.arange(len(self.index.tables[layer]))
            for choice, stride in zip(reads, self.index.strides[layer], strict=True):
                codes = cells // stride % self.sizes[choice]
                values = np.arange(self.sizes[choice])
                rows += [n_rows + codes, n_rows + values]
                columns += [self.cell_starts[layer] + cells, self.starts[choice] + values]
                factors += [np.ones(len(cells)), -np.ones(len(values))]
                n_rows += len(values)
                if choice == self.split:
                    owner[self.cell_starts[layer] + cells] = codes
        if self.split is not None:
            owner[self.starts[self.split] : self.starts[self.split + 1]] = np.arange(self.sizes[self.split])
        self.owner = owner
        ties = coo_array((np.concatenate(factors), (np.concatenate(rows), np.concatenate(columns))), (n_rows, self.n))
        equal = np.repeat([1.0, 0.0], [len(self.sizes), n_rows - len(self.sizes)])
        self.top = np.ones(self.n)
        if self.objective is None:
            self.top[-1] = np.inf
        limited, upper = list[FloatArray](), list[float]()
        for limit, prices, constant in self._limited():
            size = max(float(np.abs(prices).max(initial=0.0)), limit)
            row = prices / size * _SCALE
            if self.objective is None:
                row[-1] = -limit / size  # the last variable is the largest share, times _SCALE
            limited.append(row)
            upper.append(((0.0 if self.objective is None else limit) - constant) / size * _SCALE)
        if self.objective is None:
            self.costs, self.constant, self.spread = np.eye(1, self.n, self.n - 1)[0], 0.0, 1.0
        else:
            prices, constant = self._linear(self.objective)
            self.spread = float(sum(map(np.ptp, self.objective.cells))) or 1.0
            self.costs, self.constant = prices * (self.sign * _SCALE / self.spread), self.sign * constant
        self.matrix = vstack([ties, coo_array(np.array([*limited, self.costs]))], format="csc")
        self.lower = np.concatenate([equal, np.full(len(limited) + 1, -np.inf)])
        self.upper = np.concatenate([equal, upper, [np.inf]])

    def _limited(self) -> Iterator[tuple[float, FloatArray, float]]:
        """Rows of the budgets: (limit, factors of the variables (n,), constant). What a Peak forbids under an objective needs no row."""
        for limit, metric in self.budgets:
            if isinstance(metric, Additive):
                yield limit, *self._linear(metric)
            elif self.objective is None:
                yield limit, np.zeros(self.n), metric.constant
                for layer, prices in enumerate(metric.cells):
                    yield limit, *self._term(layer, prices)
            else:
                self._forbid(limit, metric)

    def _forbid(self, limit: float, metric: Layerwise) -> None:
        """No variable of a cell above the limit may be used."""
        self.possible &= metric.constant <= limit
        for layer, prices in enumerate(metric.cells):
            over = prices > limit
            start = self._start(layer)
            if start is None:
                self.possible &= not over[0]
            else:
                self.top[start : start + len(over)][over] = 0.0

    def _linear(self, metric: Additive) -> tuple[FloatArray, float]:
        """The metric as factors of the variables, (n,), and a constant."""
        factors, constant = np.zeros(self.n), metric.constant
        for layer, prices in enumerate(metric.cells):
            term, fixed = self._term(layer, prices)
            factors += term
            constant += fixed
        return factors, constant

    def _term(self, layer: int, prices: FloatArray) -> tuple[FloatArray, float]:
        """A layer's price as factors of the variables, (n,), and a constant."""
        factors, start = np.zeros(self.n), self._start(layer)
        if start is None:
            return factors, float(prices[0])
        factors[start : start + len(prices)] = prices
        return factors, 0.0

    def _start(self, layer: int) -> int | None:
        """The first variable of a layer's cells, None where it has a single one."""
        reads = self.index.columns[layer]
        return None if not reads else int(self.starts[reads[0]] if len(reads) == 1 else self.cell_starts[layer])

    def _relaxed(self, setting: int | None) -> float:
        """A lower bound of the cost in this setting of the split choice; infinite where even fractions are infeasible."""
        result, _ = self._run(setting, np.inf, [], None, integer=False)
        if result.status == _INFEASIBLE:
            return np.inf
        return self._unscaled(result.fun) if result.status == _OPTIMAL else -np.inf

    def _integer(self, setting: int | None, least: float, deadline: float | None) -> tuple[Codes | None, float]:
        """The best code of a setting that costs less than `least`, None where none was found; a bound of the setting's costs.

        HiGHS takes 0.999999 for 1. Codes are therefore priced exactly, and while its bound is off, or a code is over a limit, the
        code is excluded and the rest is solved again. Raises InputError where HiGHS gives up, which numbers of very different
        sizes can make it do.
        """
        best: Codes | None = None
        refused: list[Codes] = []
        cutoff = least
        while True:
            result, kept = self._run(setting, cutoff, refused, deadline, integer=True)
            bound = self._unscaled(result.mip_dual_bound) if result.mip_dual_bound is not None else -np.inf
            if result.status == _INFEASIBLE:
                return best, cutoff
            if result.x is None:
                if deadline is None:
                    raise InputError(f"the integer programme of {self.index.space.name} was not solved: {result.message}")
                return best, bound
            chosen = np.zeros(self.n)
            chosen[kept] = result.x
            code = np.array([[np.argmax(chosen[self.starts[i] : self.starts[i + 1]]) for i in range(len(self.sizes))]], np.int16, order="F")
            if self._is_within(code) and self._cost(code) < least:
                best, least = code, self._cost(code)
            if bound >= least - _TIE * self.spread or len(refused) == _MAX_REFUSED:
                return best, bound
            refused.append(code)
            cutoff = least - _TIE * self.spread

    def _run(
        self, setting: int | None, cutoff: float, refused: Sequence[Codes], deadline: float | None, *, integer: bool
    ) -> tuple[OptimizeResult, npt.NDArray[np.intp]]:
        """HiGHS's answer, and which variables it is about."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csc_array, vstack

        kept = np.flatnonzero((self.owner == -1) | (self.owner == setting)) if setting is not None else np.arange(self.n)
        matrix, lower, upper = self.matrix[:, kept], self.lower, self.upper.copy()
        if cutoff < np.inf:
            upper[-1] = (cutoff - self.constant) / self.spread * _SCALE
        if refused:
            cuts = np.zeros((len(refused), self.n))
            for row, code in zip(cuts, refused, strict=True):
                row[self.starts[:-1] + code[0]] = 1.0
            matrix = vstack([matrix, csc_array(cuts[:, kept])], format="csc")
            lower = np.concatenate([lower, np.full(len(refused), -np.inf)])
            upper = np.concatenate([upper, np.full(len(refused), len(self.sizes) - 1.0)])
        # Where HiGHS 1.12 repairs the continuous variables of a solution after presolve, it writes a debugging line to standard output,
        # which may be somebody's JSON. Without an objective there is one such variable, so that presolve is left out.
        options: dict[str, float] = {"mip_rel_gap": 0.0, "presolve": self.objective is not None}
        if deadline is not None:
            options["time_limit"] = max(deadline - time.monotonic(), 0.01)
        result = milp(
            self.costs[kept],
            integrality=(kept < self.n - (self.objective is None)).astype(int) if integer else None,
            bounds=Bounds(0, self.top[kept]),
            constraints=LinearConstraint(matrix, lower, upper),
            options=options,
        )
        return result, kept

    def _is_within(self, code: Codes) -> bool:
        return self.objective is None or all(float(metric(code)[0]) <= limit for limit, metric in self.budgets)

    def _cost(self, code: Codes) -> float:
        if self.objective is not None:
            return self.sign * float(self.objective(code)[0])
        return max(float(metric(code)[0]) / limit for limit, metric in self.budgets)

    def _unscaled(self, value: float) -> float:
        return self.constant + float(value) * self.spread / _SCALE
