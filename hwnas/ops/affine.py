"""A batch norm that no convolution comes before, as it is deployed: a scale and a shift of each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hwnas.ops.op import ACTIVATIONS, Op, Shape, attribute


@dataclass(frozen=True, slots=True)
class Affine(Op):
    """(n, c, h, w) times a weight plus a bias of its channel. No MACs: the literature does not count batch norms."""

    kind: ClassVar[str] = "affine"
    act: str = attribute("act", "none")
    dtype: str = "float32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if len(self.input) != 4:
            raise ValueError(f"affine takes (n, c, h, w), got {self.input}")
        if self.act not in ACTIVATIONS:
            raise ValueError(f"affine: act={self.act} must be one of {ACTIVATIONS}")

    @property
    def weights(self) -> dict[str, Shape]:
        return {"weight": self.input[1:2], "bias": self.input[1:2]}
