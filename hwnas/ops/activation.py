"""Activation by itself: where an operator's own output is read as well, or none comes before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hwnas.ops.op import ACTIVATIONS, Op, attribute


@dataclass(frozen=True, slots=True)
class Activation(Op):
    """A function of each element; where nothing else reads what it is given, it belongs into the operator that writes it."""

    kind: ClassVar[str] = "activation"
    act: str = attribute("act")
    dtype: str = "float32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if self.act not in ACTIVATIONS[1:]:
            raise ValueError(f"activation: act={self.act} must be one of {ACTIVATIONS[1:]}")
