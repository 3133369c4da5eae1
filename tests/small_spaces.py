"""Small search spaces, drawn at random, for properties that must hold in every space."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
from hypothesis import strategies as st

from hwnas.blocks import conv_bn_act, mbconv, mobilenet_head
from hwnas.graph import IDENTITY, Node
from hwnas.ops import Conv2d
from hwnas.space import Choice, Layer, SearchSpace

SHAPE = (1, 4, 5, 5)


def conv(kernel=1, groups=1):
    """A block that keeps SHAPE; 8 different ones exist."""
    return (Node("conv", Conv2d(SHAPE, out=4, kernel=kernel, groups=groups), ("in0",)),)


BLOCKS = (IDENTITY, *(conv(kernel, groups) for kernel in (1, 3, 5, 7) for groups in (1, 4)))


def pick(table, sizes, *values):
    """The block that a table of block numbers holds for these values (indices of choices with `sizes` values)."""
    return BLOCKS[table[int(np.ravel_multi_index(values, sizes)) if sizes else 0]]


@st.composite
def spaces(draw, max_choices=4):
    """Spaces of at most 3^4 codes and six layers, whose layers share choices in any way and may be skipped."""
    choices = [Choice(f"c{i}", tuple(range(draw(st.integers(1, 3))))) for i in range(draw(st.integers(1, max_choices)))]
    layers = []
    for i in range(draw(st.integers(1, 5))):
        reads = tuple(c for c in choices if draw(st.booleans()))
        sizes = tuple(len(c.values) for c in reads)
        table = draw(st.lists(st.integers(0, len(BLOCKS) - 1), min_size=int(np.prod(sizes)), max_size=int(np.prod(sizes))))
        layers.append(Layer(f"layer{i}", reads, partial(pick, tuple(table), sizes)))
    layers.append(Layer("last", (), partial(conv, 3)))  # a network must compute something
    return SearchSpace("small", choices, layers)


def all_codes(space):
    """Every code of a small space, (size, choices)."""
    return np.asfortranarray(list(product(*(range(n) for n in space.cardinalities))), np.int16)


def block_prices(metric):
    """Prices (blocks,) that the metric was made of, read back from its cells."""
    prices = np.zeros(len(metric.index.blocks))
    for table, cells in zip(metric.index.tables, metric.cells, strict=True):
        prices[table] = cells
    return prices


_RESOLUTION, _DEPTH = Choice("resolution", (8, 12)), Choice("depth", (0, 1, 2))
_KERNELS = [Choice(f"block{i}.kernel", (1, 3, 5)) for i in range(2)]


def _stem(resolution):
    return conv_bn_act((1, 1, resolution, resolution), 4, act="hswish")


def _block(i, resolution, depth, kernel):
    return mbconv((1, 4, resolution, resolution), 4, kernel, 2, act="hswish") if i < depth else IDENTITY


def _head(resolution):
    return mobilenet_head((1, 4, resolution, resolution), 8, 8, 3)


def two_blocks():
    """Two blocks that may be skipped by a depth which both read, each with a kernel of its own."""
    blocks = [Layer(f"block{i}", (_RESOLUTION, _DEPTH, _KERNELS[i]), partial(_block, i)) for i in range(2)]
    return SearchSpace("two_blocks", [_RESOLUTION, _DEPTH, *_KERNELS], [Layer("stem", (_RESOLUTION,), _stem), *blocks, Layer("head", (_RESOLUTION,), _head)])
