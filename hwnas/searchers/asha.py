"""Asynchronous successive halving (ASHA; Li et al., 2020, algorithm 2): no rung waits for another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.searchers.successive_halving import beginners
from hwnas.space import Codes

_BARREN = 20  # questions in a row without a new subnet, after which there is next to nothing left to find


def asha(problem: Problem, *, rng: np.random.Generator, rungs: int = 3, eta: int = 3, pending: int = 0) -> Search:
    """Promotes whoever is among the best 1 / eta of a rung now, the highest rung first, else begins with a new random candidate.

    A rung is evaluated at eta times the share of the one below, the last of `rungs` in full. No subnet begins twice; it ends when 20
    draws brought no new one and nobody is to be promoted.
    """
    if rungs < 1 or eta < 2 or pending < 0:
        raise InputError(f"asha needs rungs >= 1, eta >= 2 and pending >= 0, got {rungs=}, {eta=}, {pending=}")
    begun: set[bytes] = set()
    rung_of: list[int] = []  # of each candidate asked for, by its number
    scored = [list[tuple[float, tuple[int, ...]]]() for _ in range(rungs)]
    promoted = [set[tuple[int, ...]]() for _ in range(rungs)]
    told_so_far = barren = 0
    while barren < _BARREN:
        codes, rung = _promotable(scored, promoted, eta)
        if codes is None:
            codes, rung = beginners(problem, rng, 1, begun), 0
            barren = 0 if len(codes) else barren + 1
        if len(codes) == 0 and told_so_far == len(rung_of):
            continue  # nobody to wait for
        rung_of += [rung] * len(codes)
        told = yield Ask(codes, fidelity=float(eta) ** (rung + 1 - rungs), pending=pending if len(codes) else 0)
        told_so_far += len(told.codes)
        for number, row, reward in zip(told.numbers.tolist(), told.codes.tolist(), problem.reward(told.scores).tolist(), strict=True):
            scored[rung_of[number]].append((reward, tuple(row)))


def _promotable(scored: list[list[tuple[float, tuple[int, ...]]]], promoted: list[set[tuple[int, ...]]], eta: int) -> tuple[Codes | None, int]:
    """(the code (1, choices) to be promoted next, its new rung); None where nobody is."""
    for below in reversed(range(len(scored) - 1)):
        top = sorted(scored[below], key=lambda entry: -entry[0])[: len(scored[below]) // eta]
        ready = [entry for reward, entry in top if entry not in promoted[below] and np.isfinite(reward)]
        if ready:
            promoted[below].add(ready[0])
            return np.array([ready[0]], np.int16, order="F"), below + 1
    return None, 0


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = asha
