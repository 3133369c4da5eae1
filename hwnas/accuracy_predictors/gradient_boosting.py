"""Accuracy by stochastic gradient boosting of regression trees (Friedman, 2002), by scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.accuracy_predictors._inputs import Inputs
from hwnas.errors import MissingExtra
from hwnas.index import BlockIndex
from hwnas.predictor import Metric, Origin
from hwnas.space import Codes, FloatArray


class GradientBoosting:
    """Accuracy in %, from trees of depth 3 on the choices in their order, MACs and parameters."""

    name: str = "accuracy"
    unit: str = "%"
    origin: Origin = "predicted"

    def __init__(self, index: BlockIndex, codes: Codes, values: FloatArray, trees: int):
        try:
            from sklearn.ensemble import GradientBoostingRegressor
        except ImportError:
            raise MissingExtra("gradient_boosting", "scikit-learn", "demo") from None
        self._inputs = Inputs(index)
        made = GradientBoostingRegressor(n_estimators=trees, learning_rate=0.05, max_depth=3, subsample=0.5, max_features=0.3, random_state=0)
        self._model: Any = made.fit(self._features(codes), values)

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> accuracy in %, (n,)."""
        return np.asarray(self._model.predict(self._features(codes)), np.float64) if len(codes) else np.empty(0)

    def _features(self, codes: Codes) -> FloatArray:
        return np.concatenate([self._inputs.ordinal(codes), self._inputs.sizes(codes)], axis=1)


def gradient_boosting(index: BlockIndex, codes: Codes, values: FloatArray, *, trees: int = 1_000) -> Metric:
    """Fitted to codes (n, choices) and accuracies in %, (n,). Raises MissingExtra without scikit-learn."""
    return GradientBoosting(index, codes, values, trees)
