"""An architecture as numbers for a learned model: every choice one-hot, what a skipped layer would have been left out.

The encoding of Once-for-All's accuracy predictor (Cai et al., 2020, section 3.4), for any space: a choice that one layer alone reads
counts only where that layer computes something. So a linear model of these features is a sum over layers, and can be solved exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwnas.index import BlockIndex
from hwnas.space import Codes, FloatArray


@dataclass(frozen=True, slots=True)
class _Mask:
    """Choices that count where `active[codes[:, columns] @ strides]`."""

    choices: tuple[int, ...]
    columns: tuple[int, ...]
    strides: tuple[int, ...]
    active: npt.NDArray[np.float32]


class OneHot:
    """Features of codes; choices of a single value have none."""

    def __init__(self, index: BlockIndex):
        self.index = index
        sizes = index.space.cardinalities
        self.choices = [i for i, size in enumerate(sizes) if size > 1]
        self.starts = np.cumsum([0, *(sizes[i] for i in self.choices)])
        readers = [[layer for layer, columns in enumerate(index.columns) if choice in columns] for choice in range(len(sizes))]
        #: The layer that a choice belongs to; None where none reads it.
        self.owner = [layers[0] if layers else None for layers in readers]
        self._computes = [np.array([bool(block) for block in index.blocks])[table] for table in index.tables]
        self._alone = [len(layers) == 1 and not self._computes[layers[0]].all() for layers in readers]
        masks: dict[tuple[tuple[int, ...], bytes], tuple[list[int], _Mask]] = {}
        for position, choice in enumerate(self.choices):
            if self._alone[choice]:
                mask = self._mask(self.owner[choice] or 0)
                masks.setdefault((mask.columns, mask.active.tobytes()), ([], mask))[0].append(position)
        self._masks = [_Mask(tuple(positions), mask.columns, mask.strides, mask.active) for positions, mask in masks.values()]

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.starts[-1])

    def __call__(self, codes: Codes) -> npt.NDArray[np.float32]:
        """codes (n, choices) -> (n, width)."""
        n = len(codes)
        values = np.ones((len(self.choices), n), np.float32)
        for mask in self._masks:
            cells = np.zeros(n, np.intp)
            for column, stride in zip(mask.columns, mask.strides, strict=True):
                cells += codes[:, column].astype(np.intp) * stride
            values[list(mask.choices)] = mask.active[cells]
        features = np.zeros((n, self.width), np.float32)
        columns = codes[:, self.choices] + self.starts[:-1]  # (n, choices)
        features[np.arange(n)[:, None], columns] = values.T
        return features

    def cells(self, weights: FloatArray) -> list[FloatArray]:
        """The linear model `features @ weights` as what every cell of every layer adds, by layer, (its cells,)."""
        index = self.index
        prices = [np.zeros(len(table)) for table in index.tables]
        for position, choice in enumerate(self.choices):
            layer = self.owner[choice]
            if layer is None:
                continue
            codes = self._codes_of(layer, choice)
            own = np.asarray(weights[self.starts[position] : self.starts[position + 1]], np.float64)[codes]
            prices[layer] += np.where(self._computes[layer], own, 0.0) if self._alone[choice] else own
        return prices

    def _codes_of(self, layer: int, choice: int) -> npt.NDArray[np.intp]:
        """The code of a choice in each cell of a layer that reads it."""
        at = self.index.columns[layer].index(choice)
        return np.arange(len(self.index.tables[layer])) // self.index.strides[layer][at] % int(self.index.space.cardinalities[choice])

    def _mask(self, layer: int) -> _Mask:
        """Where a layer computes something, as a table over those choices alone on which that depends."""
        columns = self.index.columns[layer]
        table = self._computes[layer].reshape([int(self.index.space.cardinalities[c]) for c in columns])
        kept: list[int] = []
        for axis, column in reversed(list(enumerate(columns))):
            if (table == table.take([0], axis)).all():
                table = table.take(0, axis)
            else:
                kept.insert(0, column)
        return _Mask((), tuple(kept), _strides(table.shape), table.reshape(-1).astype(np.float32))


def tied(one_hot: OneHot) -> FloatArray:
    """(width, values): `one_hot(codes) @ tied(one_hot)` counts how often each value is chosen among the choices that have the same values.

    With them a kernel size has one effect wherever it is chosen, which few networks can tell.
    """
    space = one_hot.index.space
    starts: dict[str, int] = {}
    columns = np.zeros(one_hot.width, np.intp)
    total = 0
    for position, choice in enumerate(one_hot.choices):
        values = space.choices[choice].values
        if (start := starts.get(repr(values))) is None:
            start = starts[repr(values)] = total
            total += len(values)
        columns[one_hot.starts[position] : one_hot.starts[position + 1]] = start + np.arange(len(values))
    ties = np.zeros((one_hot.width, total))
    ties[np.arange(one_hot.width), columns] = 1.0
    return ties


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
