"""Accuracy by a Gaussian process on the choices and on the logarithms of MACs and parameters (Rasmussen & Williams, 2006, chapter 2).

Matern 5/2 with two lengths: how far apart two architectures are in their choices, and in size. Both, the share that the
process explains and the noise of measuring have the greatest marginal likelihood under weak priors.
"""

from __future__ import annotations

from math import log

import numpy as np

from hwnas.accuracy_predictors._inputs import Inputs, Standardised
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.matern import matern, squared_distances
from hwnas.predictor import Metric, Origin
from hwnas.space import Codes, FloatArray

_MOST_FITTED = 512  # subnets that the four numbers are fitted to: more would hardly change them, and the time grows with the cube
_MOST = 4_096  # subnets that it interpolates
_PRIOR_SD = 2.0  # of each logarithm around where the search for it begins
_JITTER = 1e-8
_LIMITS = ((-3.0, 8.0), (-3.0, 8.0), (-4.0, 4.0), (-7.0, 1.0))


class GaussianProcess:
    """Accuracy in %, and how sure that is."""

    name: str = "accuracy"
    unit: str = "%"
    origin: Origin = "predicted"

    def __init__(self, index: BlockIndex, codes: Codes, values: FloatArray):
        from scipy.linalg import cho_solve, cholesky
        from scipy.optimize import minimize

        order = np.random.default_rng(0).permutation(len(codes))[:_MOST]
        codes, values = codes[order], values[order]
        self._inputs = Inputs(index)
        parts = self._raw(codes)
        self._standardised = [Standardised(part) for part in parts]
        self._known = self._parts(codes)
        self._mean, self._sd = float(values.mean()), float(values.std()) or 1.0
        target = (values - self._mean) / self._sd
        begin = np.array([*(0.5 * log(part.shape[1]) + 0.7 for part in parts), 0.0, -3.0])
        fitted = slice(_MOST_FITTED)
        squares = [squared_distances(part[fitted], part[fitted]) for part in self._known]
        try:
            found = minimize(_negative_log_posterior, begin, (squares, target[fitted], begin), "L-BFGS-B", jac=True, bounds=_LIMITS, options={"maxiter": 100})
            self._hyper = np.round(found.x, 4)  # what the last bits of a sum are does not show
            covariance = self._covariance(self._known) + _noise(self._hyper) * np.eye(len(target))
            self._factor = cholesky(covariance, lower=True)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise InputError(f"no Gaussian process fits the accuracies of these {len(codes)} subnets: {error}") from None
        self._weights = cho_solve((self._factor, True), target)

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> accuracy in %, (n,)."""
        return np.asarray(self._mean + self._sd * (self._covariance(self._parts(codes)) @ self._weights))

    def deviation(self, codes: Codes) -> FloatArray:
        """Standard deviation in points, (n,), of what a measurement would say."""
        from scipy.linalg import solve_triangular

        explained = np.square(solve_triangular(self._factor, self._covariance(self._parts(codes)).T, lower=True)).sum(axis=0)
        variance = np.maximum(np.exp(2 * self._hyper[2]) - explained, 0.0) + _noise(self._hyper)
        return np.asarray(self._sd * np.sqrt(variance))

    def _raw(self, codes: Codes) -> list[FloatArray]:
        choices = np.concatenate([self._inputs.one_hot(codes), self._inputs.ordinal(codes)], axis=1)
        return [choices.astype(np.float64), self._inputs.sizes(codes)]

    def _parts(self, codes: Codes) -> list[FloatArray]:
        return [standardised(part) for standardised, part in zip(self._standardised, self._raw(codes), strict=True)]

    def _covariance(self, parts: list[FloatArray]) -> FloatArray:
        """(n, known subnets)."""
        squares = sum(squared_distances(part, known) * np.exp(-2 * length) for part, known, length in zip(parts, self._known, self._hyper[:2], strict=True))
        return matern(np.asarray(squares), float(self._hyper[2]))[0]


def gaussian_process(index: BlockIndex, codes: Codes, values: FloatArray) -> Metric:
    """Fitted to codes (n, choices) and accuracies in %, (n,); of more than 4,096 a random part. Raises InputError where none fits."""
    return GaussianProcess(index, codes, values)


def _noise(hyper: FloatArray) -> float:
    return float(np.exp(2 * hyper[3])) + _JITTER


def _negative_log_posterior(hyper: FloatArray, squares: list[FloatArray], target: FloatArray, begin: FloatArray) -> tuple[float, FloatArray]:
    """(value, gradient) at [log length of choices, of sizes, log sd, log noise]."""
    from scipy.linalg import cho_solve, cholesky

    scaled = [square * np.exp(-2 * length) for square, length in zip(squares, hyper[:2], strict=True)]
    covariance, slope = matern(scaled[0] + scaled[1], float(hyper[2]))
    factor = cholesky(covariance + _noise(hyper) * np.eye(len(target)), lower=True)
    inverse = cho_solve((factor, True), np.eye(len(target)))
    weights = inverse @ target
    off = (hyper - begin) / _PRIOR_SD
    value = 0.5 * target @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off
    pull = np.outer(weights, weights) - inverse  # twice the derivative of the log likelihood by the covariance
    derivatives = [np.sum(pull * slope * square) for square in scaled]  # of -log likelihood by a length: -pull/2 * slope * (-2 square)
    derivatives += [-np.sum(pull * covariance), -np.exp(2 * hyper[3]) * np.trace(pull)]
    return float(value), np.array(derivatives) + off / _PRIOR_SD
