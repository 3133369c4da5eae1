"""Successive halving (Jamieson & Talwalkar, 2016): look at many candidates at a share of an evaluation, and go on with the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes

_BARREN = 20  # rounds in a row without a new subnet, after which there is next to nothing left to find


def successive_halving(problem: Problem, *, rng: np.random.Generator, start: int = 9, rungs: int = 3, eta: int = 3) -> Search:
    """Rounds of `start` random candidates within the cheap budgets, of which the best 1 / eta of each of `rungs` rungs reach the next.

    A rung is evaluated at eta times the share of the one below, the last in full. No subnet begins twice; it ends when 20 rounds
    brought no new one.
    """
    if start < 1 or rungs < 1 or eta < 2:
        raise InputError(f"successive_halving needs start >= 1, rungs >= 1 and eta >= 2, got {start=}, {rungs=}, {eta=}")
    begun: set[bytes] = set()
    barren = 0
    while barren < _BARREN:
        candidates = beginners(problem, rng, start, begun)
        barren = 0 if len(candidates) else barren + 1
        yield from halved(problem, candidates, eta, rungs)


def beginners(problem: Problem, rng: np.random.Generator, n: int, begun: set[bytes]) -> Codes:
    """Up to n random candidates (k, choices) within the cheap budgets, of different subnets that are not in `begun`; they are added to it."""
    drawn = problem.sample_feasible(rng, 2 * n)
    rows: list[int] = []
    for row, subnet in enumerate(problem.index.keys(drawn)):
        if len(rows) < n and subnet not in begun:
            begun.add(subnet)
            rows.append(row)
    return np.asfortranarray(drawn[rows])


def halved(problem: Problem, candidates: Codes, eta: int, rungs: int) -> Search:
    """The best 1 / eta of each rung go on to eta times the share, up to full evaluations; at least one does, unless all failed."""
    for rung in reversed(range(rungs)):
        if len(candidates) == 0:
            return
        told = yield Ask(candidates, fidelity=float(eta) ** -rung)
        order = np.argsort(-problem.reward(told.scores), kind="stable")
        best = order[: max(1, len(order) // eta)]
        candidates = np.asfortranarray(told.codes[best[~told.scores.failed[best]]])


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = successive_halving
