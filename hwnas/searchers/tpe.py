"""TPE (Bergstra et al., 2011) through Optuna: candidates that are likely among the good ones evaluated and unlikely among the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.optuna_search import optuna_search
from hwnas.problem import Problem
from hwnas.searcher import Search


def tpe(problem: Problem, *, rng: np.random.Generator, startup: int = 10, candidates: int = 24, pending: int = 0) -> Search:
    """After `startup` random candidates one at a time: of `candidates` drawn from the density of the good ones, that whose density ratio is best.

    Densities are over all choices together (multivariate). Several objectives are ranked by non-domination. Every candidate is
    within the cheap budgets and new (see optuna_search.py). Raises MissingExtra where Optuna is not installed.
    """
    if startup < 1 or candidates < 1 or pending < 0:
        raise InputError(f"tpe needs startup >= 1, candidates >= 1 and pending >= 0, got {startup=}, {candidates=}, {pending=}")
    yield from optuna_search(
        problem,
        lambda samplers, seed: samplers.TPESampler(n_startup_trials=startup, n_ei_candidates=candidates, multivariate=True, seed=seed),
        rng=rng,
        start=startup,
        pending=pending,
    )


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = tpe
