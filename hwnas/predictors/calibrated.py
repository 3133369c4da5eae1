"""Latency of whole networks: the sum of a table's prices, fitted to networks that were measured whole.

Alone, a block pays for its own session and layout conversion and misses fusion with its neighbours; in the network its weights come from
farther away. These do not cancel on every device, so a line is fitted per space. Every term is a sum over blocks, so the result is again
additive.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hwnas.costs import activations, layers, macs, params
from hwnas.errors import InputError
from hwnas.graph import block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, NetworkMeasurement
from hwnas.predictor import Additive, Origin
from hwnas.predictors.lookup import lookup
from hwnas.quality import Quality, quality
from hwnas.space import Codes, FloatArray
from hwnas.variant import Variant, has_own_variants, variants_of

LEAST_NETWORKS = 8

#: Columns of the features.
_TABLE, _LAYERS, _PARAMS, _ACTIVATIONS = range(4)

#: Models from small to large, each with a constant. Layers pay for sessions, parameters for cold weights, activations for layout conversions.
_MODELS = ([_TABLE], [_TABLE, _LAYERS], [_TABLE, _PARAMS], [_TABLE, _LAYERS, _ACTIVATIONS], [_TABLE, _PARAMS, _ACTIVATIONS])


def variant_for(table: LatencyTable, index: BlockIndex, precision: str | None = None, batch: int | None = None) -> Variant:
    """The precision and batch in which a table prices a space, as far as they were not asked for: those of its rows. Raises InputError.

    A space that chooses them itself is priced as it is.
    """
    if not has_own_variants(index):
        return table.variant(precision, batch)
    if precision is not None or batch is not None:
        raise InputError(f"{index.space.name} chooses precision and batch itself: leave out --precision and --batch")
    return Variant()


def calibrated(table: LatencyTable, index: BlockIndex, quantile: float = 0.5, variant: Variant | None = None) -> Additive:
    """Latency in ms of that quantile (p50 or p90) of every architecture of a space, origin "predicted" ("simulated" of a simulated table).

    variant: the precision and batch it is deployed in; by default those of the table.

    Least squares of relative errors over the table's networks of this space, on [table], [table, layers], [table, parameters] and the
    latter two with activations, each with a constant: whichever predicts left-out networks best, among those where more table means more latency
    and no block makes a network faster.
    Raises MissingLatency, and InputError where fewer than 8 networks of this space were measured, or where they were emulated.
    """
    table.refuse_emulated("no budget is priced by them")
    fit = _Fit(table, index, quantile, variant)
    rows = np.arange(len(fit.measured))
    columns, coefficients = fit.choose(rows)
    prices = fit.terms[:, columns] @ coefficients[:-1]
    return Additive(index, prices, name="latency", unit="ms", constant=float(coefficients[-1]), origin=fit.origin)


def assess(table: LatencyTable, index: BlockIndex, quantile: float = 0.5, variant: Variant | None = None) -> dict[str, Any]:
    """How well left-out networks are predicted: by `calibrated` (its choice of terms made anew without them), by the plain sum of
    the table, and by a line through the MACs, which any table must beat. Raises as `calibrated` does."""
    fit = _Fit(table, index, quantile, variant)
    everything = np.arange(len(fit.measured))
    predicted = np.empty(len(everything))
    for left_out in everything:
        rows = np.delete(everything, left_out)
        columns, coefficients = fit.choose(rows)
        predicted[left_out] = _with_constant(fit.features[left_out : left_out + 1, columns])[0] @ coefficients
    line = _left_out(_with_constant(fit.macs[:, None]), fit.measured)
    results: dict[str, Quality] = {
        "calibrated": quality(fit.measured, predicted, fit.resolutions),
        "table_sum": quality(fit.measured, fit.features[:, _TABLE], fit.resolutions),
        "macs_line": quality(fit.measured, line, fit.resolutions),
    }
    return {name: {key: _rounded(key, value) for key, value in asdict(each).items() if value is not None} for name, each in results.items()}


def _rounded(key: str, value: float) -> float:
    if isinstance(value, int):
        return value
    return float(f"{value:.4g}") if key.endswith("_ms") else round(value, 4)


@dataclass(frozen=True, slots=True)
class _Networks:
    codes: Codes
    measured: FloatArray


class _Fit:
    """Features of the measured networks and of the blocks: sum of prices (ms), computing layers, parameters, activations."""

    def __init__(self, table: LatencyTable, index: BlockIndex, quantile: float, variant: Variant | None):
        deployed = (variant_for(table, index) if variant is None else variant).index(index)
        blocks = deployed.blocks  # in the order of those of `index`
        raw = np.stack([lookup(table, index.space.name).prices(blocks), layers(blocks), params(blocks), activations(blocks)], axis=1)
        self.terms = raw / raw.max(axis=0)  # (blocks, 4), all of one size
        self.terms[:, _TABLE] = raw[:, _TABLE]
        networks = _networks(table, deployed, quantile)
        self.measured = networks.measured  # (n,)
        ids = index.ids(networks.codes)
        self.features = self.terms[ids].sum(axis=1)  # (n, 4)
        self.macs = macs(blocks)[ids].sum(axis=1) / 1e6
        self.resolutions: list[Hashable] = [index.space.lower(code).input for code in networks.codes]
        self.origin: Origin = "simulated" if table.origin == "simulated" else "predicted"

    def choose(self, rows: Sequence[int] | Any) -> tuple[list[int], FloatArray]:
        """(columns, coefficients with the constant last) of the model with the least error on left-out networks."""
        best: tuple[float, list[int], FloatArray] | None = None
        for columns in _MODELS:
            features, measured = _with_constant(self.features[rows][:, columns]), self.measured[rows]
            coefficients = _least_squares(features, measured)
            if coefficients[0] < 0 or (self.terms[:, columns] @ coefficients[:-1]).min() < 0:
                continue
            error = float(np.abs(_left_out(features, measured) / measured - 1).mean())
            if best is None or error < best[0]:
                best = (error, columns, coefficients)
        if best is None:
            raise InputError("the measured networks of this table do not get slower where its blocks do: measure it again on a quieter machine")
        return best[1], best[2]


def _networks(table: LatencyTable, index: BlockIndex, quantile: float) -> _Networks:
    """Codes and measured latencies of the table's networks of this space. Raises InputError."""
    columns = {0.5: "p50_ms", 0.9: "p90_ms"}
    if quantile not in columns:
        raise InputError(f"a table calibrates p50 and p90, not p{100 * quantile:g}")
    fingerprint = index.fingerprint
    own: list[NetworkMeasurement] = [each for each in table.networks if each.fingerprint == fingerprint]
    if len(own) < LEAST_NETWORKS:
        raise InputError(
            f"the table of {table.conditions} has {len(own)} whole networks of this {index.space.name}, {LEAST_NETWORKS} are needed: a table without them "
            f"prices no budget; measure them with: hwnas profile {table.conditions.device} --space {index.space.name}{_options(index)} --to FOLDER"
        )
    codes = np.concatenate([each.architecture.code(index.space) for each in own])
    return _Networks(np.asfortranarray(codes), np.array([getattr(each, columns[quantile]) for each in own], np.float64))


def _options(index: BlockIndex) -> str:
    found = variants_of(block_text(block) for block in index.blocks if block)
    return found[0].options if len(found) == 1 else ""


def _with_constant(features: FloatArray) -> FloatArray:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _least_squares(features: FloatArray, measured: FloatArray) -> FloatArray:
    """Coefficients (terms,) with the least sum of squared relative errors."""
    return np.asarray(np.linalg.lstsq(features / measured[:, None], np.ones(len(measured)), rcond=None)[0])


def _left_out(features: FloatArray, measured: FloatArray) -> FloatArray:
    """Each network's latency (n,) as predicted by a fit to all the others."""
    rows = np.arange(len(measured))
    return np.array([features[i] @ _least_squares(np.delete(features, i, 0), np.delete(measured, i)) for i in rows])
