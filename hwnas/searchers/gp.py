"""Bayesian optimisation with a Gaussian process (Jones et al., 1998; log expected improvement: Ament et al., 2023) through Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.optuna_search import optuna_search
from hwnas.problem import Problem
from hwnas.searcher import Search

_PROPOSALS = 2  # each takes tenths of a second, and the same model proposes much the same again


def gp(problem: Problem, *, rng: np.random.Generator, startup: int = 10, pending: int = 0) -> Search:
    """After `startup` random candidates one at a time: where the expected improvement over the best is largest, of a front that of its hypervolume.

    A proposal over the cheap budgets is moved into them, a known one replaced by a random one. Fitting takes the longer the more
    candidates are known: meant for evaluations that take seconds or more, and a few hundred of them. Raises MissingExtra where
    Optuna is not installed.
    """
    if startup < 2 or pending < 0:
        raise InputError(f"gp needs startup >= 2 and pending >= 0, got {startup=}, {pending=}")
    yield from optuna_search(
        problem,
        lambda samplers, seed: samplers.GPSampler(n_startup_trials=startup, seed=seed),
        rng=rng,
        start=startup,
        pending=pending,
        proposals=_PROPOSALS,
    )


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = gp
