"""How good predictions of latencies are. Rank correlations are taken within a resolution too: over all of them resolution decides everything."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.space import FloatArray

_LEAST_GROUP = 4


@dataclass(frozen=True, slots=True)
class Quality:
    """Relative errors are (predicted - measured) / measured; `within_group_spearman` is None where no group has four members."""

    networks: int
    mape: float
    rmse_ms: float
    bias: float
    within_5pct: float
    within_10pct: float
    kendall: float
    spearman: float
    within_group_spearman: float | None


def quality(measured: FloatArray, predicted: FloatArray, groups: Sequence[Hashable] = ()) -> Quality:
    """measured, predicted (n,) in ms, positive measured; groups: each network's resolution, or nothing. Raises InputError for fewer than two."""
    if len(measured) != len(predicted) or len(measured) < 2 or (groups and len(groups) != len(measured)):
        raise InputError(f"quality needs two or more networks, measured and predicted: got {len(measured)} and {len(predicted)}")
    error = (predicted - measured) / measured
    labels = np.array([list(dict.fromkeys(groups)).index(group) for group in groups], np.int64)
    members = [np.flatnonzero(labels == label) for label in range(len(set(groups)))]
    ranked = [(len(rows), spearman(measured[rows], predicted[rows])) for rows in members if len(rows) >= _LEAST_GROUP]
    return Quality(
        networks=len(measured),
        mape=float(np.abs(error).mean()),
        rmse_ms=float(np.sqrt(np.square(predicted - measured).mean())),
        bias=float(error.mean()),
        within_5pct=float((np.abs(error) <= 0.05).mean()),
        within_10pct=float((np.abs(error) <= 0.10).mean()),
        kendall=kendall(measured, predicted),
        spearman=spearman(measured, predicted),
        within_group_spearman=sum(n * value for n, value in ranked) / sum(n for n, _ in ranked) if ranked else None,
    )


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Rank correlation, equal values having the mean of their ranks; 0 where one side is constant and ranks nothing."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1]) if np.ptp(first) and np.ptp(second) else 0.0


def kendall(first: FloatArray, second: FloatArray) -> float:
    """Kendall's tau b; 0 where one side is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic) if np.ptp(first) and np.ptp(second) else 0.0


def _ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], np.float64)
