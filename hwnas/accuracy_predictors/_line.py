"""Accuracy by a straight line through one logarithm."""

from __future__ import annotations

import numpy as np

from hwnas.index import BlockIndex
from hwnas.predictor import Additive, Origin
from hwnas.space import Codes, FloatArray


class Line:
    """offset + slope * log(size), in %."""

    name: str = "accuracy"
    unit: str = "%"
    origin: Origin = "predicted"

    def __init__(self, index: BlockIndex, prices: FloatArray, codes: Codes, values: FloatArray):
        self._size = Additive(index, prices, name="", unit="")
        x = self._log(codes)
        self._slope = float(np.dot(x - x.mean(), values - values.mean()) / max(float(np.square(x - x.mean()).sum()), 1e-12))
        self._offset = float(values.mean() - self._slope * x.mean())

    def __call__(self, codes: Codes) -> FloatArray:
        return np.asarray(self._offset + self._slope * self._log(codes))

    def _log(self, codes: Codes) -> FloatArray:
        return np.asarray(np.log(np.maximum(self._size(codes), 1.0)))
