"""What a search is about: a space, objectives, budgets, and what a population scores in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hwnas.budget import Budget
from hwnas.errors import InputError
from hwnas.feasible_set import Constraint, Feasibility, FeasibleSet, is_expensive, values_of
from hwnas.index import BlockIndex
from hwnas.pareto import BoolArray
from hwnas.predictor import Metric
from hwnas.rewards import Reward, feasible_first
from hwnas.space import Codes, FloatArray, SearchSpace


@runtime_checkable
class PartialMetric(Protocol):
    """A metric that can be had at a share of its cost: fewer epochs, less data."""

    def at(self, fidelity: float) -> Metric:
        """The same metric at this share, in (0, 1], of a full evaluation."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """An expensive metric that holds a device: it is evaluated where the search runs, and remembers what it has measured.

    `here`: the device is this machine, on which nothing else may run meanwhile.
    """

    here: bool

    def measure(self, codes: Codes) -> None:
        """Measure all of these (n, choices) that are not known, together. What fails is NaN."""
        ...


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric to minimise, or to maximise. A metric with a true attribute `expensive` is computed once per distinct subnet and recorded."""

    metric: Metric
    maximize: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """What a population achieved. A row with a value that is not finite has failed: it is not feasible and worst."""

    values: FloatArray
    """Objectives in their own units and directions, (n, m)."""
    ratio: FloatArray
    """Value of the tightest budget's metric divided by its limit, (n,); 0 without budgets."""

    @property
    def failed(self) -> BoolArray:
        """Rows with an objective or a budget's metric that is not finite, (n,)."""
        return ~(np.isfinite(self.values).all(axis=1) & np.isfinite(self.ratio))

    @property
    def violation(self) -> FloatArray:
        """How far over the tightest budget, as a share of its limit, (n,); 0 within it, infinite where failed."""
        return np.where(self.failed, np.inf, np.maximum(self.ratio - 1.0, 0.0))

    @property
    def feasible(self) -> BoolArray:
        """Within every budget, and not failed, (n,)."""
        return (self.ratio <= 1.0) & ~self.failed

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Scores:
        return Scores(self.values[rows], self.ratio[rows])


