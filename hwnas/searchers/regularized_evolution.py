"""Aging evolution inside a budget (Real et al., 2019, algorithm 1): the best of a tournament has a child, the oldest dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.pareto import BoolArray
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes

_PROPOSALS = 16  # for each child; the first that is within the budget and new is taken
_BARREN = 20  # rounds in a row without a new subnet, after which there is next to nothing left to find


def regularized_evolution(
    problem: Problem,
    *,
    rng: np.random.Generator,
    population: int = 24,
    tournament: int = 8,
    mutation: float = 0.05,
    crossover: float = 0.5,
    children: int = 1,
    pending: int = 0,
) -> Search:
    """Aging evolution: `children` a round, each a mutant of the winner of a tournament of `tournament` out of `population`.

    mutation: chance of each gene to change, at least one does. crossover: share of children that take each gene from one of two
    winners before they mutate, as Once-for-All's search does; 0 is the paper's algorithm. Every candidate is within the cheap
    budgets; subnets asked before are avoided with bounded effort, and the search ends when 20 rounds brought no new one. The
    defaults are for a hundred or two evaluations.
    """
    if population < 1 or not 1 <= tournament <= population or children < 1 or pending < 0 or not 0 <= mutation <= 1 or not 0 <= crossover <= 1:
        raise InputError(
            f"regularized_evolution needs 1 <= tournament <= population, children >= 1, pending >= 0, mutation and crossover in 0..1, "
            f"got {tournament=}, {population=}, {children=}, {pending=}, {mutation=}, {crossover=}"
        )
    space = problem.space
    asked: set[bytes] = set()

    def is_new(codes: Codes, inside: BoolArray) -> BoolArray:
        """Rows that are inside and whose subnet was not asked for before; they count as asked from now on."""
        new = np.zeros(len(codes), np.bool_)
        for row, subnet in enumerate(problem.index.ids(codes)):
            if inside[row] and (key := subnet.tobytes()) not in asked:
                asked.add(key)
                new[row] = True
        return new

    def winners(n: int) -> Codes:
        entrants = rng.integers(0, len(pool), (n, tournament))
        best = np.argmax(rewards[entrants], axis=1)  # (n,)
        return np.asfortranarray(pool[entrants[np.arange(n), best]])

    def born(n: int) -> Codes:
        parents = winners(n)
        crossed = rng.random(n) < crossover
        if crossed.any():
            parents[crossed] = space.crossover(parents[crossed], winners(int(crossed.sum())), rng)
        return space.mutate(parents, rng, mutation)

    def offspring(n: int) -> tuple[Codes, bool]:
        """n children, and whether at least one is new."""
        found = np.empty((n, len(space.choices)), np.int16, order="F")
        missing = np.arange(n)
        for _ in range(_PROPOSALS):
            proposed = born(len(missing))
            new = is_new(proposed, problem.within(proposed))
            found[missing[new]] = proposed[new]
            missing = missing[~new]
            if len(missing) == 0:
                return found, True
        immigrants = problem.sample_feasible(rng, len(missing))  # for children whose proposals were all over budget or known
        found[missing] = immigrants
        return found, bool(is_new(immigrants, np.ones(len(missing), np.bool_)).any()) or len(missing) < n

    initial = problem.index.distinct(problem.sample_feasible(rng, 4 * population))[:population]
    is_new(initial, np.ones(len(initial), np.bool_))
    told = yield Ask(np.asfortranarray(initial))
    pool, rewards = told.codes, problem.reward(told.scores)
    barren = 0
    while barren < _BARREN:
        codes, fruitful = offspring(children)
        barren = 0 if fruitful else barren + 1
        told = yield Ask(codes, pending=pending)
        pool = np.concatenate([pool, told.codes])[-population:]
        rewards = np.concatenate([rewards, problem.reward(told.scores)])[-population:]


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = regularized_evolution
