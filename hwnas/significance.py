"""Whether differences between searchers are more than luck: the exact sign test over seeds, and intervals of means by bootstrap (Efron, 1979)."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from hwnas.errors import InputError
from hwnas.space import FloatArray

CONFIDENCE = 0.95
_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class SignTest:
    """Of pairs: how often the first is larger and smaller, ties left out, and the chance of so many wins or more where both are equally good."""

    wins: int
    losses: int
    p: float

    @property
    def two_sided(self) -> float:
        """The chance of such a majority or a larger one, of either side."""
        return min(1.0, 2 * _tail(max(self.wins, self.losses), self.wins + self.losses))


def sign_test(first: FloatArray, second: FloatArray) -> SignTest:
    """first, second: (n,) of the same seeds. Raises InputError where they are not as many."""
    if len(first) != len(second):
        raise InputError(f"a sign test compares pairs, got {len(first)} and {len(second)} values")
    wins, losses = int((first > second).sum()), int((first < second).sum())
    return SignTest(wins, losses, _tail(wins, wins + losses))


def _tail(wins: int, n: int) -> float:
    """The chance of so many heads or more of n fair coins."""
    return float(sum(comb(n, k) for k in range(wins, n + 1)) / 2**n)


def mean_interval(values: FloatArray) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean of values (n,), by percentiles of 2,000 resamples that are the same each time. Raises InputError for n = 0."""
    if len(values) == 0:
        raise InputError("there is no mean of no values")
    rows = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
