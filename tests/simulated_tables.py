"""Latency tables whose truth is a formula, so that what is fitted to them is known."""

from __future__ import annotations

import numpy as np

from hwnas.architecture import Architecture
from hwnas.costs import activations, layers, macs
from hwnas.graph import block_text
from hwnas.latency_table import Conditions, LatencyTable, Measurement, NetworkMeasurement
from hwnas.profiling.plan import calibration_networks

CONDITIONS = Conditions("simulated_phone", "a formula", "simulated", "1", 1, "warm")


def prices_ms(blocks):
    """(blocks,): 2 us for a block that computes, 1 ms per 10 M MACs, 1 ms per M activations."""
    return 0.002 * layers(blocks) + macs(blocks) / 1e7 + activations(blocks) / 1e6


def simulated_table(index, latency_ms, *, networks=24, seed=0):
    """All blocks at `prices_ms`; networks whose p50 is `latency_ms(sum of prices, layers, activations)`, their p90 twice that."""
    blocks = index.blocks
    entries = {
        block_text(block): Measurement(price, price, price, 2 * price, 8, 8, 80)
        for block, price in zip(blocks, map(float, prices_ms(blocks)), strict=True)
        if block
    }
    rows = []
    for code in calibration_networks(index, networks, np.random.default_rng(seed)):
        ids = index.ids(code[None])[0]
        p50 = float(latency_ms(prices_ms(blocks)[ids].sum(), layers(blocks)[ids].sum(), activations(blocks)[ids].sum()))
        rows.append(NetworkMeasurement(Architecture.of(index.space, code), index.fingerprint, p50, p50, 2 * p50, 16, 0))
    return LatencyTable(CONDITIONS, entries, tuple(rows), origin="simulated")
