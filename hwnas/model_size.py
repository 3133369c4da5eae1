"""Size of the exported file: its tensors in their precision, batch norm folded, and what describes them.

The tensors are counted to the byte. What describes a node, a tensor or an activation (names, shapes, attributes, in int8 the conversions) is a hundred
bytes to a thousand for each; their mean is taken, and `verify` weighs the file itself.
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
#: Data type -> bytes that describe a node, each of its tensors, and its activation: least squares over files of four spaces; the files are met to 2 %,
#: the smallest in int8 to 4 %.
_HALF = (108, 116, 41)
_DESCRIBED = {"float32": (107, 90, 103), "float16": _HALF, "bfloat16": _HALF, "int8_u8s8": (582, 48, 1_201), "int8_s8s8": (429, 277, 36)}


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
    a_node, a_tensor, an_activation = _DESCRIBED[node.op.data_type]
    described = a_node + a_tensor * len(node.op.weights) + an_activation * (getattr(node.op, "act", "none") != "none")
    return tensor_bytes(node) + described
