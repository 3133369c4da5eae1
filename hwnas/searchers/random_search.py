"""Random search: the baseline that every other searcher has to beat at equal cost (Li & Talwalkar, 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search


def random_search(problem: Problem, *, rng: np.random.Generator, batch: int = 16, pending: int = 0) -> Search:
    """Candidates uniform over the codes within the budget, `batch` at a time, without end."""
    if batch < 1 or pending < 0:
        raise InputError(f"random_search needs batch >= 1 and pending >= 0, got {batch} and {pending}")
    while True:
        yield Ask(problem.sample_feasible(rng, batch), pending=pending)


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = random_search
