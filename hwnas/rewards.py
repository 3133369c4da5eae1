"""Rewards: one number per candidate from its quality and its share of the budget, larger is better.

Each is a pure function `(quality, ratio) -> (n,)`. quality: (n,), the objective with its sign turned so that larger is better, a share of
1 where it is in %; ratio: (n,), the value of the tightest budget's metric divided by its limit, 0 where there is no budget. A failed
candidate (NaN or infinite quality or ratio) gets minus infinity from all of them. Their constants are keyword-only; `named` sets others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import TypeAlias

import numpy as np

from hwnas.errors import InputError, UnknownName
from hwnas.registry import split_call
from hwnas.space import FloatArray

Reward: TypeAlias = Callable[[FloatArray, FloatArray], FloatArray]

_INFEASIBLE = -1e300  # below every quality that occurs, and far enough from the end of float64 to rank violations under it


def _failed_last(reward: FloatArray, quality: FloatArray, ratio: FloatArray) -> FloatArray:
    return np.where(np.isfinite(quality) & np.isfinite(ratio), reward, -np.inf)


def feasible_first(quality: FloatArray, ratio: FloatArray) -> FloatArray:
    """Quality where the budget is kept; everything else ranks below, by how far it is over (Deb, 2000). For ranking, not for averages."""
    return _failed_last(np.where(ratio <= 1, quality, _INFEASIBLE * np.maximum(ratio, 1)), quality, ratio)


def mnasnet_soft(quality: FloatArray, ratio: FloatArray, *, exponent: float = -0.07) -> FloatArray:
    """quality * ratio ** exponent (MnasNet, Tan et al., 2019, equations 2 and 3, alpha = beta = -0.07). Quality is positive.

    Rewards being under the budget, so that the limit cancels out of the ranking; the result may be over it.
    """
    return _multiplied(quality, ratio, exponent)


def mnasnet_hard(quality: FloatArray, ratio: FloatArray, *, exponent: float = -1.0) -> FloatArray:
    """quality up to the budget, quality * ratio ** exponent over it (MnasNet, equations 2 and 3, alpha = 0, beta = -1). Quality is positive."""
    return _multiplied(quality, np.maximum(ratio, 1.0), exponent)


def absolute(quality: FloatArray, ratio: FloatArray, *, weight: float = 0.1) -> FloatArray:
    """quality - weight * |ratio - 1|: pulls towards the budget from both sides (TuNAS, Bender et al., 2020; beta = -0.1 in its code).

    The result may be over the budget.
    """
    with np.errstate(invalid="ignore"):
        return _failed_last(quality - weight * np.abs(ratio - 1.0), quality, ratio)


def proxylessnas_multiplicative(quality: FloatArray, ratio: FloatArray, *, exponent: float = -0.1) -> FloatArray:
    """quality * ratio ** exponent: MnasNet's soft one with another exponent (ProxylessNAS, Cai et al., 2019; `rl_tradeoff_ratio` 0.1 in its code).

    Quality is positive. The result may be over the budget.
    """
    return _multiplied(quality, ratio, exponent)


def proxylessnas_additive(quality: FloatArray, ratio: FloatArray, *, weight: float = 0.1) -> FloatArray:
    """quality - weight * (ratio - 1): the regularisation term of ProxylessNAS' loss (equation 6; `add#linear` and 0.1 in its code) as a reward.

    A millisecond costs as much over the budget as under it; the result may be over it.
    """
    with np.errstate(invalid="ignore"):
        return _failed_last(quality - weight * (ratio - 1.0), quality, ratio)


def _multiplied(quality: FloatArray, ratio: FloatArray, exponent: float) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _failed_last(quality * np.where(ratio > 0, ratio, 1.0) ** exponent, quality, ratio)


#: Name -> reward.
REWARDS: dict[str, Reward] = {
    reward.__name__: reward for reward in (feasible_first, mnasnet_soft, mnasnet_hard, absolute, proxylessnas_multiplicative, proxylessnas_additive)
}


def named(text: str) -> Reward:
    """The reward that `text` names, such as `absolute` or `mnasnet_soft(exponent=-0.15)`. Raises UnknownName, InputError."""
    name, arguments = split_call(text)
    if name not in REWARDS:
        raise UnknownName("reward", name, REWARDS)
    constants = [key for key, each in inspect.signature(REWARDS[name]).parameters.items() if each.kind is each.KEYWORD_ONLY]
    for key, value in arguments.items():
        if key not in constants:
            raise UnknownName(f"constant of {name}", key, constants)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise InputError(f"{key} of {name} is {value!r}, it must be a finite number")
        if (key == "exponent" and value > 0) or (key == "weight" and value < 0):
            raise InputError(
                f"{key} of {name} is {value}: it would reward being over the budget; it must be {'at most' if key == 'exponent' else 'at least'} 0"
            )
    return partial(REWARDS[name], **arguments) if arguments else REWARDS[name]
