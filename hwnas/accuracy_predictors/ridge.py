"""Accuracy by ridge regression on the choices, one-hot, and on the logarithms of MACs and parameters (Hoerl & Kennard, 1970)."""

from __future__ import annotations

import numpy as np

from hwnas.accuracy_predictors._inputs import Inputs, Standardised
from hwnas.index import BlockIndex
from hwnas.predictor import Metric, Origin
from hwnas.space import Codes, FloatArray

_RIDGES = 10.0 ** np.arange(-2, 5)  # tried; the one with the least error on subnets left out one by one is taken


class Ridge:
    """Accuracy in %, linear in its inputs; the logarithms keep it from being a sum over layers."""

    name: str = "accuracy"
    unit: str = "%"
    origin: Origin = "predicted"

    def __init__(self, index: BlockIndex, codes: Codes, values: FloatArray):
        self._inputs = Inputs(index)
        self._standardised = Standardised(self._inputs.sizes(codes))
        x = self._features(codes)
        self._center, self._mean = x.mean(axis=0), float(values.mean())
        x, target, best = x - self._center, values - self._mean, float("inf")
        squares, axes = np.linalg.eigh(x.T @ x)
        squares, along = np.maximum(squares, 0.0), x @ axes
        projected = along.T @ target
        for ridge in _RIDGES:
            leverage = 1 / len(values) + np.square(along) @ (1 / (squares + ridge))
            left_out = (target - along @ (projected / (squares + ridge))) / np.maximum(1 - leverage, 1e-9)  # residuals of fits to all others
            if (error := float(np.abs(left_out).mean())) < best:
                best, self._weights = error, axes @ (projected / (squares + ridge))

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> accuracy in %, (n,)."""
        return np.asarray(self._mean + (self._features(codes) - self._center) @ self._weights)

    def _features(self, codes: Codes) -> FloatArray:
        return np.concatenate([self._inputs.one_hot(codes).astype(np.float64), self._standardised(self._inputs.sizes(codes))], axis=1)


def ridge(index: BlockIndex, codes: Codes, values: FloatArray) -> Metric:
    """Fitted to codes (n, choices) and accuracies in %, (n,)."""
    return Ridge(index, codes, values)
