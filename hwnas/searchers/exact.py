"""Exact search: the optimum of an additive problem, asked for once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.exact import best_codes
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search


def exact(problem: Problem, *, rng: np.random.Generator, candidates: int = 1) -> Search:
    """The best architecture where objective and budgets are sums over blocks; nothing is random, and the search ends after one question.

    candidates: with one budget, this many architectures from the top of the exact front, so that one fits where measurements disagree.
    Raises InputError where something is not additive, Infeasible where nothing meets the budgets.
    """
    if candidates < 1:
        raise InputError(f"exact needs candidates >= 1, got {candidates}")
    yield Ask(best_codes(problem, candidates))


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = exact
