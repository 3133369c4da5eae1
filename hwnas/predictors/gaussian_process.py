"""Prices of blocks that nobody measured, from those that were: a Gaussian process on the logarithm of the price (Rasmussen and Williams, 2006).

Its mean is the work of a block: multiply-accumulates rounded up to the tiles that kernels compute, bytes, operators, with coefficients that are
not negative. What that leaves over is smooth in the block's sizes. All features are read from a block's operators, so any space has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hwnas.block_features import matrix, sizes
from hwnas.errors import InputError
from hwnas.graph import Block
from hwnas.latency_table import LatencyTable
from hwnas.matern import matern, squared_distances
from hwnas.measured_blocks import LEAST_FITTED, Support, measured_rows, predicted_origin
from hwnas.predictor import Origin, Predictor
from hwnas.space import FloatArray
from hwnas.work_model import WorkModel

_MOST_FITTED = 256  # rows that hyperparameters are fitted to: more would hardly change them, and the time grows with the cube
_FOLDS = 5
_JITTER = 1e-8
_ASSUMED_SD, _ASSUMED_NOISE = 0.1, 0.01  # of log prices around the mean, and of the same block measured twice
_LOG_LENGTH = 0.5  # center of the prior, beside what the number of features brings; its standard deviation is 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of blocks, (m,) each: price and its standard deviation, and whether a block lies outside what was measured in some feature."""

    price_ms: FloatArray
    std_ms: FloatArray
    is_extrapolated: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Covariance of the log prices of two blocks: Matern 5/2 with a length scale for each feature.

    names (d,): the features that differ among the blocks it was made of; `center` and `scale` standardise them. Logarithms: `log_length` (d,),
    `log_sd` of what the mean leaves over, `log_noise` of measuring twice.
    """

    names: tuple[str, ...]
    center: FloatArray
    scale: FloatArray
    log_length: FloatArray
    log_sd: float
    log_noise: float

    @classmethod
    def assumed(cls, blocks: Sequence[Block]) -> Kernel:
        """The one to begin with, before anything is measured."""
        features = [sizes(block) for block in blocks]
        values = matrix(features, names := sorted({name for each in features for name in each}))
        varies = values.std(axis=0) > 1e-9
        kept, values = tuple(np.array(names)[varies].tolist()), values[:, varies]
        lengths = np.full(len(kept), _LOG_LENGTH + 0.5 * log(max(len(kept), 1)))
        return cls(kept, values.mean(axis=0), values.std(axis=0), lengths, log(_ASSUMED_SD), log(_ASSUMED_NOISE))

    @property
    def noise(self) -> float:
        """Variance of the log price of a block that was measured."""
        return float(np.exp(2 * self.log_noise)) + _JITTER

    def features(self, blocks: Sequence[Block]) -> FloatArray:
        """(m, d), standardised."""
        return (matrix([sizes(block) for block in blocks], self.names) - self.center) / self.scale

    def __call__(self, first: FloatArray, second: FloatArray) -> FloatArray:
        """Features (m, d) and (n, d) -> (m, n)."""
        length = np.exp(self.log_length)
        return matern(squared_distances(first / length, second / length), self.log_sd)[0]

    def fitted(self, features: FloatArray, values: FloatArray) -> Kernel:
        """The hyperparameters with the greatest marginal likelihood of `values` (n,), log prices less the mean, times their prior."""
        from scipy.optimize import minimize

        rows = np.random.default_rng(0).permutation(len(values))[:_MOST_FITTED]
        features, values = features[rows], values[rows]
        prior = _LOG_LENGTH + 0.5 * log(max(features.shape[1], 1))
        limits = [(-2.0, 6.0)] * features.shape[1] + [(-7.0, 1.0), (-7.0, 0.0)]
        begin = np.clip(np.array([*self.log_length, self.log_sd, self.log_noise]), *np.array(limits).T)
        found = minimize(_negative_log_posterior, begin, (features, values, prior), "L-BFGS-B", jac=True, bounds=limits, options={"maxiter": 100})
        return replace(self, log_length=found.x[:-2], log_sd=float(found.x[-2]), log_noise=float(found.x[-1]))


class GaussianProcess:
    """Fitted to `blocks` and their prices in ms, (n,). Raises InputError where they are too few, or fit no model at all."""

    unit = "ms"

    def __init__(self, blocks: Sequence[Block], prices_ms: FloatArray, *, kernel: Kernel | None = None, origin: Origin = "predicted"):
        from scipy.linalg import cho_factor, cho_solve

        if len(blocks) < LEAST_FITTED:
            raise InputError(f"{len(blocks)} blocks were measured, {LEAST_FITTED} are needed to predict others")
        self.blocks, self.prices_ms, self.origin = list(blocks), np.asarray(prices_ms, np.float64), origin
        self._inflation = 1.0
        self._support = Support.of(blocks)
        try:
            self._mean = WorkModel.fitted(blocks, self.prices_ms)
            rest = np.log(self.prices_ms) - self._mean(blocks)
            begin = kernel or Kernel.assumed(blocks)
            self._features = begin.features(blocks)
            self.kernel = begin.fitted(self._features, rest)
            covariance = self.kernel(self._features, self._features) + self.kernel.noise * np.eye(len(rest))
            self._factor = cho_factor(covariance, lower=True)
            self._weights = cho_solve(self._factor, rest)
        except (np.linalg.LinAlgError, RuntimeError, ValueError) as error:
            raise InputError(f"no model fits the prices of these {len(blocks)} blocks: {error}") from None

    def predict(self, blocks: Sequence[Block]) -> Prediction:
        """Prices of blocks that compute something; the standard deviation is that of measuring them, too."""
        from scipy.linalg import solve_triangular

        if not blocks:
            return Prediction(np.empty(0), np.empty(0), np.empty(0, np.bool_))
        cross = self.kernel(self.kernel.features(blocks), self._features)  # (m, n)
        explained = np.square(solve_triangular(self._factor[0], cross.T, lower=True)).sum(axis=0)
        variance = np.maximum(np.exp(2 * self.kernel.log_sd) - explained, 0.0) + self.kernel.noise
        price_ms = np.exp(np.clip(self._mean(blocks) + cross @ self._weights, -20.0, 27.0))  # what a table can hold
        return Prediction(price_ms, price_ms * np.sqrt(variance) * self._inflation, self.is_outside(blocks))

    def prices(self, blocks: Sequence[Block]) -> FloatArray:
        """(m,), 0 for a skipped layer."""
        prices = np.zeros(len(blocks))
        computing = [i for i, block in enumerate(blocks) if block]
        prices[computing] = self.predict([blocks[i] for i in computing]).price_ms
        return prices

    def left_out(self) -> FloatArray:
        """Each block's price as predicted by a process fitted without it and a fifth of the others, (n,).

        Where those were farther off than their standard deviations say, later predictions get a wider one: few blocks look alike by chance.
        """
        order = np.random.default_rng(0).permutation(len(self.blocks))
        folds = [order[i::_FOLDS] for i in range(_FOLDS)]
        predicted, deviations = np.empty(len(order)), np.empty(len(order))
        for fold in folds:
            kept = np.setdiff1d(order, fold)
            without = GaussianProcess([self.blocks[i] for i in kept], self.prices_ms[kept], kernel=self.kernel)
            found = without.predict([self.blocks[i] for i in fold])
            predicted[fold], deviations[fold] = found.price_ms, found.std_ms / found.price_ms
        errors = np.log(predicted / self.prices_ms) / deviations
        self._inflation = max(1.0, float(np.sqrt(np.square(errors).mean())))
        return predicted

    def is_outside(self, blocks: Sequence[Block]) -> npt.NDArray[np.bool_]:
        """(m,), true where a block lies outside of what was measured in some feature."""
        return self._support.is_outside(blocks)


def gaussian_process(table: LatencyTable) -> GaussianProcess:
    """A process fitted to the rows of a table that were measured, or imported; predicted ones are no data. Raises InputError."""
    blocks, prices_ms = measured_rows(table)
    return GaussianProcess(blocks, prices_ms, origin=predicted_origin(table))


# -- likelihood -----------------------------------------------------------------------------------------------------------------------


def _negative_log_posterior(hyper: FloatArray, features: FloatArray, values: FloatArray, prior: float) -> tuple[float, FloatArray]:
    """(value, gradient) at [log lengths, log sd, log noise]. The gradient by all lengths is two matrix products."""
    from scipy.linalg import cho_solve, cholesky

    scaled = features / np.exp(hyper[:-2])
    covariance, slope = matern(squared_distances(scaled, scaled), hyper[-2])
    noise = float(np.exp(2 * hyper[-1]))
    factor = cholesky(covariance + (noise + _JITTER) * np.eye(len(values)), lower=True)
    inverse = cho_solve((factor, True), np.eye(len(values)))
    weights = inverse @ values
    off = hyper[:-2] - prior
    value = 0.5 * values @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off
    pull = np.outer(weights, weights) - inverse  # twice the derivative of the log likelihood by the covariance
    slope *= pull
    gradient = np.empty_like(hyper)
    gradient[:-2] = 2 * (np.square(scaled).T @ slope.sum(axis=1) - np.einsum("id,id->d", scaled, slope @ scaled)) + off
    gradient[-2] = -np.einsum("ij,ij->", pull, covariance)
    gradient[-1] = -noise * np.trace(pull)
    return float(value), gradient


if TYPE_CHECKING:
    _: type[Predictor] = GaussianProcess
