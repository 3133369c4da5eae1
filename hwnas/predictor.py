"""What a predictor and a metric are, and the two metrics that prices of blocks become: a sum over layers, and the largest of them.

A predictor prices blocks, once per space; a metric prices populations. `Additive` turns one into the other: two look-ups and a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.elimination import Indices, grid
from hwnas.graph import Block
from hwnas.index import BlockIndex
from hwnas.space import Codes, FloatArray

#: Where a value comes from; never mixed silently.
Origin: TypeAlias = Literal["measured", "predicted", "emulated", "simulated"]

_FUSED_CELLS = 8_192  # 64 KiB of prices: stays in the second-level cache
_INT16 = int(np.iinfo(np.int16).max)
_FEW = 1_024  # rows; up to here one matrix product makes all offsets
_ROWS = 16_384  # rows priced at a time: offsets and partial sums stay in the cache


class Predictor(Protocol):
    """Prices blocks: prices(blocks) -> (m,), in `unit`."""

    unit: str
    origin: Origin

    def prices(self, blocks: Sequence[Block]) -> FloatArray: ...


class Fitted(Predictor, Protocol):
    """A predictor of blocks that nobody measured, made of measured ones: `fit(blocks, prices_ms)` of its module, or its factory of a table."""

    def is_outside(self, blocks: Sequence[Block]) -> npt.NDArray[np.bool_]:
        """(m,), true where a block lies outside of what was measured in some feature: its price is extrapolated."""
        ...


class Metric(Protocol):
    """Values of a population: codes (n, choices) -> (n,), in `unit`."""

    name: str
    unit: str
    origin: Origin

    def __call__(self, codes: Codes) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Extreme:
    """A least or greatest value over a space, and a code (1, choices) that attains it."""

    value: float
    code: Codes


@dataclass(frozen=True, slots=True)
class _Gather:
    """Layers priced with one look-up: offset = codes[:, columns] @ strides into `prices`."""

    columns: tuple[int, ...]
    strides: tuple[int, ...]
    prices: FloatArray


class Layerwise:
    """A metric made of a number for each cell of each layer: `constant` and the layers' numbers, reduced by `reduce`."""

    reduce: ClassVar[np.ufunc]

    def __init__(
        self,
        index: BlockIndex,
        prices: FloatArray | Sequence[FloatArray],
        *,
        name: str,
        unit: str,
        constant: float = 0.0,
        origin: Origin = "predicted",
    ):
        """prices: (blocks,) in the order of `index.blocks`; or a sequence of arrays, one per layer, (its cells,) in the order of `index.tables`."""
        self.index, self.constant = index, float(constant)
        if np.ndim(prices[0]) == 0:
            by_block = np.asarray(prices, np.float64)
            prices = [by_block[table] for table in index.tables]
        self.cells: tuple[FloatArray, ...] = tuple(np.asarray(each, np.float64) for each in prices)
        self.name, self.unit, self.origin = name, unit, origin
        self._gathers = _fuse(index, self.cells, self.reduce)
        self._radix = np.zeros((len(self._gathers), len(index.space.choices)), np.float32)  # exact: cells are few
        for row, gather in zip(self._radix, self._gathers, strict=True):
            row[list(gather.columns)] = gather.strides
        self._starts = np.cumsum([0, *(len(gather.prices) for gather in self._gathers[:-1])], dtype=np.intp)[:, None]
        self._fused = np.concatenate([gather.prices for gather in self._gathers])

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices), best column-major -> (n,)."""
        n = len(codes)
        if n <= _FEW:
            return self._of_few(codes)
        total, reduce = np.full(n, self.constant), self.reduce
        rows = min(n, _ROWS)
        part, offsets = np.empty(rows), np.empty(rows, np.intp)
        buffers = {dtype: (np.empty(rows, dtype), np.empty(rows, dtype)) for dtype in (np.int16, np.int32)}
        for start in range(0, n, _ROWS):
            stop = min(start + _ROWS, n)
            m = stop - start
            chunk, sums = codes[start:stop], total[start:stop]
            for gather in self._gathers:
                if not gather.columns:
                    reduce(sums, gather.prices[0], out=sums)
                    continue
                # int16 offsets, where the cells fit, move a quarter of the memory of int64.
                narrow, term = buffers[np.int16 if len(gather.prices) <= _INT16 else np.int32]
                dtype = narrow.dtype  # without it NumPy multiplies int16 codes in int16, whatever `out` is
                np.multiply(chunk[:, gather.columns[0]], gather.strides[0], out=narrow[:m], dtype=dtype)
                for column, stride in zip(gather.columns[1:], gather.strides[1:], strict=True):
                    if stride == 1:
                        np.add(narrow[:m], chunk[:, column], out=narrow[:m])
                    else:
                        np.multiply(chunk[:, column], stride, out=term[:m], dtype=dtype)
                        np.add(narrow[:m], term[:m], out=narrow[:m])
                offsets[:m] = narrow[:m]
                np.take(gather.prices, offsets[:m], out=part[:m], mode="clip")
                reduce(sums, part[:m], out=sums)
        return total

    def _of_few(self, codes: Codes) -> FloatArray:
        """The same values in the same order, with the look-ups made at once: calls cost more than memory here."""
        offsets = (self._radix @ codes.T).astype(np.intp) + self._starts  # (look-ups, n)
        terms = np.empty((len(offsets) + 1, len(codes)))
        terms[0] = self.constant
        np.take(self._fused, offsets, out=terms[1:], mode="clip")
        total: FloatArray = terms[0]
        for term in terms[1:]:  # np.add.reduce would add a single column in pairs, and the last bits differ
            self.reduce(total, term, out=total)
        return total

    def layers(self, codes: Codes) -> FloatArray:
        """Each layer's number before they are reduced, (n, layers); the constant is not among them."""
        return np.stack([cells[self.index.cells(codes, i)] for i, cells in enumerate(self.cells)], axis=1)

    def bounds(self, hold: Mapping[str, int] | None = None) -> tuple[Extreme, Extreme]:
        """Exact least and greatest value over the space, each with a code that attains it; hold: choice name -> its only code."""
        codes = self.index.considered(hold)
        found = [self._attained(codes, pick) for pick in (np.argmin, np.argmax)]
        # Summed in another order a value may differ by rounding from what the metric says of the code. A subclass may be paid for saying it.
        least, greatest = (Extreme(float(Layerwise.__call__(self, code)[0]), code) for code in found)
        return least, greatest

    def _attained(self, codes: Mapping[int, Indices], pick: Callable[..., Indices]) -> Codes:
        """The code (1, choices) of the least or greatest value: bucket by bucket the best decision for each open one, and back."""
        places = {column: np.arange(len(values)) for column, values in codes.items()}
        results: list[FloatArray] = []
        decisions: list[Indices] = []
        for bucket in self.index.buckets:
            here, there = grid(bucket.columns, codes), grid(bucket.columns, places)
            terms = [self.cells[layer][self.index.cell_grid(layer, here)] for layer in bucket.layers]
            terms += [results[part][tuple(there[column] for column in self.index.buckets[part].open)] for part in bucket.parts]
            shape = [len(codes[column]) for column in bucket.columns]
            table = np.broadcast_to(_reduced(terms, self.reduce), shape).reshape(*shape[: len(bucket.open)], -1)
            decisions.append(pick(table, axis=-1))
            results.append(np.take_along_axis(table, decisions[-1][..., None], -1)[..., 0])
        chosen = dict.fromkeys(codes, np.intp(0))
        for bucket, decision in zip(reversed(self.index.buckets), reversed(decisions), strict=True):
            row = decision[tuple(chosen[column] for column in bucket.open)]
            chosen |= zip(bucket.decided, np.unravel_index(row, [len(codes[column]) for column in bucket.decided]), strict=True)
        return np.array([[codes[column][chosen[column]] for column in sorted(codes)]], np.int16, order="F")


