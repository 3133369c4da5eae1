"""NSGA-II (Deb et al., 2002) through Optuna: a front for several objectives at once, by non-dominated sorting and crowding distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.optuna_search import optuna_search
from hwnas.problem import Problem
from hwnas.searcher import Search


def nsga2(problem: Problem, *, rng: np.random.Generator, population: int = 16, crossover: float = 0.9, mutation: float = 0.0, pending: int = 0) -> Search:
    """Generations of `population` candidates; parents are the best of the last generation and its parents together, by constrained domination.

    crossover: share of children that take each choice from one of two parents. mutation: chance of each choice to be drawn anew; 0
    stands for one divided by the number of choices. Every candidate is within the cheap budgets and new (see optuna_search.py); one
    objective is sorted by itself. Raises MissingExtra where Optuna is not installed.
    """
    if population < 2 or pending < 0 or not 0 <= crossover <= 1 or not 0 <= mutation <= 1:
        raise InputError(f"nsga2 needs population >= 2, pending >= 0, crossover and mutation in 0..1, got {population=}, {pending=}, {crossover=}, {mutation=}")
    yield from optuna_search(
        problem,
        lambda samplers, seed: samplers.NSGAIISampler(population_size=population, crossover_prob=crossover, mutation_prob=mutation or None, seed=seed),
        rng=rng,
        start=population,
        batch=population,
        pending=pending,
    )


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = nsga2
