"""Which architectures keep all budgets: whether there are any, how many, and which one is known to.

Budgets on sums over layers, and on their largest, are decided exactly: one alone by its least value over the space; several together
by architectures that are known to be small, by a few thousand random ones, and where none of those is within all of them by an
integer programme. A budget on any other metric can only be tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hwnas.budget import Budget
from hwnas.errors import Infeasible, InputError
from hwnas.expectation import expected
from hwnas.index import BlockIndex
from hwnas.milp import Programme, Solution
from hwnas.predictor import Additive, Extreme, Layerwise, Metric
from hwnas.space import Codes, FloatArray, SearchSpace

_BATCH = 65_536  # rows sampled at a time
_TRIES = 4_096  # uniform samples drawn per feasible one wanted, before samples are repaired
_MAX_TRIES = 1 << 20
_SLOW_SAMPLES = 2_048  # where a metric is no look-up, and each sample may take a millisecond
_CONFIDENCE, _NORMAL = 0.95, 1.959964  # of a share's interval, and the quantile of the normal distribution that it is
_ROUNDING = 1e-6  # of a limit: where sums in another order, and the integer programme, may be on the other side of it


class Constraint(NamedTuple):
    """A budget with a limit and the metric that must keep it: one object for searchers that ask for values, and for those that want slopes."""

    budget: Budget
    metric: Metric

    @classmethod
    def of(cls, space: SearchSpace, budget: Budget, metric: Metric) -> Constraint:
        """With a share resolved against the largest subnet. Raises InputError where that cannot be, or the limit is not positive."""
        if budget.share is not None:
            if is_expensive(metric):
                raise InputError(f"the budget {budget} is a share, and {metric.name} is expensive to evaluate; give the limit in {metric.unit}")
            largest = float(values_of(metric, space.largest())[0])
            if not np.isfinite(largest):
                raise InputError(f"the budget {budget} cannot be resolved: the largest subnet of {space.name} has no {metric.name}")
            budget = budget.resolved(largest)
        if budget.limit is None or not 0 < budget.limit < np.inf:
            raise InputError(f"the budget {budget} needs a positive limit")
        return cls(budget, metric)

    @property
    def limit(self) -> float:
        """In the metric's unit. Raises InputError where a share is not resolved."""
        if self.budget.limit is None:
            raise InputError(f"the budget {self.budget} is a share of a space that is not given")
        return self.budget.limit

    def price(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> the metric's values (n,), in its unit."""
        return values_of(self.metric, codes)

    def expected(self, probabilities: Sequence[FloatArray]) -> tuple[float, list[FloatArray]]:
        """(expectation, gradients) of the metric where each choice takes its values with these probabilities; see `hwnas.expectation`.

        Raises InputError where the metric is no sum over layers: its expectation is no polynomial of the probabilities.
        """
        if not isinstance(self.metric, Additive):
            raise InputError(f"the budget {self.budget} has no exact expectation, {self.metric.name} being no sum over layers; use another searcher for it")
        return expected(self.metric, probabilities)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the space's codes, estimated from uniform samples, with its 95 % interval (Wilson, 1927)."""

    value: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, inside: npt.NDArray[np.bool_]) -> Share:
        n, value, square = len(inside), float(inside.mean()), _NORMAL**2
        middle = (value + square / (2 * n)) / (1 + square / n)
        reach = _NORMAL / (1 + square / n) * sqrt(value * (1 - value) / n + square / (4 * n * n))
        return cls(value, min(max(middle - reach, 0.0), value), max(min(middle + reach, 1.0), value), n)


@dataclass(frozen=True, slots=True)
class Reach:
    """What a space offers under one budget."""

    constraint: Constraint
    least: Extreme
    greatest: Extreme
    exact: bool
    """Whether these are the extremes of the whole space; else those of the samples."""
    share: Share
    """Of the codes within this budget alone."""


@dataclass(frozen=True, slots=True)
class Feasibility:
    """The answer to budgets before anything is trained."""

    reaches: tuple[Reach, ...]
    """One for each budget whose metric is cheap."""
    share: Share
    """Of the codes within all of them."""
    witness: Codes
    """An architecture within all of them, (1, choices)."""


