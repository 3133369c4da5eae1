"""What a search is about: a space, objectives, budgets. Feasibility is decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hwnas.budget import Budget
from hwnas.errors import Infeasible, InputError
from hwnas.index import BlockIndex
from hwnas.pareto import BoolArray
from hwnas.predictor import Additive, Extreme, Metric
from hwnas.rewards import Reward, feasible_first
from hwnas.space import Codes, FloatArray, SearchSpace

_BATCH = 65_536  # rows sampled at a time
_TRIES = 4_096  # uniform samples drawn per feasible one wanted, before samples are repaired
_MAX_TRIES = 1 << 20


@runtime_checkable
class PartialMetric(Protocol):
    """A metric that can be had at a share of its cost: fewer epochs, less data."""

    def at(self, fidelity: float) -> Metric:
        """The same metric at this share, in (0, 1], of a full evaluation."""
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

    Raises Infeasible, before anything is evaluated, where a budget on an additive metric lies below the least value of the
    space, and InputError where a budget has no positive limit. A budget given as a share is resolved against the largest subnet.
    """

    index: BlockIndex
    objectives: Sequence[Objective]
    budgets: Sequence[tuple[Budget, Metric]] = ()
    rule: Reward = feasible_first
    """Turns quality and share of the budget into one number, see rewards.py."""

    def __post_init__(self) -> None:
        if not self.objectives:
            raise InputError("a problem needs at least one objective")
        resolved = [(budget if budget.share is None else budget.resolved(self._largest(budget, metric)), metric) for budget, metric in self.budgets]
        for budget, _ in resolved:
            if budget.limit is None or not budget.limit > 0:
                raise InputError(f"the budget {budget} needs a positive limit")
        object.__setattr__(self, "budgets", tuple(resolved))
        self._refuse_infeasible()

    @property
    def space(self) -> SearchSpace:
        return self.index.space

    # -- scoring ------------------------------------------------------------------------------------------------------------

    @cached_property
    def expensive(self) -> tuple[Metric, ...]:
        """The metrics that cost something to evaluate, each once: what a run records."""
        metrics = [objective.metric for objective in self.objectives] + [metric for _, metric in self.budgets]
        return tuple({id(metric): metric for metric in metrics if is_expensive(metric)}.values())

    def evaluate_expensive(self, codes: Codes, fidelity: float = 1.0) -> FloatArray:
        """Values of the expensive metrics, (n, len(expensive)). Raises InputError below full fidelity where one has no `at`."""
        columns = [_values(_at(metric, fidelity), codes) for metric in self.expensive]
        return np.stack(columns, axis=1) if columns else np.empty((len(codes), 0))

    def scores(self, codes: Codes, known: FloatArray) -> Scores:
        """Scores from the expensive metrics' values (n, len(expensive)), with the cheap ones computed here."""
        computed = {id(metric): known[:, i] for i, metric in enumerate(self.expensive)}

        def value(metric: Metric) -> FloatArray:
            if id(metric) not in computed:
                computed[id(metric)] = _values(metric, codes)
            return computed[id(metric)]

        values = np.stack([value(objective.metric) for objective in self.objectives], axis=1)
        ratio = np.zeros(len(codes))
        for budget, metric in self.budgets:
            ratio = np.maximum(ratio, value(metric) / _limit(budget))  # NaN stays NaN
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

        Raises InputError where the problem has several objectives.
        """
        if len(self.objectives) != 1:
            raise InputError(f"a reward needs one objective, this problem has {len(self.objectives)}; use a searcher for several objectives")
        sign = 1.0 if self.objectives[0].maximize else -1.0
        return self.rule(sign * scores.values[:, 0], scores.ratio)

    # -- feasibility before search ------------------------------------------------------------------------------------------

    def within(self, codes: Codes) -> BoolArray:
        """Rows within every budget whose metric is cheap, (n,)."""
        inside = np.ones(len(codes), np.bool_)
        for budget, metric in self._cheap_budgets:
            inside &= _values(metric, codes) <= _limit(budget)
        return inside

    def feasible_share(self, rng: np.random.Generator, samples: int = _BATCH) -> float:
        """Share of the space's codes within the cheap budgets, estimated from uniform samples."""
        return float(self.within(self.space.sample(rng, samples)).mean())

    def sample_feasible(self, rng: np.random.Generator, n: int) -> Codes:
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

    def repaired(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Each row moved within the cheap budgets: as many genes, in random order, as it takes are replaced by those of one that is known to be.

        Rows within them stay as they are. Raises Infeasible where no architecture is known that keeps them.
        """
        if self.within(codes).all():
            return codes.copy(order="F")
        witness = self._witness
        if witness is None:
            known = next((c for c in (self.space.smallest(), self.space.largest()) if self.within(c)[0]), None)
            if known is None:
                raise Infeasible(
                    f"no architecture of {self.space.name} within {self._joined_budgets} was found among random ones; allow more, or give fewer budgets"
                )
            witness = known
        steps = np.arange(len(self.space.choices) + 1)
        repaired = codes.copy(order="F")
        for row, code in enumerate(codes):
            rank = np.argsort(rng.random(len(code)))
            path = np.where(rank[None] < steps[:, None], witness, code[None])  # (choices + 1, choices), the last row is the witness
            repaired[row] = path[np.argmax(self.within(np.asfortranarray(path, np.int16)))]
        return repaired

    @cached_property
    def _cheap_budgets(self) -> list[tuple[Budget, Metric]]:
        return [(budget, metric) for budget, metric in self.budgets if not is_expensive(metric)]

    @cached_property
    def _witness(self) -> Codes | None:
        """A code (1, choices) within the cheap budgets, if the exact minima of the additive ones give one."""
        least = [self._least[id(metric)].code for _, metric in self._cheap_budgets if id(metric) in self._least]
        if self._joint is not None:
            least.append(self._joint.code)
        return next((code for code in least if self.within(code)[0]), None)

    @cached_property
    def _least(self) -> dict[int, Extreme]:
        """Exact minimum over the space of each additive metric that has a budget, by the metric's identity."""
        return {id(metric): metric.bounds()[0] for _, metric in self.budgets if isinstance(metric, Additive)}

    @cached_property
    def _joint(self) -> Extreme | None:
        """Exact minimum of the sum of all additive metrics, each divided by its limit; None for fewer than two."""
        additive = [(_limit(budget), metric) for budget, metric in self.budgets if isinstance(metric, Additive) and metric.index is self.index]
        if len(additive) < 2:
            return None
        cells = [np.sum(each, axis=0) for each in zip(*([cells / limit for cells in metric.cells] for limit, metric in additive), strict=True)]
        constant = sum(metric.constant / limit for limit, metric in additive)
        return Additive(self.index, cells, name="used", unit="", constant=constant).bounds()[0]

    def _refuse_infeasible(self) -> None:
        for budget, metric in self.budgets:
            least = self._least.get(id(metric))
            if least is not None and least.value > _limit(budget):
                raise Infeasible(
                    f"{budget} cannot be met: every architecture of {self.space.name} takes at least {least.value:.6g} {metric.unit} "
                    f"({metric.origin}), reached by {describe(self.space, least.code)}"
                )
        additive = [budget for budget, metric in self.budgets if isinstance(metric, Additive) and metric.index is self.index]
        if self._joint is not None and self._joint.value > len(additive) * (1 + 1e-9):  # then in every architecture some share exceeds 1
            raise Infeasible(
                f"{' and '.join(map(str, additive))} cannot be met together: each can alone, but every architecture of {self.space.name} "
                f"uses at least {self._joint.value:.4g} of them in sum, more than {len(additive)}"
            )

    @property
    def _joined_budgets(self) -> str:
        return " and ".join(str(budget) for budget, _ in self.budgets)

    def _largest(self, budget: Budget, metric: Metric) -> float:
        if is_expensive(metric):
            raise InputError(f"the budget {budget} is a share, and {metric.name} is expensive to evaluate; give the limit in {metric.unit}")
        largest = float(_values(metric, self.space.largest())[0])
        if not np.isfinite(largest):
            raise InputError(f"the budget {budget} cannot be resolved: the largest subnet of {self.space.name} has no {metric.name}")
        return largest


def is_expensive(metric: Metric) -> bool:
    """Whether evaluating the metric costs something worth recording; a metric without the attribute `expensive` is cheap."""
    return bool(getattr(metric, "expensive", False))


def describe(space: SearchSpace, code: Codes) -> str:
    """An architecture (1, choices) in words, by how it differs from the smallest: `the smallest but for resolution=160`."""
    values, smallest = space.decode(code[0]), space.decode(space.smallest()[0])
    differing = [f"{name}={value}" for name, value in values.items() if value != smallest[name]]
    return "the smallest architecture" + (f" but for {', '.join(differing)}" if differing else "")


def _limit(budget: Budget) -> float:
    assert budget.limit is not None  # Problem has resolved it
    return budget.limit


def _at(metric: Metric, fidelity: float) -> Metric:
    if fidelity == 1.0:
        return metric
    if not isinstance(metric, PartialMetric):
        raise InputError(f"{metric.name} cannot be evaluated at a fidelity of {fidelity:g}: it has no method at(fidelity); use a searcher that asks for 1")
    return metric.at(fidelity)


def _values(metric: Metric, codes: Codes) -> FloatArray:
    values = np.asarray(metric(codes), np.float64)
    if values.shape != (len(codes),):
        raise InputError(f"the metric {metric.name} returned values of shape {values.shape} for {len(codes)} architectures")
    return values
