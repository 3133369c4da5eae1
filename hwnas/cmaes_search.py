"""Evolution strategies of the library `cmaes` as searchers: one adapter, by ask and tell, generation by generation and in memory.

A run records answers, not a strategy's state: resuming builds it anew from the same seed and tells it the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np

from hwnas.errors import InputError, MissingExtra
from hwnas.feasible_set import is_expensive
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Choice, Codes, FloatArray

_PROPOSALS = 16  # for each member of a generation; the first within the budget is taken
_BARREN = 20  # generations in a row without a new subnet, after which a distribution starts anew; and starts, after which the search ends
_FIRST = 64  # random candidates that the first distribution is like
_OVER = 1e300  # loss of a candidate over the budget, times its share of the limit: above every loss within


class Distribution(Protocol):
    """What a generation is drawn from: `population` samples, each with the code of every choice that has several values."""

    @property
    def population(self) -> int: ...

    def draw(self) -> tuple[Any, Sequence[int]]:
        """A sample as the library wants it back, and its codes."""
        ...

    def learn(self, generation: list[tuple[Any, float]]) -> None:
        """Move towards the samples of least loss."""
        ...

    def is_spent(self) -> bool:
        """Whether it has nothing left to learn by the library's own criteria."""
        ...


#: (the module `cmaes`, choices with several values, random codes (n, choices) to begin like, seed) -> the distribution.
Begin: TypeAlias = Callable[[ModuleType, Sequence[Choice], Codes, int], Distribution]


def cmaes_search(problem: Problem, begin: Begin, *, rng: np.random.Generator) -> Search:
    """Generations that the distribution proposes, of which those within the cheap budgets that are new are asked for.

    The first distribution has mean and spread of 64 random candidates within the budgets. Each member of a generation is the first of
    16 samples that is within them; where none is, the last one is told as over the budget, by how much, without being evaluated. Of
    a subnet that is known its value is told again. A distribution that is spent, or whose last 20 generations were all known, is begun anew from
    other random candidates; the search ends when 20 of them in a row brought nothing new. Raises MissingExtra where cmaes is not
    installed, InputError where no choice has several values.
    """
    try:
        import cmaes
    except ImportError as error:
        raise MissingExtra("this searcher", error.name or "cmaes", "cmaes") from None
    columns = np.flatnonzero(problem.space.cardinalities > 1)
    if len(columns) == 0:
        raise InputError(f"{problem.space.name} has a single architecture; there is nothing to search")
    choices = [problem.space.choices[column] for column in columns.tolist()]
    known: dict[bytes, float] = {}  # loss of each subnet
    barren_starts = 0
    while barren_starts < _BARREN:
        distribution = begin(cmaes, choices, np.asfortranarray(problem.sample_feasible(rng, _FIRST)[:, columns]), int(rng.integers(1, 2**31)))
        barren_starts, barren = barren_starts + 1, 0
        while barren < _BARREN and not distribution.is_spent():
            samples, codes = _generation(problem, distribution, columns)
            subnets, inside = problem.index.keys(codes), problem.within(codes)
            new = {subnet: row for row, subnet in reversed(list(enumerate(subnets))) if inside[row] and subnet not in known}
            barren += 1
            if new:
                barren = barren_starts = 0
                told = yield Ask(np.asfortranarray(codes[sorted(new.values())]))
                known.update(zip(problem.index.keys(told.codes), (-problem.reward(told.scores)).tolist(), strict=True))
            over = np.minimum(_OVER * _ratio(problem, codes), np.finfo(np.float64).max).tolist()
            losses = [known[subnet] if fits else loss for subnet, fits, loss in zip(subnets, inside, over, strict=True)]
            distribution.learn(list(zip(samples, losses, strict=True)))


def _generation(problem: Problem, distribution: Distribution, columns: Any) -> tuple[list[Any], Codes]:
    """Samples of a generation, each the first of 16 within the budgets or the last, and their codes (population, choices)."""
    n = distribution.population
    samples, codes = [None] * n, np.zeros((n, len(problem.space.choices)), np.int16, order="F")
    missing = np.arange(n)
    for _ in range(_PROPOSALS):
        for row in missing:
            samples[row], codes[row, columns] = distribution.draw()
        missing = missing[~problem.within(np.asfortranarray(codes[missing]))]
        if len(missing) == 0:
            break
    return samples, codes


def _ratio(problem: Problem, codes: Codes) -> FloatArray:
    """Value of the tightest cheap budget's metric divided by its limit, (n,); infinite where it has none."""
    ratio = np.zeros(len(codes))
    for each in problem.constraints:
        if not is_expensive(each.metric):
            ratio = np.maximum(ratio, each.price(codes) / each.limit)
    return np.nan_to_num(ratio, nan=np.inf)
