"""How good predictions of accuracies are, with confidence intervals: bootstrap over subnets (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.quality import kendall, spearman
from hwnas.space import FloatArray

CONFIDENCE = 0.95

_RESAMPLES = 500
_LEAST_GROUP = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class AccuracyQuality:
    """Of subnets that were not fitted to. `mae`: mean absolute error in points. `kendall_within` is taken within each resolution and averaged, None
    where no resolution has four subnets; `coverage` is the share of subnets inside their intervals, None where there are none."""

    subnets: int
    kendall: Figure
    spearman: Figure
    mae: Figure
    kendall_within: Figure | None
    coverage: Figure | None


def accuracy_quality(
    measured: FloatArray, predicted: FloatArray, *, inside: npt.NDArray[np.bool_] | None = None, groups: Sequence[Hashable] = (), seed: int = 0
) -> AccuracyQuality:
    """measured, predicted (n,) in %; inside (n,): whether each was in its interval; groups (n,): its resolution. Raises InputError for fewer than two."""
    n = len(measured)
    if n < 2 or len(predicted) != n or (groups and len(groups) != n):
        raise InputError(f"the quality of predictions needs two or more subnets, measured and predicted: got {n} and {len(predicted)}")
    labels = np.unique([str(group) for group in groups], return_inverse=True)[1] if groups else np.zeros(n, np.int64)

    def figure(of: Callable[[npt.NDArray[np.intp]], float]) -> Figure:
        rng = np.random.default_rng(seed)  # the same resamples for every figure and predictor
        values = [of(rng.integers(0, n, n)) for _ in range(_RESAMPLES)]
        low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Figure(of(np.arange(n)), float(low), float(high))

    def within(rows: npt.NDArray[np.intp]) -> float:
        parts = [rows[labels[rows] == label] for label in range(int(labels.max()) + 1)]
        ranked = [(len(part), kendall(measured[part], predicted[part])) for part in parts if len(part) >= _LEAST_GROUP]
        return sum(size * value for size, value in ranked) / sum(size for size, _ in ranked) if ranked else float("nan")

    grouped = bool(groups) and bool(np.bincount(labels).max() >= _LEAST_GROUP)
    return AccuracyQuality(
        subnets=n,
        kendall=figure(lambda rows: kendall(measured[rows], predicted[rows])),
        spearman=figure(lambda rows: spearman(measured[rows], predicted[rows])),
        mae=figure(lambda rows: float(np.abs(predicted[rows] - measured[rows]).mean())),
        kendall_within=figure(within) if grouped else None,
        coverage=None if inside is None else figure(lambda rows: float(inside[rows].mean())),
    )
