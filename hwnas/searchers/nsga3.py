"""NSGA-III (Deb & Jain, 2014) through Optuna: a front for three and more objectives, spread by reference directions instead of crowding."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.optuna_search import optuna_search
from hwnas.problem import Problem
from hwnas.searcher import Search


def nsga3(
    problem: Problem, *, rng: np.random.Generator, population: int = 16, divisions: int = 0, crossover: float = 0.9, mutation: float = 0.0, pending: int = 0
) -> Search:
    """Generations of `population` candidates as of nsga2, the last front thinned by which reference direction a candidate is nearest to.

    divisions: of each objective's axis between the directions (Das & Dennis, 1998); 0 stands for the most that give no more
    directions than the population has members (section IV-B). crossover, mutation: as of nsga2. Every candidate is within the cheap
    budgets and new (see optuna_search.py). Raises MissingExtra where Optuna is not installed.
    """
    if population < 2 or divisions < 0 or pending < 0 or not 0 <= crossover <= 1 or not 0 <= mutation <= 1:
        raise InputError(
            f"nsga3 needs population >= 2, divisions >= 0, pending >= 0, crossover and mutation in 0..1, "
            f"got {population=}, {divisions=}, {pending=}, {crossover=}, {mutation=}"
        )
    parts = divisions or _divisions(len(problem.objectives), population)
    yield from optuna_search(
        problem,
        lambda samplers, seed: samplers.NSGAIIISampler(
            population_size=population, crossover_prob=crossover, mutation_prob=mutation or None, dividing_parameter=parts, seed=seed
        ),
        rng=rng,
        start=population,
        batch=population,
        pending=pending,
    )


def _divisions(objectives: int, most: int) -> int:
    """The most divisions with at most so many directions, at least 1: n divisions of m axes are comb(n + m - 1, n) directions."""
    divisions = 1
    while objectives > 1 and comb(divisions + objectives, divisions + 1) <= most:
        divisions += 1
    return divisions


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = nsga3
