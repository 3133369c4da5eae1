"""Architectures as numbers for models of accuracy."""

from __future__ import annotations

import numpy as np

from hwnas.costs import macs, params
from hwnas.features import OneHot
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.space import Codes, FloatArray


class Inputs:
    """The choices of an architecture, and how large it is."""

    def __init__(self, index: BlockIndex):
        self.one_hot = OneHot(index)
        self._sizes = [Additive(index, price(index.blocks), name="", unit="") for price in (macs, params)]
        self._places = np.zeros((self.one_hot.width, len(self.one_hot.choices)), np.float32)
        for choice, (start, stop) in enumerate(zip(self.one_hot.starts[:-1], self.one_hot.starts[1:], strict=True)):
            self._places[start:stop, choice] = np.arange(1, stop - start + 1)

    def ordinal(self, codes: Codes) -> FloatArray:
        """Which of its values each choice has, counted from 1, and 0 where its layer is skipped: (n, choices of several values)."""
        return np.asarray(self.one_hot(codes) @ self._places, np.float64)

    def sizes(self, codes: Codes) -> FloatArray:
        """Logarithms of MACs and parameters, (n, 2)."""
        return np.asarray(np.log(np.maximum(np.stack([size(codes) for size in self._sizes], axis=1), 1.0)))


class Standardised:
    """Columns less their mean over their standard deviation, both of the data (n, d) it is made from; over 1 where that does not vary."""

    def __init__(self, data: FloatArray):
        self._mean, deviation = data.mean(axis=0), data.std(axis=0)
        self._scale = np.where(deviation > 1e-9, deviation, 1.0)

    def __call__(self, data: FloatArray) -> FloatArray:
        return np.asarray((data - self._mean) / self._scale)
