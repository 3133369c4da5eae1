"""Latencies of networks by a table, each with an interval and with what it rests on: rows that were measured, interpolated or extrapolated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.costs import macs, params
from hwnas.errors import InputError
from hwnas.graph import Block, block_text
from hwnas.index import BlockIndex
from hwnas.intervals import LEVEL, Prediction, margin
from hwnas.latency_table import LatencyTable, NetworkMeasurement
from hwnas.latency_table import Predicted as PredictedRow
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import calibrated, left_out, variant_for
from hwnas.predictors.proxy_device import fitted_proxy
from hwnas.space import Codes, FloatArray
from hwnas.variant import Variant

#: Columns of shares.
MEASURED, INTERPOLATED, EXTRAPOLATED = range(3)

_SLACK = 0.02  # by which a network may lie beyond the measured ones in some cost and still be like them


def share_of(table: LatencyTable, block: Block) -> int:
    """The column of shares that a block's row counts in."""
    entry = table.entries.get(block_text(block))
    return MEASURED if not isinstance(entry, PredictedRow) else EXTRAPOLATED if entry.is_extrapolated else INTERPOLATED


def measured_ms(networks: Sequence[NetworkMeasurement], quantile: float) -> FloatArray:
    """Their p50 or p90, (n,)."""
    return np.array([each.p50_ms if quantile == 0.5 else each.p90_ms for each in networks], np.float64)


@dataclass(frozen=True, slots=True)
class Range:
    """Least and greatest of some costs of the measured networks, (costs,) each."""

    least: FloatArray
    greatest: FloatArray

    def is_outside(self, costs: FloatArray) -> npt.NDArray[np.bool_]:
        """costs (n, costs) -> (n,)."""
        return np.asarray(((costs < self.least * (1 - _SLACK)) | (costs > self.greatest * (1 + _SLACK))).any(axis=1))


#: (codes (n, choices), whether each is outside of the measured networks (n,)) -> (n, 3).
_Shares: TypeAlias = Callable[[Codes, npt.NDArray[np.bool_]], FloatArray]


class _Latency:
    """A metric with the interval of networks that were measured, codes (n, choices), each of which was predicted without itself, (n,)."""

    def __init__(self, metric: Additive, codes: Codes, measured: FloatArray, without: FloatArray, level: float, shares: _Shares):
        index = metric.index
        self.metric, self.level, self.networks, self._shares = metric, level, len(measured), shares
        self.margin = margin(measured, without, level)
        self._costs = [metric, *(Additive(index, price(index.blocks), name="", unit="") for price in (macs, params))]
        values = self._values(codes)
        self._range = Range(values.min(axis=0), values.max(axis=0))

    def predict(self, codes: Codes) -> Prediction:
        """codes (n, choices)."""
        value, is_outside = self.metric(codes), self._range.is_outside(self._values(codes))
        return Prediction(value, value / self.margin, value * self.margin, self.level, self._shares(codes, is_outside), is_outside)

    def _values(self, codes: Codes) -> FloatArray:
        return np.stack([cost(codes) for cost in self._costs], axis=1)


class TableLatency(_Latency):
    """`calibrated` of a table and a space with its interval: each of the table's networks is predicted by a calibration without it.

    quantile: 0.5 or 0.9. Raises what `calibrated` raises. The interval is endless where fewer than `intervals.least_networks(level)` networks were
    measured.
    """

    def __init__(self, table: LatencyTable, index: BlockIndex, quantile: float = 0.5, variant: Variant | None = None, *, level: float = LEVEL):
        variant = variant_for(table, index) if variant is None else variant
        metric, deployed = calibrated(table, index, quantile, variant), variant.index(index)
        own, codes = own_networks(table, deployed)
        super().__init__(metric, codes, measured_ms(own, quantile), left_out(table, index, quantile, variant), level, self._by_rows)
        rests_on = np.array([share_of(table, block) for block in deployed.blocks])
        self._parts = []
        for column in (MEASURED, INTERPOLATED, EXTRAPOLATED):
            cells = [np.where(rests_on[ids] == column, mine, 0.0) for ids, mine in zip(index.tables, metric.cells, strict=True)]
            self._parts.append(Additive(index, cells, name="", unit=""))

    def _by_rows(self, codes: Codes, is_outside: npt.NDArray[np.bool_]) -> FloatArray:
        parts = np.stack([part(codes) for part in self._parts], axis=1)
        return np.asarray(parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300))


class ProxyLatency(_Latency):
    """`proxy_device` of a table's networks and of other devices' tables, with its interval: each network is predicted without itself.

    others: tables of the same space, two kinds of devices or more. Raises InputError. No part of it is measured on the device.
    """

    def __init__(
        self,
        table: LatencyTable,
        index: BlockIndex,
        others: Sequence[LatencyTable],
        quantile: float = 0.5,
        variant: Variant | None = None,
        *,
        level: float = LEVEL,
    ):
        if not others:
            raise InputError("a device is predicted from the tables of others: name two or more")
        variant = variant_for(others[0], index) if variant is None else variant
        own, codes = own_networks(table, variant.index(index))
        if not own:
            raise InputError(f"the table of {table.conditions} has no whole network of this {index.space.name}: 5 to 20 are needed")
        known = {str(i): (each.conditions.device, calibrated(each, index, quantile, variant)) for i, each in enumerate(others)}
        measured = measured_ms(own, quantile)
        metric, fit = fitted_proxy(index, known, codes, measured)
        super().__init__(metric, codes, measured, fit.left_out(), level, _by_support)


def _by_support(codes: Codes, is_outside: npt.NDArray[np.bool_]) -> FloatArray:
    """All of a prediction without rows is interpolated, or all of it extrapolated."""
    return np.stack([np.zeros(len(codes)), ~is_outside, is_outside], axis=1).astype(np.float64)


def own_networks(table: LatencyTable, deployed: BlockIndex) -> tuple[list[NetworkMeasurement], Codes]:
    """A table's networks of a space, and their codes (n, choices)."""
    fingerprint = deployed.fingerprint
    own = [each for each in table.networks if each.fingerprint == fingerprint]
    codes = [each.architecture.code(deployed.space) for each in own] or [deployed.space.smallest()[:0]]
    return own, np.asfortranarray(np.concatenate(codes))
