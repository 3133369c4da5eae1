"""An additive model of an accuracy that is no sum over layers: what exact search can solve in its place.

A ridge regression on the choices, one-hot, and on MACs and parameters, which carry what few samples cannot tell choice by choice.
Its optimum under a budget is exact for the model, and says nothing certain about the accuracy itself: reports call it a surrogate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.costs import macs, params
from hwnas.errors import Infeasible, InputError
from hwnas.exact import FrontTooLarge, best_codes
from hwnas.feasible_set import is_expensive
from hwnas.features import OneHot
from hwnas.index import BlockIndex
from hwnas.predictor import Additive, Layerwise
from hwnas.problem import Objective, Problem, Scores
from hwnas.quality import spearman
from hwnas.space import Codes, FloatArray

LEAST_SAMPLES = 8
_RIDGES = 10.0 ** np.arange(-2, 5)  # tried; the one with the least error on left-out samples is taken
_TREND = 30.0  # MACs and parameters are penalised less than single choices by this factor squared


@dataclass(frozen=True, slots=True)
class Surrogate:
    """An additive metric fitted to evaluated candidates."""

    metric: Additive
    samples: int
    error: float
    """Mean absolute error on samples left out one by one, in the metric's unit."""
    spearman: float
    """Rank correlation of the same predictions; 0 where one side is constant."""


def fit_surrogate(index: BlockIndex, codes: Codes, values: FloatArray, *, name: str = "accuracy", unit: str = "%") -> Surrogate:
    """The surrogate of values (n,) of codes (n, choices). Raises InputError for fewer than 8 finite values."""
    finite = np.isfinite(values)
    codes, values = np.asfortranarray(codes[finite]), np.asarray(values[finite], np.float64)
    if len(values) < LEAST_SAMPLES:
        raise InputError(f"a surrogate needs at least {LEAST_SAMPLES} evaluated architectures, got {len(values)}")
    one_hot = OneHot(index)
    trends = [Additive(index, price(index.blocks), name="", unit="") for price in (macs, params)]
    raw = np.concatenate([one_hot(codes), *(trend(codes)[:, None] for trend in trends)], axis=1).astype(np.float64)
    center = raw.mean(axis=0)
    scale = np.ones(raw.shape[1])
    for column in range(one_hot.width, raw.shape[1]):
        scale[column] = _TREND / (raw[:, column].std() or 1.0)
    features = (raw - center) * scale
    target = values - values.mean()
    u, s, vt = _singular_values(features)
    projected = u.T @ target
    best: tuple[float, FloatArray, FloatArray] | None = None
    for ridge in _RIDGES:
        shrink = s**2 / (s**2 + ridge)
        fitted = u @ (shrink * projected)
        leverage = 1 / len(values) + (u**2) @ shrink
        left_out = (target - fitted) / np.maximum(1 - leverage, 1e-9)  # residuals of fits to all others
        error = float(np.abs(left_out).mean())
        if best is None or error < best[0]:
            best = error, vt.T @ (s / (s**2 + ridge) * projected), left_out
    assert best is not None
    error, weights, left_out = best
    weights = weights * scale
    constant = float(values.mean() - center @ weights)
    cells = one_hot.cells(weights[: one_hot.width])
    for weight, trend in zip(weights[one_hot.width :], trends, strict=True):
        cells = [mine + weight * theirs for mine, theirs in zip(cells, trend.cells, strict=True)]
    metric = Additive(index, cells, name=name, unit=unit, constant=constant)
    return Surrogate(metric, len(values), error, spearman(values, values - left_out))


def best_by_surrogate(problem: Problem, codes: Codes, scores: Scores, n: int) -> Codes:
    """Up to n architectures from the top of the exact front of the objective's surrogate under the problem's budgets, best first.

    codes, scores: evaluated candidates to fit it to. Where the objective is a sum over layers itself, it is solved. Without exactly
    one budget on a sum only the optimum is known. Empty where too few candidates are known, or the programme finds nothing.
    """
    given = problem.objectives[0]
    try:
        known = isinstance(given.metric, Additive) and not is_expensive(given.metric)
        metric = given.metric if known else fit_surrogate(problem.index, codes, scores.values[:, 0]).metric
        cheap = [(budget, cost) for budget, cost in problem.budgets if isinstance(cost, Layerwise)]
        solvable = Problem(problem.index, [Objective(metric, given.maximize)], cheap)
        return best_codes(solvable, n if sum(isinstance(cost, Additive) for _, cost in cheap) == 1 else 1)
    except FrontTooLarge:
        return best_codes(solvable, 1)
    except (InputError, Infeasible):
        return problem.space.sample(np.random.default_rng(0), 0)


def _singular_values(features: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """As np.linalg.svd. LAPACK's divide and conquer was seen to fail on an ordinary matrix; the QR iteration is slower and does not."""
    try:
        return np.linalg.svd(features, full_matrices=False)
    except np.linalg.LinAlgError:
        from scipy.linalg import svd

        return svd(features, full_matrices=False, lapack_driver="gesvd")  # type: ignore[no-any-return]
