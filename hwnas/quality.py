"""How good predictions of latencies are. Rank correlations are taken within a resolution too: over all of them resolution decides everything."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

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
    from scipy.stats import kendalltau, spearmanr

    if len(measured) != len(predicted) or len(measured) < 2 or (groups and len(groups) != len(measured)):
        raise InputError(f"quality needs two or more networks, measured and predicted: got {len(measured)} and {len(predicted)}")
    error = (predicted - measured) / measured
    labels = np.array([list(dict.fromkeys(groups)).index(group) for group in groups], np.int64)
    members = [np.flatnonzero(labels == label) for label in range(len(set(groups)))]
    ranked = [(len(rows), _ranked(spearmanr, measured[rows], predicted[rows])) for rows in members if len(rows) >= _LEAST_GROUP]
    return Quality(
        networks=len(measured),
        mape=float(np.abs(error).mean()),
        rmse_ms=float(np.sqrt(np.square(predicted - measured).mean())),
        bias=float(error.mean()),
        within_5pct=float((np.abs(error) <= 0.05).mean()),
        within_10pct=float((np.abs(error) <= 0.10).mean()),
        kendall=_ranked(kendalltau, measured, predicted),
        spearman=_ranked(spearmanr, measured, predicted),
        within_group_spearman=sum(n * value for n, value in ranked) / sum(n for n, _ in ranked) if ranked else None,
    )


def _ranked(correlation: Callable[..., Any], measured: FloatArray, predicted: FloatArray) -> float:
    """0 where one side is constant and ranks nothing."""
    return float(correlation(measured, predicted).statistic) if np.ptp(measured) and np.ptp(predicted) else 0.0
