"""CatCMA with margin (Hamano et al., 2025) through the library `cmaes`: one distribution over numbers and categories together."""

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


def catcma(problem: Problem, *, rng: np.random.Generator, population: int = 0) -> Search:
    """Generations drawn from a rounded normal distribution of the numbers and independent chances of the categories, which both follow the better half.

    Choices of three and more numbers are ordered; texts, and choices of two values, as the library advises, are categories. Margins keep
    the chance of every value above zero. population: 0 stands for the 4 + 3 ln(choices) of the literature. Candidates over the cheap budgets are never
    evaluated, no subnet is asked for twice (see cmaes_search.py). Raises MissingExtra where cmaes is not installed.
    """
    if population != 0 and population < 4:
        raise InputError(f"catcma needs population = 0 or population >= 4, got {population}")
    yield from cmaes_search(problem, lambda cmaes, choices, like, seed: _Mixed(cmaes, choices, like, seed, population), rng=rng)


class _Mixed:
    """CatCMAwM over whole numbers and categories."""

    def __init__(self, cmaes: ModuleType, choices: Sequence[Choice], like: Codes, seed: int, population: int):
        sizes = np.array([len(choice.values) for choice in choices])
        is_category = np.array([len(choice.values) == 2 or any(isinstance(value, str) for value in choice.values) for choice in choices])
        self._numbers, self._categories = np.flatnonzero(~is_category), np.flatnonzero(is_category)
        given: dict[str, Any] = {}
        if len(self._numbers):
            spread = np.maximum(like[:, self._numbers].std(axis=0), 0.5)  # half a step at least, else a choice would begin as good as frozen
            given |= {"z_space": [list(range(size)) for size in sizes[self._numbers]], "mean": like[:, self._numbers].mean(axis=0), "cov": np.diag(spread**2)}
        if len(self._categories):
            chances = np.zeros((len(self._categories), sizes[self._categories].max()))
            for row, column in enumerate(self._categories):
                counts = np.bincount(like[:, column], minlength=sizes[column]) + 1.0
                chances[row, : sizes[column]] = counts / counts.sum()
            given |= {"c_space": sizes[self._categories].tolist(), "cat_param": chances}
        self._width = len(choices)
        self._strategy = cmaes.CatCMAwM(**given, population_size=population or None, seed=seed)

    @property
    def population(self) -> int:
        return int(self._strategy.population_size)

    def draw(self) -> tuple[Any, Sequence[int]]:
        sample = self._strategy.ask()
        codes = np.zeros(self._width, np.int64)
        if len(self._numbers):
            codes[self._numbers] = sample.z
        if len(self._categories):
            codes[self._categories] = sample.c.argmax(axis=1)
        return sample, codes.tolist()

    def learn(self, generation: list[tuple[Any, float]]) -> None:
        self._strategy.tell(generation)

    def is_spent(self) -> bool:
        return len(self._numbers) > 0 and bool(self._strategy.should_stop())  # the library has no criterion for categories alone


if TYPE_CHECKING:
    from hwnas.cmaes_search import Distribution
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = catcma
    _is_a_distribution: type[Distribution] = _Mixed
