"""Operators that compute nothing: they move values, or only what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from hwnas.ops.op import Op, Shape, attribute


@dataclass(frozen=True, slots=True)
class Flatten(Op):
    """All axes but the batch become one: (n, c, h, w) -> (n, c * h * w)."""

    kind: ClassVar[str] = "flatten"
    dtype: str = "float32"

    @property
    def output(self) -> Shape:
        return (self.input[0], prod(self.input[1:]))


@dataclass(frozen=True, slots=True)
class ChannelShuffle(Op):
    """Channels of all groups in turn, (n, groups * k, h, w) -> the same: between two grouped convolutions (ShuffleNet, Zhang et al., 2018)."""

    kind: ClassVar[str] = "channel_shuffle"
    groups: int = attribute("g")
    dtype: str = "float32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if len(self.input) != 4 or self.groups < 1 or self.input[1] % self.groups:
            raise ValueError(f"channel_shuffle takes (n, c, h, w) and groups that divide c, got {self.input} g={self.groups}")
