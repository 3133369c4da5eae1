"""A search space: a list of choices and a list of layers, and everything that follows from those two lists alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.graph import Block, Graph

Codes: TypeAlias = npt.NDArray[np.int16]
FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int32]
Value: TypeAlias = int | float | str


@dataclass(frozen=True, slots=True)
class Choice:
    """One categorical decision; values go from small to large."""

    name: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values):
            raise InputError(f"choice {self.name} needs distinct values, got {self.values}")


@dataclass(frozen=True, slots=True)
class Layer:
    """A position in the network: the choices it reads, and the block it builds from their values and nothing else.

    `after` names the layers it follows (its `in0`, `in1`, ...); None follows the layer before it.
    """

    name: str
    reads: tuple[Choice, ...]
    build: Callable[..., Block]
    after: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What `source` says that an architecture costs, as rounded there; None where it says nothing."""

    source: str
    macs: float | None = None
    params: float | None = None


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Choices and layers. Populations are `codes`, int16 (n, choices), stored column-major; a code is an index into values."""

    name: str
    choices: Sequence[Choice]
    layers: Sequence[Layer]
    references: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    """Architectures of the literature that are points of this space: name -> values by choice name."""
    published: Mapping[str, Published] = field(default_factory=dict)
    """Name of a reference -> the figures published of it, to compare with."""
    checkpoint_names: Mapping[str, str] = field(default_factory=dict)
    """Node -> the module that holds its weights in the published checkpoints of this space, without doubled parts; see supernet/checkpoints.py."""

    def __post_init__(self) -> None:
        if len(self.column) != len(self.choices):
            raise InputError(f"{self.name}: two choices share a name")
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise InputError(f"{self.name}: two layers share a name")
        if unknown := sorted(set(self.published) - set(self.references)):
            raise InputError(f"{self.name}: figures are published of {unknown[0]}, which is none of the references")
        for layer in self.layers:
            for choice in layer.reads:
                if self.choices[self.column.get(choice.name, 0)] != choice:
                    raise InputError(f"{self.name}: layer {layer.name} reads {choice.name}, which is none of the choices")

    @cached_property
    def column(self) -> dict[str, int]:
        """Choice name -> column of `codes`."""
        return {choice.name: i for i, choice in enumerate(self.choices)}

    @cached_property
    def cardinalities(self) -> npt.NDArray[np.int64]:
        """Number of values of each choice, (choices,)."""
        return np.array([len(choice.values) for choice in self.choices], np.int64)

    @property
    def size(self) -> int:
        """Number of codes; several may mean one subnet, see BlockIndex.subnets."""
        return prod(len(choice.values) for choice in self.choices)

    def sample(self, rng: np.random.Generator, n: int = 1) -> Codes:
        """n codes, each choice uniform and independent."""
        codes = np.empty((n, len(self.choices)), np.int16, order="F")
        for i, size in enumerate(self.cardinalities):
            codes[:, i] = rng.integers(0, size, n)
        return codes

    def mutate(self, codes: Codes, rng: np.random.Generator, rate: float = 0.1) -> Codes:
        """A changed copy: each gene takes another of its values with probability `rate`, and at least one gene does. Raises InputError."""
        n, d = codes.shape
        free = self.cardinalities > 1
        if not free.any():
            raise InputError(f"{self.name} has a single architecture; there is nothing to mutate")
        hit = (rng.random((n, d)) < rate) & free
        hit[np.arange(n), rng.choice(np.flatnonzero(free), n)] |= ~hit.any(axis=1)
        step = 1 + (rng.random((n, d)) * np.maximum(self.cardinalities - 1, 1)).astype(np.int64)
        mutated = np.where(hit, (codes + step) % self.cardinalities, codes)
        return np.asfortranarray(mutated, np.int16)

    def crossover(self, first: Codes, second: Codes, rng: np.random.Generator) -> Codes:
        """Children that take each gene from either parent with equal chance; first, second (n, choices)."""
        return np.asfortranarray(np.where(rng.random(first.shape) < 0.5, first, second), np.int16)

    def smallest(self) -> Codes:
        """The code of all first values, (1, choices)."""
        return np.zeros((1, len(self.choices)), np.int16, order="F")

    def largest(self) -> Codes:
        """The code of all last values, (1, choices)."""
        return np.asfortranarray(self.cardinalities[None] - 1, np.int16)

    def encode(self, values: Mapping[str, Value]) -> Codes:
        """Values by choice name -> codes (1, choices). Raises InputError naming what is missing, unknown or not allowed."""
        unknown, missing = sorted(set(values) - set(self.column)), [c.name for c in self.choices if c.name not in values]
        if unknown or missing:
            raise InputError(f"not an architecture of {self.name}: " + (f"unknown choice {unknown[0]}" if unknown else f"{missing[0]} is missing"))
        code = self.smallest()
        for i, choice in enumerate(self.choices):
            value = values[choice.name]
            if isinstance(value, bool) or value not in choice.values:
                raise InputError(f"not an architecture of {self.name}: {choice.name} is {value!r}, must be one of {choice.values}")
            code[0, i] = choice.values.index(value)
        return code

    def decode(self, code: npt.ArrayLike) -> dict[str, Value]:
        """One row of codes -> values by choice name."""
        row = self.check(np.asarray(code).reshape(1, -1))[0]
        return {choice.name: choice.values[i] for choice, i in zip(self.choices, row, strict=True)}

    def check(self, codes: npt.NDArray[Any]) -> Codes:
        """The same codes as column-major int16. Raises InputError where the shape or a value is out of range."""
        if codes.ndim != 2 or codes.shape[1] != len(self.choices) or codes.dtype.kind not in "iu":
            raise InputError(f"codes of {self.name} are integers of shape (n, {len(self.choices)}), got {codes.dtype} {codes.shape}")
        wrong = (codes < 0) | (codes >= self.cardinalities)
        if wrong.any():
            row, column = map(int, np.argwhere(wrong)[0])
            last = int(self.cardinalities[column]) - 1
            raise InputError(f"code {int(codes[row, column])} of {self.choices[column].name} in row {row} is outside 0..{last}")
        return np.asfortranarray(codes, np.int16)

    def lower(self, code: npt.ArrayLike) -> Graph:
        """The network of one row of codes."""
        values = self.decode(code)
        return Graph([(layer.name, layer.build(*(values[c.name] for c in layer.reads)), layer.after) for layer in self.layers])