@dataclass(frozen=True, eq=False)
class Problem:
    """Objectives over a space under budgets.

    Raises Infeasible, before anything is evaluated, where no architecture can keep the budgets on sums over layers and on their
    largest, and InputError where a budget has no positive limit. A budget given as a share is resolved against the largest subnet.
    """

    index: BlockIndex
    objectives: Sequence[Objective]
    budgets: Sequence[tuple[Budget, Metric]] = ()
    rule: Reward = feasible_first
    """Turns quality and share of the budget into one number, see rewards.py."""

    def __post_init__(self) -> None:
        if not self.objectives:
            raise InputError("a problem needs at least one objective")
        object.__setattr__(self, "budgets", self.feasible_set.constraints)

    @cached_property
    def feasible_set(self) -> FeasibleSet:
        """The architectures within every budget whose metric is cheap."""
        return FeasibleSet(self.index, self.budgets)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The budgets with their limits, each with its metric: `price(codes)`, and `expected(probabilities)` with gradients."""
        return self.feasible_set.constraints

    @property
    def space(self) -> SearchSpace:
        return self.index.space

    # -- scoring ------------------------------------------------------------------------------------------------------------

    @cached_property
    def expensive(self) -> tuple[Metric, ...]:
        """The metrics that cost something to evaluate, each once: what a run records."""
        metrics = [objective.metric for objective in self.objectives] + [metric for _, metric in self.budgets]
        return tuple({id(metric): metric for metric in metrics if is_expensive(metric)}.values())

    @cached_property
    def travelling(self) -> tuple[Metric, ...]:
        """Those of `expensive` that may be evaluated in any process; the others hold a device."""
        return tuple(metric for metric in self.expensive if not isinstance(metric, OnDevice))

    def evaluate_expensive(self, codes: Codes, fidelity: float = 1.0) -> FloatArray:
        """Values of the expensive metrics, (n, len(expensive)). Raises InputError below full fidelity where one has no `at`."""
        columns = [values_of(_at(metric, fidelity), codes) for metric in self.expensive]
        return np.stack(columns, axis=1) if columns else np.empty((len(codes), 0))

    def evaluate_travelling(self, code: Codes, fidelity: float = 1.0) -> FloatArray:
        """Values of the metrics that travel, (len(travelling),), of one candidate (1, choices). Raises as `evaluate_expensive` does."""
        return np.array([values_of(_at(metric, fidelity), code)[0] for metric in self.travelling], np.float64)

    def scores(self, codes: Codes, known: FloatArray) -> Scores:
        """Scores from the expensive metrics' values (n, len(expensive)), with the cheap ones computed here."""
        computed = {id(metric): known[:, i] for i, metric in enumerate(self.expensive)}

        def value(metric: Metric) -> FloatArray:
            if id(metric) not in computed:
                computed[id(metric)] = values_of(metric, codes)
            return computed[id(metric)]

        values = np.stack([value(objective.metric) for objective in self.objectives], axis=1)
        ratio = np.zeros(len(codes))
        for each in self.constraints:
            ratio = np.maximum(ratio, value(each.metric) / each.limit)  # NaN stays NaN
        return Scores(values, ratio)

    def evaluate(self, codes: Codes) -> Scores:
        """codes (n, choices) -> scores, every metric computed."""
        return self.scores(codes, self.evaluate_expensive(codes))

    def minimised(self, scores: Scores) -> FloatArray:
        """Objectives with their signs turned so that smaller is better, (n, m); failed rows are infinite."""
        signs = np.array([-1.0 if objective.maximize else 1.0 for objective in self.objectives])
        return np.where(scores.failed[:, None], np.inf, scores.values * signs)

    def reward(self, scores: Scores) -> FloatArray:
        """One number per candidate, larger is better, (n,): by default any feasible one beats any other, and those rank by violation.

        The rule gets an objective in % as a share of 1. Raises InputError where the problem has several objectives.
        """
        if len(self.objectives) != 1:
            raise InputError(f"a reward needs one objective, this problem has {len(self.objectives)}; use a searcher for several objectives")
        sign = 1.0 if self.objectives[0].maximize else -1.0
        whole = 100.0 if self.objectives[0].metric.unit == "%" else 1.0
        return self.rule(sign * scores.values[:, 0] / whole, scores.ratio)

    # -- feasibility before search ------------------------------------------------------------------------------------------

    def feasible(self, rng: np.random.Generator, samples: int | None = None) -> Feasibility:
        """Least and greatest value of the space and its share within each cheap budget, the share within all, and an architecture that is.

        samples: of the shares; 65,536 by default, fewer where a metric is no look-up. Raises Infeasible where no architecture is found.
        """
        return self.feasible_set.survey(rng, samples)

    def within(self, codes: Codes) -> BoolArray:
        """Rows within every budget whose metric is cheap, (n,)."""
        return self.feasible_set.within(codes)

    def feasible_share(self, rng: np.random.Generator) -> float:
        """Share of the space's codes within the cheap budgets, estimated from uniform samples."""
        return self.feasible_set.share(rng).value

    def sample_feasible(self, rng: np.random.Generator, n: int) -> Codes:
        """n codes within the cheap budgets, uniform over them as long as that is affordable, (n, choices), column-major; see `FeasibleSet.sample`.

        Raises Infeasible where none is known.
        """
        return self.feasible_set.sample(rng, n)

    def repaired(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Each row moved within the cheap budgets, see `FeasibleSet.repaired`. Raises Infeasible where no architecture is known that keeps them."""
        return self.feasible_set.repaired(codes, rng)


def _at(metric: Metric, fidelity: float) -> Metric:
    if fidelity == 1.0:
        return metric
    if not isinstance(metric, PartialMetric):
        raise InputError(f"{metric.name} cannot be evaluated at a fidelity of {fidelity:g}: it has no method at(fidelity); use a searcher that asks for 1")
    return metric.at(fidelity)
