"""Rows for blocks that nobody measured, predicted from a table's measured ones and marked as such; and its networks, seen in a wider space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.graph import Block, block_text, parse_block
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, NetworkMeasurement, Predicted
from hwnas.predictors.gaussian_process import GaussianProcess, gaussian_process
from hwnas.space import FloatArray

#: In a table's quality: how far off the measured blocks are predicted, left out of the fit fifth by fifth.
QUALITY = "predicted_blocks"


def filled(table: LatencyTable, blocks: Sequence[Block]) -> LatencyTable:
    """The table with a predicted row for each of the blocks that has none, and for those predicted before; what failed stays failed.

    Its quality says how well measured blocks are predicted. The table itself where there is nothing to predict. Raises InputError.
    """
    wanted = {block_text(block): block for block in blocks if block} | {text: parse_block(text) for text in table.predicted()}
    without = {text: block for text, block in sorted(wanted.items()) if isinstance(table.entries.get(text), Predicted | None)}
    if not without:
        return table
    process = gaussian_process(table)
    quality = left_out_quality(process)
    found = process.predict(list(without.values()))
    columns = (found.price_ms.tolist(), found.std_ms.tolist(), found.is_extrapolated.tolist())
    rows = {text: Predicted(price, std, len(process.blocks), outside) for text, price, std, outside in zip(without, *columns, strict=True)}
    return replace(table, entries={**table.entries, **rows}, quality={**table.quality, QUALITY: quality})


def left_out_quality(process: GaussianProcess) -> dict[str, Any]:
    """Of the blocks it is fitted to, each predicted without itself: number, mean absolute and mean relative error, shares within 5 and 10 %."""
    error: FloatArray = process.left_out() / process.prices_ms - 1
    shares = {f"within_{pct}pct": round(float((np.abs(error) <= pct / 100).mean()), 4) for pct in (5, 10)}
    return {"blocks": len(error), "mape": round(float(np.abs(error).mean()), 4), "bias": round(float(error.mean()), 4), **shares}


def networks_of(table: LatencyTable, measured_for: BlockIndex, space: BlockIndex) -> tuple[NetworkMeasurement, ...]:
    """The table's networks of one space that are networks of another, too, with the same blocks: as rows of that other space."""
    found = []
    for network in (each for each in table.networks if each.fingerprint == measured_for.fingerprint):
        try:
            code = network.architecture.code(space.space)
        except InputError:
            continue
        if _texts(space, code) == _texts(measured_for, network.architecture.code(measured_for.space)):
            found.append(replace(network, fingerprint=space.fingerprint))
    return tuple(found)


def _texts(index: BlockIndex, code: Any) -> list[str]:
    return [block_text(index.blocks[i]) for i in index.ids(code)[0]]
