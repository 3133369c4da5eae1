"""Grid search: every architecture of a grid once, spread evenly however early it is stopped, or from small to large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd, isqrt, prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwnas.errors import InputError
from hwnas.problem import Problem
from hwnas.searcher import Search
from hwnas.searchers._sequence import ask_in_order
from hwnas.space import Codes

_PART = 256


def grid(
    problem: Problem, *, rng: np.random.Generator, levels: int = 0, order: Literal["stratified", "ordered"] = "stratified", batch: int = 16, pending: int = 0
) -> Search:
    """All combinations of `levels` values of each choice, evenly spaced from the first to the last; 0 stands for all values.

    order: `stratified` goes through them by steps of the golden section of their number, from a random one on: each is met once, and
    every stretch of the walk is spread evenly (a Kronecker sequence). `ordered` begins with the smallest values, and the last choice
    changes fastest. Codes over the cheap budgets are left out, no subnet is asked for twice, and the search ends with the grid.
    """
    if levels < 0 or levels == 1 or batch < 1 or pending < 0:
        raise InputError(f"grid needs levels = 0 or levels >= 2, batch >= 1 and pending >= 0, got {levels=}, {batch=}, {pending=}")
    values = [_spaced(size, levels) for size in problem.space.cardinalities.tolist()]
    start = int(rng.integers(2**62)) if order == "stratified" else 0
    yield from ask_in_order(problem, _walk(values, start, order == "stratified"), rng=rng, batch=batch, pending=pending)


def _spaced(size: int, levels: int) -> list[int]:
    """At most `levels` of the codes 0 ... size - 1, from the first to the last."""
    if levels == 0 or levels >= size:
        return list(range(size))
    return [round(i * (size - 1) / (levels - 1)) for i in range(levels)]


def _walk(values: Sequence[Sequence[int]], start: int, leaping: bool) -> Iterator[Codes]:
    """The grid's codes in parts. The numbers of its points exceed 64 bits in large spaces, Python's integers have no limit."""
    size = prod(map(len, values))
    step = max(1, (isqrt(5 * size * size) - size) // 2) if leaping else 1
    while gcd(step, size) > 1:
        step += 1
    for first in range(0, size, _PART):
        numbers = [(start + k * step) % size for k in range(first, min(first + _PART, size))]
        codes = np.empty((len(numbers), len(values)), np.int16, order="F")
        for column in reversed(range(len(values))):
            quotients = [divmod(number, len(values[column])) for number in numbers]
            codes[:, column] = [values[column][rest] for _, rest in quotients]
            numbers = [quotient for quotient, _ in quotients]
        yield codes


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = grid
