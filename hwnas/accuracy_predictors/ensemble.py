"""Accuracy by an ensemble of perceptrons (Lakshminarayanan et al., 2017), which disagree where they know little.

Each begins elsewhere and is fitted without a part of the subnets of its own. Their spread alone is too narrow where all are wrong
together; what it leaves unexplained of each member's errors on its part is added to it everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hwnas.accuracy_predictors._perceptrons import trained
from hwnas.errors import InputError
from hwnas.features import OneHot
from hwnas.index import BlockIndex
from hwnas.predictor import Metric, Origin
from hwnas.predictors.accuracy_mlp import AccuracyMlp
from hwnas.space import Codes, FloatArray


class Ensemble:
    """Mean of the members' accuracies in %, and how sure that is."""

    name: str = "accuracy"
    unit: str = "%"
    origin: Origin = "predicted"

    def __init__(self, members: Sequence[AccuracyMlp], codes: Codes, values: FloatArray, part: npt.NDArray[np.intp]):
        """part (n,): the member that each row of codes (n, choices) was kept from."""
        self.members = members
        said = self._said(codes)
        error = np.square(values - said[part, np.arange(len(codes))])
        least = 1e-4 * max(float(values.var()), 1e-12)  # members that agree on everything are not sure of everything
        self._unexplained = max(float((error - said.var(axis=0)).mean()), least)

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> accuracy in %, (n,)."""
        return np.asarray(self._said(codes).mean(axis=0))

    def deviation(self, codes: Codes) -> FloatArray:
        """Points, (n,)."""
        return np.asarray(np.sqrt(self._said(codes).var(axis=0) + self._unexplained))

    def _said(self, codes: Codes) -> FloatArray:
        return np.stack([member(codes) for member in self.members])


def ensemble(index: BlockIndex, codes: Codes, values: FloatArray, *, members: int = 8, hidden: int = 64, seed: int = 0) -> Metric:
    """Fitted to codes (n, choices) and accuracies in %, (n,)."""
    if not 2 <= members <= 100 or not 1 <= hidden <= 10_000:
        raise InputError(f"ensemble needs members from 2 to 100 and hidden from 1 to 10,000, got {members} and {hidden}")
    part = np.random.default_rng(seed).permutation(len(codes)) % members
    kept = len(codes) - int(np.bincount(part).max())  # as many for each
    rows = np.stack([np.flatnonzero(part != member)[:kept] for member in range(members)])
    found = trained(OneHot(index)(codes), values, rows, [hidden] * 3, seed)
    return Ensemble([AccuracyMlp(index, layers) for layers in found], codes, values, part)
