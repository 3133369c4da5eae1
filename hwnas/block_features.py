"""A block as numbers for a learned model, all read from its operators, so that any space has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log, log1p, prod

import numpy as np

from hwnas.graph import Block
from hwnas.ops import Conv2d
from hwnas.ops.op import ITEM_BYTES, Op
from hwnas.space import FloatArray

_TILE = 8  # channels, or columns of an image: lanes of a vector register of float32, and the blocks of the layouts that runtimes use


def work(block: Block) -> Mapping[str, float]:
    """What a block does, each in a unit that takes about the same time everywhere."""
    amounts = Counter[str]({"block": 1, "operators": len(block)})
    for op in (node.op for node in block):
        width = ITEM_BYTES[op.data_type]
        if op.macs:
            amounts[f"macs.{kind(op)}"] += tiled_macs(op)
        amounts["activations"] += width * (sum(map(prod, op.inputs)) + prod(op.output))
        amounts["weights"] += width * sum(map(prod, op.weights.values()))
        if (act := getattr(op, "act", "none")) not in ("none", "relu", "relu6"):
            amounts[f"act.{act}"] += prod(op.output)
    return {name: float(value) for name, value in amounts.items()}


def sizes(block: Block) -> Mapping[str, float]:
    """What blocks of about the same are alike in: counts, and logarithms of sizes."""
    counts, amounts = Counter[str](), Counter[str]()
    kernel, stride, widest, side = 1, 1, 1, 1
    for op in (node.op for node in block):
        counts[f"n.{kind(op)}"] += 1
        counts[f"n.{op.data_type}"] += 1
        if (act := getattr(op, "act", "none")) != "none":
            counts[f"n.{act}"] += 1
        if op.macs:
            amounts[f"macs.{kind(op)}"] += op.macs
        amounts["weights"] += sum(map(prod, op.weights.values()))
        amounts["activations"] += prod(op.output)
        if isinstance(op, Conv2d):
            kernel, stride = max(kernel, op.kernel), stride * op.stride
        if len(op.output) > 1:
            widest = max(widest, op.output[1])
        if len(op.output) == 4 and op.output[-1] > 1:
            side = op.output[-1]
    first, last = block[0].op.input, block[-1].op.output
    return {
        **{name: float(n) for name, n in counts.items()},
        **{name: log1p(amount) for name, amount in amounts.items()},
        "kernel": float(kernel),
        "stride": float(stride),
        "in": log(first[1] if len(first) > 1 else 1),
        "out": log(last[1] if len(last) > 1 else 1),
        "middle": log(widest),
        "pixels": log(prod(first[2:])),
        "ragged_rows": log(_up(side) / side),  # of the last image: the part of a tile that is computed in vain
        "ragged_image": log(_up(side * side) / (side * side)),
    }


def kind(op: Op) -> str:
    """Operators that one kernel computes."""
    if not isinstance(op, Conv2d):
        return op.kind
    if op.groups > 1:
        return "depthwise" if op.is_depthwise else "grouped"
    if prod(op.output[2:]) == 1:
        return "linear"
    return "pointwise" if op.kernel == 1 else "conv"


def tiled_macs(op: Op) -> int:
    """Multiply-accumulates, channels rounded up to the tiles that kernels compute."""
    if not isinstance(op, Conv2d):
        return op.macs
    n, out, height, width = op.output
    depth = 1 if op.is_depthwise else _up(op.input[1] // op.groups)
    return n * _up(out) * height * width * depth * op.kernel**2


def _up(size: int) -> int:
    return -(-size // _TILE) * _TILE


def matrix(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> FloatArray:
    """(rows, names), 0 where a row lacks one."""
    return np.array([[row.get(name, 0.0) for name in names] for row in rows], np.float64).reshape(len(rows), len(names))
