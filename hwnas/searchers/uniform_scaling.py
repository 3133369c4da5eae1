"""Uniform scaling: one kernel, one ratio, one depth everywhere. The baseline that every search must beat."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from hwnas.feasible_set import is_expensive
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Codes, SearchSpace

MAX_SETTINGS = 4_096


def uniform_scaling(problem: Problem, *, rng: np.random.Generator) -> Search:
    """Evaluates every uniformly scaled network within the cheap budgets, the one that uses most of the first of them first; else from large to small."""
    codes = uniform_codes(problem.space, rng)[::-1]
    inside = codes[problem.within(codes)]
    cheap = [each for each in problem.constraints if not is_expensive(each.metric)]
    if cheap:
        inside = inside[np.argsort(-cheap[0].price(np.asfortranarray(inside)), kind="stable")]
    if len(inside):
        yield Ask(np.asfortranarray(inside))


def uniform_codes(space: SearchSpace, rng: np.random.Generator) -> Codes:
    """All codes in which choices of one role (the last part of the name) and equal values take the same value, (n, choices).

    Of more than MAX_SETTINGS so many are drawn, and none where no role has several choices: nothing is scaled together there.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for column, choice in enumerate(space.choices):
        groups.setdefault((choice.name.rpartition(".")[2], *choice.values), []).append(column)
    sizes = [int(space.cardinalities[columns[0]]) for columns in groups.values()]
    if prod(sizes) <= MAX_SETTINGS:
        settings = np.array(list(product(*map(range, sizes))), np.int16)
    elif all(len(columns) == 1 for columns in groups.values()):
        settings = np.empty((0, len(sizes)), np.int16)
    else:
        settings = np.unique(rng.integers(0, sizes, (MAX_SETTINGS, len(sizes)), np.int16), axis=0)
    codes = np.empty((len(settings), len(space.choices)), np.int16, order="F")
    for i, columns in enumerate(groups.values()):
        codes[:, columns] = settings[:, i : i + 1]
    return codes
