"""The price of a block as a sum over its work, with coefficients that are not negative: what learned models of blocks begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.block_features import matrix, work
from hwnas.errors import DamagedFile
from hwnas.graph import Block
from hwnas.space import FloatArray


@dataclass(frozen=True, slots=True)
class WorkModel:
    """coefficients (names,): ms for `scale` of each kind of work; no price is below `least_ms`."""

    names: tuple[str, ...]
    scale: FloatArray
    coefficients: FloatArray
    least_ms: float

    @classmethod
    def fitted(cls, blocks: Sequence[Block], prices_ms: FloatArray) -> WorkModel:
        """Least squares of relative errors. Raises RuntimeError or ValueError where SciPy finds none."""
        from scipy.optimize import nnls

        amounts = [work(block) for block in blocks]
        names = sorted({name for each in amounts for name in each})
        values = matrix(amounts, names)
        scale = values.max(axis=0)
        coefficients = nnls(values / scale / prices_ms[:, None], np.ones(len(prices_ms)))[0]
        return cls(tuple(names), scale, coefficients, 1e-3 * float(prices_ms.min()))

    def __call__(self, blocks: Sequence[Block]) -> FloatArray:
        """Logarithms of the prices, (m,)."""
        values = matrix([work(block) for block in blocks], self.names)
        return np.asarray(np.log(np.maximum(values / self.scale @ self.coefficients, self.least_ms)))

    def check(self) -> None:
        """Raises DamagedFile where numbers from a file make no model."""
        parts = (self.scale, self.coefficients)
        if any(part.shape != (len(self.names),) or not np.isfinite(part).all() for part in parts) or not (self.scale > 0).all() or not 0 < self.least_ms < 1e9:
            raise DamagedFile("the predictor's coefficients of work are no positive numbers, one for each kind of work")
