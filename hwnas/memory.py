"""Peak memory of a network's activations: what it needs at once beside its weights, which decides whether a microcontroller can run it.

Nodes run in the order of the graph, nothing is computed in place, and weights are not counted (cf. MCUNet, Lin et al., 2020). In a
chain of layers only a layer's input is alive when its block begins, so that the peak of a network is the largest peak of its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.graph import ABSENT, Block, Graph
from hwnas.index import BlockIndex
from hwnas.predictor import Origin, Peak
from hwnas.space import Codes, FloatArray


def peak_memory(index: BlockIndex, deployed: BlockIndex | None = None) -> Peak | LoweredPeak:
    """The metric `memory`, in bytes. Look-ups with exact bounds where the layers form a chain; else networks are lowered one by one.

    deployed: the index of the same space in the precision and batch that count.
    """
    deployed = deployed or index
    if is_chain(index):
        return Peak(index, peak_bytes(deployed.blocks), name="memory", unit="bytes")
    return LoweredPeak(index, deployed)


def peak_bytes(blocks: Sequence[Block]) -> FloatArray:
    """Bytes alive at once while each block runs, its input included, (m,); blocks of one input, a skipped layer needs nothing."""
    return np.array([Graph.of_block(block).peak_activation_bytes() if block else 0.0 for block in blocks], np.float64)


def is_chain(index: BlockIndex) -> bool:
    """Whether each layer follows the one before it, and always exists."""
    layers = index.space.layers
    names = ["input", *(layer.name for layer in layers)]
    return ABSENT not in index.blocks and all(layer.after in (None, (previous,)) for layer, previous in zip(layers, names, strict=False))


class LoweredPeak:
    """Peak memory of any network, by liveness over its whole graph: a fraction of a millisecond for each distinct subnet, once."""

    name, unit = "memory", "bytes"
    origin: Origin = "predicted"

    def __init__(self, index: BlockIndex, deployed: BlockIndex | None = None):
        self.index, self._deployed = index, deployed or index
        self._known: dict[bytes, float] = {}

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> (n,)."""
        return np.array([self._of(subnet, code) for subnet, code in zip(self.index.keys(codes), codes, strict=True)], np.float64)

    def _of(self, subnet: bytes, code: Codes) -> float:
        if subnet not in self._known:
            self._known[subnet] = float(self._deployed.space.lower(code).peak_activation_bytes())
        return self._known[subnet]
