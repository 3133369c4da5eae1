"""Latency of whole networks: the sum of a table's prices, fitted to networks that were measured whole.

Alone, a block pays for its own session and layout conversion and misses fusion with its neighbours; in the network its weights come from
farther away. These do not cancel on every device, so a model is fitted per space: an average of lines, since forty noisy networks do not tell
which terms a device needs, and the one that looks best by a hair is often wrong. Every term is a sum over blocks, so the result is again additive.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
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

_LEAST_SQUARES = 1e-12  # of relative errors: nothing is measured better, and simulated tables may fit exactly

#: Columns of the features; the last is that of the constant.
_TABLE, _LAYERS, _PARAMS, _ACTIVATIONS, _CONSTANT = range(5)

#: Layers pay for sessions, parameters for cold weights, activations for layout conversions: each term is in a model or not.
_MODELS = [[_TABLE, *terms, _CONSTANT] for n in range(4) for terms in combinations((_LAYERS, _PARAMS, _ACTIVATIONS), n)]


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

    Least squares of relative errors over the table's networks of this space: on table and constant, with and without layers, parameters and
    activations. These eight models are averaged, each by the likelihood of the networks left out of it (pseudo Bayesian model averaging, Yao et
    al., 2018, section 3.4), as far as in them more table means more latency and no block makes a network faster.
    Raises MissingLatency, and InputError where fewer than 8 networks of this space were measured, or where they were emulated.
    """
    table.refuse_emulated("no budget is priced by them")
    fit = _Fit(table, index, quantile, variant)
    coefficients = fit.average(np.arange(len(fit.measured)))
    prices = fit.terms @ coefficients[:-1]
    return Additive(index, prices, name="latency", unit="ms", constant=float(coefficients[-1]), origin=fit.origin)


def assess(table: LatencyTable, index: BlockIndex, quantile: float = 0.5, variant: Variant | None = None) -> dict[str, Any]:
    """How well left-out networks are predicted: by `calibrated` (its average made anew without them), by the plain sum of
    the table, and by a line through the MACs, which any table must beat. Raises as `calibrated` does."""
    fit = _Fit(table, index, quantile, variant)
    predicted = fit.left_out()
    line = _left_out(_with_constant(fit.macs[:, None]), fit.measured)
    results: dict[str, Quality] = {
        "calibrated": quality(fit.measured, predicted, fit.resolutions),
        "table_sum": quality(fit.measured, fit.features[:, _TABLE], fit.resolutions),
        "macs_line": quality(fit.measured, line, fit.resolutions),
    }
    return {name: {key: _rounded(key, value) for key, value in asdict(each).items() if value is not None} for name, each in results.items()}


def left_out(table: LatencyTable, index: BlockIndex, quantile: float = 0.5, variant: Variant | None = None) -> FloatArray:
    """Each of the table's networks of this space, in their order, as predicted by `calibrated` without it, in ms (n,). Raises as `calibrated` does."""
    return _Fit(table, index, quantile, variant).left_out()


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
        self.features = _with_constant(self.terms[ids].sum(axis=1))  # (n, 5)
        self.macs = macs(blocks)[ids].sum(axis=1) / 1e6
        self.resolutions: list[Hashable] = [index.space.lower(code).input for code in networks.codes]
        self.origin: Origin = "simulated" if table.origin == "simulated" else "predicted"

    def left_out(self) -> FloatArray:
        """Each network's latency (n,) as predicted by an average made anew without it."""
        everything = np.arange(len(self.measured))
        return np.array([self.features[row] @ self.average(np.delete(everything, row)) for row in everything])

    def average(self, rows: Sequence[int] | Any) -> FloatArray:
        """Coefficients (5,), the constant last: the average of the models fitted to these networks."""
        measured = self.measured[rows]
        models, likelihoods = [], []
        for columns in _MODELS:
            features = self.features[rows][:, columns]
            model = np.zeros(self.features.shape[1])
            model[columns] = _least_squares(features, measured)
            if model[_TABLE] < 0 or (self.terms @ model[:-1]).min() < 0:
                continue
            models.append(model)
            squares = np.square(_left_out(features, measured) / measured - 1).mean()
            likelihoods.append(-0.5 * len(measured) * np.log(max(squares, _LEAST_SQUARES)))
        if not models:
            raise InputError("the measured networks of this table do not get slower where its blocks do: measure it again on a quieter machine")
        weights = np.exp(np.array(likelihoods) - max(likelihoods))
        return np.asarray(weights @ np.array(models) / weights.sum())


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
    relative = features / measured[:, None]
    leverage = np.einsum("ij,ji->i", relative, np.linalg.pinv(relative))
    residual = 1 - relative @ _least_squares(features, measured)
    return np.asarray(measured * (1 - residual / np.maximum(1 - leverage, 1e-9)))
