"""Quantiles of latencies with exact confidence: order statistics and the binomial distribution, no assumption on the shape."""

from __future__ import annotations

from math import ceil, exp, floor, lgamma, log

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.space import FloatArray


def quantile(values: FloatArray, q: float) -> float:
    """The order statistic of rank ceil(n q): always one of the values."""
    return float(np.quantile(values, q, method="inverted_cdf"))


def bound_rank(n: int, q: float, level: float) -> int | None:
    """The least rank r (from 1) such that the r-th smallest of n independent values is >= the q-quantile with probability >= 1 - level.

    It is below only if at least r of n values fall below the quantile: P(Binomial(n, q) >= r) <= level. None where n is too small.
    """
    tail, rank = 0.0, None
    for r in range(n, 0, -1):
        tail += exp(lgamma(n + 1) - lgamma(r + 1) - lgamma(n - r + 1) + r * log(q) + (n - r) * log(1 - q))
        if tail > level:
            break
        rank = r
    return rank


def upper_bound(values: FloatArray, q: float, level: float) -> float | None:
    """One-sided upper confidence bound of the q-quantile; exact for independent values of any distribution. None where they are too few."""
    rank = bound_rank(len(values), q, level)
    return None if rank is None else float(np.sort(values)[rank - 1])


def values_needed(q: float, level: float) -> int:
    """The fewest independent values that have an upper bound at all: q^n <= level. Raises InputError."""
    if not 0 < q < 1 or not 0 < level < 1:
        raise InputError(f"a quantile and a level lie between 0 and 1, got {q:g} and {level:g}")
    n = max(1, floor(log(level) / log(q)) - 1)
    while bound_rank(n, q, level) is None:
        n += 1
    return n


_CAUTION = 1.5  # at 1 a simulated two-state device is certified falsely up to twice too often, at 1.5 not beyond the level (see the test)


def stride_of_independence(slow: npt.NDArray[np.bool_]) -> int:
    """Every how many rounds the device's state is forgotten, from the states of equally spaced rounds, (rounds,); 1 for a single state.

    From the integrated autocorrelation time, summed while the correlation is positive (Geyer, 1992), on the safe side.
    """
    x = slow.astype(np.float64) - slow.mean()
    variance = float(x @ x)
    time = 1.0
    for lag in range(1, len(x)):
        correlation = float(x[:-lag] @ x[lag:]) / variance if variance else 0.0
        if correlation <= 0:
            break
        time += 2 * correlation
    return ceil(1 + _CAUTION * (time - 1) - 1e-9)
