"""The baseline that every predictor of latency must beat: a line through the multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hwnas import costs
from hwnas.graph import Block
from hwnas.latency_table import LatencyTable
from hwnas.measured_blocks import Support, enough, measured_rows, predicted_origin
from hwnas.predictor import Fitted, Origin
from hwnas.space import FloatArray


class Macs:
    """Prices in ms: a constant for each block that computes something, and ms for its MACs; least squares of relative errors, neither of them negative."""

    unit = "ms"

    def __init__(self, blocks: Sequence[Block], prices_ms: FloatArray, *, origin: Origin = "predicted"):
        """Raises InputError where blocks are too few, or prices are no positive numbers."""
        from scipy.optimize import nnls

        prices_ms = enough(blocks, prices_ms)
        self.origin, self._support = origin, Support.of(blocks)
        self._scale = max(float(costs.macs(blocks).max()), 1.0)
        self.ms_per_block, slope = nnls(self._features(blocks) / prices_ms[:, None], np.ones(len(prices_ms)))[0].tolist()
        self.ms_per_mac = slope / self._scale

    def prices(self, blocks: Sequence[Block]) -> FloatArray:
        """(m,), 0 for a skipped layer."""
        return np.asarray(self._features(blocks) @ [self.ms_per_block, self.ms_per_mac * self._scale])

    def is_outside(self, blocks: Sequence[Block]) -> npt.NDArray[np.bool_]:
        return self._support.is_outside(blocks)

    def _features(self, blocks: Sequence[Block]) -> FloatArray:
        return np.stack([costs.layers(blocks), costs.macs(blocks) / self._scale], axis=1)


def macs(table: LatencyTable) -> Macs:
    """The line through a table's measured rows. Raises InputError."""
    blocks, prices_ms = measured_rows(table)
    return Macs(blocks, prices_ms, origin=predicted_origin(table))


if TYPE_CHECKING:
    _: type[Fitted] = Macs
