"""Rows for blocks that nobody measured, predicted from a table's measured ones and marked as such; and its networks, seen in a wider space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwnas.errors import InputError, UnknownName
from hwnas.graph import Block, block_text, parse_block
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, NetworkMeasurement, Predicted
from hwnas.measured_blocks import left_out, measured_rows
from hwnas.predictor import Fitted
from hwnas.predictors.gaussian_process import GaussianProcess, gaussian_process
from hwnas.predictors.graph_network import GraphNetwork
from hwnas.predictors.kernel_forest import KernelForest
from hwnas.predictors.macs import Macs
from hwnas.space import FloatArray

#: Predictors of blocks beside the Gaussian process, by name; what they are fitted to is blocks and their prices in ms.
FITS: dict[str, Callable[[Sequence[Block], FloatArray], Fitted]] = {"macs": Macs, "kernel_forest": KernelForest.fit, "graph_network": GraphNetwork.fit}
PREDICTORS = ("gaussian_process", *FITS)

#: In a table's quality: how far off the measured blocks are predicted, left out of the fit fifth by fifth.
QUALITY = "predicted_blocks"


def filled(table: LatencyTable, blocks: Sequence[Block], by: str = "gaussian_process", *, renew: bool = True) -> LatencyTable:
    """The table with a predicted row for each of the blocks that has none, and for those predicted before; what failed stays failed.

    by: which predictor of blocks. renew: else rows that were predicted before stay as they are. The table's quality says how well it predicts
    measured blocks. The table itself where there is nothing to predict. Raises InputError.
    """
    if by not in PREDICTORS:
        raise UnknownName("predictor of blocks", by, PREDICTORS)
    wanted = {block_text(block): block for block in blocks if block} | ({text: parse_block(text) for text in table.predicted()} if renew else {})
    without = {text: block for text, block in sorted(wanted.items()) if text not in table.entries or (renew and isinstance(table.entries[text], Predicted))}
    if not without:
        return table
    measured, prices_ms = measured_rows(table)
    if by == "gaussian_process":
        process = gaussian_process(table)
        quality = left_out_quality(process)
        found = process.predict(list(without.values()))
        columns = (found.price_ms.tolist(), found.std_ms.tolist(), found.is_extrapolated.tolist())
    else:
        predicted = left_out(FITS[by], measured, prices_ms)
        quality = _quality(predicted / prices_ms - 1)
        model = FITS[by](measured, prices_ms)
        price_ms = np.maximum(model.prices(list(without.values())), 1e-9)
        spread = float(np.sqrt(np.square(np.log(np.maximum(predicted, 1e-9) / prices_ms)).mean()))
        columns = (price_ms.tolist(), (price_ms * spread).tolist(), model.is_outside(list(without.values())).tolist())
    rows = {text: Predicted(price, std, len(measured), outside) for text, price, std, outside in zip(without, *columns, strict=True)}
    return replace(table, entries={**table.entries, **rows}, quality={**table.quality, QUALITY: quality})


def left_out_quality(process: GaussianProcess) -> dict[str, Any]:
    """Of the blocks it is fitted to, each predicted without itself: number, mean absolute and mean relative error, shares within 5 and 10 %."""
    return _quality(process.left_out() / process.prices_ms - 1)


def _quality(error: FloatArray) -> dict[str, Any]:
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
