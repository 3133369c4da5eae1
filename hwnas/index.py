"""Every distinct block of a space, and which one each layer runs: what makes a population cost two look-ups and a sum.

Subnets are counted, and additive metrics bounded, by eliminating one choice after another (`hwnas.elimination`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from math import prod

import numpy as np
import numpy.typing as npt

from hwnas.elimination import Bucket, Indices, buckets, grid
from hwnas.errors import InputError
from hwnas.graph import Block, block_text
from hwnas.space import Codes, IntArray, SearchSpace

MAX_CELLS = 1_000_000
_MAX_PAIRS = 5_000_000  # of cells and sets, looked at to count what agrees with both: some seconds


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are; `exact` is false where only an upper bound is known."""

    n: int
    exact: bool


class BlockIndex:
    """`blocks` are the distinct blocks; `tables[layer]` maps the layer's cell (mixed radix of its reads) to a block id. Raises InputError."""

    def __init__(self, space: SearchSpace):
        if not isinstance(space, SearchSpace):  # whatever somebody's factory returned
            raise InputError(f"a search space must be a SearchSpace of hwnas.space, got {type(space).__name__}")
        self.space = space
        by_identity: dict[int, int] = {}
        by_value: dict[Block, int] = {}
        kept: list[Block] = []  # blocks looked up by identity must stay alive
        self.tables: list[IntArray] = []
        self.columns: list[list[int]] = []
        self.strides: list[list[int]] = []
        for layer in space.layers:
            shape = [len(choice.values) for choice in layer.reads]
            if prod(shape) > MAX_CELLS:
                reads = ", ".join(choice.name for choice in layer.reads)
                raise InputError(f"layer {layer.name} reads {reads}: {prod(shape):,} combinations, over the limit of {MAX_CELLS:,}; split the layer")
            table = np.empty(prod(shape), np.int32)
            for cell, values in enumerate(product(*(choice.values for choice in layer.reads))):
                try:
                    block = layer.build(*values)
                except (TypeError, ValueError) as error:
                    given = ", ".join(f"{choice.name}={value!r}" for choice, value in zip(layer.reads, values, strict=True))
                    raise InputError(f"layer {layer.name} builds no block from ({given}): {error}") from error
                number = by_identity.get(id(block))
                if number is None:
                    number = by_value.setdefault(block, len(by_value))
                    by_identity[id(block)] = number
                    kept.append(block)
                table[cell] = number
            self.tables.append(table)
            self.columns.append([space.column[choice.name] for choice in layer.reads])
            self.strides.append([prod(shape[i + 1 :]) for i in range(len(shape))])
        self.blocks: Sequence[Block] = tuple(by_value)
        # Cells of all layers at once are a matrix product: float32 is exact for every cell below the limit.
        self._radix = np.zeros((len(space.layers), len(space.choices)), np.float32)
        for row, columns, strides in zip(self._radix, self.columns, self.strides, strict=True):
            np.add.at(row, columns, strides)
        self._starts = np.cumsum([0, *map(len, self.tables[:-1])], dtype=np.intp)
        self._ids = np.concatenate(self.tables)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of choices, layers and operators: binds what was fitted to this space (weights, predictors, runs)."""
        digest = hashlib.sha256()
        for choice in self.space.choices:
            digest.update(repr((choice.name, choice.values)).encode())
        for layer, table in zip(self.space.layers, self.tables, strict=True):
            digest.update(repr((layer.name, tuple(c.name for c in layer.reads), layer.after)).encode())
            digest.update(table.astype("<i4").tobytes())
        for block in self.blocks:
            digest.update(block_text(block).encode())
            digest.update(repr([(node.name, node.norm) for node in block]).encode())
        return digest.hexdigest()

    def cells(self, codes: Codes, layer: int) -> npt.NDArray[np.int64]:
        """Cell of one layer for each row of codes, (n,)."""
        cell = np.zeros(len(codes), np.int64)
        for column, stride in zip(self.columns[layer], self.strides[layer], strict=True):
            cell += codes[:, column].astype(np.int64) * stride
        return cell

    def ids(self, codes: Codes) -> IntArray:
        """codes (n, choices) -> block ids (n, layers); equal rows are the same subnet."""
        ids: IntArray = self._ids[(codes @ self._radix.T).astype(np.intp) + self._starts]
        return ids

    def keys(self, codes: Codes) -> list[bytes]:
        """A key for each row of codes; equal ones are the same subnet."""
        ids = np.ascontiguousarray(self.ids(codes))
        keys: list[bytes] = ids.view(f"V{ids.itemsize * ids.shape[1]}").reshape(-1).tolist()
        return keys

    def resolutions(self, codes: Codes) -> list[int]:
        """Side of the input image of each network, (n,), read from its first block."""
        return [self.blocks[i][0].op.input[-1] for i in self.tables[0][self.cells(codes, 0)]]

    def distinct(self, codes: Codes) -> Codes:
        """The same codes with repeated subnets dropped, first occurrences kept in order."""
        return np.asfortranarray(codes[self.first_rows(codes)])

    def first_rows(self, codes: Codes) -> npt.NDArray[np.intp]:
        """The row of each subnet's first occurrence, in order."""
        first: dict[bytes, int] = {}
        for row, key in enumerate(self.keys(codes)):
            first.setdefault(key, row)
        return np.array(list(first.values()), np.intp)

    # -- elimination ----------------------------------------------------------------------------------------------------------

    @cached_property
    def buckets(self) -> list[Bucket]:
        """The order in which to decide the choices, see `hwnas.elimination`. Raises InputError where a bucket has too many combinations."""
        sizes = [int(size) for size in self.space.cardinalities]
        found = buckets(self.columns, sizes)
        largest = max(found, key=lambda bucket: prod(sizes[c] for c in bucket.columns))
        if (combinations := prod(sizes[c] for c in largest.columns)) > MAX_CELLS:
            names = ", ".join(self.space.choices[c].name for c in sorted(largest.columns))
            raise InputError(
                f"the layers of {self.space.name} share too many choices: {names} would have to be looked at together, {combinations:,} combinations, "
                f"over the limit of {MAX_CELLS:,}"
            )
        return found

    def considered(self, hold: Mapping[str, int] | None = None) -> dict[int, Indices]:
        """Column -> its codes, (n,). hold: choice name -> the only one to consider."""
        held = {self.space.column[name]: code for name, code in (hold or {}).items()}
        return {column: np.array([held[column]]) if column in held else np.arange(size) for column, size in enumerate(self.space.cardinalities)}

    def cell_grid(self, layer: int, codes: Mapping[int, Indices]) -> Indices:
        """Cells of a layer for codes of its choices that broadcast, such as those of `elimination.grid`."""
        cells = np.zeros((), np.intp)
        for column, stride in zip(self.columns[layer], self.strides[layer], strict=True):
            cells = cells + codes[column] * stride
        return cells

    def _count(self, tables: Sequence[IntArray], hold: Mapping[str, int]) -> Count:
        """Distinct rows of tables[layer][cell] over all codes.

        Each part of a row agrees with some values of the choices that are open behind its layers. A bucket hands on, for each set of such values,
        how many parts agree with it and nothing else: the subset construction, by which a non-deterministic automaton becomes one whose words
        can be counted. Where there are too many sets, parts are counted for each value by itself, and the count is a bound.
        """
        codes, exact = self.considered(hold), True
        places = {column: np.arange(len(values)) for column, values in codes.items()}
        results: list[dict[frozenset[int], int]] = []
        for bucket in self.buckets:
            parts = [(self.buckets[part].open, results[part]) for part in bucket.parts]
            seen = tuple(column for column in bucket.columns if column in bucket.open or any(column in columns for columns, _ in parts))
            here = grid(bucket.columns, codes)
            labels = [np.broadcast_to(tables[layer][self.cell_grid(layer, here)], [len(codes[c]) for c in bucket.columns]) for layer in bucket.layers]
            sets = _labelled(labels, _places(seen, bucket.columns, places))
            for columns, part in parts:
                sets, kept = _joined(sets, part, _places(columns, seen, places))
                exact &= kept
            to_open = _places(bucket.open, seen, places).tolist()
            results.append(_collected((frozenset(to_open[cell] for cell in cells), n) for cells, n in sets.items()))
        return Count(sum(results[-1].values()), exact)

    def subnets(self) -> Count:
        """Number of distinct subnets (distinct rows of `ids`)."""
        return self._count(self.tables, {})

    def encodings(self, excluded: Sequence[str] = ("resolution",)) -> Count:
        """Number of codes with the choices of skipped layers collapsed and `excluded` choices fixed: the literature's number."""
        active = np.array([bool(block) for block in self.blocks])
        cells = [np.where(active[table], np.arange(len(table)), -1).astype(np.int32) for table in self.tables]
        return self._count(cells, {name: len(self.space.choices[self.space.column[name]].values) - 1 for name in excluded if name in self.space.column})


