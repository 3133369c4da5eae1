"""Accuracy by the perceptron of Once-for-All: three hidden layers of 400 on one-hot choices (Cai et al., 2020, section 3.4)."""

from __future__ import annotations

import numpy as np

from hwnas.accuracy_predictors._perceptrons import trained
from hwnas.errors import InputError
from hwnas.features import OneHot
from hwnas.index import BlockIndex
from hwnas.predictors.accuracy_mlp import AccuracyMlp
from hwnas.space import Codes, FloatArray


def mlp(index: BlockIndex, codes: Codes, values: FloatArray, *, hidden: int = 400, seed: int = 0) -> AccuracyMlp:
    """Fitted to codes (n, choices) and accuracies in %, (n,); its `save` writes the file that `accuracy_mlp` reads."""
    if not 1 <= hidden <= 10_000:
        raise InputError(f"mlp needs hidden from 1 to 10,000, got {hidden}")
    return AccuracyMlp(index, trained(OneHot(index)(codes), values, np.arange(len(codes))[None], [hidden] * 3, seed)[0])
