"""How a search by shared weights warms up: all operators at once, the largest filters (TuNAS: Bender et al., 2020).

Early in a search the weights of what the controller happens to like would train most, and be liked for that. So with a chance that falls to
zero, a decision is not the controller's: an operator is replaced by the mean of all of them, a number of filters by the largest.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

import numpy as np

from hwnas.graph import ABSENT
from hwnas.index import BlockIndex
from hwnas.space import Codes, FloatArray

#: Roles of choices (the last part of their names) that are numbers of filters, or cost like them; the largest is a network that trains all of the others.
FILTERS = ("expand", "filters", "resolution", "width")


def warm_up_chance(progress: float, share: float = 0.25) -> float:
    """Chance of each decision to be warmed up, falling from one to zero over the first `share` of a search (TuNAS); progress in [0, 1]."""
    return max(0.0, 1.0 - progress / share) if share > 0 else 0.0


def warm_up(index: BlockIndex, code: Codes, *, average: Collection[str], largest: Collection[str] = ()) -> list[FloatArray]:
    """Gates of the mixture that a warm-up step trains instead of the architecture `code`: for each layer one per cell, NaN for those that do not run.

    Op warm-up runs all values of the choices in `average` with equal weights; filter warm-up sets those in `largest` to their largest value. Both are names of
    choices, or roles, the last part of names. Each layer averages by itself, so that no operator is left untrained while the search still has to make up its
    mind. TuNAS averages operators inside of a block, here it is the blocks.
    """
    space = index.space
    fixed = space.check(np.asarray(code).reshape(1, -1))[0]
    gates: list[FloatArray] = []
    for table, columns, strides in zip(index.tables, index.columns, index.strides, strict=True):
        values = []
        for column in columns:
            name, n = space.choices[column].name, int(space.cardinalities[column])
            named = {name, name.rpartition(".")[2]}
            values.append(range(n) if named & set(average) else [n - 1] if named & set(largest) else [int(fixed[column])])
        cells = [sum(value * stride for value, stride in zip(cell, strides, strict=True)) for cell in product(*values)]
        gates.append(np.full(len(table), np.nan))
        gates[-1][cells] = 1 / len(cells)
    return gates


def decisions(index: BlockIndex) -> tuple[list[int], list[int]]:
    """Columns of the choices whose values can be averaged, and of those whose largest value stands for all of them.

    An average needs outputs of one shape in every layer that reads the choice, and layers that follow each other; a choice that has neither an average nor a
    role in `FILTERS` is in the second list where it changes a shape, and in none of them where layers name their inputs.
    """
    space = index.space
    chain = all(layer.after is None for layer in space.layers)
    average, largest = list[int](), list[int]()
    for column, choice in enumerate(space.choices):
        readers = [layer for layer, columns in enumerate(index.columns) if column in columns]
        if len(choice.values) == 1 or not readers:
            continue
        alike = all(_one_shape(index, layer, column) for layer in readers)
        if choice.name.rpartition(".")[2] in FILTERS or not alike:
            largest.append(column)
        elif chain:
            average.append(column)
    return average, largest


def _one_shape(index: BlockIndex, layer: int, column: int) -> bool:
    """Whether a layer puts out the same shape for all values of a choice, whatever its other choices are."""
    stride = index.strides[layer][index.columns[layer].index(column)]
    size, table = int(index.space.cardinalities[column]), index.tables[layer]
    for cell in range(len(table)):
        if cell // stride % size == 0:
            blocks = [index.blocks[table[cell + value * stride]] for value in range(size)]
            if any(block is ABSENT for block in blocks):
                return False
            shapes = {block[-1].op.output for block in blocks if block}
            if not all(blocks):  # the identity puts out what the others take in
                shapes |= {block[0].op.input for block in blocks if block}
            if len(shapes) > 1:
                return False
    return True
