"""Quantiles of latencies with exact confidence: order statistics and the binomial distribution, no assumption on the shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, exp, floor, lgamma, log

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.space import FloatArray


def quantile(values: FloatArray, q: float) -> float:
    """The order statistic of rank ceil(n q): always one of the values."""
    return float(np.quantile(values, q, method="inverted_cdf"))


@lru_cache(maxsize=4096)
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


def lower_bound(values: FloatArray, q: float, level: float) -> float | None:
    """One-sided lower confidence bound of the q-quantile: the upper bound of the (1 - q)-quantile of the mirrored values. None where they are too few."""
    bound = upper_bound(-values, 1 - q, level)
    return None if bound is None else -bound


def confidence_interval(values: FloatArray, q: float, confidence: float) -> tuple[float, float] | None:
    """(low, high) order statistics between which the q-quantile lies with that probability at least, half the rest on either side; exact
    for independent values of any distribution. None where they are too few."""
    low, high = lower_bound(values, q, (1 - confidence) / 2), upper_bound(values, q, (1 - confidence) / 2)
    return None if low is None or high is None else (low, high)


def values_needed(q: float, level: float) -> int:
    """The fewest independent values that have an upper bound at all: q^n <= level. Raises InputError."""
    if not 0 < q < 1 or not 0 < level < 1:
        raise InputError(f"a quantile and a level lie between 0 and 1, got {q:g} and {level:g}")
    n = max(1, floor(log(level) / log(q)) - 1)
    while bound_rank(n, q, level) is None:
        n += 1
    return n


def drift(values: FloatArray) -> float:
    """By how much values in the order of time rise (or fall, then negative) from their first to their second half, relative; 0 where that
    may be chance: rank correlation with time at the level of one in a thousand."""
    if len(values) < _LEAST_FOR_SHAPE or values.min() == values.max():
        return 0.0
    from scipy.stats import spearmanr

    if spearmanr(np.arange(len(values)), values).pvalue > _LEVEL_OF_SHAPE:
        return 0.0
    first, second = np.array_split(values, 2)
    return float(np.median(second) / np.median(first) - 1)


def second_speed(values: FloatArray) -> float:
    """How much slower a second group of values is than the first, relative; 0 where they are one group.

    Two groups: each a fifth of the values or more, and the gap between them wider than all of either.
    """
    ranked = np.sort(values)
    least = max(2, ceil(len(ranked) / 5))
    if len(ranked) < _LEAST_FOR_SHAPE:
        return 0.0
    gaps = np.diff(ranked)[least - 1 : len(ranked) - least]
    cut = least + int(np.argmax(gaps))
    fast, slow = ranked[:cut], ranked[cut:]
    if gaps.max() <= max(fast[-1] - fast[0], slow[-1] - slow[0]):
        return 0.0
    return float(np.median(slow) / np.median(fast) - 1)


_LEAST_FOR_SHAPE = 8
_LEVEL_OF_SHAPE = 1e-3
_CAUTION = 1.5  # at 1 a simulated two-state device is certified falsely up to twice too often, at 1.5 not beyond the level (see the test)


def stride_of_independence(slow: npt.NDArray[np.bool_]) -> int:
    """Every how many rounds the device's state is forgotten, from the states of equally spaced rounds, (rounds,); 1 for a single state.

    From the autocorrelation time, on the safe side.
    """
    return ceil(1 + _CAUTION * (autocorrelation_time([slow.astype(np.float64)]) - 1) - 1e-9)


def autocorrelation_time(series: Sequence[FloatArray]) -> float:
    """How many values of a stationary series tell as much of its mean as one independent value, 1 or more, from several series with one memory.

    Integrated, the mean of the series' autocorrelations, summed while it is positive (Geyer, 1992).
    """
    centred = [each - each.mean() for each in series]
    moving = [each for each in centred if each.any()]
    time = 1.0
    for lag in range(1, min(map(len, moving), default=1)):
        correlation = float(np.mean([each[:-lag] @ each[lag:] / (each @ each) for each in moving]))
        if correlation <= 0:
            break
        time += 2 * correlation
    return time
