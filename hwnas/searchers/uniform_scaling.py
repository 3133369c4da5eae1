"""Uniform scaling: one kernel, one ratio, one depth everywhere. The baseline that every search must beat."""

from __future__ import annotations

from itertools import product

import numpy as np

from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes, SearchSpace


def uniform_scaling(problem: Problem, *, rng: np.random.Generator) -> Search:
    """Evaluates every uniformly scaled network within the cheap budgets, from large to small; nothing is random."""
    codes = uniform_codes(problem.space)[::-1]
    inside = codes[problem.within(codes)]
    if len(inside):
        yield Ask(np.asfortranarray(inside))


def uniform_codes(space: SearchSpace) -> Codes:
    """All codes in which choices of one role (the last part of the name) and equal values take the same value, (n, choices)."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for column, choice in enumerate(space.choices):
        groups.setdefault((choice.name.rpartition(".")[2], *choice.values), []).append(column)
    settings = list(product(*(range(int(space.cardinalities[columns[0]])) for columns in groups.values())))
    codes = np.zeros((len(settings), len(space.choices)), np.int16, order="F")
    for i, columns in enumerate(groups.values()):
        for column in columns:
            codes[:, column] = [setting[i] for setting in settings]
    return codes
