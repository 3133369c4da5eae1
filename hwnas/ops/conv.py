"""Two-dimensional convolution; depthwise is `groups == channels`. Padding keeps ceil(size / stride)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hwnas.ops.op import ACTIVATIONS, DTYPES, Op, Shape, attribute


@dataclass(frozen=True, slots=True)
class Conv2d(Op):
    """Convolution (n, c, h, w) -> (n, out, ceil(h/stride), ceil(w/stride)), square odd kernel, padding kernel // 2.

    `bias` says whether the *deployed* convolution has one; where training has a batch norm (Node.norm), folding makes it.
    """

    kind: ClassVar[str] = "conv2d"
    out: int = attribute("out")
    kernel: int = attribute("k", 1)
    stride: int = attribute("s", 1)
    groups: int = attribute("g", 1)
    bias: bool = attribute("bias", True)
    act: str = attribute("act", "none")
    dtype: str = "float32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if len(self.input) != 4:
            raise ValueError(f"conv2d takes (n, c, h, w), got {self.input}")
        if self.kernel < 1 or self.kernel % 2 == 0 or self.stride < 1 or self.out < 1 or self.groups < 1:
            raise ValueError(f"conv2d: kernel must be odd; stride, out, groups positive; got k={self.kernel} s={self.stride} out={self.out} g={self.groups}")
        if self.input[1] % self.groups or self.out % self.groups:
            raise ValueError(f"conv2d: groups={self.groups} must divide input channels {self.input[1]} and out={self.out}")
        if self.act not in ACTIVATIONS or self.dtype not in DTYPES:
            raise ValueError(f"conv2d: act={self.act} must be one of {ACTIVATIONS}, dtype={self.dtype} one of {DTYPES}")

    @property
    def output(self) -> Shape:
        n, _, h, w = self.input
        return (n, self.out, -(-h // self.stride), -(-w // self.stride))

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.input[1] == self.out

    @property
    def weights(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (self.out, self.input[1] // self.groups, self.kernel, self.kernel)}
        if self.bias:
            shapes["bias"] = (self.out,)
        return shapes

    @property
    def macs(self) -> int:
        n, out, h, w = self.output
        return n * out * h * w * (self.input[1] // self.groups) * self.kernel**2
