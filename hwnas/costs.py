"""Costs that need no device: functions from blocks to prices, (m,), with their unit.

Each sums over the layers of a network, so `Additive(index, macs(index.blocks))` prices a population.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

import numpy as np

from hwnas.graph import Block, Node
from hwnas.space import FloatArray


def _summed(blocks: Sequence[Block], cost: Callable[[Node], int]) -> FloatArray:
    return np.array([sum(map(cost, block)) for block in blocks], np.float64)


def macs(blocks: Sequence[Block]) -> FloatArray:
    """Multiply-accumulates (FLOPs = 2 x MACs)."""
    return _summed(blocks, lambda node: node.op.macs)


def params(blocks: Sequence[Block]) -> FloatArray:
    """Trained parameters, batch norm's scale and shift included, as the literature counts them."""
    return _summed(blocks, lambda node: sum(map(prod, node.parameters.values())))


def activations(blocks: Sequence[Block]) -> FloatArray:
    """Elements written: the sum of all operators' output sizes."""
    return _summed(blocks, lambda node: prod(node.op.output))


def layers(blocks: Sequence[Block]) -> FloatArray:
    """1 for each block that computes something."""
    return np.array([float(bool(block)) for block in blocks])


def total(cost: Callable[[Sequence[Block]], FloatArray], blocks: Iterable[Block]) -> float:
    """The cost of one network, given as its blocks."""
    return float(cost(list(blocks)).sum())
