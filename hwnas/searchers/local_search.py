"""Local search (White et al., 2021): go to a better neighbour until there is none, then start somewhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes, SearchSpace

_BARREN = 20  # starts in a row without a new subnet, after which there is next to nothing left to find


def local_search(problem: Problem, *, rng: np.random.Generator, initial: int = 8, move: Literal["first", "best"] = "first", batch: int = 1) -> Search:
    """Climbs from the best of `initial` random candidates, one choice changed at a time; at a local optimum it starts again.

    Neighbours are asked for in random order, `batch` at a time. move: go to the first that is better, or ask for all and go to
    the best. Every candidate is within the cheap budgets, no subnet is asked for twice; it ends when 20 starts brought no new one.
    """
    if initial < 1 or batch < 1:
        raise InputError(f"local_search needs initial >= 1 and batch >= 1, got {initial} and {batch}")
    asked: set[bytes] = set()

    def new(codes: Codes) -> Codes:
        """The rows whose subnet was not asked for yet, each subnet once."""
        codes = problem.index.distinct(codes)
        return np.asfortranarray(codes[[subnet not in asked for subnet in problem.index.keys(codes)]])

    def ask(codes: Codes) -> Ask:
        asked.update(problem.index.keys(codes))
        return Ask(codes)

    barren = 0
    while barren < _BARREN:
        starts = new(problem.sample_feasible(rng, initial))
        barren = 0 if len(starts) else barren + 1
        if len(starts) == 0:
            continue
        told = yield ask(starts)
        rewards = problem.reward(told.scores)
        row = int(np.argmax(rewards))
        here, height, climbing = told.codes[row], rewards[row], True
        while climbing:
            climbing = False
            around = neighbours(problem.space, here)
            for codes in _batches(new(around[problem.within(around)]), rng, batch):
                told = yield ask(codes)
                rewards = problem.reward(told.scores)
                row = int(np.argmax(rewards))
                if rewards[row] > height:
                    here, height, climbing = told.codes[row], rewards[row], True
                    if move == "first":
                        break


def neighbours(space: SearchSpace, code: Codes) -> Codes:
    """All codes that differ from this one, (choices,), in a single choice, (n, choices)."""
    changes = [(column, value) for column, size in enumerate(space.cardinalities) for value in range(size) if value != code[column]]
    around = np.repeat(code[None], len(changes), axis=0)
    for row, (column, value) in zip(around, changes, strict=True):
        row[column] = value
    return np.asfortranarray(around)


def _batches(codes: Codes, rng: np.random.Generator, size: int) -> Iterator[Codes]:
    shuffled = codes[rng.permutation(len(codes))]
    for start in range(0, len(codes), size):
        yield np.asfortranarray(shuffled[start : start + size])


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = local_search
