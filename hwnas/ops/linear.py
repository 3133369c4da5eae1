"""Fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hwnas.ops.op import ACTIVATIONS, DTYPES, Op, Shape, attribute


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """Matrix product (n, features) -> (n, out), with bias unless `bias` is false."""

    kind: ClassVar[str] = "linear"
    out: int = attribute("out")
    bias: bool = attribute("bias", True)
    act: str = attribute("act", "none")
    dtype: str = "float32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if len(self.input) != 2 or self.out < 1:
            raise ValueError(f"linear takes (n, features) and a positive out, got {self.input} out={self.out}")
        if self.act not in ACTIVATIONS or self.dtype not in DTYPES:
            raise ValueError(f"linear: act={self.act} must be one of {ACTIVATIONS}, dtype={self.dtype} one of {DTYPES}")

    @property
    def output(self) -> Shape:
        return (self.input[0], self.out)

    @property
    def weights(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (self.out, self.input[1])}
        if self.bias:
            shapes["bias"] = (self.out,)
        return shapes

    @property
    def macs(self) -> int:
        return self.input[0] * self.input[1] * self.out
