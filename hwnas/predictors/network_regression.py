"""Latency from whole networks alone, without a table: a linear model over the architecture, as fine as the networks can tell.

Four groups of features, from coarse to fine: what a network computes in all, how often each value is chosen among choices alike, how often each distinct block
occurs, and every choice by itself. Each group has a variance of its own (`hwnas.grouped_ridge`), so 20 networks are described by their work and 1,000 by each
layer. The result is a sum over layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.block_features import matrix, work
from hwnas.features import OneHot, tied
from hwnas.grouped_ridge import GroupedRidge, Linear, Scaling
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.space import Codes, FloatArray

_POPULATION = 2_000  # architectures that features are scaled by


class NetworkFeatures:
    """The four groups of a space, of codes (n, choices): (n, f) each."""

    def __init__(self, index: BlockIndex):
        self.index, self.one_hot = index, OneHot(index)
        self._ties = tied(self.one_hot)
        amounts = [work(block) if block else {} for block in index.blocks]
        self._work = matrix(amounts, sorted({name for each in amounts for name in each}))  # (blocks, f)

    def __call__(self, codes: Codes) -> list[FloatArray]:
        ids, choices = self.index.ids(codes), self.one_hot(codes).astype(np.float64)
        counts = np.zeros((len(codes), len(self.index.blocks)))
        np.add.at(counts, (np.arange(len(codes))[:, None], ids), 1.0)
        return [counts @ self._work, choices @ self._ties, counts, choices]

    def cells(self, linear: Linear) -> list[FloatArray]:
        """What every cell of every layer adds to a linear model of these groups, by layer."""
        of_work, of_values, of_blocks, of_choices = linear.coefficients
        prices = self._work @ of_work + of_blocks
        cells = self.one_hot.cells(self._ties @ of_values + of_choices)
        return [mine + prices[table] for mine, table in zip(cells, self.index.tables, strict=True)]


def network_regression(index: BlockIndex, codes: Codes, latency_ms: FloatArray, *, seed: int = 0) -> Additive:
    """Latency in ms of every architecture of a space of which networks `codes` (n, choices) take `latency_ms` (n,). Raises InputError."""
    features, fit = regression(index, codes, latency_ms, seed=seed)
    linear = fit.linear
    return Additive(index, features.cells(linear), name="latency", unit="ms", constant=linear.constant)


def regression(index: BlockIndex, codes: Codes, latency_ms: FloatArray, *, seed: int = 0) -> tuple[NetworkFeatures, GroupedRidge]:
    """The features and the fit behind `network_regression`. Raises InputError."""
    features = NetworkFeatures(index)
    population: Sequence[FloatArray] = features(np.concatenate([index.space.sample(np.random.default_rng(seed), _POPULATION), codes]))
    return features, GroupedRidge(Scaling.of(population), features(codes), latency_ms)