# -- sets of cells, and how many different rows agree with each --------------------------------------------------------------------


def _places(columns: Sequence[int], over: Sequence[int], places: Mapping[int, Indices]) -> Indices:
    """For each cell of a table over `over`, in order, its cell in a table over `columns`, which are some of them."""
    here, total = grid(over, places), np.zeros([len(places[column]) for column in over], np.intp)
    stride = 1
    for column in reversed(columns):
        total += here[column] * stride
        stride *= len(places[column])
    return total.ravel()


def _labelled(labels: Sequence[IntArray], places: Indices) -> dict[frozenset[int], int]:
    """labels: of some layers, for each of the cells that fall on `places`, (cells,) -> how many rows of labels agree with each set of places."""
    if not labels:
        return {frozenset(places.tolist()): 1}
    _, row = np.unique(np.stack([each.ravel() for each in labels], axis=1), axis=0, return_inverse=True)
    pairs = np.unique(np.stack([row.ravel(), places], axis=1), axis=0)
    members, ends = pairs[:, 1].tolist(), [*np.flatnonzero(np.diff(pairs[:, 0])) + 1, len(pairs)]
    return _collected((frozenset(members[start:end]), 1) for start, end in pairwise([0, *ends]))


def _joined(sets: Mapping[frozenset[int], int], part: Mapping[frozenset[int], int], places: Indices) -> tuple[dict[frozenset[int], int], bool]:
    """Sets of cells that agree with a row of each, and whether they are exact. places: of each cell, its place in the part's sets."""
    at = places.tolist()
    holding = _holding(part)
    exact = sum(len(holding.get(at[cell], ())) for cells in sets for cell in cells) <= _MAX_PAIRS
    if not exact:
        sets, part = _apart(sets), _apart(part)
        holding = _holding(part)
    counts = list(part.values())
    found: list[tuple[frozenset[int], int]] = []
    for cells, n in sets.items():
        common: dict[int, list[int]] = {}
        for cell in cells:
            for number in holding.get(at[cell], ()):
                common.setdefault(number, []).append(cell)
        found += [(frozenset(both), n * counts[number]) for number, both in common.items()]
    return _collected(found), exact


def _holding(sets: Iterable[frozenset[int]]) -> dict[int, list[int]]:
    """Place -> the numbers of the sets that hold it."""
    holding: dict[int, list[int]] = {}
    for number, places in enumerate(sets):
        for place in places:
            holding.setdefault(place, []).append(number)
    return holding


def _apart(sets: Mapping[frozenset[int], int]) -> dict[frozenset[int], int]:
    return _collected((frozenset([cell]), n) for cells, n in sets.items() for cell in cells)


def _collected(sets: Iterable[tuple[frozenset[int], int]]) -> dict[frozenset[int], int]:
    """Equal sets as one, their numbers added."""
    total: dict[frozenset[int], int] = {}
    for cells, n in sets:
        total[cells] = total.get(cells, 0) + n
    return total
