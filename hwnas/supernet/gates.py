"""Derivatives of a loss by the gates of a supernet's cells: what differentiable searches of architectures go by.

A layer's output is the sum of what its cells put out, each times its gate. A *cell* is a combination of the values that the layer's choices
can take. Cells that differ in the resolution alone run the same operators on the same image, so they are one path with one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from hwnas.backends.torch import Network
from hwnas.errors import InputError
from hwnas.graph import ABSENT
from hwnas.index import BlockIndex
from hwnas.space import FloatArray, IntArray
from hwnas.supernet.supernet import Supernet

#: Logits -> the loss, a tensor of one number.
Loss = Callable[[Tensor], Tensor]


def gate_gradients(supernet: Supernet, gates: Sequence[FloatArray], x: Tensor, loss: Loss) -> tuple[float, list[FloatArray]]:
    """(the loss of the network that binary gates choose, its derivative by each gate that is not NaN) (ProxylessNAS: Cai et al., 2019, section 3.2).

    gates: for each layer one number per cell: 1 for the one that runs, 0 for others by whose gate the loss is differentiated, NaN for those to
    be left alone. Where a layer has one cell that is a number there is nothing to decide, and the answer is NaN, too. x: a batch of images.

    The derivative by a gate is the inner product of the loss' derivative by the layer's output with what the cell puts out. So one path is kept
    for the backward pass, which weights take no part in; then each other cell runs by itself, without a graph, and is forgotten: memory is
    that of one path. The identity puts out the layer's input, so skips have derivatives like all others. Batch norms use the statistics of
    the batch, and running ones stay as they are. Raises InputError where gates are not binary, layers do not follow each other, or cells of
    a layer put out different shapes.
    """
    index = supernet.index
    _check_chain(index)
    resolution = gate_resolution(index, gates)
    active = [_active(index, layer, each) for layer, each in enumerate(gates)]
    wanted = [np.flatnonzero(~np.isnan(each)) for each in gates]
    blocks = [_paths(index, layer, resolution) for layer in range(len(gates))]
    open_layers = [layer for layer, cells in enumerate(wanted) if len(cells) > 1]
    first = open_layers[0] if open_layers else len(gates)
    paths = [_Path(supernet, layer, int(table[cell])) for layer, (table, cell) in enumerate(zip(blocks, active, strict=True))]
    inputs, outputs, value = [], [], x
    with _frozen(path.network for path in paths if path.network is not None):
        for layer, path in enumerate(paths):
            inputs.append(value)
            with torch.set_grad_enabled(layer > first):
                value = path(value)
            if layer == first:
                value = value.detach().requires_grad_()  # what lies before has nothing to decide
            outputs.append(value)
        total = loss(value)
        slopes = torch.autograd.grad(total, [outputs[layer] for layer in open_layers]) if open_layers else ()
    derivatives = [np.full(len(each), np.nan) for each in gates]
    with torch.no_grad():
        for layer, slope in zip(open_layers, slopes, strict=True):
            made: dict[int, float] = {}
            for cell in wanted[layer].tolist():
                block = int(blocks[layer][cell])
                if block not in made:
                    output = outputs[layer] if block == paths[layer].block else _Path(supernet, layer, block)(inputs[layer])
                    if output.shape != slope.shape:
                        raise InputError(_differ(index, layer, [tuple(slope.shape), tuple(output.shape)]))
                    made[block] = float((slope * output).sum(dtype=torch.float64))
                derivatives[layer][cell] = made[block]
    return float(total.detach()), derivatives


def mixture_gradients(supernet: Supernet, gates: Sequence[FloatArray], x: Tensor, loss: Loss) -> tuple[float, list[FloatArray]]:
    """(the loss of the network whose layers are sums of all their cells, its derivative by each gate that is not NaN) (DARTS: Liu et al., 2019).

    gates: for each layer one number per cell, NaN for those that do not run. x: a batch of images at `mixture_resolution(...)`. All cells are kept for the
    backward pass, which weights take no part in. Raises InputError where the sum is not defined.
    """

    def gate(weight: float) -> Tensor:
        return torch.tensor(weight, dtype=x.dtype, device=x.device, requires_grad=True)

    made = [{block: gate(weight) for block, weight in each.items()} for each in mixed(supernet.index, gates)]
    network = _quiet(supernet.mixture(made))
    with _frozen([network]):
        total = loss(network(x))
        slopes = iter(torch.autograd.grad(total, [weight for each in made for weight in each.values()]))
    derivatives = []
    resolution = mixture_resolution(supernet.index, gates)
    for layer, (each, weights) in enumerate(zip(gates, made, strict=True)):
        by_block = {block: float(next(slopes)) for block in weights}
        paths = _paths(supernet.index, layer, resolution)
        derivatives.append(np.array([np.nan if np.isnan(gate) else by_block[int(block)] for gate, block in zip(each, paths, strict=True)]))
    return float(total.detach()), derivatives


def mixed(index: BlockIndex, gates: Sequence[FloatArray]) -> list[dict[int, float]]:
    """For each layer block id -> the sum of its cells' gates, for `Supernet.mixture`; all at the resolution that has the most weight."""
    _check(index, gates)
    resolution = mixture_resolution(index, gates)
    mixture: list[dict[int, float]] = []
    for layer, each in enumerate(gates):
        weights: dict[int, float] = {}
        for block, gate in zip(_paths(index, layer, resolution).tolist(), each.tolist(), strict=True):
            if not np.isnan(gate):
                weights[block] = weights.get(block, 0.0) + gate
        mixture.append(weights)
    return mixture


