"""Channel sorting before widths become elastic: the channels that narrow subnets keep are the important ones (Cai et al., 2020, section 3.3).

What may be permuted follows from a layer's blocks: channels that are made and used up inside of it, and that come in several widths. All
tensors with such an axis are permuted alike, so the largest network computes what it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.graph import Block
from hwnas.ops import Activation, Add, Affine, AvgPool, Conv2d, Flatten, GlobalPool, Linear, MaxPool, Mul, Zero
from hwnas.supernet.supernet import Supernet

#: Tensor -> (axis, new order of its entries).
Orders = Mapping[str, list[tuple[int, Tensor]]]


def sort_channels(supernet: Supernet, *, trained: npt.NDArray[np.integer] | None = None) -> Orders:
    """Sort the elastic channels of every layer by importance, the most important first; what was permuted, for `permute`.

    The importance of a channel is the L1 norm of the weights that the last operator which reads it has for it. trained: the least code of each
    choice that was trained already (choices,), as `Phase.lowest` has it: no channel crosses a width that occurs from there on, so those networks compute
    what they did; by default only the largest is kept. Raises InputError where blocks do not share channels.

    Once-for-All sorts before its first phase of elastic width, when the largest width alone is trained, and before its second. Its code separates
    the bands by offsets of 1e5 in float32, which rounds the order within the outer ones, and never protects the channels inside of
    squeeze-and-excite; both are exact here.
    """
    if supernet.sharing != "slices":
        raise InputError(f"channels are sorted where blocks share them; this supernet shares {supernet.sharing}")
    orders: dict[str, list[tuple[int, Tensor]]] = {}
    index = supernet.index
    low = index.space.largest()[0] if trained is None else trained
    for layer, table, columns, strides in zip(index.space.layers, index.tables, index.columns, index.strides, strict=True):
        cells, seen = np.arange(len(table)), np.ones(len(table), bool)
        for column, stride in zip(columns, strides, strict=True):
            seen &= cells // stride % index.space.cardinalities[column] >= low[column]
        for group in _groups([index.blocks[i] for i in np.unique(table)]):
            weight = supernet.tensors[f"{layer.name}/{group.reader}.weight"].detach()
            importance = weight.abs().sum(dim=[axis for axis in range(weight.dim()) if axis != 1])
            kept = {node.op.output[1] for i in np.unique(table[seen]) for node in index.blocks[i] if node.name in group.nodes}
            edges = sorted(kept | {max(group.widths)})
            bands = importance.tensor_split(edges[:-1])
            order = torch.cat([start + band.sort(descending=True, stable=True).indices for start, band in zip([0, *edges], bands, strict=False)])
            for name, axis in sorted(group.axes):
                orders.setdefault(f"{layer.name}/{name}", []).append((axis, order))
    permute(supernet.tensors, orders)
    return orders


def permute(tensors: Mapping[str, Tensor], orders: Orders) -> None:
    """Put the entries of tensors in a new order, in place: weights, or moments of an optimiser by the same names."""
    with torch.no_grad():
        for name, axes in orders.items():
            if name in tensors:
                for axis, order in axes:
                    tensors[name].copy_(tensors[name].index_select(axis, order))


@dataclass(slots=True)
class _Group:
    """Channels that are one: the axes of a layer's tensors that must be permuted together."""

    nodes: set[str] = field(default_factory=set)
    """Those that make them."""
    widths: set[int] = field(default_factory=set)
    axes: set[tuple[str, int]] = field(default_factory=set)
    """(node.tensor, axis)"""
    reader: str = ""
    """The last node that mixes them."""


def _groups(blocks: Iterable[Block]) -> list[_Group]:
    """The elastic channel groups of a layer that runs these blocks."""
    parent: dict[str, str] = {}

    def find(value: str) -> str:
        while parent.setdefault(value, value) != value:
            value = parent[value]
        return value

    fixed: set[str] = set()
    for block in blocks:
        for node in block:
            op = node.op
            if (isinstance(op, Conv2d) and op.is_depthwise) or isinstance(op, GlobalPool | MaxPool | AvgPool | Activation | Affine | Zero | Add | Mul):
                for source in node.inputs:
                    parent[find(source)] = find(node.name)
            elif isinstance(op, Conv2d | Linear) and getattr(op, "groups", 1) == 1:
                find(node.name)
            elif isinstance(op, Flatten) and op.output[:2] == op.input[:2]:  # of single pixels
                parent[find(node.inputs[0])] = find(node.name)
            else:
                fixed |= {node.name, *node.inputs}
            fixed |= {source for source in node.inputs if source.startswith("in") and source[2:].isdigit()}
        if block:
            fixed.add(block[-1].name)
    frozen = {find(value) for value in fixed}
    groups: dict[str, _Group] = {}
    position: dict[str, int] = {}
    for block in blocks:
        for i, node in enumerate(block):
            position[node.name] = max(i, position.get(node.name, 0))
            made = groups.setdefault(find(node.name), _Group())
            made.nodes.add(node.name)
            made.widths.add(node.op.output[1])
            made.axes |= {(f"{node.name}.{leaf}", 0) for leaf in node.parameters | node.buffers}
            if isinstance(node.op, Conv2d | Linear) and getattr(node.op, "groups", 1) == 1:
                read = groups.setdefault(find(node.inputs[0]), _Group())
                read.axes.add((f"{node.name}.weight", 1))
                if not read.reader or position[node.name] >= position[read.reader]:
                    read.reader = node.name
    return [group for root, group in groups.items() if root not in frozen and len(group.widths) > 1 and group.reader]
