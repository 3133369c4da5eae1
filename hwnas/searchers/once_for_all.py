"""The search of Once-for-All (Cai et al., 2020, section 3.4 and its official code): evolution for metrics that cost nothing, whole generations at a time."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes
from hwnas.surrogate import best_by_surrogate

_PROPOSALS = 16  # for each child; the first that is within the budget and new is taken
_BARREN = 20  # generations in a row without a new subnet, after which there is next to nothing left to find


def once_for_all(
    problem: Problem,
    *,
    rng: np.random.Generator,
    population: int = 100,
    parents: float = 0.25,
    mutants: float = 0.5,
    mutation: float = 0.1,
    seeds: int = 1,
) -> Search:
    """Generations of `population` children of the best `parents` (a share) of the last parents and their children together.

    mutants: share of the children that are a parent of which each choice changes with chance `mutation`, at least one does; the others
    take each choice from one of two parents. The numbers are the official code's, which runs 500 generations. seeds: so many
    architectures from the top of the exact front of an additive surrogate, fitted to the first generation, join it; 0 is the official search.
    Where that one draws a child again until it is within the budget, without end, a child here has 16 tries and is then moved into
    it; no subnet is asked for twice, and the search ends when 20 generations brought no new one.
    """
    if population < 2 or seeds < 0 or not 0 < parents <= 1 or not 0 <= mutants <= 1 or not 0 <= mutation <= 1:
        raise InputError(
            f"once_for_all needs population >= 2, seeds >= 0, parents in 0..1 and above 0, mutants and mutation in 0..1, "
            f"got {population=}, {seeds=}, {parents=}, {mutants=}, {mutation=}"
        )
    space, survivors = problem.space, max(1, round(parents * population))
    asked: set[bytes] = set()

    def new(codes: Codes, most: int) -> Codes:
        """The first rows, `most` at most, whose subnet was not asked for before; they count as asked from now on."""
        rows: list[int] = []
        for row, subnet in enumerate(problem.index.keys(codes)):
            if len(rows) < most and subnet not in asked:
                asked.add(subnet)
                rows.append(row)
        return codes[rows]

    def picked(n: int) -> Codes:
        return np.asfortranarray(pool[rng.integers(0, len(pool), n)])

    def children(n: int, mutate: bool) -> Codes:
        """Up to n new ones."""
        found, missing, left, share, over = [pool[:0]], n, _PROPOSALS * n, 1.0, pool[:0]
        while missing > 0 and left > 0:
            some = min(left, ceil(missing / max(share, 1 / _PROPOSALS)))
            drawn = picked(some)
            drawn = space.mutate(drawn, rng, mutation) if mutate else space.crossover(drawn, picked(some), rng)
            inside = problem.within(drawn)
            taken, over = new(drawn[inside], missing), drawn[~inside]
            found.append(taken)
            missing, left, share = missing - len(taken), left - some, len(taken) / some
        if missing > 0 and len(over):
            found.append(new(problem.repaired(np.asfortranarray(over[:missing]), rng), missing))
        return np.concatenate(found)

    told = yield Ask(np.asfortranarray(new(problem.sample_feasible(rng, 4 * population), population)))
    pool, rewards = told.codes, problem.reward(told.scores)
    favourites = pool[:0]
    if seeds > 0:
        likely = best_by_surrogate(problem, told.codes, told.scores, seeds)
        favourites = new(likely[problem.within(likely)], seeds)
    barren = 0
    while barren < _BARREN:
        if len(favourites) == 0:
            best = np.argsort(-rewards, kind="stable")[:survivors]
            pool, rewards = pool[best], rewards[best]
            n_mutants = round(mutants * population)
            born = np.concatenate([children(n_mutants, mutate=True), children(population - n_mutants, mutate=False)])
        else:
            born, favourites = favourites, favourites[:0]
        barren = 0 if len(born) else barren + 1
        if len(born):
            told = yield Ask(np.asfortranarray(born))
            pool, rewards = np.concatenate([pool, told.codes]), np.concatenate([rewards, problem.reward(told.scores)])


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = once_for_all
