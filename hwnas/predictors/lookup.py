"""The latency lookup table as a predictor: the price of a block is its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwnas.graph import Block
from hwnas.latency_table import LatencyTable
from hwnas.predictor import Origin, Predictor
from hwnas.space import FloatArray


class Lookup:
    """Prices in ms. Their plain sum is not a network's latency: `calibrated` makes it one."""

    unit = "ms"

    def __init__(self, table: LatencyTable, space: str):
        self._table, self._space = table, space
        #: "predicted" where any row of the table is.
        self.origin: Origin = "predicted" if table.origin == "measured" and table.predicted() else "measured" if table.origin == "imported" else table.origin

    def prices(self, blocks: Sequence[Block]) -> FloatArray:
        """(m,), 0 for a skipped layer. Raises MissingLatency."""
        missing = self._table.missing(blocks)
        if missing:
            raise self._table.missing_latency(missing, sum(map(bool, blocks)), self._space)
        return np.array([self._table.price_ms(block) for block in blocks], np.float64)


def lookup(table: LatencyTable, space: str = "SPACE") -> Predictor:
    """The prices of a table. space: how the command that measures missing blocks names it."""
    return Lookup(table, space)


if TYPE_CHECKING:
    _: type[Predictor] = Lookup
