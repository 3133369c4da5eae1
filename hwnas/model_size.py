"""Size of the exported file: its tensors in their precision, batch norm folded, and what describes them.

The tensors are counted to the byte. What describes a tensor or a node (names, shapes, attributes) is a few hundred bytes for each, of which
the mean over the shipped spaces is taken; `verify` weighs the file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from hwnas.graph import Block, Node
from hwnas.index import BlockIndex
from hwnas.ops.op import ITEM_BYTES
from hwnas.predictor import Additive
from hwnas.space import FloatArray

_SCALED = {"int8_u8s8", "int8_s8s8"}
#: Data type -> bytes that describe a node, and each of its tensors: means over files of the shipped spaces (tests/test_model_size.py).
_NODE_BYTES = {"float32": 200, "float16": 200, "bfloat16": 200, "int8_u8s8": 900, "int8_s8s8": 500}
_TENSOR_BYTES = {"float32": 45, "float16": 45, "bfloat16": 45, "int8_u8s8": 450, "int8_s8s8": 350}


def model_size(index: BlockIndex, deployed: BlockIndex | None = None) -> Additive:
    """The metric `size`, in bytes. deployed: the index of the same space in the precision that the file has."""
    return Additive(index, file_bytes((deployed or index).blocks), name="size", unit="bytes")


def file_bytes(blocks: Sequence[Block]) -> FloatArray:
    """Bytes that each block takes of a file, (m,); a skipped layer takes none."""
    return np.array([sum(map(_of_node, block)) for block in blocks], np.float64)


def tensor_bytes(node: Node) -> int:
    """Bytes of the deployed tensors of a node: of int8 the weights with a scale and a zero point for each output channel, and biases of 32 bits,
    those of `int8_u8s8` with scales as well."""
    kind, shapes = node.op.data_type, node.op.weights
    if kind not in _SCALED:
        return sum(map(prod, shapes.values())) * ITEM_BYTES[kind]
    if "weight" not in shapes:
        return 4 * sum(map(prod, shapes.values()))
    channels, per_bias = shapes["weight"][0], 12 if kind == "int8_u8s8" else 4
    return prod(shapes["weight"]) + 5 * channels + per_bias * (channels if "bias" in shapes else 0)


def _of_node(node: Node) -> int:
    kind = node.op.data_type
    return tensor_bytes(node) + _NODE_BYTES[kind] + _TENSOR_BYTES[kind] * len(node.op.weights)
