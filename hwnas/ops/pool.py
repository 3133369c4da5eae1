"""Pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hwnas.ops.op import Op, Shape, attribute


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


@dataclass(frozen=True, slots=True)
class _Pool(Op):
    """One value of each square window of an image, (n, c, h, w) -> (n, c, h', w'); what lies outside the image counts for nothing.

    Sizes as PyTorch has them: h' = (h + 2 padding - kernel) / stride + 1, rounded down, or up where `ceil` says so, but the last window begins
    inside the image or its padding before.
    """

    kernel: int = attribute("k")
    stride: int = attribute("s", 1)
    padding: int = attribute("p", 0)
    ceil: bool = attribute("ceil", False)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if len(self.input) != 4:
            raise ValueError(f"{self.kind} takes (n, c, h, w), got {self.input}")
        if self.kernel < 1 or self.stride < 1 or not 0 <= self.padding <= self.kernel // 2:
            raise ValueError(
                f"{self.kind}: kernel and stride must be positive, padding at most half the kernel; got k={self.kernel} s={self.stride} p={self.padding}"
            )
        if min(self.output) < 1:
            raise ValueError(f"{self.kind}: a window of {self.kernel} does not fit into {self.input}")

    @property
    def output(self) -> Shape:
        return (*self.input[:2], *map(self._windows, self.input[2:]))

    def _windows(self, size: int) -> int:
        n = (size + 2 * self.padding - self.kernel + (self.stride - 1) * self.ceil) // self.stride + 1
        return n - 1 if self.ceil and (n - 1) * self.stride >= size + self.padding else n

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Pixels that windows reach beyond the image: above, left, below, right."""
        reach = [(n - 1) * self.stride + self.kernel - self.padding for n in self.output[2:]]
        return (self.padding, self.padding, *(max(0, end - size) for end, size in zip(reach, self.input[2:], strict=True)))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class MaxPool(_Pool):
    """Largest value of each window."""

    kind: ClassVar[str] = "max_pool"


@dataclass(frozen=True, slots=True)
class AvgPool(_Pool):
    """Mean of each window over its pixels inside the image."""

    kind: ClassVar[str] = "avg_pool"
