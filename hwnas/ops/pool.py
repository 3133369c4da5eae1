"""Pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hwnas.ops.op import Op, Shape


@dataclass(frozen=True, slots=True)
class GlobalPool(Op):
    """Mean over the image, (n, c, h, w) -> (n, c, 1, 1)."""

    kind: ClassVar[str] = "global_pool"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if len(self.input) != 4:
            raise ValueError(f"global_pool takes (n, c, h, w), got {self.input}")

    @property
    def output(self) -> Shape:
        return (*self.input[:2], 1, 1)
