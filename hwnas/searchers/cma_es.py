"""CMA-ES with margin (Hamano et al., 2022) through the library `cmaes`: a normal distribution over codes that cannot freeze in any of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.cmaes_search import cmaes_search
from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Search
from hwnas.space import Choice, Codes


def cma_es(problem: Problem, *, rng: np.random.Generator, population: int = 0) -> Search:
    """Generations drawn from a normal distribution and rounded; its mean and covariance follow the better half (Hansen, 2016).

    The margin keeps the chance of another value of each choice above 1 / (choices * population). population: 0 stands for the
    4 + 3 ln(choices) of the literature. All choices are ordered, also where their values are texts: catcma knows categories. Candidates over
    the cheap budgets are never evaluated, no subnet is asked for twice (see cmaes_search.py). Raises MissingExtra where cmaes is not installed.
    """
    if population != 0 and population < 4:
        raise InputError(f"cma_es needs population = 0 or population >= 4, got {population}")
    yield from cmaes_search(problem, lambda cmaes, choices, like, seed: _Rounded(cmaes, choices, like, seed, population), rng=rng)


class _Rounded:
    """CMAwM over whole numbers."""

    def __init__(self, cmaes: ModuleType, choices: Sequence[Choice], like: Codes, seed: int, population: int):
        last = np.array([len(choice.values) - 1 for choice in choices], np.float64)
        self._strategy = cmaes.CMAwM(
            mean=like.mean(axis=0),
            sigma=1.0,
            bounds=np.stack([np.zeros(len(last)), last], axis=1),
            steps=np.ones(len(last)),
            seed=seed,
            population_size=population or None,
            cov=np.diag(np.maximum(like.std(axis=0), 0.5) ** 2),  # half a step at least, else a choice would begin as good as frozen
        )

    @property
    def population(self) -> int:
        return int(self._strategy.population_size)

    def draw(self) -> tuple[Any, Sequence[int]]:
        rounded, sample = self._strategy.ask()
        return sample, rounded.astype(np.int64).tolist()

    def learn(self, generation: list[tuple[Any, float]]) -> None:
        self._strategy.tell(generation)

    def is_spent(self) -> bool:
        return bool(self._strategy.should_stop())


if TYPE_CHECKING:
    from hwnas.cmaes_search import Distribution
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = cma_es
    _is_a_distribution: type[Distribution] = _Rounded
