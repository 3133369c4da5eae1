"""Choices decided one bucket after another: how sums over layers are bounded, counted and listed without looking at every architecture.

Bucket elimination (Dechter, 1999). The layers that read a choice are taken together, and what they come to is a table over the other
choices they read, which stands for them from then on. Where all layers share a resolution, each of its values leaves independent parts;
where the width of a block is read by the next one, what is handed on is a table over widths: dynamic programming along the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Indices: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Choices that are decided together, given those that stay open, and what reads them. Choices are columns of codes."""

    open: tuple[int, ...]
    """Choices that later buckets decide: the result is a table over their values, in this order."""
    decided: tuple[int, ...]
    layers: tuple[int, ...]
    parts: tuple[int, ...]
    """Earlier buckets whose results come in here; each comes into one."""

    @property
    def columns(self) -> tuple[int, ...]:
        """All choices that matter here, the open ones first."""
        return (*self.open, *self.decided)


def grid(columns: Sequence[int], codes: Mapping[int, Indices]) -> dict[int, Indices]:
    """Column -> its codes, shaped to broadcast to a table over `columns`, in their order. codes: of each column those to consider, (n,)."""
    return dict(zip(columns, np.ix_(*(codes[column] for column in columns)), strict=True))


def buckets(reads: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[Bucket]:
    """The buckets in order; the last one leaves nothing open, and has the layers that read nothing.

    reads: choices that each layer reads; sizes: number of values of each choice. The next bucket is always the one of fewest
    combinations, and also decides what nothing outside it reads: to find the best order is hard, and along chains and trees this one does well.
    """
    scopes = {layer: frozenset(columns) for layer, columns in enumerate(reads)}  # of layers, and as len(reads) + bucket of results
    found: list[Bucket] = []
    while True:
        readers: dict[int, set[int]] = {}
        for reader, scope in scopes.items():
            for column in scope:
                readers.setdefault(column, set()).add(reader)
        joined = {column: frozenset[int]().union(*(scopes[reader] for reader in here)) for column, here in readers.items()}
        first = min(joined, key=lambda column: (prod(sizes[c] for c in joined[column]), column), default=None)
        inside, scope = (set(scopes), frozenset[int]()) if first is None else (readers[first], joined[first])
        decided = frozenset(column for column in scope if readers[column] <= inside)
        layers, parts = sorted(reader for reader in inside if reader < len(reads)), sorted(reader - len(reads) for reader in inside if reader >= len(reads))
        found.append(Bucket(tuple(sorted(scope - decided)), tuple(sorted(decided)), tuple(layers), tuple(parts)))
        if first is None:
            return found
        for reader in inside:
            del scopes[reader]
        scopes[len(reads) + len(found) - 1] = scope - decided
