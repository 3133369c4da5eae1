"""Bayesian linear regression whose coefficients are penalised group by group: what few whole networks tell about all of a space.

The latency of a network over the mean of those measured, less 1, is a sum over groups of features; coefficients are normal with a variance of each group's
own, errors are normal and relative to the latency (MacKay, 1992, *Bayesian interpolation*; the variance of the errors itself is integrated out). Variances are
those with the greatest evidence, or come from elsewhere (`predictors.proxy_device`), several at once: these are weighted by their evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.space import FloatArray

LEAST_NETWORKS = 5

_BOUNDS = (-12.0, 12.0)  # of log variances over that of the errors
_JITTER = 1e-9
_FOLDS = 10
_MOST_FITTED = 400  # networks that variances are fitted to: more hardly change them, and the time grows with the cube


@dataclass(frozen=True, slots=True)
class Scaling:
    """Makes groups of features comparable: each feature has mean 0, and each group a mean square of 1 over a population."""

    centers: tuple[FloatArray, ...]
    scales: tuple[FloatArray, ...]

    @classmethod
    def of(cls, groups: Sequence[FloatArray]) -> Scaling:
        """groups: (n, f) each, of a population. What does not vary in it counts nothing."""
        centers, scales = [], []
        for each in groups:
            spread = each.std(axis=0)
            varies = spread > 1e-9 * np.maximum(np.abs(each).max(axis=0, initial=0.0), 1e-300)
            centers.append(each.mean(axis=0))
            scales.append(np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0) / np.sqrt(max(int(varies.sum()), 1)))
        return cls(tuple(centers), tuple(scales))

    def __call__(self, groups: Sequence[FloatArray]) -> list[FloatArray]:
        return [(each - center) * scale for each, center, scale in zip(groups, self.centers, self.scales, strict=True)]


@dataclass(frozen=True, slots=True)
class Linear:
    """latency = constant + sum over groups of features @ coefficients, in the features' own units."""

    coefficients: tuple[FloatArray, ...]
    constant: float

    def __call__(self, groups: Sequence[FloatArray]) -> FloatArray:
        """groups: (n, f) each -> (n,)."""
        return np.asarray(sum(each @ weights for each, weights in zip(groups, self.coefficients, strict=True)) + self.constant)