class FeasibleSet:
    """The architectures of a space that keep all budgets whose metrics are cheap.

    Raises Infeasible where it is known to be empty, with the least value and the architecture that reaches it, and InputError where
    a budget has no positive limit. A budget given as a share is resolved against the largest subnet.
    """

    def __init__(self, index: BlockIndex, budgets: Sequence[tuple[Budget, Metric]]):
        self.index, self.space = index, index.space
        self.constraints = tuple(Constraint.of(index.space, budget, metric) for budget, metric in budgets)
        self._cheap = [each for each in self.constraints if not is_expensive(each.metric)]
        self._bounds = {id(each.metric): each.metric.bounds() for each in self.constraints if isinstance(each.metric, Layerwise)}
        for each in self.constraints:
            if id(each.metric) in self._bounds and (least := self._bounds[id(each.metric)][0]).value > each.limit * (1 + _ROUNDING):
                raise Infeasible(_alone(index.space, each, least))
        self._small = [self._bounds[id(each.metric)][0].code for each in self._cheap if id(each.metric) in self._bounds]
        together = [(each.budget, each.metric) for each in self._cheap if isinstance(each.metric, Layerwise) and _is_exact(index, each.metric)]
        if together:
            self._small.append(_joint(index, together, self._small))

    def within(self, codes: Codes) -> npt.NDArray[np.bool_]:
        """Rows within every budget whose metric is cheap, (n,)."""
        inside = np.ones(len(codes), np.bool_)
        for each in self._cheap:
            if isinstance(each.metric, Layerwise):
                inside &= each.price(codes) <= each.limit
        for each in self._cheap:
            if not isinstance(each.metric, Layerwise):  # may take longer than a look-up: only where it still matters
                rows = np.flatnonzero(inside)
                inside[rows] = each.price(np.asfortranarray(codes[rows])) <= each.limit
        return inside

    def share(self, rng: np.random.Generator, samples: int | None = None) -> Share:
        """Share of the space's codes within the cheap budgets, from 65,536 samples; from 2,048 where a metric is no look-up."""
        return Share.of(self.within(self._samples(rng, samples)))

    def survey(self, rng: np.random.Generator, samples: int | None = None) -> Feasibility:
        """Extremes and share of the space for each cheap budget, the share within all, and a witness.

        samples: as for `share`. Raises Infeasible where no architecture is found.
        """
        codes = self._samples(rng, samples)
        inside, reaches = np.ones(len(codes), np.bool_), []
        for each in self._cheap:
            values = each.price(codes)
            fitting = values <= each.limit
            inside &= fitting
            exact = id(each.metric) in self._bounds
            least, greatest = self._bounds[id(each.metric)] if exact else _sampled(codes, values)
            reaches.append(Reach(each, least, greatest, exact, Share.of(fitting)))
        witness = codes[inside][:1] if inside.any() and self._known is None else self.witness
        return Feasibility(tuple(reaches), Share.of(inside), np.asfortranarray(witness))

    @property
    def witness(self) -> Codes:
        """An architecture within the cheap budgets, (1, choices). Raises Infeasible where none is known and no random one is."""
        if (known := self._known) is not None:
            return known
        samples = self.space.sample(np.random.default_rng(0), _SLOW_SAMPLES)
        inside = self.within(samples)
        if not inside.any():
            raise self._none_found()
        return np.asfortranarray(samples[inside][:1])

    def sample(self, rng: np.random.Generator, n: int) -> Codes:
        """n codes within the cheap budgets, uniform over them, (n, choices), column-major.

        The effort is bounded: where too few uniform samples are feasible, the rest are samples moved gene by gene, in random
        order, towards an architecture that is known to be, and stopped at the first feasible step. Raises Infeasible where none is known.
        """
        found: list[Codes] = []
        missing, left = n, min(max(_BATCH, _TRIES * n), _MAX_TRIES)
        batch = n
        while missing > 0 and left > 0:
            codes = self.space.sample(rng, batch)
            inside = codes[self.within(codes)][:missing]
            found.append(inside)
            missing, left = missing - len(inside), left - batch
            batch = min(max(4 * batch, 256), _BATCH)
        if missing > 0:
            found.append(self.repaired(self.space.sample(rng, missing), rng))
        return np.asfortranarray(np.concatenate(found)) if found else self.space.sample(rng, 0)

    def _samples(self, rng: np.random.Generator, samples: int | None) -> Codes:
        if samples is None:
            samples = _BATCH if all(isinstance(each.metric, Layerwise) for each in self._cheap) else _SLOW_SAMPLES
        if samples < 1:
            raise InputError(f"a share is estimated from at least 1 sample, got {samples}")
        return self.space.sample(rng, samples)

    def repaired(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Each row moved within the cheap budgets: as many genes, in random order, as it takes are replaced by those of one that is known to be.

        Rows within them stay as they are. Raises Infeasible where no architecture is known that keeps them.
        """
        if self.within(codes).all():
            return codes.copy(order="F")
        if (known := self._known) is None:
            raise self._none_found()
        steps = np.arange(len(self.space.choices) + 1)
        repaired = codes.copy(order="F")
        for row, code in enumerate(codes):
            rank = np.argsort(rng.random(len(code)))
            path = np.where(rank[None] < steps[:, None], known, code[None])  # (choices + 1, choices), the last row is the witness
            repaired[row] = path[np.argmax(self.within(np.asfortranarray(path, np.int16)))]
        return repaired

    @property
    def _known(self) -> Codes | None:
        """An architecture within the cheap budgets that needs no luck to be found, None where there is none (now: a space may grow)."""
        return next((code for code in (*self._small, self.space.smallest(), self.space.largest()) if self.within(code)[0]), None)

    def _none_found(self) -> Infeasible:
        budgets = " and ".join(str(each.budget) for each in self._cheap)
        return Infeasible(f"no architecture of {self.space.name} within {budgets} was found among random ones; allow more, or give fewer budgets")


def infeasible(index: BlockIndex, budgets: Sequence[tuple[Budget, Layerwise]], nearest: Solution | None = None) -> Infeasible:
    """What to say of budgets that no architecture meets: how near one comes. nearest: that one, where it is known."""
    constraints = [Constraint(*each) for each in budgets]
    nearest = nearest or _nearest(index, budgets)
    if len(constraints) == 1:
        return Infeasible(_alone(index.space, constraints[0], Extreme(float(constraints[0].price(nearest.code)[0]), nearest.code)))
    taken = " and ".join(f"{amount(float(each.price(nearest.code)[0]))} {each.metric.unit}" for each in constraints)
    return Infeasible(
        f"{' and '.join(str(each.budget) for each in constraints)} cannot be met together: every architecture of {index.space.name} takes at least "
        f"{nearest.value:.6g} times one of the limits; the nearest takes {taken}: {describe(index.space, nearest.code)}"
    )


def describe(space: SearchSpace, code: Codes) -> str:
    """An architecture (1, choices) in words, by how it differs from the smallest: `the smallest but for resolution=160`."""
    values, smallest = space.decode(code[0]), space.decode(space.smallest()[0])
    differing = [f"{name}={value}" for name, value in values.items() if value != smallest[name]]
    return "the smallest architecture" + (f" but for {', '.join(differing)}" if differing else "")


def amount(value: float) -> str:
    """A number for a sentence: six significant digits, from a million on all of them."""
    return f"{value:,.0f}" if value >= 1e6 else f"{value:.6g}"


def is_expensive(metric: Metric) -> bool:
    """Whether evaluating the metric costs something worth recording; a metric without the attribute `expensive` is cheap."""
    return bool(getattr(metric, "expensive", False))


def values_of(metric: Metric, codes: Codes) -> FloatArray:
    """The metric's values, (n,). Raises InputError where it returns another shape."""
    values = np.asarray(metric(codes), np.float64)
    if values.shape != (len(codes),):
        raise InputError(f"the metric {metric.name} returned values of shape {values.shape} for {len(codes)} architectures")
    return values


def _alone(space: SearchSpace, constraint: Constraint, least: Extreme) -> str:
    taken = f"{amount(least.value)} {constraint.metric.unit} ({constraint.metric.origin})"
    return f"{constraint.budget} cannot be met: every architecture of {space.name} takes at least {taken}, reached by {describe(space, least.code)}"


def _joint(index: BlockIndex, budgets: Sequence[tuple[Budget, Layerwise]], candidates: Sequence[Codes]) -> Codes:
    """An architecture (1, choices) within all of them, of the candidates where one is. Raises Infeasible."""
    constraints = [Constraint(*each) for each in budgets]
    drawn = (index.space.sample(np.random.default_rng(0), _TRIES) for _ in range(1))  # only where no candidate is
    for codes in chain(candidates, (index.space.smallest(), index.space.largest()), drawn):
        inside = np.all([each.price(codes) <= each.limit for each in constraints], axis=0)
        if inside.any():
            return np.asfortranarray(codes[inside][:1])
    nearest = _nearest(index, budgets)
    if all(each.price(nearest.code)[0] <= each.limit for each in constraints):
        return nearest.code
    if nearest.value <= 1 + _ROUNDING:  # another one that is as near may be within
        nothing = Additive(index, np.zeros(len(index.blocks)), name="nothing", unit="")
        if (found := Programme(index, nothing, _limits(budgets)).solve()) is not None:
            return found.code
    raise infeasible(index, budgets, nearest)


def _nearest(index: BlockIndex, budgets: Sequence[tuple[Budget, Layerwise]]) -> Solution:
    """The architecture whose largest share of a limit is least."""
    nearest = Programme(index, None, _limits(budgets)).solve()
    assert nearest is not None  # without limits every architecture is feasible
    return nearest


def _limits(budgets: Sequence[tuple[Budget, Layerwise]]) -> list[tuple[float, Layerwise]]:
    return [(Constraint(budget, metric).limit, metric) for budget, metric in budgets]


def _is_exact(index: BlockIndex, metric: Layerwise) -> bool:
    """Whether the integer programme can take it."""
    return metric.index is index and bool(np.isfinite(metric.constant) and all(np.isfinite(cells).all() for cells in metric.cells))


def _sampled(codes: Codes, values: FloatArray) -> tuple[Extreme, Extreme]:
    rows = np.argmin(np.where(np.isnan(values), np.inf, values)), np.argmax(np.where(np.isnan(values), -np.inf, values))
    least, greatest = (Extreme(float(values[row]), np.asfortranarray(codes[row : row + 1])) for row in rows)
    return least, greatest
