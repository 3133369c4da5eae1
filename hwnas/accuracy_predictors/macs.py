"""Baseline: accuracy by a line through the logarithm of the MACs."""

from __future__ import annotations

from hwnas import costs
from hwnas.accuracy_predictors._line import Line
from hwnas.index import BlockIndex
from hwnas.predictor import Metric
from hwnas.space import Codes, FloatArray


def macs(index: BlockIndex, codes: Codes, values: FloatArray) -> Metric:
    """Fitted to codes (n, choices) and accuracies in %, (n,)."""
    return Line(index, costs.macs(index.blocks), codes, values)
