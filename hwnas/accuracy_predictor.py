"""What predicts accuracies: a model fitted to measured subnets, what it says of those it was not fitted to, and how sure it is.

A file of `accuracy_predictors/` holds a factory `(index, codes, values) -> Metric`: codes (n, choices) of distinct subnets, their
accuracies in %, (n,). A model that knows where it knows less has `deviation(codes)` too. Models are fitted anew from the data
wherever they are needed, with the same result, so that no file holds one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from hwnas import registry
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Metric
from hwnas.space import Codes, FloatArray

LEAST_SUBNETS = 20
FOLDS = 5
LEVEL = 0.9  # of the intervals

#: What a catalogue's file holds.
Factory: TypeAlias = Callable[[BlockIndex, Codes, FloatArray], Metric]


@runtime_checkable
class Uncertain(Protocol):
    """A model that says how far off it may be: `deviation(codes)`, (n,) in points, in proportion to its errors; intervals scale it."""

    def deviation(self, codes: Codes) -> FloatArray: ...


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """Of subnets that a model was not fitted to, (n,) each: prediction in %, deviation, and the fold each was left out with."""

    predicted: FloatArray
    deviation: FloatArray
    fold: npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class AccuracyPredictor:
    """A model fitted to all subnets that were measured, with intervals that hold for `level` of those like them."""

    metric: Metric
    scale: float
    level: float

    def interval(self, codes: Codes) -> tuple[FloatArray, FloatArray]:
        """Ends of the interval of each accuracy in %, (n,) each."""
        middle, half = self.metric(codes), self.scale * deviation_of(self.metric, codes)
        return middle - half, middle + half


def fit(name: str, index: BlockIndex, codes: Codes, values: FloatArray) -> Metric:
    """The model of that name, such as `gaussian_process`, `ensemble(members=4)` or `path.py:name`. Raises InputError where the data are too few."""
    check_enough(len(codes))
    metric: Metric = registry.create("accuracy_predictors", name, index, codes, values)
    return metric


def check_enough(subnets: int) -> None:
    """Raises InputError where there are too few subnets to fit anything to and leave some out."""
    if subnets < LEAST_SUBNETS:
        raise InputError(f"a predictor of accuracy needs at least {LEAST_SUBNETS} measured subnets, got {subnets}")


def deviation_of(metric: Metric, codes: Codes) -> FloatArray:
    """A model's own deviation, 1 everywhere where it has none: its intervals are as wide everywhere."""
    return metric.deviation(codes) if isinstance(metric, Uncertain) else np.ones(len(codes))


def left_out(
    name: str, index: BlockIndex, codes: Codes, values: FloatArray, *, folds: int = FOLDS, seed: int = 0, fitted: Callable[[], None] = lambda: None
) -> LeftOut:
    """Each subnet as predicted by a model that was fitted to the other folds. fitted: called after each fit."""
    check_enough(len(codes))
    fold = np.empty(len(codes), np.intp)
    fold[np.random.default_rng(seed).permutation(len(codes))] = np.arange(len(codes)) % folds
    predicted, deviation = np.empty(len(codes)), np.empty(len(codes))
    for each in range(folds):
        own, others = fold == each, fold != each
        model: Metric = registry.create("accuracy_predictors", name, index, np.asfortranarray(codes[others]), values[others])
        predicted[own], deviation[own] = model(codes[own]), deviation_of(model, codes[own])
        fitted()
    return LeftOut(predicted, deviation, fold)


def calibrated(metric: Metric, values: FloatArray, found: LeftOut, level: float = LEVEL) -> AccuracyPredictor:
    """The model with intervals as wide as the errors of subnets left out say (split conformal prediction, Lei et al., 2018; the folds as in
    Barber et al., 2021). values: (n,) as measured, of the subnets of `found`."""
    return AccuracyPredictor(metric, _scale(np.abs(values - found.predicted) / found.deviation, level), level)


def inside(values: FloatArray, found: LeftOut, level: float = LEVEL) -> npt.NDArray[np.bool_]:
    """Whether each measured accuracy is in its interval, (n,), the width of which the *other* folds decided: what their coverage is checked by."""
    error = np.abs(values - found.predicted) / found.deviation
    scale = np.array([_scale(error[found.fold != each], level) for each in range(int(found.fold.max()) + 1)])
    return np.asarray(error <= scale[found.fold])


def _scale(errors: FloatArray, level: float) -> float:
    """The order statistic of n errors that another one exceeds with a chance of 1 - level at most; infinite where n is too small to say."""
    rank = ceil((len(errors) + 1) * level)
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else float("inf")