class GroupedRidge:
    """Fitted to `latency_ms` (n,) of networks with features `groups`, (n, f) each, as they come.

    log_variances: (settings, groups + 1), each group's and last the constant's, over the variance of the errors; by default the one with the greatest evidence.
    Raises InputError where networks are too few, or latencies are not positive numbers.
    """

    def __init__(self, scaling: Scaling, groups: Sequence[FloatArray], latency_ms: FloatArray, *, log_variances: FloatArray | None = None):
        latency_ms = np.asarray(latency_ms, np.float64)
        if len(latency_ms) < LEAST_NETWORKS:
            raise InputError(f"{len(latency_ms)} networks were measured, {LEAST_NETWORKS} are needed to predict others")
        if not (np.isfinite(latency_ms) & (latency_ms > 0)).all():
            raise InputError("latencies of measured networks must be positive numbers")
        self.scaling, self.latency_ms, self.mean_ms = scaling, latency_ms, float(latency_ms.mean())
        self._groups, self._is_given = groups, log_variances is not None
        self._x = scaling(groups)
        grams = _grams(self._x, self._x)
        target = latency_ms / self.mean_ms - 1
        noise = np.square(latency_ms / self.mean_ms)
        self.log_variances = np.atleast_2d(_greatest_evidence(grams, noise, target) if log_variances is None else log_variances)
        evidence = np.empty(len(self.log_variances))
        self._solved: list[tuple[FloatArray, FloatArray]] = []
        for i, setting in enumerate(self.log_variances):
            inverse = _inverse(_covariance(setting, grams, noise))
            evidence[i] = _evidence(inverse, target)
            self._solved.append((inverse, inverse @ target))
        #: Probability of each setting, given the latencies.
        self.weights = np.exp(evidence - evidence.max())
        self.weights /= self.weights.sum()

    @property
    def linear(self) -> Linear:
        """The mean of the prediction, which is linear in the features."""
        coefficients = [np.zeros(each.shape[1]) for each in self._x]
        constant = 1.0
        for weight, setting, (_, solved) in zip(self.weights, self.log_variances, self._solved, strict=True):
            variances = np.exp(setting)
            for k, x in enumerate(self._x):
                coefficients[k] += weight * variances[k] * (x.T @ solved)
            constant += weight * variances[-1] * float(solved.sum())
        raw = tuple(self.mean_ms * each * scale for each, scale in zip(coefficients, self.scaling.scales, strict=True))
        shift = sum(float(center @ each) for center, each in zip(self.scaling.centers, raw, strict=True))
        return Linear(raw, self.mean_ms * constant - shift)

    def std(self, groups: Sequence[FloatArray]) -> FloatArray:
        """Standard deviation in ms of measuring networks with these features, (n,)."""
        x = self.scaling(groups)
        within, across = self._grams_with(x), self.linear(groups)
        noise = np.square(np.maximum(across, 1e-9) / self.mean_ms)
        total = np.zeros(len(across))
        for weight, setting, (inverse, solved) in zip(self.weights, self.log_variances, self._solved, strict=True):
            variances = np.exp(setting)
            cross = np.tensordot(variances, within, 1)  # (n, measured)
            own = variances[-1] + sum(v * np.square(each).sum(axis=1) for v, each in zip(variances[:-1], x, strict=True))
            mean = self.mean_ms * (1 + cross @ solved)
            error = float(solved @ (self.latency_ms / self.mean_ms - 1)) / len(self.latency_ms)  # variance of the relative errors
            variance = np.maximum(own - np.einsum("ij,jk,ik->i", cross, inverse, cross), 0.0) + noise
            total += weight * (error * variance * self.mean_ms**2 + np.square(mean - across))
        return np.asarray(np.sqrt(total))

    def left_out(self) -> FloatArray:
        """Each measured network's latency in ms as predicted from others, (n,).

        Variances that were given are kept. Those with the greatest evidence have seen the network: they are fitted anew without it and a tenth of the others.
        """
        if not self._is_given and 2 * LEAST_NETWORKS <= len(self.latency_ms) <= _MOST_FITTED:
            return self._folds_left_out()
        target, noise = self.latency_ms / self.mean_ms - 1, np.square(self.latency_ms / self.mean_ms)
        rows = np.arange(len(target))
        grams = _grams(self._x, self._x)
        predicted = np.empty((len(self.log_variances), len(rows)))
        evidence = np.empty_like(predicted)
        for i, setting in enumerate(self.log_variances):
            covariance = _covariance(setting, grams, noise)
            inverse = _inverse(covariance)
            predicted[i] = target - inverse @ target / np.diag(inverse)
            for j in rows if len(self.log_variances) > 1 else ():
                rest = np.delete(rows, j)
                evidence[i, j] = _evidence(_inverse(covariance[np.ix_(rest, rest)]), target[rest])
        if len(self.log_variances) == 1:
            return np.asarray(self.mean_ms * (1 + predicted[0]))
        weights = np.exp(evidence - evidence.max(axis=0))
        return np.asarray(self.mean_ms * (1 + (weights * predicted).sum(axis=0) / weights.sum(axis=0)))

    def _folds_left_out(self) -> FloatArray:
        order = np.random.default_rng(0).permutation(len(self.latency_ms))
        predicted = np.empty(len(order))
        for fold in (order[i::_FOLDS] for i in range(_FOLDS)):
            kept = np.setdiff1d(order, fold)
            fit = GroupedRidge(self.scaling, [each[kept] for each in self._groups], self.latency_ms[kept])
            predicted[fold] = fit.linear([each[fold] for each in self._groups])
        return predicted

    def _grams_with(self, x: Sequence[FloatArray]) -> FloatArray:
        return _grams(x, self._x)


def _grams(first: Sequence[FloatArray], second: Sequence[FloatArray]) -> FloatArray:
    """(groups + 1, n, m): products of the features of each group, and of the constant."""
    n, m = len(first[0]), len(second[0])
    return np.stack([*(a @ b.T for a, b in zip(first, second, strict=True)), np.ones((n, m))])


def _covariance(setting: FloatArray, grams: FloatArray, noise: FloatArray) -> FloatArray:
    return np.asarray(np.tensordot(np.exp(setting), grams, 1) + np.diag(noise + _JITTER))


def _inverse(covariance: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.inv(covariance), np.float64)


def _evidence(inverse: FloatArray, target: FloatArray) -> float:
    """Log marginal likelihood but for a constant, the variance of the errors integrated out under its scale-free prior."""
    return float(0.5 * np.linalg.slogdet(inverse)[1] - 0.5 * len(target) * np.log(max(float(target @ inverse @ target), 1e-300)))


def _greatest_evidence(grams: FloatArray, noise: FloatArray, target: FloatArray) -> FloatArray:
    from scipy.optimize import minimize

    def negative(setting: FloatArray) -> tuple[float, FloatArray]:
        inverse = _inverse(_covariance(setting, grams, noise))
        solved = inverse @ target
        pull = len(target) * np.outer(solved, solved) / max(float(target @ solved), 1e-300) - inverse
        gradient = -0.5 * np.exp(setting) * np.einsum("kij,ij->k", grams, pull)
        return -_evidence(inverse, target), gradient

    some = np.random.default_rng(0).permutation(len(target))[:_MOST_FITTED]
    grams, noise, target = np.ascontiguousarray(grams[:, some[:, None], some]), noise[some], target[some]
    begin = np.full(len(grams), 2.0)
    return np.asarray(minimize(negative, begin, jac=True, method="L-BFGS-B", bounds=[_BOUNDS] * len(begin), options={"maxiter": 60}).x)