class Additive(Layerwise):
    """`constant` plus a sum over layers: of the price of each layer's block, or of any number for each of its cells."""

    reduce = np.add


class Peak(Layerwise):
    """The largest of `constant` and the layers' prices: of what the layers of a chain need one after the other."""

    reduce = np.maximum


def _reduced(parts: Sequence[FloatArray], reduce: np.ufunc) -> FloatArray:
    result = parts[0]
    for part in parts[1:]:
        result = reduce(result, part)
    return result


def _fuse(index: BlockIndex, cells: Sequence[FloatArray], reduce: np.ufunc) -> list[_Gather]:
    """Layers merged greedily into look-ups of at most _FUSED_CELLS cells: fewer passes over the population."""
    sizes = index.space.cardinalities
    groups: list[tuple[list[int], list[int]]] = []  # columns (in the order first met), layers
    for layer, columns in enumerate(index.columns):
        fitting = [g for g in groups if prod(int(sizes[c]) for c in {*g[0], *columns}) <= _FUSED_CELLS]
        if fitting:
            group = min(fitting, key=lambda g: len(set(columns) - set(g[0])))
            group[0].extend(c for c in columns if c not in group[0])
            group[1].append(layer)
        else:
            groups.append((list(columns), [layer]))
    return [_gather(index, cells, columns, layers, reduce) for columns, layers in groups]


def _gather(index: BlockIndex, cells: Sequence[FloatArray], columns: list[int], layers: list[int], reduce: np.ufunc) -> _Gather:
    shape = [int(index.space.cardinalities[c]) for c in columns]
    codes = np.zeros((prod(shape), len(index.space.choices)), np.int16, order="F")
    if columns:
        codes[:, columns] = np.indices(shape).reshape(len(columns), -1).T
    fused = _reduced([cells[layer][index.cells(codes, layer)] for layer in layers], reduce)
    strides = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
    return _Gather(tuple(columns), strides, fused)
