"""Rewards: one number per candidate from its quality and its share of the budget, larger is better.

Each is a pure function `(quality, ratio) -> (n,)`. quality: (n,), the objective with its sign turned so that larger is better;
ratio: (n,), the value of the tightest budget's metric divided by its limit, 0 where there is no budget. A failed candidate
(NaN or infinite quality or ratio) gets minus infinity from all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from hwnas.space import FloatArray

Reward: TypeAlias = Callable[[FloatArray, FloatArray], FloatArray]

_INFEASIBLE = -1e300  # below every quality that occurs, and far enough from the end of float64 to rank violations under it


def _failed_last(reward: FloatArray, quality: FloatArray, ratio: FloatArray) -> FloatArray:
    return np.where(np.isfinite(quality) & np.isfinite(ratio), reward, -np.inf)


def feasible_first(quality: FloatArray, ratio: FloatArray) -> FloatArray:
    """Quality where the budget is kept; everything else ranks below, by how far it is over (Deb, 2000). For ranking, not for averages."""
    return _failed_last(np.where(ratio <= 1, quality, _INFEASIBLE * np.maximum(ratio, 1)), quality, ratio)


def mnasnet_soft(quality: FloatArray, ratio: FloatArray) -> FloatArray:
    """quality * ratio ** -0.07 (MnasNet, Tan et al., 2019, equation 2, alpha = beta = -0.07). Quality is positive.

    Rewards being under the budget, so that the limit cancels out of the ranking; the result may be over it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return _failed_last(quality * np.where(ratio > 0, ratio, 1.0) ** -0.07, quality, ratio)


def mnasnet_hard(quality: FloatArray, ratio: FloatArray) -> FloatArray:
    """quality up to the budget, quality / ratio over it (MnasNet, equation 2, alpha = 0, beta = -1). Quality is positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _failed_last(quality / np.maximum(ratio, 1.0), quality, ratio)


def absolute(quality: FloatArray, ratio: FloatArray) -> FloatArray:
    """quality - 0.1 * |ratio - 1|: pulls towards the budget from both sides (TuNAS, Bender et al., 2020, beta = -0.1).

    Quality is a share of 1. The result may be over the budget.
    """
    with np.errstate(invalid="ignore"):
        return _failed_last(quality - 0.1 * np.abs(ratio - 1.0), quality, ratio)
