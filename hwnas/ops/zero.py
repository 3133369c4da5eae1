"""Nothing, as a value: what an edge without an operation contributes to a sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hwnas.ops.op import Op


@dataclass(frozen=True, slots=True)
class Zero(Op):
    """Zeros of the input's shape. It reads its input, and is computed from it, as in the benchmarks that have it."""

    kind: ClassVar[str] = "zero"
    dtype: str = "float32"
