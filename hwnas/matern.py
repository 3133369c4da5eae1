"""The covariance of both Gaussian processes: Matern 5/2 (Rasmussen and Williams, 2006, eq. 4.17)."""

from __future__ import annotations

import numpy as np

from hwnas.space import FloatArray


def squared_distances(first: FloatArray, second: FloatArray) -> FloatArray:
    """Of (m, d) and (n, d), (m, n)."""
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * first @ second.T, 0.0))


def matern(squares: FloatArray, log_sd: float) -> tuple[FloatArray, FloatArray]:
    """(covariance, its derivative by the squared distance) at squared distances in units of the length scale; log_sd: of the process."""
    root = np.sqrt(5 * squares)
    decay = np.exp(2 * log_sd - root)
    return decay * (1 + root + root * root / 3), -5 / 6 * decay * (1 + root)
