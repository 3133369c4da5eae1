"""Operators that move nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from hwnas.ops.op import Op, Shape


@dataclass(frozen=True, slots=True)
class Flatten(Op):
    """All axes but the batch become one: (n, c, h, w) -> (n, c * h * w)."""

    kind: ClassVar[str] = "flatten"
    dtype: str = "float32"

    @property
    def output(self) -> Shape:
        return (self.input[0], prod(self.input[1:]))
