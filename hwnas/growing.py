"""Spaces that grow: a searcher adds networks while it searches, and the row number of a network is its code.

For candidates that no list of choices holds: networks that are morphed, programs, Cartesian genetic programming. A space, an index and
metrics are used like any others, and what has not been added yet does not exist: samples and mutants are networks that were added.

    space = GrowingSpace("morphs", [network])
    problem = Problem(GrowingIndex(space), [Objective(accuracy, maximize=True)], [(budget, Priced(space, macs, name="macs", unit="MACs"))])

    def searcher(problem, *, rng):
        told = yield Ask(problem.space.begin())
        ...
        told = yield Ask(problem.space.add([morphed, ...]))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.graph import Block, Graph, block_text
from hwnas.index import BlockIndex
from hwnas.predictor import Origin
from hwnas.space import Choice, Codes, FloatArray, IntArray, Layer, SearchSpace

MOST = int(np.iinfo(np.int16).max)


class GrowingSpace(SearchSpace):
    """One choice, `row`, and one layer, `network`, whose block is a whole network: `networks[row]`, equal networks once.

    One search at a time: `begin` forgets what the search before added, and with it what its codes meant.
    """

    def __init__(self, name: str, first: Sequence[Block], capacity: int = MOST):
        """first: networks that are there from the beginning, at least one. Raises InputError on one that does not connect."""
        if not 1 <= capacity <= MOST:
            raise InputError(f"{name}: a space that grows holds 1 to {MOST:,} networks, not {capacity:,}")
        if not first:
            raise InputError(f"{name}: a space that grows needs at least one network to begin with")
        row = Choice("row", tuple(range(capacity)))
        super().__init__(name, [row], [Layer("network", (row,), lambda number: self.networks[number])])
        self.__dict__.update(first=tuple(first), networks=list[Block](), rows=dict[Block, int]())  # the base is frozen
        self.begin()

    first: tuple[Block, ...]
    networks: list[Block]
    rows: dict[Block, int]

    def begin(self) -> Codes:
        """Codes of the first networks, (n, 1), all others forgotten: what every search calls before anything else, so that rows depend on it alone."""
        self.networks.clear()
        self.rows.clear()
        return self.add(self.first)

    def add(self, networks: Sequence[Block]) -> Codes:
        """Codes of these networks, (n, 1), equal ones equal. Raises InputError where one does not connect, or where there is no room."""
        for network in networks:
            if network in self.rows:
                continue
            if len(self.networks) == len(self.choices[0].values):
                raise InputError(f"{self.name} holds {len(self.networks):,} networks and has no room for more; give it a larger capacity, or search less")
            Graph([(self.layers[0].name, network, None)])
            self.rows[network] = len(self.networks)
            self.networks.append(network)
        return np.array([[self.rows[network]] for network in networks], np.int16, order="F").reshape(-1, 1)

    @property
    def cardinalities(self) -> npt.NDArray[np.int64]:
        """Number of networks there are now, (1,)."""
        return np.array([len(self.networks)])

    @property
    def size(self) -> int:
        """Number of networks there are now."""
        return len(self.networks)


class GrowingIndex(BlockIndex):
    """Of a space that grows: a network is a block, its row is its number, and `blocks` are those there are now."""

    def __init__(self, space: GrowingSpace):
        self.space, self.blocks, self._first = space, space.networks, space.first
        self.tables = [np.arange(len(space.choices[0].values), dtype=np.int32)]
        self.columns, self.strides = [[0]], [[1]]

    def ids(self, codes: Codes) -> IntArray:
        """codes (n, 1) -> their rows, (n, 1)."""
        return codes.astype(np.int32)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the first networks: the same whatever was added."""
        norms = [[(node.name, node.norm) for node in block] for block in self._first]
        return hashlib.sha256(repr([*map(block_text, self._first), norms]).encode()).hexdigest()


class Priced:
    """A metric that is the price of each network, computed when it is asked for: what `Additive` is for spaces that do not grow."""

    def __init__(self, space: GrowingSpace, prices: Callable[[Sequence[Block]], FloatArray], *, name: str, unit: str, origin: Origin = "predicted"):
        """prices: blocks -> (m,), such as `costs.macs` or a predictor's `prices`."""
        self.space, self.prices, self.name, self.unit, self.origin = space, prices, name, unit, origin

    def __call__(self, codes: Codes) -> FloatArray:
        rows, inverse = np.unique(codes[:, 0], return_inverse=True)
        return self.prices([self.space.networks[row] for row in rows])[inverse]
