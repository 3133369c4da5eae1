"""Hyperband (Li et al., 2017, algorithm 1): brackets of successive halving, from many candidates at small shares to few in full."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Search
from hwnas.searchers.successive_halving import beginners, halved

_BARREN = 20  # brackets in a row without a new subnet, after which there is next to nothing left to find


def hyperband(problem: Problem, *, rng: np.random.Generator, brackets: int = 3, eta: int = 3) -> Search:
    """Brackets of `brackets`, ..., 2, 1 rungs, the last of which is plain random search, again and again.

    A bracket of s + 1 rungs begins with ceil(brackets / (s + 1) * eta ** s) random candidates at a share of eta ** -s (line 3 of the
    algorithm), so that all brackets cost much the same. No subnet begins twice; it ends when 20 brackets brought no new one.
    """
    if brackets < 1 or eta < 2:
        raise InputError(f"hyperband needs brackets >= 1 and eta >= 2, got {brackets=}, {eta=}")
    begun: set[bytes] = set()
    barren = 0
    while barren < _BARREN:
        for rungs in reversed(range(1, brackets + 1)):
            candidates = beginners(problem, rng, ceil(brackets / rungs * eta ** (rungs - 1)), begun)
            barren = 0 if len(candidates) else barren + 1
            yield from halved(problem, candidates, eta, rungs)


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = hyperband
