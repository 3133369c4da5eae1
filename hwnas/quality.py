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
    bias: float
    within_5pct: float
    within_10pct: float
    kendall: float
    spearman: float
    within_group_spearman: float | None


def quality(measured: FloatArray, predicted: FloatArray, groups: Sequence[Hashable] = ()) -> Quality:
    """measured, predicted (n,), positive measured; groups: each network's resolution, or nothing. Raises InputError for fewer than two."""
    from scipy.stats import kendalltau, spearmanr

    if len(measured) != len(predicted) or len(measured) < 2 or (groups and len(groups) != len(measured)):
        raise InputError(f"quality needs two or more networks, measured and predicted: got {len(measured)} and {len(predicted)}")
    error = (predicted - measured) / measured
    labels = np.array([list(dict.fromkeys(groups)).index(group) for group in groups], np.int64)
    members = [np.flatnonzero(labels == label) for label in range(len(set(groups)))]
    ranked = [(len(rows), _defined(spearmanr(measured[rows], predicted[rows]).statistic)) for rows in members if len(rows) >= _LEAST_GROUP]
    return Quality(
        networks=len(measured),
        mape=float(np.abs(error).mean()),
        bias=float(error.mean()),
        within_5pct=float((np.abs(error) <= 0.05).mean()),
        within_10pct=float((np.abs(error) <= 0.10).mean()),
        kendall=_defined(kendalltau(measured, predicted).statistic),
        spearman=_defined(spearmanr(measured, predicted).statistic),
        within_group_spearman=sum(n * value for n, value in ranked) / sum(n for n, _ in ranked) if ranked else None,
    )


def _defined(correlation: float) -> float:
    """Constant predictions rank nothing: 0, where the correlation is undefined."""
    return float(correlation) if np.isfinite(correlation) else 0.0
