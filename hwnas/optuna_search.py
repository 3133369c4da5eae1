"""Samplers of Optuna as searchers: one adapter for all of them, by ask and tell, with the study in memory.

    def tpe(problem, *, rng, startup: int = 10, pending: int = 0):
        yield from optuna_search(problem, lambda samplers, seed: samplers.TPESampler(seed=seed), rng=rng, start=startup, pending=pending)

A run records answers, not a sampler's state: resuming builds the sampler anew from the same seed and tells it the same again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hwnas.errors import MissingExtra
from hwnas.problem import Problem, Scores
from hwnas.rewards import feasible_first
from hwnas.searcher import Ask, Search
from hwnas.space import Codes, FloatArray

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

_PROPOSALS = 16  # for each candidate by default; the first that is within the budget and new is taken
_BARREN = 20  # rounds in a row without a new subnet, after which there is next to nothing left to find

#: `(optuna.samplers, seed)` -> a sampler with that seed.
MakeSampler: TypeAlias = "Callable[[ModuleType, int], BaseSampler]"


def optuna_search(
    problem: Problem,
    make: MakeSampler,
    *,
    rng: np.random.Generator,
    start: int = 0,
    batch: int = 1,
    pending: int = 0,
    constrained: bool = True,
    proposals: int = _PROPOSALS,
) -> Search:
    """Candidates that the sampler proposes, `batch` at a time, after `start` that are uniform within the cheap budgets.

    Every candidate is within the cheap budgets, and no subnet is asked for twice: of `proposals` the first such is taken, else the
    last one moved into the budget, else a random one. The sampler is told what was evaluated: the objectives, to be minimised, and the
    violation of the budgets as a constraint; or the negative reward alone, where the sampler is not `constrained` or the problem has
    another rule than `feasible_first`. A failed candidate is infinitely bad. Numbers are ordered parameters, texts categories. With
    `pending` as many are asked for as were told, `batch` at most. It ends when 20 rounds brought nothing new. Raises MissingExtra
    where Optuna is not installed.
    """
    study = _Study(problem, make, int(rng.integers(1, 2**31)), constrained)
    asked: set[bytes] = set()
    running: dict[int, Trial] = {}  # by the number the driver gives
    number = barren = 0

    def is_new(code: Codes) -> bool:
        """Whether the subnet (1, choices) was not asked for before; it counts as asked from now on."""
        (key,) = problem.index.keys(code)
        known = key in asked
        asked.add(key)
        return not known

    def sampled(n: int) -> list[tuple[Trial, Codes]]:
        """Up to n candidates, each (trial, code)."""
        found: list[tuple[Trial, Codes]] = []
        over = np.empty((0, len(problem.space.choices)), np.int16)
        for _ in range(proposals):
            trials = [study.propose() for _ in range(n - len(found))]
            codes = np.asfortranarray(np.concatenate([code for _, code in trials]))
            inside = problem.within(codes)
            for (trial, code), fits in zip(trials, inside, strict=True):
                if fits and is_new(code):
                    found.append((trial, code))
                else:
                    study.reject(trial)
            over = codes[~inside]
            if len(found) == n:
                return found
        spare = np.concatenate([problem.repaired(over, rng), problem.sample_feasible(rng, n - len(found))])
        return found + given(spare, n - len(found))

    def given(codes: Codes, most: int) -> list[tuple[Trial, Codes]]:
        """The first new ones of these, as if the sampler had proposed them."""
        found: list[tuple[Trial, Codes]] = []
        for row in range(len(codes)):
            if len(found) < most and is_new(codes[row : row + 1]):
                found.append((study.propose(codes[row : row + 1])[0], codes[row : row + 1]))
        return found

    candidates = given(problem.sample_feasible(rng, 4 * start), start) if start else sampled(batch)
    while barren < _BARREN:
        barren = 0 if candidates else barren + 1
        if candidates or running:
            running.update(zip(range(number, number + len(candidates)), (trial for trial, _ in candidates), strict=True))
            number += len(candidates)
            codes = np.concatenate([np.empty((0, len(problem.space.choices)), np.int16), *(code for _, code in candidates)])
            told = yield Ask(np.asfortranarray(codes), pending=pending if candidates else 0)
            study.tell([running.pop(each) for each in told.numbers.tolist()], told.scores)
            free = len(told.codes)
        else:
            free = batch
        candidates = sampled(batch if pending == 0 else min(batch, max(1, free)))


class _Study:
    """The problem as Optuna sees it: parameters, values to minimise, and a constraint."""

    def __init__(self, problem: Problem, make: MakeSampler, seed: int, constrained: bool):
        try:
            import optuna
        except ImportError as error:
            raise MissingExtra("this searcher", error.name or "optuna", "optuna") from None
        if not hasattr(optuna.Trial, "set_constraint"):
            raise MissingExtra("this searcher", "optuna>=5", "optuna")

        # Only this rule means what a constraint means; the others have opinions of their own on the budget.
        self.constrained = constrained and (len(problem.objectives) > 1 or problem.rule is feasible_first)
        self.problem, self.failed = problem, optuna.trial.TrialState.FAIL
        self.distributions: dict[str, BaseDistribution] = {
            choice.name: optuna.distributions.CategoricalDistribution(tuple(range(len(choice.values))))
            if any(isinstance(value, str) for value in choice.values)
            else optuna.distributions.IntDistribution(0, len(choice.values) - 1)
            for choice in problem.space.choices
        }
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # a new study is no news
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # what is experimental is bounded by the extra's versions
                self.study: Study = optuna.create_study(directions=["minimize"] * len(problem.objectives), sampler=make(optuna.samplers, seed))
        finally:
            optuna.logging.set_verbosity(verbosity)

    def propose(self, code: Codes | None = None) -> tuple[Trial, Codes]:
        """The sampler's next trial, or one of this code (1, choices), and its code."""
        if code is not None:
            self.study.enqueue_trial(dict(zip(self.distributions, code[0].tolist(), strict=True)))
        trial = self.study.ask(self.distributions)
        if code is not None:
            _ = trial.relative_params  # fixed parameters would pass the sampler by, and with it its count of generations
        params = trial.params
        return trial, np.array([[params[name] for name in self.distributions]], np.int16)

    def reject(self, trial: Trial) -> None:
        """The trial was not evaluated and teaches nothing."""
        self.study.tell(trial, state=self.failed)

    def tell(self, trials: list[Trial], scores: Scores) -> None:
        values: FloatArray = self.problem.minimised(scores) if self.constrained else -self.problem.reward(scores)[:, None]
        for trial, row, violation in zip(trials, values.tolist(), scores.violation.tolist(), strict=True):
            if self.constrained and self.problem.budgets:
                trial.set_constraint("violation", violation)
            self.study.tell(trial, row)
