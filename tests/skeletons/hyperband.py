"""Searchers that look at candidates at a share of an evaluation first. They show how `fidelity` is used, and that it suffices."""

from math import ceil

import numpy as np

from hwnas.searcher import Ask


def halved(problem, candidates, eta, rungs):
    """Successive halving: the best 1/eta of each rung go on to eta times the share, up to full evaluations."""
    for rung in reversed(range(rungs)):
        told = yield Ask(candidates, fidelity=float(eta) ** -rung)
        order = np.argsort(-problem.reward(told.scores), kind="stable")
        candidates = told.codes[order[: max(1, len(order) // eta)]]


def successive_halving(problem, *, rng, start: int = 8, rungs: int = 3, eta: int = 2):
    """Successive halving of `start` random candidates (Jamieson & Talwalkar, 2016)."""
    yield from halved(problem, problem.sample_feasible(rng, start), eta, rungs)


def hyperband(problem, *, rng, brackets: int = 3, eta: int = 3):
    """Hyperband (Li et al., 2017, algorithm 1): brackets of successive halving, from the one with most rungs to plain random search, again and again."""
    while True:
        for rungs in reversed(range(1, brackets + 1)):
            start = ceil(brackets / rungs * eta ** (rungs - 1))
            yield from halved(problem, problem.sample_feasible(rng, start), eta, rungs)


def asha(problem, *, rng, rungs: int = 3, eta: int = 3, pending: int = 0):
    """Asynchronous successive halving (Li et al., 2020, algorithm 2): promote whoever is in the top 1/eta of a rung now, else begin with a new one."""
    asked: list[int] = []  # rung of each candidate asked for, by its number
    scored = [list[tuple[float, tuple[int, ...]]]() for _ in range(rungs)]
    promoted = [set[tuple[int, ...]]() for _ in range(rungs)]
    while True:
        code, rung = None, 0
        for below in reversed(range(rungs - 1)):
            top = sorted(scored[below], key=lambda entry: -entry[0])[: len(scored[below]) // eta]
            ready = [entry for _, entry in top if entry not in promoted[below]]
            if ready:
                code, rung = ready[0], below + 1
                promoted[below].add(code)
                break
        codes = problem.sample_feasible(rng, 1) if code is None else np.array([code], np.int16)
        asked.append(rung)
        told = yield Ask(codes, fidelity=float(eta) ** (rung + 1 - rungs), pending=pending)
        for number, row, reward in zip(told.numbers, told.codes.tolist(), problem.reward(told.scores), strict=True):
            scored[asked[number]].append((float(reward), tuple(row)))
