"""Accuracy as a sum over layers: ridge regression on the choices, one-hot, and on MACs and parameters; what the exact searcher solves."""

from __future__ import annotations

from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.space import Codes, FloatArray
from hwnas.surrogate import fit_surrogate


def additive(index: BlockIndex, codes: Codes, values: FloatArray) -> Additive:
    """Fitted to codes (n, choices) and accuracies in %, (n,)."""
    return fit_surrogate(index, codes, values).metric
