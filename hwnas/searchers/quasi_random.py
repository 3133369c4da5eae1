"""Quasi-random search (Bergstra & Bengio, 2012, section 5) through SciPy: a scrambled Sobol sequence, which leaves smaller gaps than random points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Search
from hwnas.searchers._sequence import ask_in_order
from hwnas.space import Codes, SearchSpace

_PART = 256  # points at a time; a power of two, which keeps the sequence balanced


def quasi_random(problem: Problem, *, rng: np.random.Generator, batch: int = 16, pending: int = 0) -> Search:
    """The points of a Sobol sequence, scrambled by `rng` (Owen, 1998), as codes, in their order: each choice's values equally often.

    Codes over the cheap budgets are left out, no subnet is asked for twice.
    """
    if batch < 1 or pending < 0:
        raise InputError(f"quasi_random needs batch >= 1 and pending >= 0, got {batch} and {pending}")
    yield from ask_in_order(problem, _sobol(problem.space, rng), rng=rng, batch=batch, pending=pending)


def _sobol(space: SearchSpace, rng: np.random.Generator) -> Iterator[Codes]:
    from scipy.stats.qmc import Sobol

    points = Sobol(len(space.choices), scramble=True, seed=int(rng.integers(2**31)))
    for _ in range(2**points.bits // _PART):
        yield np.asfortranarray(points.random(_PART) * space.cardinalities, np.int16)


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = quasi_random