def mixture_resolution(index: BlockIndex, gates: Sequence[FloatArray]) -> int | None:
    """The code of the resolution that the first layer's gates give the most weight, None where it is no choice of that layer."""
    column = index.space.column.get("resolution")
    if column is None or column not in index.columns[0]:
        return None
    weights = np.bincount(_values(index, 0, column), np.nan_to_num(gates[0]), minlength=int(index.space.cardinalities[column]))
    return int(np.argmax(weights))


def gate_resolution(index: BlockIndex, gates: Sequence[FloatArray]) -> int | None:
    """The code of the resolution that binary gates choose, None where it is no choice of the first layer. Raises InputError."""
    _check(index, gates)
    column = index.space.column.get("resolution")
    cell = _active(index, 0, gates[0])
    return int(_values(index, 0, column)[cell]) if column is not None and column in index.columns[0] else None


def _active(index: BlockIndex, layer: int, gates: FloatArray) -> int:
    """The cell that runs. Raises InputError."""
    given = gates[~np.isnan(gates)]
    if len(gates) != len(index.tables[layer]) or not np.isin(given, (0.0, 1.0)).all() or given.sum() != 1:
        raise InputError(
            f"the gates of {index.space.layers[layer].name} must be binary, one of its {len(index.tables[layer])} being 1 and the others 0, or NaN: got {gates}"
        )
    return int(np.nanargmax(gates))


def _check(index: BlockIndex, gates: Sequence[FloatArray]) -> None:
    if len(gates) != len(index.tables) or any(len(each) != len(table) for each, table in zip(gates, index.tables, strict=True)):
        raise InputError(f"gates of {index.space.name} are one array for each of {len(index.tables)} layers, with a number for each of its cells")


def _check_chain(index: BlockIndex) -> None:
    if any(layer.after is not None for layer in index.space.layers):
        raise InputError(f"the layers of {index.space.name} name their inputs, and gates are for layers that follow each other; use a searcher without gates")


def _values(index: BlockIndex, layer: int, column: int) -> IntArray:
    """The code that a choice has in each cell of a layer that reads it, (cells,)."""
    stride = index.strides[layer][index.columns[layer].index(column)]
    return (np.arange(len(index.tables[layer])) // stride % int(index.space.cardinalities[column])).astype(np.int32)


def _paths(index: BlockIndex, layer: int, resolution: int | None) -> IntArray:
    """The block of each cell of a layer at this resolution, (cells,)."""
    column = index.space.column.get("resolution")
    table = index.tables[layer]
    if resolution is None or column not in index.columns[layer]:
        return table
    stride = index.strides[layer][index.columns[layer].index(column)]
    cells = np.arange(len(table)) + (resolution - _values(index, layer, column)) * stride
    return np.asarray(table[cells])


class _Path:
    """One block of a layer at work, as in training but remembering no statistics."""

    def __init__(self, supernet: Supernet, layer: int, block: int):
        if supernet.index.blocks[block] is ABSENT:
            raise InputError(f"the output of {supernet.index.space.layers[layer].name} does not exist, and has no gate; use a searcher without gates")
        self.block = block
        self.network = _quiet(supernet.layer(layer, block)) if supernet.index.blocks[block] else None

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.network is None else self.network(x)
        return y


def _quiet(network: Network) -> Network:
    network.momentum = 0.0  # running statistics keep all of their weight
    return network.train()


@contextmanager
def _frozen(networks: Iterable[Network]) -> Iterator[None]:
    """Weights take no gradients meanwhile: what only their gradients need is neither kept nor computed."""
    leaves = []
    for network in networks:
        for tensor in (*network.tensors.values(), *(source() for source in network.sources.values())):
            if tensor.requires_grad:
                leaves.append(tensor.requires_grad_(False))
    try:
        yield
    finally:
        for tensor in leaves:
            tensor.requires_grad_(True)


def _differ(index: BlockIndex, layer: int, shapes: Sequence[object]) -> str:
    return (
        f"the cells of {index.space.layers[layer].name} put out different shapes, {' and '.join(map(str, shapes))}, and cannot be weighed against each other "
        f"by gates; use a searcher without gates"
    )
