"""What controllers have in common, whatever policy they learn: candidates within the budget, rewards that can be averaged, a baseline."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from hwnas.feasible_set import is_expensive
from hwnas.index import BlockIndex
from hwnas.pareto import BoolArray
from hwnas.policies import Policy, entropy
from hwnas.predictor import Additive
from hwnas.problem import Problem
from hwnas.space import Codes, FloatArray

#: within: candidates are within the cheap budgets. free: they are as the policy draws them, and the reward alone keeps the budget, or does not.
Sampling = Literal["within", "free"]

_DRAWS = 16  # for each candidate, before one is moved within the budget
_LOST = -1e290  # rewards below it rank candidates over the budget; they are no amounts


def draw(problem: Problem, policy: Policy, rng: np.random.Generator, n: int, sampling: Sampling) -> Codes:
    """n codes of the policy, of those within the cheap budgets where `sampling` says so, (n, choices), column-major.

    Those over a budget are drawn again, at most 16 times as many as are wanted; what then still lacks is moved within, see `Problem.repaired`.
    So candidates come from the policy given that the budget is kept. The derivative of its log-likelihood lacks a term that is the same for all of them, minus
    that of the log of the chance to keep the budget; times an advantage whose mean is zero it vanishes in expectation, so that nothing else changes.
    Raises Infeasible where no architecture is known that keeps the budgets.
    """
    if sampling == "free":
        return policy.sample(rng, n)
    found, missing, left = list[Codes](), n, _DRAWS * n
    while missing > 0 and left > 0:
        codes = policy.sample(rng, min(left, max(missing, 8)))
        inside = codes[problem.within(codes)][:missing]
        found.append(inside)
        missing, left = missing - len(inside), left - len(codes)
    if missing > 0:
        found.append(problem.repaired(policy.sample(rng, missing), rng))
    return np.asfortranarray(np.concatenate(found))


class Rewards:
    """Rewards as amounts: a candidate that failed, or that `feasible_first` ranks below all others, counts as the worst one seen.

    worst: in a dictionary, which a searcher may keep in its state.
    """

    def __init__(self, memory: dict[str, Any] | None = None):
        self.memory: dict[str, Any] = {} if memory is None else memory

    def amounts(self, rewards: FloatArray) -> FloatArray | None:
        """rewards (n,) -> finite ones, (n,); None where there is nothing to learn from yet."""
        real = np.isfinite(rewards) & (rewards > _LOST)
        if real.any():
            self.memory["worst"] = min(float(rewards[real].min()), self.memory.get("worst", np.inf))
        return np.where(real, rewards, self.memory["worst"]) if len(rewards) and "worst" in self.memory else None


class Baseline:
    """An exponential moving average of rewards, without the bias of its start (Kingma and Ba, 2015, section 3).

    Its sum and weight are in `memory`, which a searcher may keep in its state.
    """

    def __init__(self, momentum: float, memory: dict[str, Any] | None = None):
        self.momentum = momentum
        self.memory: dict[str, Any] = {} if memory is None else memory
        self.memory.setdefault("total", 0.0)
        self.memory.setdefault("weight", 0.0)

    def add(self, reward: float) -> float:
        """The average with this reward in it."""
        self.memory["total"] += (1 - self.momentum) * (reward - self.memory["total"])
        self.memory["weight"] += (1 - self.momentum) * (1 - self.memory["weight"])
        return self.value

    @property
    def value(self) -> float:
        """The average; NaN before the first reward."""
        return float(self.memory["total"] / self.memory["weight"]) if self.memory["weight"] > 0 else np.nan


class Milestones:
    """Which numbers of candidates deserve a point of a search's course: every tenth at first, later every fiftieth part of what there was."""

    def __init__(self) -> None:
        self._next = 10

    def passed(self, count: int) -> bool:
        """Whether another one is reached."""
        if count < self._next:
            return False
        self._next = count + max(10, count // 50)
        return True


def course(problem: Problem, policy: Policy, codes: Codes | None = None) -> dict[str, float]:
    """What a policy has come to, for `Trace`: its entropy, and what it expects of each cheap budget's metric.

    codes: some that it drew, (n, choices), over which both are averaged where choices are not independent. Where they are, entropy and sums over
    layers are exact.
    """
    exact = codes is None
    codes = policy.likeliest() if codes is None else codes
    logs = policy.log_probabilities(codes)
    facts = {"entropy, nats": float(entropy(logs).sum(axis=1).mean())}
    for each in problem.constraints:
        name, unit = each.metric.name, each.metric.unit
        if exact and isinstance(each.metric, Additive):
            facts[f"expected {name}, {unit}"] = each.expected([np.exp(row[:size]) for row, size in zip(logs[0], problem.space.cardinalities, strict=True)])[0]
        elif not exact and not is_expensive(each.metric):
            facts[f"mean {name} of the drawn, {unit}"] = float(each.price(codes).mean())
    return facts


def active(index: BlockIndex, codes: Codes) -> BoolArray:
    """Which choices matter: those with another value that gives another subnet, the others left as they are. codes (n, choices) -> (n, choices)."""
    ids, matters = index.ids(codes), np.zeros(codes.shape, np.bool_)
    for column, size in enumerate(index.space.cardinalities):
        changed = codes.copy(order="F")
        for value in range(int(size)):
            changed[:, column] = value
            matters[:, column] |= (index.ids(changed) != ids).any(axis=1)
    return matters
