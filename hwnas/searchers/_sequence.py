"""Searchers that walk through a fixed sequence of architectures: what they have in common."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes

_OVER = 4_096  # codes in a row over the budget, after which some are moved into it
_BARREN = 1 << 16  # codes in a row without a new subnet, after which there is next to nothing left to find


def ask_in_order(problem: Problem, sequence: Iterator[Codes], *, rng: np.random.Generator, batch: int, pending: int) -> Search:
    """Asks for the codes of a sequence, given in parts (n, choices), in its order, `batch` at a time and each subnet once.

    Those over the cheap budgets are left out; after 4,096 such in a row the next `batch` are moved into them, so that the effort is
    bounded. It ends with the sequence, or when 65,536 codes in a row brought no new subnet.
    """
    asked: set[bytes] = set()
    waiting = list[Codes]()
    over = barren = 0
    for codes in sequence:
        inside = codes[problem.within(codes)]
        over = 0 if len(inside) else over + len(codes)
        if over >= _OVER:
            inside, over = problem.repaired(codes[:batch], rng), 0
        before = len(asked)
        for row, subnet in enumerate(problem.index.keys(inside)):
            if subnet not in asked:
                asked.add(subnet)
                waiting.append(inside[row : row + 1])
        barren = 0 if len(asked) > before else barren + len(codes)
        while len(waiting) >= batch:
            yield Ask(np.asfortranarray(np.concatenate(waiting[:batch])), pending=pending)
            del waiting[:batch]
        if barren >= _BARREN:
            break
    if waiting:
        yield Ask(np.asfortranarray(np.concatenate(waiting)))
