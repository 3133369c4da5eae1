"""Aging evolution inside a budget (Real et al., 2019, algorithm 1): the best of a tournament has a child, the oldest dies."""

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
    seeds: int = 4,
    pending: int = 0,
) -> Search:
    """Aging evolution: `children` a round, each a mutant of the winner of a tournament of `tournament` out of `population`.

    mutation: chance of each gene to change, at least one does. crossover: share of children that take each gene from one of two
    winners before they mutate, as Once-for-All's search does; 0 is the paper's algorithm. seeds: so many architectures from the top
    of the exact front of an additive surrogate, fitted to the first population, are asked for before the first child. Every candidate is within the cheap
    budgets; subnets asked before are avoided with bounded effort, and the search ends when 20 rounds brought no new one. The
    defaults are for a hundred or two evaluations.
    """
    if population < 1 or not 1 <= tournament <= population or children < 1 or seeds < 0 or pending < 0 or not 0 <= mutation <= 1 or not 0 <= crossover <= 1:
        raise InputError(
            f"regularized_evolution needs 1 <= tournament <= population, children >= 1, seeds >= 0, pending >= 0, mutation and crossover in 0..1, "
            f"got {tournament=}, {population=}, {children=}, {seeds=}, {pending=}, {mutation=}, {crossover=}"
        )
    space = problem.space
    asked: set[bytes] = set()
    share = 1.0  # of the proposals that were taken lately: how many to make at once

    def new(codes: Codes, most: int) -> Codes:
        """The first rows, `most` at most, whose subnet was not asked for before; they count as asked from now on."""
        rows: list[int] = []
        for row, subnet in enumerate(problem.index.keys(codes)):
            if subnet not in asked and len(rows) < most:
                asked.add(subnet)
                rows.append(row)
        return codes[rows]

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
        nonlocal share
        found, missing, left = list[Codes](), n, _PROPOSALS * n
        while missing > 0 and left > 0:
            proposed = born(min(left, ceil(missing / max(share, 1 / _PROPOSALS))))
            taken = new(proposed[problem.within(proposed)], missing)
            found.append(taken)
            missing, left = missing - len(taken), left - len(proposed)
            share += 0.2 * (len(taken) / len(proposed) - share)
        if missing > 0:  # proposals were all over budget or known
            immigrants = problem.sample_feasible(rng, missing)
            found.append(immigrants)
            return np.asfortranarray(np.concatenate(found)), len(new(immigrants, missing)) > 0 or missing < n
        return np.asfortranarray(np.concatenate(found)), True

    initial = problem.index.distinct(problem.sample_feasible(rng, 4 * population))[:population]
    told = yield Ask(np.asfortranarray(new(initial, population)))
    pool, rewards = told.codes, problem.reward(told.scores)
    favourites = best_by_surrogate(problem, told.codes, told.scores, seeds) if seeds > 0 else initial[:0]
    favourites = new(favourites[problem.within(favourites)], seeds)  # the surrogate knows only budgets on layers
    if len(favourites):
        told = yield Ask(np.asfortranarray(favourites))
        pool, rewards = np.concatenate([pool, told.codes]), np.concatenate([rewards, problem.reward(told.scores)])
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
