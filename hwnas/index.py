"""Every distinct block of a space, and which one each layer runs: what makes a population cost two look-ups and a sum.

Layers that share choices form components once the shared ones ("pivots", such as the resolution) are fixed; counts and exact
bounds of additive metrics are taken over each component's few cells instead of over the whole space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.graph import Block, block_text
from hwnas.space import Codes, IntArray, SearchSpace

MAX_CELLS = 1_000_000


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

    # -- separation into components -------------------------------------------------------------------------------------------

    def pivots(self) -> list[int]:
        """Columns to fix so that the remaining choices fall into small groups of layers: those read by most layers first."""
        readers = np.bincount([c for columns in self.columns for c in columns], minlength=len(self.space.choices))
        fixed: list[int] = []
        for column in np.argsort(-readers, kind="stable"):
            if all(self._component_size(group) <= MAX_CELLS for group, _ in self._components(fixed)):
                return fixed
            fixed.append(int(column))
        return fixed

    def _components(self, fixed: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """Groups (columns, layers) of layers connected through choices that are not fixed."""
        groups: list[tuple[set[int], list[int]]] = []
        for layer, columns in enumerate(self.columns):
            merged: tuple[set[int], list[int]] = (set(columns) - set(fixed), [layer])
            for group in [g for g in groups if g[0] & merged[0]]:
                groups.remove(group)
                merged = (merged[0] | group[0], group[1] + merged[1])
            groups.append(merged)
        return [(sorted(columns), sorted(layers)) for columns, layers in groups]

    def _component_size(self, columns: Sequence[int]) -> int:
        return prod(int(self.space.cardinalities[c]) for c in columns)

    def pieces(self, fixed: Sequence[int], hold: Mapping[str, int] | None = None) -> Iterator[list[tuple[Codes, list[int]]]]:
        """For each combination of the fixed columns: every component as (codes of all its combinations, its layers).

        The codes hold the component's own columns and the fixed ones; other columns are 0 and mean nothing.
        hold: choice name -> the only code to consider.
        """
        held = {self.space.column[name]: code for name, code in (hold or {}).items()}
        fixed = [*fixed, *(column for column in held if column not in fixed)]
        components = self._components(fixed)
        for values in product(*([held[c]] if c in held else range(self.space.cardinalities[c]) for c in fixed)):
            here = []
            for columns, layers in components:
                codes = np.zeros((self._component_size(columns), len(self.space.choices)), np.int16, order="F")
                if columns:
                    codes[:, columns] = np.indices([self.space.cardinalities[c] for c in columns]).reshape(len(columns), -1).T
                codes[:, fixed] = values
                here.append((codes, layers))
            yield here

    def _count(self, tables: Sequence[IntArray], hold: Mapping[str, int]) -> Count:
        """Distinct rows of tables[layer][cell] over all codes."""
        total = 0
        met: list[list[set[int]]] = [[] for _ in tables]  # per layer and setting of the pivots: its entries
        for here in self.pieces(self.pivots(), hold):
            n = 1
            for codes, layers in here:
                rows = np.stack([tables[i][self.cells(codes, i)] for i in layers], axis=1)
                n *= len(np.unique(rows, axis=0))
                for i, column in zip(layers, rows.T, strict=True):
                    met[i].append(set(column.tolist()))
            total += n
        # The settings' subnets are disjoint if some layer never runs the same entry under two of them.
        exact = any(len(set().union(*sets)) == sum(map(len, sets)) for sets in met)
        return Count(total, exact)

    def subnets(self) -> Count:
        """Number of distinct subnets (distinct rows of `ids`)."""
        return self._count(self.tables, {})

    def encodings(self, excluded: Sequence[str] = ("resolution",)) -> Count:
        """Number of codes with the choices of skipped layers collapsed and `excluded` choices fixed: the literature's number."""
        active = np.array([bool(block) for block in self.blocks])
        cells = [np.where(active[table], np.arange(len(table)), -1).astype(np.int32) for table in self.tables]
        return self._count(cells, {name: len(self.space.choices[self.space.column[name]].values) - 1 for name in excluded if name in self.space.column})
