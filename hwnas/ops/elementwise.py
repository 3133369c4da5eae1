"""Operators with two inputs that work element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hwnas.ops.op import ACTIVATIONS, Op, Shape, attribute


@dataclass(frozen=True, slots=True)
class Add(Op):
    """Sum of two tensors of one shape: the residual connection, with the activation that ResNets have behind it."""

    kind: ClassVar[str] = "add"
    act: str = attribute("act", "none")
    dtype: str = "float32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if self.act not in ACTIVATIONS:
            raise ValueError(f"add: act={self.act} must be one of {ACTIVATIONS}")

    @property
    def inputs(self) -> tuple[Shape, ...]:
        return (self.input, self.input)


@dataclass(frozen=True, slots=True)
class Mul(Op):
    """Product of (n, c, h, w) with a gate (n, c, 1, 1), or of two tensors that are not images: squeeze-and-excite's scaling."""

    kind: ClassVar[str] = "mul"
    dtype: str = "float32"

    @property
    def inputs(self) -> tuple[Shape, ...]:
        gate = (*self.input[:2], 1, 1) if len(self.input) == 4 else self.input
        return (self.input, gate)
